"""Small real images and shards, built by Pillow and tarfile."""

import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pipeline.sources.base import SourceError, SourceOptions
from pipeline.sources.listing import list_images

Members = list[tuple[str, bytes]]


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """An encoded image of one colour: encode(7, "PNG") is 4x4 px of (7, 0, 255)."""

    def encode(red: int, kind: str = "PNG") -> bytes:
        buffer = io.BytesIO()
        Image.new("RGB", (4, 4), (red, 0, 255)).save(buffer, kind)
        return buffer.getvalue()

    return encode


@pytest.fixture(scope="session")
def tar_bytes() -> Callable[[Members], bytes]:
    def build(members: Members) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, data in members:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
        return buffer.getvalue()

    return build


@pytest.fixture
def shard(tmp_path: Path, tar_bytes: Callable[[Members], bytes]) -> Callable[..., str]:
    """Writes a tar below tmp_path and returns its path."""

    def write(members: Members, name: str = "a.tar") -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(tar_bytes(members))
        return str(path)

    return write


@pytest.fixture
def refusal() -> Callable[..., str]:
    """The message with which a source is refused."""

    def refusal(data: object, num_classes: int | None = 10, **options: str) -> str:
        with pytest.raises(SourceError) as caught:
            list_images(str(data), SourceOptions(**options), num_classes)
        return str(caught.value)

    return refusal

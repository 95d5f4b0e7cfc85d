"""Files of votes as one: checked, counted and digested.

Nothing is kept of their votes, so that memory holds one file at a time.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.config import ConfigError
from pipeline.interchange.config import ImportConfig
from pipeline.interchange.given import Given, check_given, read_given
from pipeline.interchange.spec import Spec, spec_from


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What files of votes hold, all of them together.

    Attributes:
        spec: What the votes are of.
        files: Path, sha256 and images of each.
        fingerprint: Digest of the images and their votes, whatever the files' format.
        several_labels: Whether an image may have several right classes.
        plain: Whether it is known what the network says of the whole image.
    """

    spec: Spec
    files: Sequence[Mapping[str, Any]]
    fingerprint: str
    several_labels: bool
    plain: bool

    @property
    def images(self) -> int:
        """Images of all files."""
        return sum(int(file["images"]) for file in self.files)


def look_through(paths: Sequence[str], config: ImportConfig) -> Contents:
    """Read and check every file.

    Raises:
        ConfigError, SourceError: A file or a flag is wrong, or the files are not of one run.
    """
    digest = hashlib.sha256()
    seen: dict[str, str] = {}
    files: list[dict[str, Any]] = []
    first: tuple[Given, Spec] | None = None
    for path in paths:
        given = read_given(path)
        spec = spec_from(config, given.columns.told, path)
        check_given(given, spec)
        _check_ids(given, seen)
        if first is None:
            first = given, spec
        _check_alike(given, spec, *first)
        given.add_to(digest)
        files.append({"path": path, "sha256": given.sha256, "images": len(given)})
    if first is None or not seen:
        raise ConfigError(f"{', '.join(paths) or 'no file'}: there is no image to import")
    given, spec = first
    return Contents(
        spec=spec,
        files=files,
        fingerprint=digest.hexdigest(),
        several_labels=given.several,
        plain=given.columns.plain_n is not None,
    )


def _check_ids(given: Given, seen: dict[str, str]) -> None:
    for image_id in given.ids:
        if not image_id:
            raise ConfigError(f"{given.path}: an image id is empty; every image needs its own")
        if image_id in seen:
            raise ConfigError(
                f"{given.path}, image {image_id}: its id occurs twice, first in {seen[image_id]}; "
                "give every image an id of its own (image_ids)"
            )
        seen[image_id] = given.path


def _check_alike(given: Given, spec: Spec, first: Given, first_spec: Spec) -> None:
    """Raise ConfigError unless two files are of one run."""
    for what, here, there in (
        ("votes of", spec, first_spec),
        ("several labels an image", given.several, first.several),
        (
            "plain predictions",
            given.columns.plain_n is not None,
            first.columns.plain_n is not None,
        ),
    ):
        if here != there:
            raise ConfigError(
                f"{given.path}: {what}: {here}, in {first.path}: {there}; files of one run agree, "
                "others are imported apart"
            )

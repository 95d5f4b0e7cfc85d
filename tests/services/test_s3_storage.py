"""Storage on a real S3 server that throttles, fails, refuses and goes away."""

import threading
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.cli import main
from pipeline import storage
from pipeline.runs.weight_files import local_weights
from pipeline.sources.base import SourceError, SourceOptions
from pipeline.sources.listing import list_images
from pipeline.sources.reading import read_bytes_of
from pipeline.storage.patterns import PathError
from pipeline.storage.s3 import PatientS3FileSystem, patience
from tests.conftest import png, random_images, write_shard
from tests.services.conftest import upload


def test_what_is_written_is_read_listed_and_removed(s3):
    path = f"{s3}/store/deep/file"
    assert not storage.exists(path)
    assert storage.list_files(f"{s3}/store/deep") == []
    storage.write_atomically(path, b"first")
    storage.write_atomically(path, b"second")
    assert storage.read_bytes(path, 1, 3) == b"ec"
    assert storage.list_files(f"{s3}/store/deep") == [path]
    assert storage.list_folders(f"{s3}/store") == ["deep"]
    storage.remove(path)
    assert not storage.exists(path)


def test_of_two_that_create_one_wins(s3):
    path = f"{s3}/store/created"
    won: list[bool] = []
    threads = [
        threading.Thread(target=lambda n=n: won.append(storage.create(path, b"%d" % n)))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == [False] * 7 + [True]


def test_throttling_costs_time_only(s3, proxy):
    """Half of all answers are 503 SlowDown: each of 60 requests comes through all the same."""
    proxy.failing, before = 0.5, proxy.refused
    for number in range(20):
        path = f"{s3}/throttled/{number}"
        storage.write_atomically(path, b"%d" % number)
        assert storage.read_bytes(path) == b"%d" % number
    assert len(storage.list_files(f"{s3}/throttled")) == 20
    assert proxy.refused - before > 10


def test_a_server_that_stays_away_is_named_within_the_patience(s3, proxy):
    proxy.failing = 1.0
    with patience(2), pytest.raises(OSError, match=r"s3://patchcert/x does not answer.*AWS_END"):
        storage.read_bytes(f"{s3}/x")


def test_a_file_read_across_an_outage_is_whole(s3, server):
    data = bytes(range(256)) * 200_000
    path = storage.join(s3, "big")
    storage.write_atomically(path, data)
    with storage.open_read(path) as stream:
        first = stream.read(1000)
        server.stop()
        threading.Timer(3, server.start).start()
        assert first + stream.read() == data


@pytest.fixture
def wrong_secret(s3, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wr0ngSecretThatIsNoOnes")
    PatientS3FileSystem.clear_instance_cache()
    yield
    PatientS3FileSystem.clear_instance_cache()


@pytest.mark.parametrize("command", ["run", "votes", "doctor"])
def test_a_wrong_secret_is_refused_in_one_message(command, wrong_secret, s3, tiny_weights, capsys):
    start = time.monotonic()
    arguments = ["--data", f"{s3}/d/*.tar", "--weights", str(tiny_weights), "--out", f"{s3}/out"]
    more = [] if command == "votes" else ["--mlflow", "none"]
    assert main([command, *arguments, *more]) == 1
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert said.count("is refused") == 1
    assert "AWS_SECRET_ACCESS_KEY" in said
    assert "wr0ngSecret" not in said
    assert "Traceback" not in said
    assert time.monotonic() - start < 30  # not retried until the patience ends


def test_credentials_in_an_address_are_refused_and_not_repeated(s3):
    with pytest.raises(PathError) as caught:
        storage.read_bytes("s3://key:pa55word@bucket/x")
    assert "pa55word" not in str(caught.value)


@pytest.mark.parametrize("kind", ["tar", "folder", "parquet"])
def test_an_object_of_equal_size_in_its_place_is_not_read(s3, tmp_path, kind):
    """Votes of its images would be filed under the fingerprint of the one that was listed."""
    images = [png(image) for image in random_images(2, side=8)]
    assert len(images[0]) == len(images[1])
    suffix = {"tar": "a.tar", "folder": "0/a.png", "parquet": "a.parquet"}[kind]
    bodies = []
    for number, image in enumerate(images):
        path = tmp_path / f"{number}.{kind}"
        if kind == "tar":
            write_shard(path, {"a.png": image})
        elif kind == "folder":
            path.write_bytes(image)
        else:
            pq.write_table(pa.table({"image": [image]}), path)
        bodies.append(path.read_bytes())
    assert len(bodies[0]) == len(bodies[1])
    data = f"{s3}/replaced/{kind}"
    storage.write_atomically(f"{data}/{suffix}", bodies[0])
    listing = list_images(data, SourceOptions(), None)
    assert read_bytes_of(listing.table, SourceOptions()) == [images[0]]
    storage.write_atomically(f"{data}/{suffix}", bodies[1])
    with pytest.raises(SourceError, match="is not what was listed: it changed since"):
        read_bytes_of(listing.table, SourceOptions())


def test_hidden_objects_are_not_meant_by_a_pattern(s3):
    for name in ("a.tar", "._a.tar", ".h/b.tar"):
        storage.write_atomically(f"{s3}/hidden/{name}", b"x")
    assert storage.expand(f"{s3}/hidden/*.tar") == [f"{s3}/hidden/a.tar"]
    assert storage.expand(f"{s3}/hidden/.h/*.tar") == [f"{s3}/hidden/.h/b.tar"]


def test_weights_are_fetched_once_and_again_when_they_change(
    s3, tiny_weights, tmp_path, monkeypatch
):
    monkeypatch.setenv("PATCHCERT_CACHE", str(tmp_path))
    address = f"{s3}/weights/tiny.safetensors"
    data = tiny_weights.read_bytes()
    storage.write_atomically(address, data)
    copy = local_weights(address)
    assert Path(copy).read_bytes() == data
    monkeypatch.setattr(storage, "read_bytes", lambda *args: pytest.fail("fetched twice"))
    assert local_weights(address) == copy
    monkeypatch.undo()
    monkeypatch.setenv("PATCHCERT_CACHE", str(tmp_path))
    storage.write_atomically(address, data + b"\0")
    assert local_weights(address) != copy
    assert Path(local_weights(address)).read_bytes() == data + b"\0"


def test_every_layout_lists_the_same_from_s3(s3, shards, tmp_path):
    images = [png(image) for image in random_images(4)]
    folder = tmp_path / "folder"
    for index, data in enumerate(images):
        path = folder / f"{index % 2}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "parquet").mkdir()
    table = pa.table({"image": images, "label": [0, 1, 0, 1]})
    pq.write_table(table, tmp_path / "parquet" / "part.parquet")
    for local in (shards, tmp_path / "parquet", folder):
        there = list_images(upload(local, f"{s3}/layouts/{local.name}"), SourceOptions(), 7)
        here = list_images(str(local), SourceOptions(), 7)
        columns = ["image_id", "label", "offset", "size"]
        assert there.table.select(columns).equals(here.table.select(columns))

"""A remembered listing is the listing; of a file that changed nothing is believed."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sources import listing
from pipeline.sources import listing_cache as memory
from pipeline.sources.base import SourceError, SourceOptions
from pipeline.sources.listing import list_images
from pipeline.sources.listing_cache import cached_listing

NO = SourceOptions()


@pytest.fixture(autouse=True)
def no_tick(monkeypatch):
    """Files of these tests are milliseconds old."""
    monkeypatch.setattr(memory, "_TICK_SECONDS", -60.0)


@pytest.fixture
def reads(monkeypatch):
    """Names of the files that were read to be listed."""
    found = []
    real = listing.digest_of
    monkeypatch.setattr(
        listing, "digest_of", lambda file: found.append(os.path.basename(file.path)) or real(file)
    )
    return found


@pytest.fixture
def listed(tmp_path, reads):
    """Lists with memory: (listing, names of files read for it), equal to a listing without."""

    def listed(data, options=NO, num_classes=10):
        fresh = list_images(str(data), options, num_classes)
        reads.clear()
        with cached_listing(str(tmp_path / "out"), str(data), options) as known:
            result = list_images(str(data), options, num_classes, known)
        assert result.table == fresh.table
        if result.kind != "folder":  # a path is held once, by the images of its file
            held = [len(paths.dictionary) for paths in result.table["file"].chunks]
            assert held == [1] * result.files
        assert (result.fingerprint, result.kind) == (fresh.fingerprint, fresh.kind)
        return sorted(reads)

    return listed


@pytest.fixture
def two(shard, tmp_path, encode):
    for name in ("s-2", "s-10"):
        shard([(f"{i}.png", encode(i)) for i in range(3)] + [("0.cls", b"1")], f"d/{name}.tar")
    return tmp_path / "d"


def test_nothing_is_read_twice(two, listed):
    assert listed(two) == ["s-10.tar", "s-2.tar"]
    assert listed(two) == []
    assert listed(f"{two}/*.tar") == ["s-10.tar", "s-2.tar"]  # another source
    assert listed(f"{two}/*.tar") == []


def test_only_what_is_new_is_read(two, shard, listed, encode):
    listed(two)
    shard([("new.png", encode(1))], "d/s-3.tar")
    assert listed(two) == ["s-3.tar"]
    (two / "s-2.tar").unlink()
    assert listed(two) == []
    assert listed(two) == []


def test_a_changed_file_is_read_even_with_its_size_and_time_kept(two, listed):
    listed(two)
    path = two / "s-2.tar"
    before = path.stat()
    raw = bytearray(path.read_bytes())
    raw[600] ^= 1  # inside the first image
    path.write_bytes(raw)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert listed(two) == ["s-2.tar"]


def test_a_file_of_this_very_moment_is_not_believed(two, listed, monkeypatch):
    monkeypatch.setattr(memory, "_TICK_SECONDS", 60.0)
    listed(two)
    assert listed(two) == ["s-10.tar", "s-2.tar"]


def test_damage_is_found_though_the_rest_is_remembered(two, listed):
    listed(two)
    path = two / "s-2.tar"
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(SourceError, match="truncated"):
        listed(two)


def test_parquet_columns_are_other_listings(tmp_path, listed, encode):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [encode(1)] * 3, "x": [1, 2, 3], "y": [4, 5, 6]}), path)
    for column in ("x", "y"):
        options = SourceOptions(label_column=column)
        assert listed(path, options) == ["a.parquet"]
        assert listed(path, options) == []
    with pytest.raises(SourceError, match="no meaning"):
        listed(path, SourceOptions(label_column="x", numbering="classes"))


def test_folders_remember_digests_and_find_their_classes_anew(tmp_path, listed, encode):
    for name in ("0/a.png", "1/b.png"):
        (tmp_path / "d" / name).parent.mkdir(parents=True)
        (tmp_path / "d" / name).write_bytes(encode(1))
    assert listed(tmp_path / "d") == ["a.png", "b.png"]
    assert listed(tmp_path / "d") == []
    (tmp_path / "d" / "0").rename(tmp_path / "d" / "5")
    assert listed(tmp_path / "d") == ["a.png"]


@pytest.mark.parametrize("damage", [b"", b"garbage", None])
def test_a_damaged_memory_costs_time_only(two, listed, tmp_path, damage):
    listed(two)
    (path,) = (tmp_path / "out" / "listings").iterdir()
    if damage is None:
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(damage)
    assert listed(two) == ["s-10.tar", "s-2.tar"]


def test_a_memory_may_be_longer_than_parquet_lets_texts_be(two, listed, monkeypatch):
    """Its limit of 100 MB is reached by the descriptions of some 230,000 files."""
    assert memory._LONGEST_TEXT > 10**9
    listed(two)
    monkeypatch.setattr(memory, "_LONGEST_TEXT", 1000)
    assert listed(two) == ["s-10.tar", "s-2.tar"]


def test_a_job_that_fails_leaves_no_memory(two, tmp_path):
    def fail():
        with cached_listing(str(tmp_path / "out"), str(two), NO) as known:
            list_images(str(two), NO, 10, known)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written(two, tmp_path):
    Path(tmp_path / "file").touch()
    with cached_listing(str(tmp_path / "file" / "out"), str(two), NO) as known:
        assert len(list_images(str(two), NO, 10, known)) == 6

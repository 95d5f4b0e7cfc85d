import shutil
import subprocess
import sys

import pytest

from pipeline.sources.base import LISTING, SourceError, SourceOptions, paths_of
from pipeline.sources.listing import list_images
from pipeline.sources.reading import SOURCES, read_bytes_of

NO = SourceOptions()


@pytest.fixture
def two(shard, tmp_path, encode):
    for name in ("s-2", "s-10"):
        shard([(f"{i}.png", encode(i)) for i in range(3)] + [("0.cls", b"1")], f"d/{name}.tar")
    return tmp_path / "d"


def test_one_listing_by_every_spelling(two, monkeypatch):
    listings = [list_images(str(two), NO, 10), list_images(f"{two}/*.tar", NO, 10)]
    listings.append(list_images(f"{two}/s-{{2,10}}.tar", NO, 10))
    monkeypatch.chdir(two.parent)
    listings.append(list_images("d/", NO, 10))
    assert all(listing == listings[0] for listing in listings)
    table = listings[0].table
    assert table.schema == LISTING
    assert table.column("image_id").to_pylist() == [
        f"s-{shard}/{key}" for shard in (2, 10) for key in range(3)
    ]


def test_head(two):
    listing = list_images(str(two), NO, 10)
    assert len(listing.head(4)) == 4
    assert listing.head(4).table == listing.table.slice(0, 4)
    assert listing.head(4).fingerprint == listing.fingerprint
    assert len(listing.head(99)) == len(listing.head(None)) == len(listing) == 6
    with pytest.raises(SourceError, match="limit=0"):
        listing.head(0)


def test_fingerprint_follows_content_not_place(two, tmp_path):
    listing = list_images(str(two), NO, 10)
    moved = shutil.copytree(two, tmp_path / "else" / "where")
    copy = list_images(str(moved), NO, 10)
    assert copy.fingerprint == listing.fingerprint
    assert len(listing.fingerprint) == 64
    assert copy.table.column("image_id") == listing.table.column("image_id")
    raw = bytearray((moved / "s-2.tar").read_bytes())
    position = listing.table.column("offset")[0].as_py() + 5
    seen = {listing.fingerprint}
    for value in range(3):  # inside the first image
        raw[position] = value
        (moved / "s-2.tar").write_bytes(raw)
        seen.add(list_images(str(moved), NO, 10).fingerprint)
    (two / "s-10.tar").rename(two / "s-11.tar")
    seen.add(list_images(str(two), NO, 10).fingerprint)
    (two / "s-11.tar").unlink()
    seen.add(list_images(str(two), NO, 10).fingerprint)
    assert len(seen) == 6


def test_fingerprint_of_a_folder_includes_its_classes(tmp_path, encode):
    for root, name in (("x", "0"), ("y", "1"), ("z/deeper", "0")):
        (tmp_path / root / name).mkdir(parents=True)
        (tmp_path / root / name / "a.png").write_bytes(encode(1))
    x, y, z = (list_images(str(tmp_path / d), NO, 2).fingerprint for d in ("x", "y", "z/deeper"))
    assert x == z != y


@pytest.mark.parametrize(
    ("label", "num_classes", "parts"),
    [
        (10, 10, ["'a/k'", "label 10", "10 classes", "-1 stands for unknown"]),
        (-2, 10, ["label -2"]),
        (-2, None, ["label -2", "start at 0"]),
        (2**31, None, ["label 2147483648"]),
    ],
)
def test_label_outside_the_classes(shard, refusal, label, num_classes, parts):
    path = shard([("ok.png", b"1"), ("k.png", b"1"), ("k.cls", str(label).encode())])
    message = refusal(path, num_classes)
    assert all(part in message for part in parts), message


def test_empty_and_missing_sources(tmp_path, refusal):
    (tmp_path / "notes.txt").write_text("x")
    assert "holds no folder images" in refusal(tmp_path)
    assert "is no source of images" in refusal(tmp_path / "notes.txt")
    assert "do not exist" in refusal(tmp_path / "nowhere")
    assert "do not exist" in refusal(tmp_path / "*.tar")
    message = refusal(f"{tmp_path}/{{000..002}}.tar")
    assert "3 of 3" in message
    assert "001.tar" in message
    assert "is not a path" in refusal("gs://bucket/a.tar")
    assert "is not a path" in refusal("")


def test_tar_and_parquet_side_by_side(two, refusal):
    (two / "a.parquet").write_bytes(b"")
    assert "several kinds (webdataset, parquet)" in refusal(two)
    assert len(list_images(f"{two}/*.tar", NO, 10)) == 6


def test_unreadable_file(two, refusal):
    (two / "s-3.tar").mkdir()
    assert "cannot be listed" in refusal(f"{two}/*.tar")


def test_listed_file_of_no_source(two):
    table = list_images(str(two), NO, 10).table
    table = table.set_column(2, LISTING.field("file"), paths_of("/x.gif", 6))
    with pytest.raises(SourceError, match="no known kind"):
        read_bytes_of(table, NO)


def test_registry_order_ends_with_the_folder():
    assert list(SOURCES) == ["webdataset", "parquet", "folder"]


def test_listing_imports_nothing_heavy():
    code = (
        "import sys, pipeline.sources.listing, pipeline.sources.reading, pipeline.sources.decode\n"
        "print(sorted({'ray', 'torch', 'timm', 'mlflow', 's3fs'} & set(sys.modules)))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert output.strip() == "[]"

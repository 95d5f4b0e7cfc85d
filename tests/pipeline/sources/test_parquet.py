import io
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import storage
from pipeline.sources import parquet
from pipeline.sources.base import SourceOptions
from pipeline.sources.decode import decode
from pipeline.sources.listing import list_images
from pipeline.sources.reading import read_bytes_of

NO = SourceOptions()


def write(path, **columns):
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path, row_group_size=3)
    return str(path)


def structs(cells):
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([c and {"bytes": c, "path": "p"} for c in cells], type=kind)


@pytest.mark.parametrize(
    "make", [lambda c: pa.array(c, pa.binary()), lambda c: pa.array(c, pa.large_binary()), structs]
)
@pytest.mark.parametrize("name", ["image", "img", "jpg", "png", "bytes"])
def test_rows_of_flat_and_hugging_face_layouts(tmp_path, encode, make, name):
    cells = [encode(index) for index in range(7)] + [None]
    labels = pa.array([0, 1, 2, -1, None, 5, 6, 7])
    path = write(tmp_path / "val.parquet", **{name: make(cells), "label": labels})
    listing = list_images(path, NO, 10)
    assert listing.kind == "parquet"
    rows = listing.table.to_pylist()
    assert [row["image_id"] for row in rows] == [f"val/{row}" for row in range(8)]
    assert [row["label"] for row in rows] == [0, 1, 2, None, None, 5, 6, 7]
    assert [(row["offset"], row["size"]) for row in rows] == [(row, 0) for row in range(8)]
    assert read_bytes_of(listing.table, NO) == cells
    assert read_bytes_of(listing.table.take([7, 4, 0, 4]), NO) == [
        None,
        cells[4],
        cells[0],
        cells[4],
    ]


def test_a_row_of_a_large_row_group_is_read_by_its_pages(tmp_path, monkeypatch):
    """Where the whole group would be read, a task would hold gigabytes."""
    noise = np.random.default_rng(0)
    table = pa.table({"image": [noise.bytes(20_000) for _ in range(300)]})
    path = str(tmp_path / "val.parquet")
    pq.write_table(table, path, data_page_size=100_000, use_dictionary=False, write_batch_size=5)
    listing = list_images(path, NO, None)
    taken = []

    class Counted(io.FileIO):
        def read(self, size=-1):
            taken.append(super().read(size))
            return taken[-1]

    monkeypatch.setattr(storage, "open_read", lambda path, *_: Counted(path))
    monkeypatch.setattr(parquet, "_BATCH_ROWS", 8)
    assert read_bytes_of(listing.table.slice(3, 2), NO) == table["image"][3:5].to_pylist()
    assert sum(map(len, taken)) < os.path.getsize(path) / 2


def test_directory_and_named_columns(tmp_path, encode):
    write(tmp_path / "d/p-10.parquet", photo=[encode(1)], y=pa.array([4], pa.uint8()), label=["x"])
    write(tmp_path / "d/p-2.parquet", photo=[encode(2)], y=pa.array([5], pa.int32()), label=["x"])
    write(tmp_path / "d/_metadata.parquet", nothing=[1])
    options = SourceOptions(image_column="photo", label_column="y")
    listing = list_images(str(tmp_path / "d"), options, 10)
    ids = listing.table.column("image_id").to_pylist()
    assert ids == ["p-2/0", "p-10/0"]
    assert listing.table.column("label").to_pylist() == [5, 4]
    assert read_bytes_of(listing.table, options) == [encode(2), encode(1)]


def test_usual_label_columns_and_none(tmp_path, encode):
    for name, want in (("labels", [1]), ("cls", [1]), ("other", [None])):
        path = write(tmp_path / f"{name}.parquet", image=[encode(1)], **{name: [1]})
        assert list_images(path, NO, 10).table.column("label").to_pylist() == want


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"image_column": "nope"}, ["column 'nope'", "picture: binary", "--image-column"]),
        ({"image_column": "label"}, ["column 'label'", "label: int64"]),
        ({}, ["image, img, jpg, png, bytes", "picture: binary", "binary or struct<bytes, path>"]),
        ({"image_column": "picture", "label_column": "no"}, ["'no'", "label: int64"]),
        ({"image_column": "picture", "label_column": "text"}, ["'text'", "text: string"]),
        ({"image_column": "picture", "label_map": "f"}, ["label map f cannot be read"]),
    ],
)
def test_column_faults(tmp_path, refusal, options, parts):
    path = write(tmp_path / "a.parquet", picture=[b"x"], label=[1], text=["t"], image=["str"])
    message = refusal(path, **options)
    assert all(part in message for part in parts), message


def test_files_that_are_not_whole(tmp_path, refusal, encode):
    path = Path(write(tmp_path / "a.parquet", image=[encode(1)] * 9, label=range(9)))
    whole = path.read_bytes()
    for cut in (0, 3, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        message = refusal(path)
        assert str(path) in message
        assert "not a readable Parquet file" in message


def test_damaged_page_is_named_when_read(tmp_path, encode):
    path = Path(write(tmp_path / "a.parquet", image=[encode(1)] * 3))
    raw = bytearray(path.read_bytes())
    raw[4:40] = b"\xff" * 36
    path.write_bytes(raw)
    listing = list_images(str(path), NO, 10)
    with pytest.raises(ValueError, match=r"a\.parquet is not a readable Parquet file"):
        read_bytes_of(listing.table, NO)


def test_file_of_equal_size_in_its_place(tmp_path, encode):
    path = write(tmp_path / "a.parquet", image=[encode(1)] * 3)
    listing = list_images(path, NO, 10)
    size = Path(path).stat().st_size
    write(tmp_path / "a.parquet", image=[encode(2)] * 3)
    assert Path(path).stat().st_size == size
    with pytest.raises(ValueError, match=r"changed since"):
        read_bytes_of(listing.table, NO)


@pytest.mark.parametrize(
    ("names", "options", "parts"),
    [
        (["image", "image", "label"], {}, ["2 columns are named 'image'", "--image-column"]),
        (["image", "label", "label"], {}, ["2 columns are named 'label'", "--label-column"]),
        (["image", "x", "x"], {"label_column": "x"}, ["'x'", "--label-column"]),
    ],
)
def test_doubled_columns(tmp_path, refusal, encode, names, options, parts):
    columns = [pa.array([encode(1)] if name == "image" else [1]) for name in names]
    pq.write_table(pa.Table.from_arrays(columns, names), tmp_path / "a.parquet")
    message = refusal(tmp_path / "a.parquet", **options)
    assert all(part in message for part in parts), message


def test_doubled_columns_that_are_not_asked_for(tmp_path, encode):
    columns = [pa.array([encode(1)]), pa.array([7]), pa.array(["a"]), pa.array(["b"])]
    table = pa.Table.from_arrays(columns, ["image", "label", "x", "x"])
    pq.write_table(table, tmp_path / "a.parquet")
    listing = list_images(str(tmp_path / "a.parquet"), NO, 10)
    assert listing.table["label"].to_pylist() == [7]
    assert read_bytes_of(listing.table, NO) == [encode(1)]


def test_no_rows(tmp_path, refusal):
    path = write(tmp_path / "a.parquet", image=pa.array([], pa.binary()))
    assert "holds an image" in refusal(path)


def test_equal_stems_collide(tmp_path, refusal, encode):
    write(tmp_path / "x/a.parquet", image=[encode(1)])
    write(tmp_path / "y/a.parquet", image=[encode(1)])
    message = refusal(tmp_path / "*/a.parquet")
    assert "a/0" in message
    assert "rename" in message


@pytest.mark.shared_data
def test_real_imagenet_images(shared_data):
    path = shared_data / "imagenet_val_subset.parquet"
    listing = list_images(str(path), NO, 1000)
    labels = listing.table.column("label").to_pylist()
    assert len(listing) == 650
    assert all(0 <= label < 1000 for label in labels)
    images = [decode(data) for data in read_bytes_of(listing.table.slice(640, 10), NO)]
    assert {image.size for image in images} == {(227, 227)}

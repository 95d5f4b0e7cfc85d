import json
import os

import pytest

from pipeline import storage
from pipeline.sources import reading
from pipeline.sources.base import SourceError, SourceOptions
from pipeline.sources.listing import list_images
from pipeline.sources.reading import read_bytes_of

NO = SourceOptions()


@pytest.fixture
def tree(tmp_path, encode):
    """tree("cat/a.png", ...) makes images; their red is their number."""

    def build(*names):
        for number, name in enumerate(names):
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(number))
        return str(tmp_path / "root")

    return build


def labels_of(root, num_classes=10, **options):
    table = list_images(root, SourceOptions(**options), num_classes).table
    names = table.column("image_id").to_pylist()
    return dict(zip(names, table.column("label").to_pylist(), strict=True))


def test_ids_sizes_and_bytes(tree, encode):
    root = tree("b/x.JPEG", "a/deep/er/y.PnG", "a/z.webp", "a/w.jpg", "a/note.txt", "a/.hid.png")
    listing = list_images(root, NO, 2)
    rows = listing.table.to_pylist()
    assert listing.kind == "folder"
    names = ["a/deep/er/y.PnG", "a/w.jpg", "a/z.webp", "b/x.JPEG"]
    assert [row["image_id"] for row in rows] == names
    assert [row["label"] for row in rows] == [0, 0, 0, 1]
    assert [row["size"] for row in rows] == [len(encode(number)) for number in (1, 3, 2, 0)]
    assert read_bytes_of(listing.table, NO) == [encode(number) for number in (1, 3, 2, 0)]


def test_linked_folders_are_followed_and_loops_end(tree):
    root = tree("0/a.png")
    os.symlink(os.path.join(root, "0"), os.path.join(root, "1"))
    os.symlink(root, os.path.join(root, "0", "loop"))
    assert labels_of(root) == {"0/a.png": 0, "1/a.png": 1}


def test_integer_names(tree):
    assert labels_of(tree("7/a.png", "003/b.png", "-1/c.png")) == {
        "-1/c.png": None,
        "003/b.png": 3,
        "7/a.png": 7,
    }


@pytest.mark.parametrize("names", [("1", "01"), ("0", "-0"), ("-1", "-01")])
def test_two_folders_of_one_number(tree, refusal, names):
    message = refusal(tree(*(f"{name}/{name}.png" for name in names), "2/c.png"))
    assert all(repr(name) in message for name in names)
    assert f"class {int(names[0])}" in message
    assert "--label-map" in message


def test_wnids_map_through_the_list_not_the_subset(tree):
    root = tree("n02979186/a.png", "n01440764/b.png")  # ImageNette's cassette player and tench
    assert labels_of(root, 1000) == {"n01440764/b.png": 0, "n02979186/a.png": 482}
    assert labels_of(root, 2) == {"n01440764/b.png": 0, "n02979186/a.png": 1}


def test_unknown_wnid(tree, refusal):
    message = refusal(tree("n99999999/a.png", "n01440764/b.png"), 1000)
    assert "n99999999" in message
    assert "--label-map" in message


@pytest.mark.parametrize("num_classes", [None, 3, 1000])
def test_names_that_tell_nothing(tree, refusal, num_classes):
    message = refusal(tree("cat/a.png", "dog/b.png"), num_classes)
    assert "cat, dog" in message
    assert "--label-map" in message


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("map.json", json.dumps({"cat": 5, "1": 6, "loose.png": -1})),
        ("map.tsv", "cat\t5\n1\t6\nloose.png\t-1\n"),
        ("map.csv", "\ufeffcat, 5\n1,6\n\nloose.png,-1"),
    ],
)
def test_label_map_wins(tree, tmp_path, name, text):
    (tmp_path / name).write_text(text)
    root = tree("cat/a.png", "1/b.png", "loose.png")
    labels = labels_of(root, 10, label_map=str(tmp_path / name))
    assert labels == {"1/b.png": 6, "cat/a.png": 5, "loose.png": None}


def test_images_without_a_folder_have_no_label(tree):
    assert labels_of(tree("a.png", "b.png")) == {"a.png": None, "b.png": None}


@pytest.mark.parametrize(
    ("file", "parts"),
    [
        (("m.json", '{"dog": 1}'), ["lacks 1 of 1 names: cat"]),
        (("m.json", '{"cat": 1, "cat": 2}'), ["'cat' two numbers, 1 and 2"]),
        (("m.json", '{"cat": true}'), ["JSON object of names and integers"]),
        (("m.json", "[1]"), ["JSON object of names and integers"]),
        (("m.json", '{"a":' * 100_000), ["cannot be used", "nested too deeply"]),
        (("m.json", "{"), ["cannot be used"]),
        (("m.csv", "name,label\ncat,1"), ["line 1", "no heading"]),
        (("m.csv", "cat,1,2"), ["line 1"]),
        (("m.csv", None), ["cannot be read"]),
        (("m.csv", "cat,10"), ["'cat/a.png'", "label 10", "10 classes"]),
    ],
)
def test_label_map_faults(tree, tmp_path, refusal, file, parts):
    name, text = file
    if text is not None:
        (tmp_path / name).write_text(text)
    message = refusal(tree("cat/a.png"), label_map=str(tmp_path / name))
    assert all(part in message for part in parts), message


def test_options_of_other_sources(tree, refusal):
    assert "--image-column has no meaning" in refusal(tree("0/a.png"), image_column="x")


def test_file_that_changes_after_listing(tree):
    root = tree("0/a.png")
    listing = list_images(root, NO, 10)
    with open(os.path.join(root, "0/a.png"), "ab") as file:
        file.write(b"more")
    with pytest.raises(ValueError, match=r"changed since"):
        read_bytes_of(listing.table, NO)


def test_file_of_equal_size_in_its_place(tree, encode):
    root = tree("0/a.png", "0/b.png")
    listing = list_images(root, NO, 10)
    path = os.path.join(root, "0/a.png")
    before = os.stat(path)
    with open(f"{path}.new", "wb") as file:
        file.write(encode(9))
    os.utime(f"{path}.new", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.rename(f"{path}.new", path)
    after = os.stat(path)
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    with pytest.raises(SourceError, match=r"a\.png is not what was listed: it changed since"):
        read_bytes_of(listing.table, NO)
    assert read_bytes_of(listing.table.slice(1), NO) == [encode(1)]


def test_a_copy_of_the_same_bytes_is_what_was_listed(tree, encode, monkeypatch):
    """A node's own copy, or a file that was touched, has other times."""
    root = tree("0/a.png")
    listing = list_images(root, NO, 10)
    path = os.path.join(root, "0/a.png")
    with open(path, "wb") as file:
        file.write(encode(0))
    os.utime(path, ns=(1, 1))
    hashed = []
    real = reading.digest_of
    monkeypatch.setattr(reading, "digest_of", lambda file: hashed.append(file.path) or real(file))
    assert read_bytes_of(listing.table, NO) == [encode(0)]
    assert read_bytes_of(listing.table, NO) == [encode(0)]
    assert hashed == [path]  # once, not for every unit


def test_file_that_changes_while_it_is_read(tree, encode, monkeypatch):
    root = tree("0/a.png")
    listing = list_images(root, NO, 10)
    real = storage.read_bytes

    def read_bytes(path, *span):
        found = real(path, *span)
        with open(path, "wb") as file:
            file.write(encode(9))
        return found

    monkeypatch.setattr(storage, "read_bytes", read_bytes)
    with pytest.raises(SourceError, match=r"changed since"):
        read_bytes_of(listing.table, NO)


def test_empty_files_are_listed_and_read(tree):
    root = tree("0/a.png")
    open(os.path.join(root, "0/a.png"), "wb").close()
    assert read_bytes_of(list_images(root, NO, 10).table, NO) == [b""]


def test_name_that_is_not_utf8(tree, refusal):
    root = tree("0/a.png")
    os.rename(os.path.join(root, "0/a.png"), os.fsencode(root) + b"/0/caf\xe9.png")
    assert "not UTF-8" in refusal(root)

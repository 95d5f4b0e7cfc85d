import json
import os

import pytest

from pipeline.sources.listing import SourceOptions, list_images
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


def test_name_that_is_not_utf8(tree, refusal):
    root = tree("0/a.png")
    os.rename(os.path.join(root, "0/a.png"), os.fsencode(root) + b"/0/caf\xe9.png")
    assert "not UTF-8" in refusal(root)

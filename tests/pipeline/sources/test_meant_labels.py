"""Labels that nobody meant are refused, absent ones are said, and the remedies that are named work.

Where a message names a remedy, the test follows it.
"""

import json
import os
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest
from timm.data.imagenet_info import ImageNetInfo

from pipeline.sources.base import SourceError, SourceOptions
from pipeline.sources.listing import list_images
from pipeline.sources.reading import read_bytes_of
from tests.pipeline.voting.bad_sources import Keys

WNIDS = ImageNetInfo("imagenet-1k").label_names()
NO = SourceOptions()


@pytest.fixture
def tree(tmp_path, encode):
    """tree("cat/a.png", ...) makes images below a root and returns it."""

    def build(*names, root="root"):
        for number, name in enumerate(names):
            path = tmp_path / root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(number))
        return tmp_path / root

    return build


@pytest.fixture
def rows(tmp_path, encode):
    """rows(label=[...]) writes images with further columns to a.parquet and returns its path."""

    def write(metadata=None, **columns):
        count = len(next(iter(columns.values())))
        table = pa.table({"image": [encode(number) for number in range(count)], **columns})
        path = tmp_path / "a.parquet"
        pq.write_table(table.replace_schema_metadata(metadata), path)
        return str(path)

    return write


@pytest.fixture
def label_map(tmp_path):
    def write(numbers):
        path = tmp_path / "map.json"
        path.write_text(json.dumps(numbers))
        return str(path)

    return write


def labels_of(data, num_classes, **options):
    return list_images(str(data), SourceOptions(**options), num_classes).table["label"].to_pylist()


def words_of(data, num_classes=10, **options):
    return "\n".join(list_images(str(data), SourceOptions(**options), num_classes).words())


def named_data(message):
    """The place that a refusal names to be given as --data."""
    return re.search(r"give --data (\S+?)[ ;,]", message)[1]


@pytest.mark.parametrize(
    "below", ["noise", "imagenet-c"], ids=["the severities", "the corruptions above them"]
)
@pytest.mark.parametrize("wnids", [WNIDS[:1], WNIDS[:3]])
def test_folders_of_severities_are_no_classes(tree, refusal, below, wnids):
    names = [f"noise/{severity}/{wnid}/x.JPEG" for severity in range(1, 6) for wnid in wnids]
    root = tree(*names, root="imagenet-c")
    message = refusal(root / "noise" if below == "noise" else root, 1000)
    assert "images lie deeper" in message
    assert named_data(message) == str(root / "noise/1")
    assert labels_of(named_data(message), 1000) == list(range(len(wnids)))


def test_splits_are_no_classes(tree, refusal, label_map):
    root = tree("train/cat/a.png", "train/dog/b.png", "val/cat/c.png")
    message = refusal(root, 2)
    assert labels_of(named_data(message), 2) == [0, 1]
    # The other remedy: these folders are the classes.
    given = label_map({"train": 0, "val": 1})
    assert labels_of(root, 2, label_map=given) == [0, 0, 1]


@pytest.mark.parametrize(
    "names",
    [
        ["cat/images/a.png", "dog/images/b.png"],  # Tiny ImageNet
        ["cat/a.png", "cat/more/b.png", "dog/else/c.png"],
        ["n01440764/one/a.png", "n01443537/two/b.png"],
        ["n01440764/n01440764/a.png", "n01443537/n01443537/b.png"],  # unpacked into its own folder
    ],
)
def test_classes_with_folders_of_their_own(tree, names):
    labels = labels_of(tree(*names), 2)
    assert set(labels) == {0, 1}


@pytest.mark.parametrize("images", ["n01440764/x.JPEG", "x.JPEG"])
def test_a_tar_left_beside_the_images(tree, shard, encode, refusal, images):
    root = tree(images, root="val")
    shard([("a.png", encode(7)), ("a.cls", b"3")], "val/ILSVRC2012_img_val.tar")
    message = refusal(root, 1000)
    for part in (images, "ILSVRC2012_img_val.tar"):
        assert part in message
    assert labels_of(named_data(message), 1000) == [3]
    (root / "ILSVRC2012_img_val.tar").rename(root.parent / "elsewhere.tar")
    assert len(list_images(str(root), NO, 1000)) == 1


def test_files_passed_over_are_counted(tree):
    root = tree("0/a.JPEG", "0/b.bmp", "1/c.tif", "1/d.tif", "1/e.png", "README")
    words = words_of(root)
    assert "images listed: 2, of 2 image files" in words
    assert "passed over:   4 (.tif 2, no suffix 1, .bmp 1); images are read as .jpg, .jp" in words
    assert (
        "labels known:  of 2 of 2 images: classes 0 to 1 of the model's 10, by the names of"
        in words
    )


def test_a_folder_of_nothing_but_other_suffixes(tree, refusal):
    assert "passed over: 1 (.bmp 1); images are read as .jpg" in refusal(tree("0/b.bmp"))


def test_members_passed_over_and_labels_that_are_not_read(shard, encode):
    members = [("a.png", encode(1)), ("a.json", b'{"label": 3}'), ("a.txt", b"3")]
    path = Path(shard([*members, ("b.png", encode(2))]))
    (path.parent / "index.json").write_text("{}")
    words = words_of(path.parent)
    assert "passed over:   3 (.json 2, .txt 1)" in words
    assert "labels known:  of 0 of 2 images; of members, <key>.cls alone" in words
    shard([*members, ("a.cls", b"3"), ("b.png", encode(2)), ("b.cls", b"4")])
    assert "of 2 of 2 images: classes 3 to 4 of the model's 10, by <key>.cls" in words_of(path)


def test_unlabelled_columns_are_named_before_any_vote(rows):
    path = rows(fine_label=[49, 3], coarse_label=[1, 2])
    words = words_of(path, 100)
    assert "labels known:  of 0 of 2 images; no column is named label, labels or cls" in words
    assert "--label-column NAME (columns: fine_label: int64, coarse_label: int64)" in words
    words = words_of(path, 100, label_column="fine_label")
    assert words.endswith(
        "of 2 of 2 images: classes 3 to 49 of the model's 100, by column 'fine_label'"
    )


def test_a_label_map_without_labels_to_map(rows, label_map):
    path = rows(fine_label=[1])
    assert "--label-column NAME" in words_of(path, label_map=label_map({"1": 2}))
    words = words_of(path, label_map=label_map({"1": -1}), label_column="fine_label")
    assert "of 0 of 1 images; the label map gives -1" in words


def test_what_is_known_of_a_part_and_of_several_labels(tree, tmp_path):
    root = tree(*(f"ILSVRC2012_val_0000000{number}.png" for number in (1, 2, 3)))
    assert "of 0 of 3 images; images outside of class folders: give --label-map" in words_of(root)
    (tmp_path / "real.json").write_text("[[4, 5], [], [9]]")
    options = SourceOptions(ground_truth=str(tmp_path / "real.json"))
    listing = list_images(str(root), options, 10)
    assert (
        "of 2 of 3 images: classes 4 to 9 of the model's 10, by --ground-truth"
        in listing.words()[-1]
    )
    assert "of 1 of 1 images: classes 4 to 5" in listing.head(1).words()[-1]


def test_names_of_other_classes_than_the_models(rows, refusal, label_map):
    features = {"label": {"names": [f"name {n}" for n in range(10)], "_type": "ClassLabel"}}
    metadata = {b"huggingface": json.dumps({"info": {"features": features}}).encode()}
    path = rows(metadata, label=[0, 9])
    message = refusal(path, 1000)
    for part in ("column 'label': the file names 10 classes (name 0, name 1", "the model has 1000"):
        assert part in message
    assert labels_of(path, 10) == [0, 9]
    given = label_map({"0": 207, "9": "n01440764"})
    assert labels_of(path, 1000, label_map=given) == [207, 0]


@pytest.mark.parametrize(
    "text", [b"{", b"[]", b'{"info": {"features": {"label": 1}}}', b"[" * 10**5]
)
def test_metadata_of_another_kind(rows, text):
    assert labels_of(rows({b"huggingface": text}, label=[0, 9]), 1000) == [0, 9]


@pytest.mark.parametrize(
    ("num_classes", "numbers", "want"),
    [(10, {"0": -1, "217": 3, "999": 9}, [None, 3, 9]), (1001, None, [1, 218, 1000])],
)
def test_imagenets_labels_under_other_heads(rows, refusal, label_map, num_classes, numbers, want):
    """The way out is one step, whatever the head; of 1001 classes nothing proves it is needed."""
    path = rows(label=[0, 217, 999])
    if num_classes == 10:
        message = refusal(path, num_classes)
        assert "label 217" in message
    else:
        message = words_of(path, num_classes)
        assert "classes 0 to 999" in message
        assert "'background'" in message
    assert "--label-map" in message
    given = label_map(numbers or {str(label): label + 1 for label in range(1000)})
    assert labels_of(path, num_classes, label_map=given) == want
    assert labels_of(path, 1000) == [0, 217, 999]
    assert "background" not in words_of(path, 1000)


def test_a_label_map_serves_shards_too(shard, encode, label_map):
    path = shard([("a.png", encode(1)), ("a.cls", b"217"), ("b.png", encode(1)), ("b.cls", b"-1")])
    assert labels_of(path, 10, label_map=label_map({"217": 3})) == [3, None]


@pytest.mark.parametrize(
    ("labels", "num_classes", "want"),
    [
        (["7", "003", None, "-1"], 10, [7, 3, None, None]),
        (["n01440764", WNIDS[217]], 1000, [0, 217]),
    ],
)
@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())]
)
def test_labels_as_text_and_categories(rows, labels, num_classes, want, kind):
    assert labels_of(rows(label=pa.array(labels, pa.string()).cast(kind)), num_classes) == want


def test_categories_of_numbers(rows):
    assert labels_of(rows(label=pa.array([7, 3, 7]).dictionary_encode()), 10) == [7, 3, 7]


def test_labels_that_are_names_need_a_map(rows, refusal, label_map):
    path = rows(label=["dog", "cat"], wnid=WNIDS[:2])
    message = refusal(path, 10)
    for part in ("column 'label': the 2 labels (cat, dog)", "--label-map", "wnid: string"):
        assert part in message
    assert labels_of(path, 10, label_map=label_map({"dog": 1, "cat": 0})) == [1, 0]
    assert labels_of(path, 1000, label_column="wnid") == [0, 1]
    assert "lacks 1 of 2 names: dog" in refusal(path, 10, label_map=label_map({"cat": 0}))


def test_a_remedy_for_lines_without_an_image_can_be_followed(rows, refusal, tmp_path):
    (tmp_path / "truth.txt").write_text("5\n6\n")
    path = rows(y=[5, 6])
    message = refusal(path, 10, ground_truth=str(tmp_path / "truth.txt"), numbering="classes")
    assert "--label-map" not in message
    assert "as a column and name it with --label-column" in message
    assert labels_of(path, 10, label_column="y") == [5, 6]


@pytest.mark.parametrize("flag", ["label_map", "label_column"])
def test_two_files_of_labels(rows, refusal, flag):
    message = refusal(rows(label=[1]), 10, ground_truth="f", **{flag: "label"})
    assert f"--{flag.replace('_', '-')} and --ground-truth" in message


def test_images_alone_need_no_labels(tree, rows, label_map):
    """As they are read for a picture of a run, whose labels are stored."""
    for data in (tree("cat/a.png", "dog/b.png", "dog/deep/c.png"), rows(label=["cat", "dog"])):
        table = list_images(str(data), NO, None, labelled=False).table
        assert table["label"].null_count == table["labels"].null_count == table.num_rows > 0
        with pytest.raises(SourceError):
            list_images(str(data), NO, 10)


@pytest.mark.parametrize("first", [True, False])
def test_a_flat_column_with_the_name_of_a_leaf(tmp_path, encode, first):
    inner = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    columns = {
        "image.bytes": pa.array([encode(100 + number) for number in range(4)]),
        "image": pa.array([{"bytes": encode(n), "path": "p"} for n in range(4)], inner),
        "label.old": pa.array([9, 9, 9, 9]),
        "label": pa.array([0, 1, 2, 3]),
    }
    names = list(columns) if first else list(columns)[::-1]
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({name: columns[name] for name in names}), path)
    for options, start in ((NO, 0), (SourceOptions(image_column="image.bytes"), 100)):
        listing = list_images(str(path), options, 10)
        assert listing.table["label"].to_pylist() == [0, 1, 2, 3]
        assert read_bytes_of(listing.table, options) == [encode(start + n) for n in range(4)]


@pytest.mark.parametrize("plaintext_footer", [False, True])
def test_encrypted_parquet_is_said_to_be_so(tmp_path, refusal, encode, plaintext_footer):
    table = pa.table({"image": [encode(1)], "label": [1]})
    config = pe.EncryptionConfiguration(
        footer_key="k", column_keys={"c": ["label"]}, plaintext_footer=plaintext_footer
    )
    factory = pe.CryptoFactory(lambda _: Keys())
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), config)
    path = tmp_path / "a.parquet"
    with pq.ParquetWriter(path, table.schema, encryption_properties=properties) as writer:
        writer.write_table(table)
    message = refusal(path)
    assert f"{path} is encrypted" in message
    assert "copy" not in message


POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>\n" * 20


@pytest.mark.parametrize("name", ["a.parquet", "a.tar", "0/a.jpg"])
def test_a_pointer_or_a_page_in_place_of_the_file(tmp_path, refusal, name):
    path = tmp_path / "d" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(POINTER)
    message = refusal(tmp_path / "d")
    assert f"{path} is a Git LFS pointer" in message
    assert "git lfs pull" in message
    if not name.startswith("0/"):
        path.write_bytes(PAGE)
        assert f"{path} is a saved web page" in refusal(tmp_path / "d")


@pytest.mark.parametrize("name", ["0/b.png", "0/notes.txt"])
def test_a_broken_link_is_named(tree, refusal, name):
    root = tree("0/a.png")
    os.symlink("/nowhere/b.png", root / name)
    message = refusal(root)
    assert f"{root / name} is a broken link: /nowhere/b.png does not exist" in message
    (root / name).unlink()
    assert labels_of(root, 10) == [0]

"""Labels beside flat validation images: which line is whose, and what its numbers mean."""

import json
import random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.io import savemat
from timm.data.imagenet_info import ImageNetInfo

from pipeline.sources.base import LISTING, SourceOptions
from pipeline.sources.listing import list_images

WNIDS = ImageNetInfo("imagenet-1k").label_names()
# The kit's ids have an order of their own; here a shuffled one.
KIT = random.Random(0).sample(WNIDS, 1000)


@pytest.fixture
def flat(tmp_path, encode):
    """flat("a.png", ...) makes images in one folder and returns it."""

    def build(*names):
        for name in names:
            path = tmp_path / "flat" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(1))
        return str(tmp_path / "flat")

    return build


@pytest.fixture
def beside(tmp_path):
    """Writes a file outside the images' folder and returns its path."""

    def write(name, text):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def val(*numbers):
    return [f"ILSVRC2012_val_{number:08d}.JPEG" for number in numbers]


def labels_of(root, num_classes=1000, **options):
    table = list_images(root, SourceOptions(**options), num_classes).table
    assert table.schema == LISTING
    assert table["labels"].null_count == table.num_rows or table["label"].null_count
    return table["label"].to_pylist()


def test_class_numbers_of_a_part_by_the_numbers_in_the_names(flat, beside):
    root = flat(*val(4, 2))
    truth = beside("truth.txt", "65\n970\n230\n-1\n")
    options = {"ground_truth": truth, "numbering": "classes"}
    assert labels_of(root, **options) == [970, None]
    assert labels_of(flat("deep/" + val(1)[0]), **options) == [970, None, 65]


def test_numbering_must_be_stated(flat, beside, refusal):
    message = refusal(flat(*val(1)), 1000, ground_truth=beside("t.txt", "490\n"))
    assert "--numbering classes" in message
    assert "another order" in message
    assert "--ground-truth" in refusal(flat(*val(1)), 1000, numbering="classes")


def test_ilsvrc_ids_go_through_the_kits_table(flat, beside, tmp_path):
    root, truth = flat(*val(1, 2, 3)), beside("truth.txt", "490\n1\n1000\n")
    want = [WNIDS.index(KIT[number - 1]) for number in (490, 1, 1000)]
    lines = [f"{wnid} {number} some_name" for number, wnid in enumerate(KIT, start=1)]
    beside("map_clsloc.txt", "\n".join(lines) + "\n")
    assert labels_of(root, ground_truth=truth, numbering="ilsvrc2012") == want
    (tmp_path / "map_clsloc.txt").unlink()
    synsets = np.zeros((1001, 1), dtype=[("ILSVRC2012_ID", "O"), ("WNID", "O"), ("words", "O")])
    for row, wnid in enumerate([*KIT, "n00001740"]):
        synsets[row, 0] = (float(row + 1), wnid, "words")
    savemat(tmp_path / "meta.mat", {"synsets": synsets})
    assert labels_of(root, ground_truth=truth, numbering="ilsvrc2012") == want


def test_ilsvrc_ids_are_never_guessed(flat, beside, refusal):
    options = {"ground_truth": beside("t.txt", "490\n"), "numbering": "ilsvrc2012"}
    root = flat(*val(1))
    assert "meta.mat or map_clsloc.txt" in refusal(root, 1000, **options)
    beside("map_clsloc.txt", "n02119789 1 kit_fox\n")
    assert "ids 1 to 1000" in refusal(root, 1000, **options)
    beside("meta.mat", "no MATLAB")
    assert "meta.mat is no table" in refusal(root, 1000, **options)


def test_id_zero_is_no_ilsvrc_id(flat, beside, refusal):
    lines = [f"{wnid} {number} name" for number, wnid in enumerate(KIT, start=1)]
    beside("map_clsloc.txt", "\n".join(lines))
    options = {"ground_truth": beside("t.txt", "0\n"), "numbering": "ilsvrc2012"}
    assert "0 is no ILSVRC2012 id" in refusal(flat(*val(1)), 1000, **options)
    options["ground_truth"] = beside("t.txt", "5\n")
    assert "the model has 10 classes" in refusal(flat(*val(1)), 10, **options)


def test_a_wnid_a_line(flat, beside, refusal):
    truth = beside("synsets.txt", "n01440764\nn02979186\n")
    assert labels_of(flat(*val(2, 1)), ground_truth=truth) == [0, 482]
    truth = beside("synsets.txt", "n01440764\nn99999999\n")
    assert "n99999999" in refusal(flat(), 1000, ground_truth=truth)


def test_real_has_many_labels_or_none(flat, beside):
    truth = beside("real.json", json.dumps([[], [970, 795], [230]]))
    listing = list_images(flat(*val(3, 1, 2)), SourceOptions(ground_truth=truth), 1000)
    assert listing.table["labels"].to_pylist() == [[], [795, 970], [230]]
    assert listing.table["label"].null_count == 3
    assert listing.table.schema == LISTING


def test_labels_are_null_without_such_a_file(flat):
    table = list_images(flat("0/a.png"), SourceOptions(), 10).table
    assert table["labels"].null_count == 1


def test_names_without_numbers_go_by_their_order(flat, beside):
    truth = beside("t.txt", "5\n6\n7\n")
    root = flat("b.png", "a.png", "c.png")
    assert labels_of(root, 10, ground_truth=truth, numbering="classes") == [5, 6, 7]


def test_rows_with_numbered_names_only(tmp_path, encode, beside, refusal, shard):
    truth = beside("t.txt", "5\n6\n")
    path = tmp_path / "v.parquet"
    pq.write_table(pa.table({"image": [encode(1)] * 2, "label": [0, 1]}), path)
    options = {"ground_truth": truth, "numbering": "classes"}
    assert "'v/0' has no number in its name" in refusal(path, **options)
    tar = shard([(f"{name}", encode(1)) for name in val(2, 1)])
    assert labels_of(tar, 10, **options) == [6, 5]


@pytest.mark.parametrize(
    ("names", "text", "parts"),
    [
        (["a.png", "b.png"], "1\n", ["1 lines for 2 images", "--label-map"]),
        (["1.png", "10.png", "2.png"], "1\n2\n3\n", ["differ by letters and by numbers"]),
        (["x/a.png", "y/b.png"], "1\n2\n", ["several folders"]),
        ([*val(1), "a.png"], "1\n2\n", ["'a.png' has no number"]),
        (val(3), "1\n2\n", ["none of them for image 'ILSVRC2012_val_00000003.JPEG'"]),
        (val(1), "cat\n", ["line 1", "'cat' is no class number", "--label-map"]),
        (val(1), "1000\n", ["label 1000", "1000 classes"]),
        (val(1), "", ["line 1"]),
        (val(1), None, ["cannot be read"]),
    ],
)
def test_faults(flat, beside, refusal, names, text, parts):
    truth = beside("t.txt", text) if text is not None else "/absent/t.txt"
    message = refusal(flat(*names), 1000, ground_truth=truth, numbering="classes")
    assert all(part in message for part in parts), message


def test_ilsvrc_ids_are_not_looked_for_in_json(flat, beside, refusal):
    truth = beside("real.JSON", "[[1]]")
    message = refusal(flat(*val(1)), 1000, ground_truth=truth, numbering="ilsvrc2012")
    assert "--numbering ilsvrc2012 has no meaning for JSON" in message
    table = list_images(flat(), SourceOptions(ground_truth=truth, numbering="classes"), 1000).table
    assert table["labels"].to_pylist() == [[1]]


@pytest.mark.parametrize(
    "text", ["{}", "[1]", "[[true]]", "[[", f"[[{2**63}]]", f"[[{-(10**30)}]]", "[" * 100_000]
)
def test_json_that_is_no_list_of_lists(flat, beside, refusal, text):
    message = refusal(flat(*val(1)), 1000, ground_truth=beside("t.json", text))
    assert "cannot be used" in message


def test_json_label_outside_the_model(flat, beside, refusal):
    message = refusal(flat(*val(1)), 1000, ground_truth=beside("t.json", "[[3, 1000]]"))
    assert "val_00000001" in message
    assert "label 1000" in message


def test_ground_truth_and_label_map_exclude_each_other(flat, beside, refusal):
    truth = beside("t.txt", "1\n")
    assert "--label-map" in refusal(flat(*val(1)), 10, ground_truth=truth, label_map=truth)

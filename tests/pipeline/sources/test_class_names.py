"""Wnids, label maps and subsets of the model's classes."""

import pytest

from pipeline.sources.base import SourceError, SourceOptions
from pipeline.sources.class_names import class_subset
from pipeline.sources.listing import list_images

# ImageNette: ten of ImageNet's classes.
IMAGENETTE = {
    "n01440764": 0,
    "n02102040": 217,
    "n02979186": 482,
    "n03000684": 491,
    "n03028079": 497,
    "n03394916": 566,
    "n03417042": 569,
    "n03425413": 571,
    "n03445777": 574,
    "n03888257": 701,
}


@pytest.fixture
def tree(tmp_path, encode):
    def build(*names):
        for name in names:
            path = tmp_path / "root" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(1))
        return str(tmp_path / "root")

    return build


def labels_of(root, num_classes, **options):
    table = list_images(root, SourceOptions(**options), num_classes).table
    return dict(zip(table["image_id"].to_pylist(), table["label"].to_pylist(), strict=True))


@pytest.mark.parametrize("given", [None, tuple(sorted(IMAGENETTE.values()))])
def test_imagenette_keeps_imagenets_numbers(tree, given):
    root = tree(*(f"{wnid}/a.png" for wnid in IMAGENETTE))
    want = {f"{wnid}/a.png": number for wnid, number in IMAGENETTE.items()}
    assert labels_of(root, 1000, classes=given) == want


def test_order_of_folders_says_nothing_under_a_restriction(tree, refusal):
    root = tree("cat/a.png", "dog/a.png")
    assert labels_of(root, 2) == {"cat/a.png": 0, "dog/a.png": 1}
    with pytest.raises(SourceError, match="--label-map"):
        labels_of(root, 2, classes=(0, 1))


def test_label_outside_the_restriction(tree):
    with pytest.raises(SourceError, match=r"'2/b\.png' has label 2, .*none of the 2 --classes"):
        labels_of(tree("1/a.png", "2/b.png", "-1/c.png"), 10, classes=(1, 3))


def test_several_labels_may_lie_partly_outside(tree, tmp_path):
    (tmp_path / "r.json").write_text("[[1, 5], [5]]")
    names = [f"ILSVRC2012_val_0000000{number}.png" for number in (1, 2)]
    options = SourceOptions(ground_truth=str(tmp_path / "r.json"), classes=(1, 3))
    table = list_images(tree(*names), options, 10).table
    assert table["labels"].to_pylist() == [[1, 5], [5]]


def test_classes_by_number_wnid_and_file(tmp_path):
    assert class_subset("491, 0,217", 1000) == (0, 217, 491)
    assert class_subset(",".join(IMAGENETTE), 1000) == tuple(IMAGENETTE.values())
    (tmp_path / "classes.txt").write_text("\ufeffn03888257\n0\n")
    assert class_subset(str(tmp_path / "classes.txt"), 1000) == (0, 701)


@pytest.mark.parametrize(
    ("given", "num_classes", "part"),
    [
        ("1", 10, "at least 2"),
        ("", 10, "at least 2"),
        ("1,1", 10, "names class 1 twice"),
        ("n01440764,0", 1000, "names class 0 twice"),
        ("1,10", 10, "10 is none of the model's classes, 0 to 9"),
        ("-1,1", 10, "-1 is none"),
        ("n01440764,1", 10, "the model has 10"),
        ("n99999999,1", 1000, "none of ImageNet's"),
        ("absent.txt", 10, "nor a readable file"),
        ("cat,dog", 10, "nor a readable file"),
    ],
)
def test_classes_that_cannot_be(given, num_classes, part):
    with pytest.raises(SourceError, match="--classes") as caught:
        class_subset(given, num_classes)
    assert part in str(caught.value)


def test_class_file_with_something_else(tmp_path):
    (tmp_path / "c.txt").write_text("0\ncat\n")
    with pytest.raises(SourceError, match="'cat' is neither"):
        class_subset(str(tmp_path / "c.txt"), 10)


@pytest.mark.parametrize(
    "text",
    [
        "a.JPEG\t65\nb.JPEG\tn01440764\n",
        "a.JPEG 65\nb.JPEG 0\n",
        "a,65\nb,n01440764\n",
        "ImageId,PredictionString\na,n01751748 1 2 3 4 n01751748 1 2 3 4 \nb,n01440764 1 2 3 4 \n",
    ],
    ids=["tsv", "caffe", "without suffix", "kaggle"],
)
def test_flat_images_by_name(tree, tmp_path, text):
    (tmp_path / "map.txt").write_text(text)
    root = tree("a.JPEG", "b.JPEG")
    assert labels_of(root, 1000, label_map=str(tmp_path / "map.txt")) == {"a.JPEG": 65, "b.JPEG": 0}


def test_wnids_of_a_label_map_need_imagenets_classes(tree, tmp_path):
    (tmp_path / "map.json").write_text('{"a.png": "n01440764"}')
    root = tree("a.png")
    assert labels_of(root, 1000, label_map=str(tmp_path / "map.json")) == {"a.png": 0}
    with pytest.raises(SourceError, match="but the model has 10"):
        labels_of(root, 10, label_map=str(tmp_path / "map.json"))

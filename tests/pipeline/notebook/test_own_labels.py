"""``certify`` on arrays: the rules' own answers, and what every rewriting of labels says."""

import doctest
import itertools

import numpy as np
from pytest import mark, raises

import pipeline.notebook.labels
from models.views.family import Patch
from models.views.masks import Masks, Placement
from models.views.threats import Threat
from pipeline.certificates import RULES, VoteBatch, margins
from pipeline.certificates.early_exit import EarlyExit
from pipeline.notebook import certify
from tests.conftest import tiny_ablation


def tiny_masks() -> Masks:
    """Three masks on a line of four pixels, alone and in pairs: six views."""
    axes = (Placement.at_stride(1, 1, 1), Placement.covering(4, 1, 3))
    return Masks.placed(height=1, width=4, placements=[axes], pairs=True)


def test_answers_are_those_of_the_rules():
    ablation, masks = tiny_ablation(), tiny_masks()
    random = np.random.default_rng(0)
    labels = random.integers(0, 3, (20, len(ablation)))
    found = certify(labels, ablation, patch=8, num_classes=4)
    assert found.rule == "exact"
    assert (found.margin == margins("exact", labels, ablation, Threat.parse(8), 4)).all()
    labels = random.integers(0, 2, (20, len(masks)))
    plain, truth = random.integers(0, 2, (2, 20))
    batch, threat = VoteBatch(labels, masks, 2, plain_n=plain), Threat.parse(1)
    for name in ("two-location", "one-location", "double-masking"):
        found = certify(labels, masks, patch=1, rule=name, plain=plain, truth=truth)
        assert (found.prediction == RULES[name].predict(batch, threat)).all()
        assert (found.certified == (RULES[name].margins(batch, threat) >= 0)).all()
        right = found.prediction == truth
        assert found.clean_accuracy == right.mean()
        assert found.certified_accuracy == (right & found.certified).mean()


@mark.parametrize("kind", ["column", "mask-pair"])
def test_no_rewriting_of_touched_labels_changes_a_certified_answer(kind):
    options = {"size": 1} if kind == "column" else {"masks": 3, "covers": 1}
    width = 4 if kind == "column" else 5
    every = {"patch": 1, "image": (1, width), "num_classes": 2, **options}
    views = certify(np.zeros((1, 1), int)[:0].reshape(0, _count(kind, every)), kind, **every).views
    labels = np.array(list(itertools.product(range(2), repeat=len(views))))
    if len(labels) > 300:
        labels = labels[np.random.default_rng(1).choice(len(labels), 300, replace=False)]
    plain = None if kind == "column" else labels[:, 0]
    found = certify(labels, kind, plain=plain, **every)
    assert found.certified.any()
    changed = np.zeros(len(labels), bool)
    for touched in views.touched(views_patch()):
        where = np.flatnonzero(touched)
        for values in itertools.product(range(2), repeat=len(where)):
            attacked = labels.copy()
            attacked[:, where] = values
            # The plain prediction sees the patch too; a certificate never rests on it.
            for forged in (None,) if plain is None else (0, 1):
                seen = None if forged is None else np.full(len(labels), forged)
                answer = certify(attacked, kind, plain=seen, **every).prediction
                changed |= answer != found.prediction
    assert not (found.certified & changed).any()
    if kind == "column":  # exact is tight
        assert (found.certified == ~changed).all()


def views_patch():
    (patch,) = Threat.parse(1).patches(tiny_masks())
    return patch


def _count(kind, every):
    family = pipeline.notebook.labels.family_of(
        kind,
        every["image"],
        {name: every[name] for name in ("size", "covers", "masks") if name in every},
    )
    return len(family)


def asked_early(masks: Masks) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All labels of some images, those that early exit asks, and plain ones."""
    labels = (np.random.default_rng(0).random((200, len(masks))) < 0.2).astype(int)
    plain, some = labels[:, 1], np.full(labels.shape, -1)
    exits, no_gaps = EarlyExit(masks), np.zeros(len(masks))
    for image, labels_v in enumerate(labels):
        while (more := exits.next(some[image], no_gaps, plain[image])) is not None:
            some[image, more] = labels_v[more]
    return labels, some, plain


def test_views_that_were_not_asked_answer_for_the_covered_patch_alone():
    axes = (Placement.at_stride(1, 1, 1), Placement.covering(25, 1, 5))
    masks = Masks.placed(height=1, width=25, placements=[axes], pairs=True, covers=(Patch(1, 1),))
    labels, some, plain = asked_early(masks)
    assert (some < 0).any()
    for rule in ("two-location", "one-location"):
        every, early = (
            certify(given, masks, patch=1, plain=plain, rule=rule) for given in (labels, some)
        )
        assert (early.prediction == every.prediction).all()
        assert (early.certified == every.certified).all()
    with raises(ValueError, match="all-views"):
        certify(some, masks, patch=1, plain=plain, rule="double-masking")
    partial = int((some < 0).any(axis=1).argmax())
    for unknown in (None, np.where(np.arange(len(plain)) == partial, -1, plain)):
        with raises(ValueError, match=rf"image {partial}: .* no plain prediction, which .* plain="):
            certify(some, masks, patch=1, plain=unknown)
    complete = int((some >= 0).all(axis=1).argmax())
    some[complete, -2] = -1
    with raises(ValueError, match=rf"image {complete}: view {len(masks) - 2} has none .* give it"):
        certify(some, masks, patch=1, plain=plain)


def test_of_single_masks_every_view_must_have_its_label():
    with raises(ValueError, match="may only be of pairs of masks that cover a patch; give every"):
        certify([[0, 0, -1]], "mask", image=(1, 5), covers=1, masks=3, patch=1, plain=[0])


@mark.parametrize(
    ("changes", "says"),
    [
        ({"labels": [[0.5] * 4]}, "2-D array of integers"),
        ({"labels": [[0] * 3]}, "one for each of the 4"),
        ({"truth": [0, 1]}, "truth has the shape"),
        ({"truth": [0.5]}, "give integers"),
        ({"truth": [-7]}, "classes are 0 to"),
        ({"plain": [9], "num_classes": 3}, "classes are 0 to 2, and -1"),
        ({"image": None}, "give image="),
        ({"views": "row", "size": 1, "image": None}, "give image="),
        ({"views": np.zeros((4, 4))}, "ndarray is no family of views"),
        ({"patch": 5}, "fit the 4x4 px image"),
        ({"patch": "source:1"}, "depends on the size of each picture"),
        ({"rule": "exakt"}, "did you mean"),
        ({"sise": 1}, "size, stride, covers, masks"),
        ({"labels": [[-1, 0, 0, 0]]}, "vote -1 of image 0"),
    ],
)
def test_mistakes_are_named(changes, says):
    given = {"labels": [[0] * 4], "views": "column", "image": 4, "size": 1, "patch": 1} | changes
    with raises(ValueError, match=says):
        certify(**given)
    with raises(ValueError, match="the family of views says it"):
        certify([[0] * 6], tiny_masks(), patch=1, masks=3)
    with raises(ValueError, match="image: the family of views says it"):
        certify([[0] * 6], tiny_masks(), patch=1, image=4)


def test_the_size_of_views_is_never_assumed():
    """Labels of 224 bands of any size fit, and of others the certificate would be false."""
    with raises(ValueError, match=r"views='column': give image= .* and size="):
        certify([[0] * 224], "column", image=224, patch=32)
    with raises(ValueError, match=r"views='mask-pair': give image= .* and covers="):
        certify([[0] * 666], "mask-pair", image=224, patch=32)


def test_the_example_of_the_docstring_holds():
    found = doctest.testmod(pipeline.notebook.labels)
    assert found.attempted
    assert not found.failed

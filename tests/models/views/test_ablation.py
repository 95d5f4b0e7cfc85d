"""The ablations' geometry against masks built pixel by pixel, with no code in common."""

import hashlib
import json
from dataclasses import asdict
from itertools import product

import numpy as np
import pytest

from models.views.ablations import Ablation
from models.views.family import Patch


def shown(ablation: Ablation) -> list[set[tuple[int, int]]]:
    """The pixels (y, x) of every view: a band or block laid out from each offset, wrapping."""
    kind, size, height, width = ablation.kind, ablation.size, ablation.height, ablation.width
    ys = range(0, height, ablation.stride) if kind != "column" else [0]
    xs = range(0, width, ablation.stride) if kind != "row" else [0]
    down = range(height if kind == "column" else size)
    across = range(width if kind == "row" else size)
    offsets = list(product(ys, xs))
    if ablation.random is not None:
        texts = {offset: f"{ablation.seed}/{offset[0]}/{offset[1]}" for offset in offsets}
        offsets.sort(key=lambda offset: hashlib.sha256(texts[offset].encode()).hexdigest())
        offsets = sorted(offsets[: ablation.random])
    return [
        {((y0 + y) % height, (x0 + x) % width) for y, x in product(down, across)}
        for y0, x0 in offsets
    ]


def patched(patch: Patch, y0: int, x0: int) -> set[tuple[int, int]]:
    """The pixels of a patch with this corner."""
    return set(product(range(y0, y0 + patch.height), range(x0, x0 + patch.width)))


def ablations(longest: int):
    for kind, height, width in product(
        ("column", "row", "block"), range(1, longest + 1), range(1, longest + 1)
    ):
        limit = {"column": width, "row": height, "block": min(height, width)}[kind]
        for size, stride in product(range(1, limit + 1), repeat=2):
            yield Ablation(kind=kind, size=size, stride=stride, height=height, width=width)
        every = {"column": width, "row": height, "block": height * width}[kind]
        shape = {"kind": kind, "stride": 1, "height": height, "width": width}
        for size, random in product({1, limit}, {1, (every + 1) // 2, every}):
            yield Ablation(**shape, size=size, random=random, seed=height)


def test_views_show_the_pixels_of_the_masks():
    for ablation in ablations(4):
        masks = shown(ablation)
        assert len(ablation) == len(masks)
        for view, mask in enumerate(masks):
            assert set(map(tuple, np.argwhere(ablation.visible(view)).tolist())) == mask, ablation
            y, x = ablation.positions[view]
            assert (y, x) in mask


def test_touched_views_share_a_pixel_with_the_patch():
    for ablation in ablations(4):
        masks = shown(ablation)
        every = range(1, ablation.height + 1), range(1, ablation.width + 1)
        for patch in map(Patch._make, product(*every)):
            corners = ablation.locations(patch).tolist()
            expected = [
                [not mask.isdisjoint(patched(patch, *corner)) for mask in masks]
                for corner in corners
            ]
            assert ablation.touched(patch).tolist() == expected, (ablation, patch)

            # The corners left out touch what a listed one touches: all corners give no more.
            edges = ablation.height - patch.height + 1, ablation.width - patch.width + 1
            everywhere = [
                [not mask.isdisjoint(patched(patch, *corner)) for mask in masks]
                for corner in product(*map(range, edges))
            ]
            assert set(map(tuple, everywhere)) == set(map(tuple, expected)), (ablation, patch)
            assert ablation.max_touched(patch) == max(map(sum, everywhere)), (ablation, patch)


@pytest.mark.parametrize("pixel_scale", [1, 3])
def test_kept_tokens_hold_a_visible_pixel(pixel_scale):
    for ablation in (
        Ablation(kind="column", size=5, stride=3, height=8, width=16, pixel_scale=pixel_scale),
        Ablation(kind="row", size=3, stride=5, height=12, width=8, pixel_scale=pixel_scale),
        Ablation(kind="block", size=5, stride=2, height=12, width=8, pixel_scale=pixel_scale),
        Ablation(
            kind="block", size=3, stride=1, height=8, width=12, pixel_scale=pixel_scale, random=30
        ),
    ):
        token = 4  # at scale 3 a token boundary may cut through a pixel of the attacker's grid
        per_row = ablation.width * pixel_scale // token
        for view, mask in enumerate(shown(ablation)):
            model_pixels = {
                (y * pixel_scale + dy, x * pixel_scale + dx)
                for y, x in mask
                for dy, dx in product(range(pixel_scale), repeat=2)
            }
            expected = sorted({y // token * per_row + x // token for y, x in model_pixels})
            assert ablation.kept_tokens(view, (token, token)).tolist() == expected


def test_kept_tokens_of_the_paper():
    """Band 19 of 224 px: 196 offsets keep 28 tokens of 16 px and 28 keep 42; band 37: 42 and 56."""
    for size, fewer, more in ((19, 28, 42), (37, 42, 56)):
        ablation = Ablation(kind="column", size=size, stride=1, height=224, width=224)
        kept = [len(ablation.kept_tokens(view, (16, 16))) for view in range(224)]
        assert set(kept) == {fewer, more}
        if size == 19:
            assert (kept.count(28), kept.count(42)) == (196, 28)


def test_one_pixel_of_the_attackers_grid():
    """CIFAR-10: band 4, patch 2 on 32 px give 32 views and Delta 5, not the 6 of a 224-px grid."""
    cifar = Ablation(kind="column", size=4, stride=1, height=32, width=32, pixel_scale=7)
    assert len(cifar) == 32
    assert cifar.max_touched(Patch.square(2)) == 5
    enlarged = Ablation(kind="column", size=28, stride=7, height=224, width=224)
    assert enlarged.max_touched(Patch.square(14)) == 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "ring"}, "ablation='ring': choose column, row or block"),
        ({"size": 0}, "size=0.*from 1 to 32 px"),
        ({"size": 33}, "size=33.*from 1 to 32 px"),
        ({"stride": 0}, "stride=0"),
        ({"stride": 33}, "stride=33"),
        ({"height": 0}, "at least 1"),
        ({"pixel_scale": 0}, "at least 1"),
        ({"kind": "block", "size": 31, "height": 30}, "size=31.*from 1 to 30 px"),
        ({"seed": 3}, "seed=3: only random positions have a seed; leave it at 0"),
        ({"random": 4, "stride": 2}, "stride=2: random positions.*use stride 1"),
        ({"random": 0}, "random=0.*32x32 px image has 1 to 32 positions"),
        ({"random": 33}, "random=33.*1 to 32 positions"),
        ({"kind": "block", "random": 1025}, "random=1025.*1 to 1024 positions"),
    ],
)
def test_impossible_ablations_are_refused(change, message):
    arguments = {"kind": "column", "size": 4, "stride": 1, "height": 32, "width": 32}
    with pytest.raises(ValueError, match=message):
        Ablation(**(arguments | change))


def test_touched_axes_multiply_to_what_is_touched():
    ablation = Ablation(kind="block", size=2, stride=1, height=5, width=6, random=11, seed=2)
    rows, columns = ablation.touched_axes(Patch(2, 3))
    assert (rows.shape, columns.shape) == ((4, 11), (4, 11))
    both = (rows[:, None] & columns[None]).reshape(16, 11)
    np.testing.assert_array_equal(both, ablation.touched(Patch(2, 3)))


def test_ablations_survive_json_and_old_manifests_load():
    old = {"kind": "block", "size": 4, "stride": 2, "height": 8, "width": 8, "pixel_scale": 7}
    assert asdict(Ablation(**old)) == old | {"random": None, "seed": 0}
    for ablation in (Ablation(**old), Ablation(**(old | {"stride": 1, "random": 9, "seed": 5}))):
        again = Ablation(**json.loads(json.dumps(asdict(ablation))))
        assert again == ablation
        assert again.positions.tolist() == ablation.positions.tolist()


def test_all_positions_at_random_are_all_positions():
    shape = {"kind": "block", "size": 3, "stride": 1, "height": 6, "width": 5}
    every = Ablation(**shape, random=30, seed=8)
    assert every.positions.tolist() == Ablation(**shape).positions.tolist()


def test_impossible_questions_are_refused():
    ablation = Ablation(kind="column", size=4, stride=1, height=32, width=32)
    for patch in (Patch(33, 1), Patch(1, 33), Patch(0, 1)):
        for question in (ablation.locations, ablation.touched, ablation.max_touched):
            with pytest.raises(ValueError, match=r"patch .* fit the 32x32 px image"):
                question(patch)
    with pytest.raises(ValueError, match="tokens of 5 px do not tile 32 model pixels"):
        ablation.kept_tokens(0, (5, 16))

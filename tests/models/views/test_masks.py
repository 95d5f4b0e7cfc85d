"""The geometry of masks against pixels: what is hidden, what is touched, what is covered."""

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.views.ablations import Ablation
from models.views.family import Patch
from models.views.masks import Mask, Masks, Placement, bounding_shapes
from models.views.threats import Threat

SIZE = {"height": 6, "width": 7}


def hidden(mask: Mask, height: int, width: int) -> set[tuple[int, int]]:
    """The pixels of a mask, laid out from its corner, wrapping."""
    down, across = range(mask.y, mask.y + mask.height), range(mask.x, mask.x + mask.width)
    return {(y % height, x % width) for y, x in product(down, across)}


def hidden_by_views(masks: Masks) -> list[set[tuple[int, int]]]:
    """The hidden pixels of every view: mask i with each j >= i, i itself meaning i alone."""
    alone = [hidden(mask, masks.height, masks.width) for mask in masks.masks]
    if not masks.pairs:
        return alone
    return [alone[i] | alone[j] for i in range(len(alone)) for j in range(i, len(alone))]


def patched(patch: Patch, y0: int, x0: int) -> set[tuple[int, int]]:
    """The pixels of a patch with this corner."""
    return set(product(range(y0, y0 + patch.height), range(x0, x0 + patch.width)))


def everywhere(patch: Patch, height: int, width: int) -> list[tuple[int, int]]:
    """Every corner at which a patch lies inside the image."""
    return list(product(range(height - patch.height + 1), range(width - patch.width + 1)))


def agrees(masks: Masks) -> None:
    """Hold a family against its pixels, for every patch at every place."""
    height, width, views = masks.height, masks.width, hidden_by_views(masks)
    pixels = set(product(range(height), range(width)))
    assert len(masks) == len(views)
    for view, gone in enumerate(views):
        shown = set(map(tuple, np.argwhere(masks.visible(view)).tolist()))
        assert shown == pixels - gone, (masks, view)
    for patch in map(Patch._make, product(range(1, height + 1), range(1, width + 1))):
        places = everywhere(patch, height, width)
        expected = {
            place: [not patched(patch, *place) <= gone for gone in views] for place in places
        }
        found = masks.touched(patch).tolist()
        corners = masks.locations(patch).tolist()
        assert [expected[y, x] for y, x in corners] == found, (masks, patch)
        # Corners left out differ only along an axis that no view can tell.
        varies_y, varies_x = masks.varies
        for (y, x), touched in expected.items():
            assert touched == expected[y if varies_y else 0, x if varies_x else 0], (masks, patch)
        sets = masks.touched_sets(patch)
        assert sets.touched_sv[sets.sets_yx].reshape(-1, len(views)).tolist() == found
        assert masks.max_touched(patch) == max(map(sum, expected.values()))


PLACED = {
    "squares": (Placement(3, (0, 2, 3)), Placement(3, (0, 2, 4))),
    "rectangles": (Placement(2, (0, 2, 4)), Placement(4, (0, 3))),
    "different per axis": (Placement(4, (0, 2)), Placement(3, (0, 1, 3, 4))),
    "full height": (Placement(6, (0,)), Placement(3, (0, 2, 4))),
    "full width": (Placement(2, (0, 1, 2, 3, 4)), Placement(7, (0,))),
    "abutting": (Placement(3, (0, 3)), Placement(4, (0, 3))),
    "wrapped": (Placement(4, (0, 2, 4)), Placement(5, (0, 3, 6))),
    "gaps": (Placement(2, (0, 4)), Placement(3, (0, 4))),
}


def family(rows: Placement, columns: Placement, *, pairs: bool) -> Masks:
    """All combinations of two placements, which need not cover anything."""
    masks = [
        Mask(y, x, rows.extent, columns.extent) for y, x in product(rows.starts, columns.starts)
    ]
    return Masks(**SIZE, masks=tuple(masks), pairs=pairs, covers=())


@pytest.mark.parametrize("pairs", [False, True], ids=["alone", "pairs"])
@pytest.mark.parametrize("placed", PLACED.values(), ids=PLACED)
def test_masks_are_their_pixels(placed, pairs):
    agrees(family(*placed, pairs=pairs))


@settings(max_examples=60, deadline=None, database=None)
@given(st.data())
def test_any_masks_are_their_pixels(data):
    """Unions of sets of different sizes, wrapped or not, in any order."""
    height, width = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 6))
    mask = st.builds(
        Mask,
        st.integers(0, height - 1),
        st.integers(0, width - 1),
        st.integers(1, height),
        st.integers(1, width),
    )
    chosen = data.draw(st.lists(mask, min_size=1, max_size=4, unique=True))
    agrees(
        Masks(
            height=height,
            width=width,
            masks=tuple(chosen),
            pairs=data.draw(st.booleans()),
            covers=(),
        )
    )


def test_two_masks_that_abut_hide_a_patch_together():
    """Neither half holds the patch; the view that hides both is untouched."""
    halves = (Mask(0, 0, 4, 3), Mask(0, 3, 4, 3))
    masks = Masks(height=4, width=6, masks=halves, pairs=True, covers=(Patch(1, 1),))
    across = masks.touched(Patch(2, 2))[masks.locations(Patch(2, 2)).tolist().index([0, 2])]
    assert across.tolist() == [True, False, True]
    # Meet at a corner: the box of both is not hidden.
    corner = (Mask(0, 0, 3, 3), Mask(2, 2, 2, 3))
    masks = Masks(height=4, width=6, masks=corner, pairs=True, covers=())
    place = masks.locations(Patch(2, 2)).tolist().index([1, 2])
    assert masks.touched(Patch(2, 2))[place].all()


def test_views_are_the_upper_triangle_row_by_row():
    masks = family(*PLACED["abutting"], pairs=True)
    numbers = list(zip(masks.first_v.tolist(), masks.second_v.tolist(), strict=True))
    assert numbers == [(i, j) for i in range(4) for j in range(i, 4)]
    assert masks.alone.tolist() == [0, 4, 7, 9]
    alone = masks.one_mask_views
    assert not alone.pairs
    assert len(alone) == len(masks.masks) == 4
    for number, view in enumerate(masks.alone):
        np.testing.assert_array_equal(alone.visible(number), masks.visible(view))


def test_placements_cover_every_patch():
    for length in range(1, 25):
        for patch, most in product(range(1, length + 1), range(1, length + 2)):
            extent, starts = Placement.covering(length, patch, most)
            case = length, patch, most
            assert 1 <= len(starts) <= most, case
            assert list(starts) == sorted(set(starts)), case
            assert starts[0] == 0, case
            assert starts[-1] + extent == length, case
            for first in range(length - patch + 1):
                assert any(b <= first and first + patch <= b + extent for b in starts), case


def test_the_placements_of_the_paper():
    assert Placement.covering(224, 32, 6) == (64, (0, 33, 66, 99, 132, 160))
    assert Placement.covering(224, 32, 4) == (80, (0, 49, 98, 144))
    assert Placement.covering(224, 32, 3) == (96, (0, 65, 128))
    assert Placement.at_stride(224, 64, 32) == (64, (0, 32, 64, 96, 128, 160))
    wrapped = Placement.at_stride(224, 160, 32, wraps=True)
    assert wrapped == (160, (0, 32, 64, 96, 128, 160, 192))


def placed(rows: Placement, columns: Placement, covers: Patch, length: int = 24) -> Masks:
    """Masks of one length both ways, which claim to cover a patch."""
    sides = {"height": length, "width": length}
    return Masks.placed(**sides, placements=[(rows, columns)], pairs=True, covers=[covers])


@pytest.mark.parametrize("patch", range(1, 10))
@pytest.mark.parametrize("most", [2, 3, 4, 5])
def test_a_family_that_misses_a_location_is_refused(patch, most):
    whole = Placement.covering(24, patch, most)
    covered = Patch.square(patch)
    assert placed(whole, whole, covered).covers == (covered,)
    message = rf"patch {covered}: at y=\d+, x=\d+ it lies within none of the \d+ masks; use larger"
    last_missing = Placement(whole.extent, whole.starts[:-1])
    smaller = Placement(whole.extent - 1, whole.starts)
    stride = whole.starts[1] + 1
    # One more pixel of stride, starts kept inside the image and the last one where it was.
    wider = Placement.at_stride(24, whole.extent, stride)
    for broken in filter(lambda one: one.starts, (last_missing, smaller, wider)):
        for rows, columns in ((broken, whole), (whole, broken)):
            held = all(
                any(b <= a and a + patch <= b + broken.extent for b in broken.starts)
                for a in range(24 - patch + 1)
            )
            if held:  # the stride could be rounded up all the same
                assert broken is wider
                placed(rows, columns, covered)
                continue
            with pytest.raises(ValueError, match=message):
                placed(rows, columns, covered)


def test_a_stride_one_wider_is_refused_where_it_misses():
    whole = Placement.covering(224, 32, 6)
    wider = Placement(whole.extent, (0, 34, 68, 102, 136, 160))
    with pytest.raises(ValueError, match="at y=0, x=33 it lies within none of the 36 masks"):
        placed(whole, wider, Patch.square(32), 224)
    placed(Placement.at_stride(224, 64, 32), whole, Patch.square(32), 224)


def test_the_largest_square_is_found_where_none_is_named():
    for extent, stride in product(range(1, 13), range(1, 13)):
        rows = Placement.at_stride(12, extent, stride)
        sides = {"height": 12, "width": 12, "placements": [(rows, rows)], "pairs": False}
        expected = [
            side
            for side in range(1, 13)
            if all(
                any(b <= a and a + side <= b + extent for b in rows.starts)
                for a in range(12 - side + 1)
            )
        ]
        if expected:
            assert Masks.placed(**sides).covers == (Patch.square(max(expected)),)
        else:
            with pytest.raises(ValueError, match=r"some pixel lies within none of them.*stride of"):
                Masks.placed(**sides)
    aligned = Placement.at_stride(224, 64, 32)
    sides = {"height": 224, "width": 224, "placements": [(aligned, aligned)], "pairs": True}
    assert Masks.placed(**sides).covers == (Patch.square(33),)


def test_identity_survives_json():
    shapes = [family(*one, pairs=True) for one in PLACED.values()]
    cover = Placement.covering(24, 5, 3)
    for masks in [*shapes, placed(cover, cover, Patch(5, 5))]:
        identity = json.loads(json.dumps(masks.to_identity()))
        assert list(identity) == ["masks"]
        again = Masks.from_identity(identity["masks"])
        assert again == masks
        assert hash(again) == hash(masks)
        np.testing.assert_array_equal(again.first_v, masks.first_v)


@pytest.mark.parametrize("pixel_scale", [1, 3])
def test_kept_tokens_hold_a_visible_pixel(pixel_scale):
    token = 4, 6  # at scale 3 a token's edge may cut through a pixel of the attacker's grid
    masks = Masks(
        height=8,
        width=12,
        pixel_scale=pixel_scale,
        masks=(Mask(0, 0, 4, 6), Mask(3, 5, 5, 7), Mask(6, 10, 5, 5), Mask(0, 0, 8, 4)),
        pairs=True,
        covers=(),
    )
    per_row = 12 * pixel_scale // token[1]
    for view, gone in enumerate(hidden_by_views(masks)):
        shown = set(product(range(8), range(12))) - gone
        model_pixels = {
            (y * pixel_scale + dy, x * pixel_scale + dx)
            for y, x in shown
            for dy, dx in product(range(pixel_scale), repeat=2)
        }
        expected = sorted({y // token[0] * per_row + x // token[1] for y, x in model_pixels})
        assert masks.kept_tokens(view, token).tolist() == expected
    with pytest.raises(ValueError, match="tokens of 5 px do not tile"):
        masks.kept_tokens(0, (5, 6))


def published(most: int, size: int, stride: int, *, wraps: bool = False) -> Masks:
    """Token-aligned masks of 224 px, in pairs unless they wrap."""
    axis = Placement.at_stride(224, size, stride, wraps=wraps)
    assert len(axis.starts) == most
    return Masks.placed(
        height=224, width=224, placements=[(axis, axis)], pairs=not wraps, covers=[Patch.square(32)]
    )


@pytest.mark.parametrize(
    ("masks", "views", "mean", "passes"),
    [
        (published(6, 64, 32), 666, 165, 564),
        (published(4, 80, 48), 136, 149, 105),
        (published(3, 96, 64), 45, 129, 31),
        (published(7, 160, 32, wraps=True), 49, 96, 24),
    ],
    ids=["6", "4", "3", "wrapped"],
)
def test_the_published_families(masks, views, mean, passes):
    """Views, tokens of 196 shown by those that hide two masks, and full passes of all of them."""
    assert len(masks) == views
    tokens = np.array([len(masks.kept_tokens(view, (16, 16))) for view in range(views)])
    largest = masks.first_v != masks.second_v if masks.pairs else slice(None)
    assert round(tokens[largest].mean()) == mean
    assert round(tokens.sum() / 196) == passes
    assert masks.pairs or masks.hides_two


def test_bands_in_pairs_are_the_cheap_end():
    columns = Placement.covering(224, 32, 6)
    masks = Masks.placed(
        height=224,
        width=224,
        placements=[(Placement(224, (0,)), columns)],
        pairs=True,
        covers=[Patch(224, 32)],
    )
    assert len(masks) == 21
    assert masks.varies == (False, True)
    assert masks.hides_two


def hides_two_by_pixels(masks: Masks) -> bool:
    """Tell whether some view hides every two locations of the covered patches together."""
    views = hidden_by_views(masks)
    places = [
        patched(patch, *place)
        for patch in masks.covers
        for place in everywhere(patch, masks.height, masks.width)
    ]
    return all(any(one | two <= gone for gone in views) for one in places for two in places)


def test_two_locations_are_hidden_together():
    found = set()
    for pairs, extent, stride, wraps, side in product(
        (True, False), range(1, 7), range(1, 4), (True, False), (1, 2)
    ):
        axis = Placement.at_stride(6, extent, stride, wraps=wraps)
        try:
            masks = Masks.placed(
                height=6,
                width=6,
                placements=[(axis, axis)],
                pairs=pairs,
                covers=[Patch.square(side)],
            )
        except ValueError:
            continue
        if len(masks) > 200:
            continue
        assert masks.hides_two == hides_two_by_pixels(masks), masks
        found.add((masks.pairs, masks.hides_two))
    assert found == {(True, True), (False, True), (False, False)}
    several = Masks(
        height=3,
        width=6,
        masks=(Mask(0, 0, 3, 3), Mask(0, 2, 3, 4), Mask(0, 0, 2, 6), Mask(1, 0, 2, 6)),
        pairs=True,
        covers=(Patch(3, 1), Patch(1, 6)),
    )
    assert several.hides_two
    assert hides_two_by_pixels(several)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"masks": ()}, "give at least one, and none of them twice"),
        ({"masks": (Mask(0, 0, 2, 2),) * 2}, "give at least one, and none of them twice"),
        ({"masks": (Mask(6, 0, 2, 2),)}, r"2x2 px at y=6, x=0: it must begin inside the 6x7 px"),
        ({"masks": (Mask(0, -1, 2, 2),)}, "at y=0, x=-1: it must begin inside"),
        ({"masks": (Mask(0, 0, 7, 2),)}, "mask of 7x2 px.*no larger than it"),
        ({"masks": (Mask(0, 0, 1, 0),)}, "mask of 1x0 px.*no larger than it"),
        ({"height": 0}, "at least 1"),
        ({"pixel_scale": 0}, "at least 1"),
        ({"covers": (Patch(7, 1),)}, r"patch 7x1 px: it must be at least 1x1 and fit the 6x7 px"),
        ({"covers": (Patch(1, 1),)}, "at y=0, x=2 it lies within none of the 1 masks; use larger"),
    ],
)
def test_impossible_masks_are_refused(change, message):
    arguments = {**SIZE, "masks": (Mask(0, 0, 2, 2),), "pairs": False, "covers": ()}
    with pytest.raises(ValueError, match=message):
        Masks(**(arguments | change))


def test_masks_and_bands_are_the_same_family_turned_inside_out():
    """A band that hides all else shows what a wrapped mask leaves."""
    bands = Ablation(kind="column", size=3, stride=2, height=2, width=8)
    masks = Masks(
        height=2,
        width=8,
        masks=tuple(Mask(0, (x + 3) % 8, 2, 5) for x in range(0, 8, 2)),
        pairs=False,
        covers=(),
    )
    for view in range(4):
        np.testing.assert_array_equal(masks.visible(view), bands.visible(view))
    for width in range(1, 9):
        np.testing.assert_array_equal(
            masks.touched(Patch(1, width)), bands.touched(Patch(1, width))
        )


def test_masks_of_an_area_cover_every_rectangle_of_it():
    frame = Masks(height=12, width=10, masks=(Mask(0, 0, 12, 10),), pairs=False, covers=())
    budget = Threat(area=14)
    patches = budget.patches(frame)
    shapes = bounding_shapes(patches, 3)
    placements = [
        (Placement.covering(12, shape.height, 2), Placement.covering(10, shape.width, 2))
        for shape in shapes
    ]
    family = Masks.placed(height=12, width=10, placements=placements, pairs=True, covers=patches)
    assert len(shapes) == 3
    for height, width in product(range(1, 13), range(1, 11)):
        if height * width <= 14:
            family.check_covers(Patch(height, width))
    with pytest.raises(ValueError, match="it lies within none"):
        family.check_covers(Patch(12, 10))


@pytest.mark.parametrize("most", [1, 2, 3, 7])
def test_bounding_shapes_are_the_cheapest_groups(most):
    patches = [Patch(1, 9), Patch(2, 5), Patch(3, 4), Patch(6, 2), Patch(9, 1)]
    groups = []
    for cuts in product([False, True], repeat=len(patches) - 1):
        if sum(cuts) < most:
            ends = [n + 1 for n, cut in enumerate(cuts) if cut] + [len(patches)]
            starts = [0, *ends[:-1]]
            groups.append(
                [
                    (patches[b - 1].height, patches[a].width)
                    for a, b in zip(starts, ends, strict=True)
                ]
            )
    cheapest = min(sum(h * w for h, w in group) for group in groups)
    found = bounding_shapes(patches, most)
    assert sum(shape.height * shape.width for shape in found) == cheapest
    assert list(found) in groups

"""The reach of source patches against the real preprocessing, bit by bit."""

import sys
from pathlib import Path
from types import ModuleType
from typing import get_args

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image

import models.resampling
from models.preprocess import PRESETS, Interpolation, Preprocess
from models.resampling import SourceReach
from models.views.family import Patch

FILTERS = get_args(Interpolation)


def _look(resize, crop, interpolation="bilinear", scale=1):
    return Preprocess(
        resize=resize,
        crop=crop,
        interpolation=interpolation,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        pixel_scale=scale,
    )


def _contents(rng, shape):
    """Pairs of a picture and what is written over it: extremes and noise."""

    def noise():
        return rng.integers(0, 256, shape, dtype=np.uint8)

    def flat(value):
        return np.full(shape, value, np.uint8)

    extremes = np.where(noise() < 128, 0, 255).astype(np.uint8)
    return [
        (flat(0), flat(255)),
        (flat(255), flat(0)),
        (extremes, 255 - extremes),
        (noise(), noise()),
        (noise(), flat(255)),
        (noise(), extremes),
    ]


def _changed(look, height, width, y, x, patch, seed=0):
    """Grid pixels that some rewriting of a patch really changes; bool (*grid)."""
    rng = np.random.default_rng([seed, y, x])
    changed = np.zeros(look.crop_px, bool)
    for picture, written in _contents(rng, (height, width, 3)):
        attacked = picture.copy()
        rows, columns = slice(y, y + patch.height), slice(x, x + patch.width)
        attacked[rows, columns] = written[rows, columns]
        before, after = (look(Image.fromarray(pixels)) for pixels in (picture, attacked))
        differs = (before != after).any(axis=2)
        scale = look.pixel_scale
        changed |= differs.reshape(look.crop_px[0], scale, look.crop_px[1], scale).any(axis=(1, 3))
    return changed


def _violations(module, look, height, width, y, x, patch):
    """Pixels that change though the module says they cannot, and extents that are too small."""
    changed = _changed(look, height, width, y, x, patch)
    reach = module.SourceReach.of(look, height, width)
    (top, bottom), (left, right) = reach.changed(y, x, patch)
    claimed = np.zeros_like(changed)
    claimed[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = True
    extent = reach.extent(patch)
    outside = int((changed & ~claimed).sum())
    return outside + (bottom - top > extent.height) + (right - left > extent.width)


@st.composite
def _cases(draw):
    height, width = draw(st.integers(1, 70)), draw(st.integers(1, 70))
    resize = draw(st.integers(1, 40))
    crop = draw(st.integers(1, resize)), draw(st.integers(1, resize))
    scale = draw(st.sampled_from([1, 1, 1, 3]))
    look = _look(resize, crop, draw(st.sampled_from(FILTERS)), scale)
    patch = Patch(draw(st.integers(1, height)), draw(st.integers(1, width)))
    y = draw(st.integers(0, height - patch.height))
    x = draw(st.integers(0, width - patch.width))
    return look, height, width, y, x, patch


@settings(
    max_examples=300, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(_cases())
@example((_look(224, 224), 375, 500, 100, 200, Patch(50, 50)))
@example((PRESETS["imagenet"], 333, 500, 0, 0, Patch(40, 60)))
@example((_look(248, 224, "bicubic"), 150, 97, 30, 40, Patch(20, 20)))
@example((_look(32, 32, "bicubic"), 32, 32, 5, 6, Patch(2, 2)))
def test_no_pixel_outside_the_claim_changes(case):
    """Whatever is written over a rectangle, no bit outside the claimed one changes."""
    assert _violations(models.resampling, *case) == 0


SIZES = [(41, 53, 24, 20), (30, 47, 61, 40), (64, 64, 32, 32), (37, 90, 23, (17, 23))]


@pytest.mark.parametrize("interpolation", FILTERS)
@pytest.mark.parametrize(("height", "width", "resize", "crop"), SIZES)
@pytest.mark.parametrize("patch", [Patch(1, 1), Patch(6, 9)])
def test_the_extent_is_reached(interpolation, height, width, resize, crop, patch):
    """At some position some rewriting changes as many rows and columns as the extent says."""
    look = _look(resize, crop, interpolation)
    reach = SourceReach.of(look, height, width)
    high = wide = 0
    for y in range(0, height - patch.height + 1):
        x = y * (width - patch.width) // max(height - patch.height, 1)
        rows, columns = np.nonzero(_changed(look, height, width, y, x, patch))
        if len(rows):
            high = max(high, np.ptp(rows) + 1)
            wide = max(wide, np.ptp(columns) + 1)
    # Of a wide picture only some columns were tried.
    extent = reach.extent(patch)
    assert high == extent.height
    assert extent.width - 1 <= wide <= extent.width


def test_a_patch_outside_the_crop_changes_nothing():
    """Of a wide picture the sides are cut away, and so are patches on them."""
    look = _look(32, 32)
    reach = SourceReach.of(look, 32, 96)
    rows, columns = reach.changed(0, 0, Patch(20, 20))
    assert columns.start >= columns.stop
    assert not _changed(look, 32, 96, 0, 0, Patch(20, 20)).any()
    assert rows.stop == 20


def test_known_extents():
    """A picture of the grid's size keeps patches; bicubic enlargement by 7 makes 2 px over 14."""
    same = SourceReach.of(PRESETS["cifar10"], 32, 32)
    assert same.extent(Patch(2, 2)) == Patch(2, 2)
    enlarged = SourceReach.of(_look(224, 224, "bicubic"), 32, 32)
    assert enlarged.extent(Patch(2, 2)).height > 14
    # The whole picture is the whole grid, and a longer patch is as long as the picture.
    assert enlarged.extent(Patch(32, 40)) == Patch(224, 224)
    # 2 % of a square picture of any size is about 2 % of what is seen of it, and the filter's rim.
    large = SourceReach.of(PRESETS["imagenet"], 500, 500)
    assert large.extent(Patch.square(71)) == Patch(38, 38)


def test_a_shrinking_decoder_is_refused():
    """No pixel of the delivered picture can be followed through libjpeg's own shrinking."""
    look = Preprocess(**{**_look(32, 32).to_dict(), "scaled_decode": True})
    with pytest.raises(ValueError, match=r"--scaled-decode.*vote without it, or .*--patch 32"):
        SourceReach.of(look, 100, 100)


MUTANTS = [
    # The support, one pixel less.
    ('{"bilinear": 1.0, "bicubic": 2.0}', '{"bilinear": 0.5, "bicubic": 1.0}'),
    ("np.where(away < 2.0, far, 0.0)", "0.0"),
    # No antialiasing where the picture shrinks; antialiasing where it grows.
    ("stretch = max(scale, 1.0)", "stretch = 1.0"),
    ("stretch = max(scale, 1.0)", "stretch = scale"),
    # The crop, off by one.
    ("accumulate(first_i[::-1])[::-1] - corner", "accumulate(first_i[::-1])[::-1] - corner + 1"),
    ("np.maximum.accumulate(last_i) - corner", "np.maximum.accumulate(last_i) - corner - 1"),
    ("self.last_i[start + extent - 1]) + 1", "self.last_i[start + extent - 1])"),
    ("np.maximum(self.first_i[: len", "np.maximum(1 + self.first_i[: len"),
    ("(last - first).max()) + 1", "(last - first).min()) + 1"),
    # Weights that count, taken for none.
    ("_LEAST = 0.49 / _ONE", "_LEAST = 1e4 / _ONE"),
    ("center_o = (number_o + 0.5) * scale", "center_o = number_o * scale"),
    ("np.r_[scale * 0.5, ", "np.r_[0.0, "),
]


def _mutant(old, new):
    source = Path(models.resampling.__file__).read_text()
    assert source.count(old) == 1, f"{old!r} is there {source.count(old)} times"
    module = ModuleType("mutant_of_resampling")
    # Where dataclasses look for the names in annotations.
    sys.modules[module.__name__] = module
    exec(compile(source.replace(old, new), "mutant", "exec"), module.__dict__)
    return module


def _grid_of_cases():
    for interpolation in FILTERS:
        for height, width, resize, crop in SIZES:
            for patch in (Patch(1, 1), Patch(6, 9)):
                for part in range(8):
                    y = part * (height - patch.height) // 7
                    x = part * (width - patch.width) // 7
                    yield _look(resize, crop, interpolation), height, width, y, x, patch


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
@pytest.mark.parametrize(("old", "new"), MUTANTS)
def test_mutants_are_noticed(old, new):
    """Each wrong reach is contradicted by a picture."""
    mutant = _mutant(old, new)
    assert any(_violations(mutant, *case) for case in _grid_of_cases())

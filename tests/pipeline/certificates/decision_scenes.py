"""Tiny families of views on which decisions are tabulated, and the judgements on them.

Each judgement takes the modules under test, the installed ones or those of a mutant, and counts
their faults.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.certificates.rule import Terms
from tests.pipeline.certificates.bruteforce import Geometry, patch_masks
from tests.pipeline.certificates.decisions_judge import (
    Modules,
    Pairs,
    Scene,
    broken,
    every_vector,
    grid,
    label_tables,
    largest,
    line,
    outside,
    patchcleanser,
)
from tests.pipeline.certificates.mutants import (
    DOUBLE_MASKING,
    FAMILY,
    MASKS,
    ONE_LOCATION,
    RULE,
    THREATS,
    TWO_LOCATION,
)

BANDS = [
    (Scene(Geometry("column", 1, 1, 1, 5, 1, 1)), 3, None),
    (Scene(Geometry("column", 1, 1, 2, 7, 1, 2)), 2, None),
    (Scene(Geometry("row", 2, 3, 14, 1, 2, 1)), 3, None),
    (Scene(Geometry("row", 1, 2, 7, 1, 1, 1)), 2, 1),
    (Scene(Geometry("column", 1, 1, 1, 4, 1, 1)), 2, 2),
    (Scene(Geometry("block", 1, 2, 3, 5, 1, 1)), 3, None),
    (Scene(Geometry("block", 1, 1, 3, 3, 1, 2)), 2, None),
    (Scene(Geometry("block", 1, 1, 4, 4, 0, 0, random=7, seed=6, area=2)), 2, None),
]
MASKED = [
    (grid(3, 6, (0, 0, 3, 2), (0, 1, 3, 4), (0, 4, 2, 2), (1, 4, 2, 2), patch=(2, 1)), 2, None),
    (line(6, (0, 2), (2, 2), (4, 2)), 3, None),  # abut: two together hide what neither does
    (line(6, (0, 3), (2, 3), (3, 3), patch=2), 3, None),
    (line(7, (0, 4), (2, 3), (3, 4), (4, 3)), 2, None),  # overlap, of different sizes
    (line(5, (0, 2), (2, 3)), 3, 2),  # a view may vote for nothing
    (grid(3, 4, (0, 0, 3, 2), (0, 2, 3, 2), (0, 1, 3, 2), patch=(2, 1)), 3, None),  # full height
    (grid(4, 4, (0, 0, 2, 4), (2, 0, 2, 4), (0, 0, 4, 2), patch=(2, 1)), 3, None),
    (grid(4, 5, (0, 0, 2, 3), (0, 2, 2, 3), (2, 0, 2, 3), (2, 2, 2, 3)), 2, None),
    (line(6, (0, 4), (2, 4), (4, 4), (3, 4), patch=1, pairs=False), 3, None),  # wrapped
    (line(5, *((start, 4) for start in range(5)), pairs=False), 3, None),
    (line(6, (0, 4), (2, 4), (4, 2), pairs=False), 3, None),  # hide every one, and not every two
    (line(6, (0, 4), (3, 3), patch=3), 3, None),  # some place lies within neither, or within both
    (grid(4, 6, (0, 0, 2, 5), (2, 4, 2, 5), (1, 5, 2, 4), patch=(1, 2)), 3, None),  # wrap
]


def kept_equal(found: np.ndarray, expected: np.ndarray) -> int:
    """Places at which two arrays differ."""
    return int((found != expected).sum())


def two_location(modules: Modules, scene: Scene, num_classes: int, most: int | None) -> int:
    """Answers that are not the definition's on largest sets, certificates that do not hold."""
    sets = scene.touched()
    chosen = largest(sets)
    views = len(scene.shown())
    votes = every_vector(views, num_classes, most)
    plain = (np.arange(len(votes)) * 5) % (num_classes + 1) - 1  # -1: unknown
    pairs = Pairs.of(votes, chosen, num_classes)
    fallback = np.where(plain >= 0, plain, outside(votes, frozenset(), num_classes).argmax(axis=1))
    expected = pairs.answers(fallback)

    rule, threat = modules[TWO_LOCATION].TwoLocation(), scene.threat(modules)
    batch = scene.batch(votes, num_classes, modules, plain)
    answers, margins = rule.predict(batch, threat), rule.margins(batch, threat)
    wrong = kept_equal(answers, expected)
    certified = (pairs.phi_ssn == expected).all(axis=(0, 1))
    wrong += kept_equal(margins >= 0, certified)
    each = np.arange(len(votes))
    least = pairs.leads_ssnc[:, :, each, expected].min(axis=(0, 1))
    wrong += kept_equal(margins[certified], least[certified])
    return wrong + broken(answers, margins >= 0, sets, views)


def smaller(modules: Modules, scene: Scene, num_classes: int, most: int | None) -> int:
    """Certificates for a smaller patch that are not the definition's, or do not hold."""
    if scene.g.area is not None or scene.g.patch_height * scene.g.patch_width == 1:
        return 0
    small = replace(scene, g=replace(scene.g, patch_height=1, patch_width=1))
    assumed, little = largest(scene.touched()), set(small.touched())
    views = len(scene.shown())
    votes = every_vector(views, num_classes, most)
    pairs = Pairs.of(votes, assumed, num_classes)
    answers = pairs.answers(outside(votes, frozenset(), num_classes).argmax(axis=1))
    witness = np.select(
        [answers == y for y in range(num_classes)],
        [pairs.witnesses(y) for y in range(num_classes)],
    )
    certified = np.array(
        [
            np.any([held for held, big in zip(witness, assumed, strict=True) if one <= big], axis=0)
            for one in little
        ]
    ).all(axis=0)

    rule = modules[TWO_LOCATION].TwoLocation(scene.threat(modules))
    batch = scene.batch(votes, num_classes, modules)
    threat = small.threat(modules)
    found, margins = rule.predict(batch, threat), rule.margins(batch, threat)
    wrong = kept_equal(found, answers) + kept_equal(margins >= 0, certified)
    return wrong + broken(found, margins >= 0, little, views)


def one_location(modules: Modules, scene: Scene, num_classes: int, most: int | None) -> int:
    """Answers and alerts that are not the definition's, for one patch and for two."""
    wrong, one = 0, scene.touched()
    views = len(scene.shown())
    votes = every_vector(views, num_classes, most)
    rule, alert = modules[ONE_LOCATION].OneLocation(), modules[RULE].ALERT
    for count in (1, 2) if scene.g.area is None else (1,):
        sets, looked_at, labels = set(one), largest(one), votes
        if count == 2:
            sets = {first | second for first in one for second in one}
            looked_at = [first | second for first in looked_at for second in looked_at]
        elif scene.pairs:  # the views that hide one mask are enough
            alone = [number for number, (i, j) in enumerate(scene.numbering()) if i == j]
            looked_at = [frozenset(alone.index(v) for v in some if v in alone) for some in sets]
            looked_at, labels = largest(looked_at), votes[:, alone]
        counts = np.array([outside(labels, some, num_classes) for some in looked_at])
        phi = counts.argmax(axis=-1)
        expected = np.where((phi == phi[0]).all(axis=0), phi[0], alert)
        attacked = replace(scene, g=replace(scene.g, count=count))
        batch, threat = attacked.batch(votes, num_classes, modules), attacked.threat(modules)
        answers, margins = rule.predict(batch, threat), rule.margins(batch, threat)
        wrong += kept_equal(answers, expected)
        wrong += kept_equal(margins >= 0, answers != alert)
        wrong += broken(answers, margins >= 0, sets, views, alert)
    return wrong


def double_masking(modules: Modules, scene: Scene, num_classes: int, most: int | None) -> int:
    """Answers that are not the published inference's, certificates that two-location lacks."""
    if not scene.pairs or most is not None or not _covered(scene):
        return 0
    votes = every_vector(len(scene.shown()), num_classes)
    tables = label_tables(votes, len(scene.masks))
    expected = np.array([patchcleanser(table, num_classes) for table in tables])
    rule, threat = modules[DOUBLE_MASKING].DoubleMasking(), scene.threat(modules)
    batch = scene.batch(votes, num_classes, modules)
    answers, margins = rule.predict(batch, threat), rule.margins(batch, threat)
    unanimous = (votes == votes[:, :1]).all(axis=1)
    wrong = kept_equal(answers, expected) + kept_equal(margins >= 0, unanimous)
    recovery = modules[TWO_LOCATION].TwoLocation()
    two = recovery.margins(batch, threat) >= 0
    wrong += int((unanimous & ~two).sum())
    wrong += kept_equal(recovery.predict(batch, threat)[unanimous], votes[unanimous, 0])
    return wrong + broken(answers, margins >= 0, scene.touched(), votes.shape[1])


def _covered(scene: Scene) -> bool:
    """Tell whether the patch lies within some mask, wherever it is."""
    shown = replace(scene, pairs=False).shown()
    return all(any(not (patch & one).any() for one in shown) for patch in patch_masks(scene.g))


def geometry(modules: Modules, scene: Scene, num_classes: int, most: int | None) -> int:
    """Pixels shown and views touched that are not those of the pixels."""
    family, shown = scene.family(modules), scene.shown()
    if len(family) != len(shown):
        return 1
    wrong = sum(kept_equal(family.visible(view), shown[view]) for view in range(len(shown)))
    for patch in scene.threat(modules).patches(family):
        exact = replace(scene.g, area=None, patch_height=patch.height, patch_width=patch.width)
        touched = replace(scene, g=exact).touched()
        sets = family.touched_sets(patch)
        at = sets.touched_sv[sets.sets_yx]
        ys, xs = exact.height - patch.height + 1, exact.width - patch.width + 1
        everywhere = np.broadcast_to(at, (ys, xs, len(shown))).reshape(ys * xs, -1)
        wrong += sum(
            frozenset(np.flatnonzero(row).tolist()) != some
            for row, some in zip(everywhere, touched, strict=True)
        )
    return wrong


def checks(modules: Modules, scene: Scene, num_classes: int, most: int | None) -> int:
    """Questions that are refused though pixels allow them, or accepted though they do not."""
    family, threat, places = scene.family(modules), scene.threat(modules), scene.touched()
    views = range(len(scene.shown()))
    numbering = scene.numbering() or [(view, view) for view in views]
    alone = [view for view in views if len(set(numbering[view])) == 1]
    apart = all(any(view not in place for view in alone) for place in places)
    recovered = all(len(place) < len(views) for place in places)
    if scene.masks:
        recovered = all(any(v not in a | b for v in views) for a in places for b in places)
    detection, recovery = modules[ONE_LOCATION].OneLocation(), modules[TWO_LOCATION].TwoLocation()
    wrong = refuses(detection, family, threat, num_classes) == apart
    wrong += refuses(recovery, family, threat, num_classes) == recovered
    published = modules[DOUBLE_MASKING].DoubleMasking()
    possible = bool(scene.pairs and _covered(scene))
    wrong += refuses(published, family, threat, num_classes) == possible
    kind = modules[THREATS].Threat
    larger = kind(modules[FAMILY].Patch(scene.g.height, scene.g.width))
    for rule, fit in ((detection, apart), (recovery, recovered)):
        wrong += refuses(rule.at(Terms(assumed=threat)), family, kind.square(1), num_classes) == fit
        if larger != threat:
            wrong += not refuses(rule.at(Terms(assumed=threat)), family, larger, num_classes)
    if scene.masks and scene.g.area is None and _covered(scene):
        covering = replace_covers(modules, family, scene)
        wrong += covering.hides_two != recovered
    return int(wrong)


def replace_covers(modules: Modules, family: Any, scene: Scene) -> Any:
    """The same masks, for the patch of the scene."""
    patch = modules[FAMILY].Patch(scene.g.patch_height, scene.g.patch_width)
    return replace(family, covers=(patch,))


def refuses(rule: Any, family: Any, threat: Any, num_classes: int) -> bool:
    """Tell whether a rule refuses a question."""
    try:
        rule.check(family, threat, num_classes)
    except ValueError:
        return True
    return False


def placement(modules: Modules, *_: object) -> int:
    """Placements under which some patch lies within no mask."""
    wrong = 0
    for length in range(1, 11):
        for patch in range(1, length + 1):
            for most in range(1, length + 2):
                made = modules[MASKS].Placement.covering(length, patch, most)
                held = all(
                    any(b <= a and a + patch <= b + made.extent for b in made.starts)
                    for a in range(length - patch + 1)
                )
                inside = min(made.starts) >= 0 and max(made.starts) + made.extent <= length
                wrong += not (held and inside and len(made.starts) <= most)
    return wrong


Judgement = Callable[[Modules, Scene, int, int | None], int]
JUDGEMENTS: dict[str, Judgement] = {
    "geometry": geometry,
    "two-location": two_location,
    "smaller": smaller,
    "one-location": one_location,
    "double-masking": double_masking,
    "checks": checks,
}

SCENES = [*BANDS, *MASKED]


def unknown(modules: Modules, scene: Scene, num_classes: int, most: int | None) -> int:
    """Certificates on labels of which some are unknown that not every completion has.

    Views that were asked stay the same: a certificate, and the answer by a witness, must be that of
    every way to fill in the others. One-mask views are asked always, as detection needs them.
    """
    if not scene.masks or most is not None:
        return 0
    views = len(scene.shown())
    votes = every_vector(views, num_classes)
    threat = scene.threat(modules)
    recovery, detection = modules[TWO_LOCATION].TwoLocation(), modules[ONE_LOCATION].OneLocation()
    rng = np.random.default_rng(views)
    whole = scene.batch(votes, num_classes, modules)
    wrong = 0
    for asked in 6 * [1] + [views // 2] * 3:
        hidden = rng.permutation(views)[:asked]
        partial = votes.copy()
        partial[:, hidden] = -1
        part = scene.batch(partial, num_classes, modules)
        for rule, holds in ((recovery, "answer"), (detection, "silence")):
            certified = rule.margins(part, threat) >= 0
            same = rule.predict(part, threat) == rule.predict(whole, threat)
            wrong += int((certified & (rule.margins(whole, threat) < 0)).sum())
            wrong += int((certified & ~same).sum())
            if holds == "silence" and not set(hidden.tolist()) & {
                number for number, (i, j) in enumerate(scene.numbering()) if i == j
            }:
                wrong += kept_equal(certified, rule.margins(whole, threat) >= 0)
    return wrong

"""Heat maps of a patch: for each location, the images that are not certified because of it."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from models.views.family import Patch
from models.views.threats import Threat
from pipeline import storage
from pipeline.analysis.run import Run
from pipeline.certificates.batch import vote_batches
from pipeline.certificates.locations import Breaking, breaking
from pipeline.certificates.rule import Rule, Terms
from pipeline.certificates.rules import rule_of_locations
from pipeline.config import ConfigError
from pipeline.runs.labels import Labels
from pipeline.runs.manifest import Manifest
from pipeline.runs.schema import LOCATIONS, Summary
from pipeline.runs.store import VotesStore
from pipeline.scoring.claims import Claim
from pipeline.scoring.words import assumption
from pipeline.storage.tables import write_parquet

_BATCH_VOTES = 1 << 21
# As many as have a line style of their own, and images that take a minute or so.
_MOST_DRAWN, _MOST_IMAGES = 6, 1 << 20
_LONGEST_NAME = 100


@dataclass(frozen=True, kw_only=True)
class BreakingMap:
    """Images of a run that a patch breaks, by location.

    An image breaks at a place if its margin there is negative (``Rule.margins_at``): the rule that
    speaks of places has no certificate against a patch there. By the exact rule, votes of the
    ablations touched there can be rewritten so that the prediction changes; by two-location, what
    the place touches lies in no set that is a witness. Whether pixels exist that make the
    network do so is another question, so this counts missing certificates, not successful attacks.

    Attributes:
        run: The run.
        patch: Height and width of the patch.
        assumes: The largest patch, for a decision that is built for one; else None.
        right: Counts over the images that its answer classifies correctly.
        wrong: Counts over the others that could be voted on, unlabelled ones too.
        labelled: Images with a known label among them all.
    """

    run: Run
    patch: Patch
    assumes: Threat | None
    right: Breaking
    wrong: Breaking
    labelled: int

    @property
    def label(self) -> str:
        """The patch in words, and the one that the decision assumes where it is another."""
        if self.assumes in (None, Threat(self.patch)):
            return str(self.patch)
        return f"{self.patch}{assumption({'assumes': str(self.assumes)}, ', {}')}"

    @property
    def shown(self) -> Breaking:
        """The counts to draw: of correctly classified images; of all where there is none."""
        return self.right if self.right.images else self.wrong

    @property
    def which(self) -> str:
        """The images ``shown``, in words."""
        if self.right.images:
            return "correctly classified images"
        why = "none is classified correctly" if self.labelled else "no label is known"
        return f"images ({why})"

    @property
    def share_yx(self) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
        """Share of the images ``shown`` that break at each place; float64 (Ly, Lx)."""
        return self.shown.counts_yx / max(1, self.shown.images)

    @property
    def worst(self) -> tuple[int, int]:
        """Row and column of the first place at which most images break."""
        row, column = np.unravel_index(self.share_yx.argmax(), self.share_yx.shape)
        return int(row), int(column)

    def rows(self) -> pa.Table:
        """The numbers as rows of ``LOCATIONS``."""
        varies_y, varies_x = self.run.views.varies
        ys, xs = (axis.ravel() for axis in np.indices(self.right.counts_yx.shape))
        nowhere = pa.nulls(len(ys), pa.int32())
        right, wrong = self.right.counts_yx.ravel(), self.wrong.counts_yx.ravel()
        images = np.full(len(ys), self.right.images)
        columns = {
            "threat": pa.repeat(str(Threat(self.patch)), len(ys)),
            # The ablations cannot tell along their own length.
            "y": ys if varies_y else nowhere,
            "x": xs if varies_x else nowhere,
            "images": images + self.wrong.images,
            "images_right": images,
            "uncertified": right + wrong,
            "uncertified_right": right,
        }
        return pa.table(
            [pa.array(columns[field.name]).cast(field.type) for field in LOCATIONS],
            schema=LOCATIONS,
        )


def breaking_maps(run: Run, threats: Sequence[Threat]) -> list[BreakingMap]:
    """Count over all images of a run, in bounded memory.

    Args:
        run: The run.
        threats: One rectangle each.

    Raises:
        ConfigError: A threat is no single rectangle or does not fit the image, the run's positions
            were drawn at random, not all of its views were asked, its votes do not tell places
            apart, or none of its images could be voted on.
        ManifestError, StoreError: The votes are absent, incomplete or contradictory.
    """
    run.check_fixed()
    threats = list(dict.fromkeys(threat.on(run.views) for threat in threats))
    patches = [_patch(threat, run) for threat in threats]
    assumed = [_assumed(threat, run) for threat in threats]
    rules = [_rule(*asked, run) for asked in zip(threats, assumed, strict=True)]
    found: list[list[Breaking | None]] = [[None, None] for _ in patches]
    labelled = 0
    classes = run.manifest.defense.network.voted_classes
    for table, votes in run.batches(_BATCH_VOTES):
        if not table.num_rows:
            continue
        labels, numbered = Labels.of(table), run.renumbered(votes)
        labelled += int(labels.known.sum())
        plain_n = run.renumbered(
            table["plain_prediction"].fill_null(-1).to_numpy().astype(np.int64)
        )
        for sums, patch, rule in zip(found, patches, rules, strict=True):
            right, breaks = np.empty((2, len(numbered)), bool)
            for images, batch in vote_batches(
                numbered, run.views, run.num_classes, plain_n=plain_n.astype(np.int64)
            ):
                answers_n = classes[rule.predict(batch, Threat(patch))]
                right[images] = Labels(labels.classes[images]).accept(answers_n)
                # Certified images break nowhere, found faster than by all places.
                breaks[images] = rule.margins(batch, Threat(patch)) < 0
            for number, chosen in enumerate((right, ~right)):
                broken = numbered[chosen & breaks]
                part = breaking(broken, run.views, patch, run.num_classes, rule)
                sums[number] = _added(sums[number], part._replace(images=int(chosen.sum())))
    maps = [
        BreakingMap(
            run=run, patch=patch, assumes=assumes, right=right, wrong=wrong, labelled=labelled
        )
        for patch, assumes, (right, wrong) in zip(patches, assumed, found, strict=True)
        if right is not None and wrong is not None
    ]
    if not maps:
        raise ConfigError(f"run {run.run_id}: no image could be voted on, so no place breaks any")
    return maps


def _patch(threat: Threat, run: Run) -> Patch:
    if threat.source:
        raise ConfigError(
            f"--patch {threat}: where it lies on the grid depends on the size of each picture; "
            "give a patch on the grid, such as 32"
        )
    if threat.patch is None or threat.count > 1:
        raise ConfigError(
            f"--patch {threat}: only one rectangle of a given shape has one place; give a side or "
            "height x width"
        )
    try:
        run.views.check_patch(threat.patch)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return threat.patch


def _assumed(threat: Threat, run: Run) -> Threat | None:
    """The patch that the run's certificates against a threat assume; None where they need none."""
    rule = rule_of_locations(run.views)
    if not rule.knows_patch:
        return None
    entries = [] if run.summary is None else run.summary["certified_accuracy"]
    claims = [Claim.from_dict(entry) for entry in entries if entry["rule"] == rule.name]
    assumed = [claim.assumes for claim in claims if claim.threat == threat]
    return threat if threat in assumed or not assumed else assumed[0]


def _rule(threat: Threat, assumed: Threat | None, run: Run) -> Rule:
    """The rule of places for a threat, if the run's votes answer it."""
    defense = run.manifest.defense
    rule = rule_of_locations(run.views).at(Terms(assumed=assumed))
    if defense.voting.early_exit:
        # A set with a view outside it that was not asked is no witness, whatever the view says.
        raise ConfigError(
            f"run {run.run_id}: its views were asked only as far as the certificate of the image "
            "as a whole needs them, so it is not known what a patch at one place does; vote with "
            "--all-views, which is another run"
        )
    try:
        rule.check(run.views, threat, run.num_classes)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return rule


def _added(sum_: Breaking | None, part: Breaking) -> Breaking:
    if sum_ is None:
        return part
    return Breaking(
        sum_.images + part.images,
        sum_.counts_yx + part.counts_yx,
        sum_.anywhere + part.anywhere,
    )


def threats_to_draw(manifest: Manifest, summary: Summary) -> list[Threat]:
    """The single rectangles that a run has certificates against; of many, six from end to end.

    Of masks, those of the rule that speaks of places: others are about the image as a whole.

    None where it is not known what a patch at one place does (positions were drawn for each image,
    not all views were asked, or there are no votes), and none of a run that would take minutes: it
    can be asked for.
    """
    voted, voting = summary["images"] - summary["images_with_error"], manifest.defense.voting
    if voting.draws is not None or voting.early_exit or not 0 < voted <= _MOST_IMAGES:
        return []
    views = manifest.defense.views
    claims = [
        claim
        for claim in map(Claim.from_dict, summary["certified_accuracy"])
        if not views.hides or claim.rule == rule_of_locations(views).name
    ]
    threats = {
        claim.threat
        for claim in claims
        if claim.threat.patch and claim.threat.count == 1 and not claim.threat.source
    }
    ordered = sorted(threats, key=lambda threat: threat.order)
    if len(ordered) <= _MOST_DRAWN:
        return ordered
    return [ordered[place] for place in np.linspace(0, len(ordered) - 1, _MOST_DRAWN).astype(int)]


def images_shown(maps: Sequence[BreakingMap]) -> str:
    """The images that maps of a run show, in words; by patch where they differ."""
    which = [f"{found.shown.images:,} {found.which}" for found in maps]
    if len(set(which)) == 1:
        return which[0]
    # A decision that knows the patch answers anew for each of them.
    return ", ".join(f"{of} ({found.patch})" for of, found in zip(which, maps, strict=True))


def picture_path(store: VotesStore, maps: Sequence[BreakingMap] = ()) -> str:
    """Return the path of the picture of a run's breaking places.

    Args:
        store: The run.
        maps: Maps on it, where it is not the one that belongs to the run's certificates.
    """
    patches = [f"{found.patch.height}x{found.patch.width}" for found in maps]
    of = "-".join(["heatmap", *patches])
    if len(of) > _LONGEST_NAME:
        of = f"heatmap-{hashlib.sha256(of.encode()).hexdigest()[:16]}"
    return storage.join(store.out, "summary", f"run_id={store.run_id}.{of}.png")


def write_maps(maps: Sequence[BreakingMap]) -> list[str]:
    """Write the numbers, a file a patch; their paths."""
    paths = []
    for found in maps:
        run, name = found.run, f"{found.patch.height}x{found.patch.width}.parquet"
        paths.append(storage.join(run.out, "locations", f"run_id={run.run_id}", name))
        bond = run.store.proof(run.manifest).bond
        write_parquet(paths[-1], found.rows().replace_schema_metadata(bond))
    return paths

"""Certified runs of every kind for the page, and the page as a reader's program sees it."""

import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np

from models.views.ablations import Ablation
from models.views.family import Patch
from models.views.masks import Masks, Placement
from pipeline.analysis import Run, open_run
from pipeline.config import ClaimsConfig
from pipeline.scoring.certify import certify_votes
from tests.conftest import REPOSITORY

sys.path.append(str(REPOSITORY / "tests/pipeline/questions"))
from tests.pipeline.analysis.stored_runs import write_run

IMAGES, CLASSES = 40, 4
FAMILIES = {
    "column": Ablation(kind="column", size=2, stride=1, height=12, width=12),
    "row": Ablation(kind="row", size=3, stride=2, height=12, width=14),
    "block": Ablation(kind="block", size=4, stride=2, height=12, width=12),
}
MASKS = Masks.placed(
    height=12,
    width=12,
    placements=[(Placement.covering(12, 2, 3), Placement.covering(12, 2, 3))],
    pairs=True,
    covers=[Patch.square(2)],
)
# Closed as elements of HTML are without a closing tag.
VOID = {"meta", "br"}


def made_up_votes(views: int, seed: int = 0) -> tuple[np.ndarray, list[int]]:
    """Votes of images between certain and torn, and their labels."""
    rng = np.random.default_rng(seed)
    labels = np.random.default_rng(7).integers(0, CLASSES, IMAGES)
    noise = rng.random((IMAGES, views)) < 0.7 * rng.random((IMAGES, 1))
    votes = np.where(noise, rng.integers(0, CLASSES, (IMAGES, views)), labels[:, None])
    return votes, labels.tolist()


def certified_run(
    out: Path,
    kind: str = "column",
    *,
    seed: int = 0,
    patch: tuple[int | str, ...] = (1, 2, 3),
    draws: int | None = None,
    labels: list | None = None,
    **more,
) -> Run:
    """A run of ``IMAGES`` images with certificates; image 5 has an error unless said otherwise."""
    ablation = FAMILIES[kind]
    votes, truth = made_up_votes(draws or len(ablation), seed)
    if draws:
        more["randomized"] = {"draws": draws, "seed": 0}
    run_id = write_run(
        out,
        votes,
        truth if labels is None else labels,
        **{"ablation": ablation, "errors": (5,), "classes": CLASSES, "unit_images": 9} | more,
    )
    run = open_run(out, run_id)
    certify_votes(run.store, ClaimsConfig(patch=patch))
    return run


def masked_run(
    out: Path, *, patch: tuple[int | str, ...] = (2,), rule: tuple[str, ...] | None = None, **more
) -> Run:
    """A certified run of mask pairs whose plain predictions are right; image 5 has an error."""
    rng, labels = np.random.default_rng(3), made_up_votes(1)[1]
    noise = rng.random((IMAGES, len(MASKS))) < 0.3 * rng.random((IMAGES, 1)) ** 2
    votes = np.where(
        noise, rng.integers(0, CLASSES, (IMAGES, len(MASKS))), np.array(labels)[:, None]
    )
    run_id = write_run(
        out,
        votes,
        labels,
        **{"ablation": MASKS, "errors": (5,), "classes": CLASSES, "plain": labels} | more,
    )
    run = open_run(out, run_id)
    certify_votes(run.store, ClaimsConfig(patch=patch, rule=rule))
    return run


class Page(HTMLParser):
    """What a page holds.

    Attributes:
        tags: Every opening tag with its attributes.
        headings: Levels and texts of the headings.
        text: Everything a reader sees, white space made one.
        svgs: What each drawing says of itself.
    """

    def __init__(self, page: bytes) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.headings: list[tuple[int, str]] = []
        self.svgs: list[str] = []
        self.rows: list[list[str]] = []
        self._open: list[str] = []
        self._words: list[str] = []
        self.feed(page.decode())
        self.close()
        assert not self._open, f"never closed: {self._open}"
        self.text = " ".join("".join(self._words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "svg":
            self.svgs.append(dict(attrs)["aria-label"] or "")
        if tag in ("h1", "h2", "h3", "h4"):
            self.headings.append((int(tag[1]), ""))
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data):
        if {"style", "script"} & set(self._open):
            return
        self._words.append(data)
        inside = self._open[-1] if self._open else ""
        if self.headings and any(tag in ("h1", "h2", "h3", "h4") for tag in self._open):
            level, text = self.headings[-1]
            self.headings[-1] = level, text + data
        if {"td", "th"} & set(self._open) and inside:
            self.rows[-1][-1] += data

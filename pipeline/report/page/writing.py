"""Write the page of some runs."""

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.analysis.comparison import Comparison, compare
from pipeline.analysis.heatmap import images_shown
from pipeline.analysis.run import Run
from pipeline.certificates.rules import rule_named
from pipeline.config import ConfigError
from pipeline.report import words
from pipeline.report.page import charts
from pipeline.report.page.chapter import Chapter, Missing, chapter_of, unless_refused
from pipeline.report.style import SERIES
from pipeline.scoring.words import (
    alerts,
    assumption,
    image_share,
    interval,
    percent,
    size,
    views_asked,
)

_LETTERS = "ABCDEF"
_TEMPLATES = "template"


def page_of(
    runs: Sequence[Run], *, intersect: bool = False, images: bool = True, data: str | None = None
) -> bytes:
    """The page about some runs; the same bytes for the same results.

    Args:
        runs: One to six certified runs.
        intersect: Compare runs over different images on those that both have.
        images: Show pictures of the images.
        data: Present place of the images of all runs; None for the recorded one.

    Raises:
        ConfigError: A run has not been certified, is given twice, or there are too many.
        ManifestError, StoreError: Votes or certificates are absent, incomplete or contradictory.
    """
    assert len(_LETTERS) == len(SERIES), "a colour a run"
    if len({run.run_id for run in runs}) < len(runs):
        raise ConfigError("a run is given twice; give each of them once")
    if not 1 <= len(runs) <= len(_LETTERS):
        raise ConfigError(f"{len(runs)} runs: a page holds one to {len(_LETTERS)} of them")
    chapters = [
        chapter_of(run, letter, images=images, data=data)
        for run, letter in zip(runs, _LETTERS, strict=False)
    ]
    style, script = (Markup(_asset(name)) for name in ("style.css", "sort.js"))  # noqa: S704  (ours)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = (
        _environment()
        .get_template("page.html")
        .render(
            chapters=chapters,
            contrasts=_contrasts(chapters, intersect=intersect),
            overlaid=charts.overlaid_chart(chapters) if len(chapters) > 1 else None,
            style=style,
            script=script,
            # The page may load nothing at all, and run no other script.
            policy=f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
            f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
        )
    )
    return text.encode()


def _contrasts(
    chapters: Sequence[Chapter], *, intersect: bool
) -> list[tuple[Chapter, Comparison | Missing]]:
    """Paired differences of every later run from the first."""
    first = chapters[0]

    def contrast(other: Chapter) -> Comparison:
        return compare(first.run, other.run, intersect=intersect)

    return [(other, unless_refused(lambda other=other: contrast(other))) for other in chapters[1:]]  # type: ignore[misc]


def _asset(name: str) -> str:
    return files(__package__).joinpath(_TEMPLATES, name).read_text(encoding="utf-8").strip()


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader(__package__ or "", _TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["missing"] = lambda value: isinstance(value, Missing)
    environment.filters["typeset"] = typeset
    environment.globals |= {
        "charts": charts,
        "words": words,
        "percent": percent,
        "interval": interval,
        "alerts": alerts,
        "assuming": _assuming,
        "assumption": assumption,
        "image_share": image_share,
        "images_shown": images_shown,
        "size": size,
        "views_asked": views_asked,
        "owns_answer": lambda rule: rule_named(rule).owns_answer,
    }
    return environment


def _assuming(chapters: Sequence[Chapter]) -> bool:
    """Tell whether some decision assumes a largest patch."""
    entries = (entry for chapter in chapters for entry in chapter.summary["certified_accuracy"])
    return any(entry["assumes"] is not None for entry in entries)


def typeset(text: str) -> str:
    """Set a figure as print does: dashes, minus signs, and no line break before the per cent."""
    text = re.sub(r"(?<=\d)( ?)-\1(?=\d)", "\\1–\\1", text)  # noqa: RUF001
    text = re.sub(r"(?<!\w)-(?=\d)", "\N{MINUS SIGN}", text)
    text = re.sub(r"(?<=\d)/(?=\d)", " / ", text)
    return text.replace(" .. ", " to ").replace(" %", "\N{NO-BREAK SPACE}%")

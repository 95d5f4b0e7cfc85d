"""``patchcert certify``: stored votes to certificates."""

import json
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from rich.console import Console

from models.views.threats import Threat
from pipeline import storage
from pipeline.analysis import open_run
from pipeline.analysis.heatmap import picture_path, threats_to_draw
from pipeline.cluster.executor import Executor, find_executor
from pipeline.config import ClaimsConfig, OutputConfig
from pipeline.config.flags import Advanced
from pipeline.report.tables import print_summary
from pipeline.runs.store import VotesStore
from pipeline.runs.waiting import waiting
from pipeline.scoring import words
from pipeline.scoring.certify import Certified, Spread, certify_votes
from pipeline.scoring.claims import Claim
from pipeline.scoring.datasets import parts_of
from pipeline.scoring.source import notes
from pipeline.tracking import how_to_look, log_run, tracking_uri
from pipeline.tracking.record import forget_logged, is_logged, remember_logged


def certify(
    *,
    run_id: str | None = None,
    stride: int | None = None,
    ray: Advanced[bool] = False,
    claims: ClaimsConfig = ClaimsConfig(),
    output: OutputConfig = OutputConfig(),
) -> int:
    """Certify stored votes: no model, no images, no GPU.

    Args:
        run_id: Which run; may be left out where --out holds one only.
        stride: Count the votes of this stride only, in pixels, a multiple of the run's own.
        ray: Spread millions of images over Ray, as jobs on a cluster do by themselves.
        claims: What to certify.
        output: Where the votes lie and results go.
    """
    executor = find_executor(verbose=output.verbose)
    store = open_run(output.out, run_id).store
    tracking_uri(claims, output.out)
    report(store, claims, output, executor, stride=stride, ray=ray)
    return 0


def report(
    store: VotesStore,
    claims: ClaimsConfig,
    output: OutputConfig,
    executor: Executor,
    *,
    stride: int | None = None,
    overwrite: bool = False,
    ray: bool = False,
) -> Certified:
    """Certify, draw, log, and print the summary as JSON, or a table and at last ``run_id=...``."""
    settled = settle(store, claims, output, executor, stride=stride, overwrite=overwrite, ray=ray)
    certified = settled.certified
    if output.json:
        print(json.dumps(certified.summary, indent=2, sort_keys=True))
    else:
        console = Console(highlight=False)
        print_summary(certified.summary, console, certified.asked)
        views = certified.manifest.defense.views
        asked = [
            entry
            for entry in certified.summary["certified_accuracy"]
            if Claim.from_dict(entry) in certified.asked.claims
        ]
        for line in notes(asked, claims.threats or (), (views.height, views.width)):
            console.print(line, soft_wrap=True, markup=False)
        _print_places(settled, store, console)
        print(f"run_id={store.run_id}")
    return certified


class Settled(NamedTuple):
    """A certified run, drawn and logged.

    Attributes:
        certified: The run.
        pictures: Where its pictures lie, by what they show.
        uri: MLflow's tracking server; None where nothing is logged, or could be.
    """

    certified: Certified
    pictures: Mapping[str, str]
    uri: str | None


def settle(
    store: VotesStore,
    claims: ClaimsConfig,
    output: OutputConfig,
    executor: Executor,
    *,
    stride: int | None = None,
    overwrite: bool = False,
    ray: bool = False,
) -> Settled:
    """Certify, draw and log what is not there yet; print nothing."""
    spread: Spread = map
    threads = None
    # Ray takes seconds to import and to start, which a few hundred thousand images do not need.
    if ray or (executor.address and len(parts_of(store.manifest())) > 1):
        spread, threads = executor.map, 1  # Ray gives each task one CPU.
    certified = certify_votes(
        store, claims, stride=stride, overwrite=overwrite, spread=spread, threads=threads
    )
    pictures = {"picture": storage.join(output.out, "summary", f"run_id={store.run_id}.png")}
    threats = threats_to_draw(certified.manifest, certified.summary)
    if threats:
        pictures["heat map"] = picture_path(store)
    uri: str | None = tracking_uri(claims, output.out)
    answered = certified.summary["sha256"]
    if (
        certified.computed
        or not all(map(storage.exists, pictures.values()))
        or not is_logged(store, claims, answered)
    ):
        with waiting("drawing"):
            drawn = _draw(certified, store, threats, pictures["picture"])
        forget_logged(store)
        with waiting("logging to MLflow"):
            logged = log_run(certified, drawn, claims, output.out)
        if logged:
            remember_logged(store, claims, answered)
        else:
            uri = None
    return Settled(certified, pictures, uri)


def _draw(
    certified: Certified, store: VotesStore, threats: Sequence[Threat], path: str
) -> dict[str, bytes]:
    """Draw and write the pictures of a run; PNG by name of the artifact."""
    # matplotlib takes a second to import, which a finished run need not wait for.
    from pipeline.report.plots import draw_certified_accuracy, draw_run  # noqa: PLC0415

    title = words.run(certified.manifest)
    drawn = {"certified_accuracy": draw_certified_accuracy(certified.summary, title)}
    storage.write_atomically(path, drawn["certified_accuracy"])
    if threats:
        drawn["heatmap"] = draw_run(open_run(store.out, store.run_id), threats).picture
    return drawn


def _print_places(settled: Settled, store: VotesStore, console: Console) -> None:
    """Print the path of everything, one a line, whole, so that it can be copied."""
    places = {
        "votes": store.folder,
        **settled.certified.folders,
        "summary": settled.certified.summary_path,
        **settled.pictures,
    }
    if settled.uri is not None:
        places["MLflow"] = how_to_look(settled.uri)
    for name, place in places.items():
        console.print(f"{name + ':':14}{place}", soft_wrap=True, markup=False)

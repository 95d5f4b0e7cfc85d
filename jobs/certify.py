"""``patchcert certify``: stored votes to certificates. Also ``python -m jobs.certify``."""

import json
import sys

from rich.console import Console

from pipeline import storage
from pipeline.config import ClaimsConfig, ConfigError, OutputConfig
from pipeline.reduction import Certified, certify_votes
from pipeline.report import print_summary
from pipeline.store import VotesStore, run_ids
from pipeline.tracking import log_run, redact, tracking_uri


def run_certify(
    run_id: str | None,
    stride: int | None,
    claims: ClaimsConfig,
    output: OutputConfig,
    *,
    ray: bool = False,
) -> int:
    """Certify a stored run and report it."""
    store = VotesStore(output.out, run_id or only_run(output.out))
    tracking_uri(claims, output.out)
    report(store, claims, output, stride=stride, ray=ray or None)
    return 0


def report(
    store: VotesStore,
    claims: ClaimsConfig,
    output: OutputConfig,
    *,
    stride: int | None = None,
    overwrite: bool = False,
    ray: bool | None = None,
) -> Certified:
    """Certify, draw, log, print; the last line on standard output is ``run_id=...``."""
    certified = certify_votes(
        store, claims, stride=stride, overwrite=overwrite, ray=ray, verbose=output.verbose
    )
    picture_path = storage.join(output.out, "summary", f"run_id={store.run_id}.png")
    ablation = certified.manifest.ablation
    model = certified.manifest.identity["model"]["name"]
    title = f"{model}, {ablation.kind} b={ablation.size} px, stride {ablation.stride}"
    uri = tracking_uri(claims, output.out)
    logged_path = storage.join(output.out, "summary", f"run_id={store.run_id}.tracked.json")
    tracked = {"uri": redact(uri or "none"), "experiment": claims.experiment}
    up_to_date = (
        not certified.computed
        and storage.exists(picture_path)
        and storage.exists(logged_path)
        and json.loads(storage.read_bytes(logged_path)) == tracked
    )
    if not up_to_date:
        # matplotlib takes a second to import, which a finished run need not wait for.
        from pipeline.picture import draw_certified_accuracy  # noqa: PLC0415

        picture = draw_certified_accuracy(certified.summary, title)
        storage.write_atomically(picture_path, picture)
        log_run(certified, picture, claims, output.out)
        storage.write_atomically(logged_path, json.dumps(tracked).encode())
    if output.json:
        print(json.dumps(certified.summary, indent=2, sort_keys=True))
    else:
        console = Console(highlight=False)
        print_summary(certified.summary, console)
        _print_places(certified, store, picture_path, uri, console)
    print(f"run_id={store.run_id}")
    return certified


def _print_places(
    certified: Certified, store: VotesStore, picture: str, uri: str | None, console: Console
) -> None:
    """Where everything is, one path a line, whole, so that it can be copied."""
    places = {
        "votes": store.folder,
        **certified.folders,
        "summary": certified.summary_path,
        "picture": picture,
    }
    if uri is not None:
        places["MLflow"] = f"mlflow ui --backend-store-uri {redact(uri)}"
    for name, place in places.items():
        console.print(f"{name + ':':14}{place}", soft_wrap=True, markup=False)


def only_run(out: str) -> str:
    """The one run under ``out``.

    Raises:
        ConfigError: There is none, or more than one.
    """
    runs = run_ids(out)
    if len(runs) != 1:
        found = ", ".join(runs) or "none"
        raise ConfigError(
            f"--out {out} holds {len(runs)} runs ({found}): give --run-id one of them"
        )
    return runs[0]


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["certify", *sys.argv[1:]]))

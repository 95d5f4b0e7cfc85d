"""Record beside a run's summary of the server and the experiment that it was logged to."""

import json
from typing import Any

from pipeline import storage
from pipeline.config import ClaimsConfig
from pipeline.runs.store import VotesStore
from pipeline.storage.addresses import redact
from pipeline.tracking.database import file_of, is_in_place
from pipeline.tracking.server import tracking_uri


def is_logged(store: VotesStore, claims: ClaimsConfig, answered: str) -> bool:
    """True where a run's last answers are in MLflow, and their artifacts are where it says.

    Args:
        store: The run.
        claims: The server and the experiment.
        answered: Digest of the summary.
    """
    if _read(store) != _record_of(claims, answered):
        return False
    file = file_of(tracking_uri(claims, store.out) or "")
    return claims.mlflow is not None or (file is not None and is_in_place(file))


def remember_logged(store: VotesStore, claims: ClaimsConfig, answered: str) -> None:
    """Note that all of a run is logged; arguments as ``is_logged``."""
    storage.write_atomically(_path(store), json.dumps(_record_of(claims, answered)).encode())


def forget_logged(store: VotesStore) -> None:
    """Note that a part of a run may not be logged, as if none were."""
    storage.remove(_path(store))


def where_logged(store: VotesStore, mlflow: str | None, experiment: str | None) -> ClaimsConfig:
    """The server and experiment asked for; those a run was last logged to where nothing is."""
    known = _read(store)
    uri = known.get("uri", "none")
    # What was logged to cannot be used where its password was not kept or its file has gone.
    file = None if uri is None else file_of(uri)
    usable = file.is_file() if file is not None else "***" not in (uri or "")
    return ClaimsConfig(
        mlflow=uri if mlflow is None and usable else mlflow,
        experiment=experiment or known.get("experiment", ClaimsConfig.experiment),
    )


def _record_of(claims: ClaimsConfig, answered: str) -> dict[str, str | None]:
    # No address of the file in --out: it is wherever the folder has been moved or copied to.
    uri = None if claims.mlflow is None else redact(claims.mlflow)
    return {"uri": uri, "experiment": claims.experiment, "summary": answered}


def _read(store: VotesStore) -> dict[str, Any]:
    path = _path(store)
    known: dict[str, Any] = json.loads(storage.read_bytes(path)) if storage.exists(path) else {}
    return known


def _path(store: VotesStore) -> str:
    return storage.join(store.out, "summary", f"run_id={store.run_id}.tracked.json")

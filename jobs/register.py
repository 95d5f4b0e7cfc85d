"""``patchcert register``: weights into MLflow's registry."""

from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter

from models.networks.weights import sha256_of
from pipeline.analysis import open_run
from pipeline.config import ConfigError
from pipeline.runs.resolve import hub_or_path
from pipeline.runs.weight_files import check_rebuildable, local_weights
from pipeline.tracking.record import where_logged
from pipeline.tracking.registry import register_weights


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class RegisterConfig:
    """Entry of the registry, and its place.

    Attributes:
        name: Name of the model in the registry; weights of another run become another version.
        weights: The weight file, if no longer where it was when it voted.
        mlflow: Tracking server; default: where the run was logged.
        experiment: MLflow experiment; default: where the run was logged.
        out: Folder of all results, local or s3://.
    """

    name: str
    weights: str | None = None
    mlflow: str | None = None
    experiment: str | None = None
    out: str = "out"

    def __post_init__(self) -> None:
        if not self.name or set(self.name) & set("/:.%\"'"):
            raise ConfigError(
                f"--name {self.name!r}: give a name without any of / : . % and quotation marks"
            )


def register(run: str | None = None, /, *, what: RegisterConfig) -> int:
    """Enter a run's weights into MLflow's model registry, with its certified figures.

    Args:
        run: A run, or the beginning of its id; may be left out where --out holds one only.
        what: Name of the entry, and where it goes.

    Raises:
        ConfigError: There is no such run, it was imported, has not been certified or logged, or the
            weights are not those that voted.
        TrackingError: MLflow failed.
    """
    store = open_run(what.out, run).store
    manifest, summary = store.manifest(), store.read_summary()
    if manifest.imported:
        raise ConfigError(
            f"run {store.run_id} was imported: its votes came without weights, so there are none "
            "to register; register those of a run that `patchcert run` voted on"
        )
    if summary is None:
        raise ConfigError(f"run {store.run_id} has not been certified; run `patchcert certify`")
    asked = what.weights or manifest.execution.weights
    if asked is None:
        raise ConfigError(f"run {store.run_id} does not say where its weights lie: give --weights")
    check_rebuildable(manifest.execution.weights or "")
    path = Path(local_weights(hub_or_path(asked)))
    if not path.is_file():
        raise ConfigError(f"weights {asked}: no such file; say with --weights where they lie now")
    voted = manifest.defense.network.weights_sha256
    if sha256_of(str(path)) != voted:
        raise ConfigError(
            f"weights {asked}: not those that voted (sha256 {voted[:12]}...); give those with "
            "--weights"
        )
    claims = where_logged(store, what.mlflow, what.experiment)
    entry = register_weights(
        manifest, summary, weights=path, name=what.name, claims=claims, out=what.out
    )
    done = "registered" if entry.new else "there already, brought up to date"
    print(f"models:/{entry.name}/{entry.version}: {done}")
    print(f"run_id={store.run_id}")
    return 0

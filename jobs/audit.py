"""``patchcert audit``: the published certificate on stored votes."""

import json
from dataclasses import dataclass

import pyarrow as pa
from cyclopts import Parameter
from rich.console import Console

from pipeline import storage
from pipeline.analysis import open_run
from pipeline.analysis.audit import audits
from pipeline.config import ConfigError
from pipeline.report.analysis_tables import print_audits
from pipeline.runs.resolve import default_patches
from pipeline.storage.tables import write_parquet


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """Runs and patches that are held against the published rule.

    Attributes:
        run_id: Which run, or the beginning of its id; may be left out where --out holds one only.
        stride: Strides in pixels, answered from the stored votes [the run's own].
        patch: Sides of square patches in pixels [23 32 39, or 2 4 5 on the CIFAR-10 grid].
        out: Folder of all results, local or s3://.
        json: Print JSON instead of a table.
    """

    run_id: str | None = None
    stride: tuple[int, ...] | None = None
    patch: tuple[int, ...] | None = None
    out: str = "out"
    json: bool = False

    def __post_init__(self) -> None:
        for name in ("stride", "patch"):
            values = getattr(self, name)
            if values is not None and (not values or min(values) < 1):
                raise ConfigError(f"--{name}: give one or more lengths of at least 1 px")


def audit(*, what: AuditConfig = AuditConfig()) -> int:
    """Hold the published certificate against the sound rules, and break what it gets wrong.

    Raises:
        ConfigError: There is no such run, or its votes do not answer.
        ManifestError, StoreError: The votes are absent, incomplete or contradictory.
    """
    run = open_run(what.out, what.run_id)
    sides = what.patch or default_patches(run.ablation)
    found = list(audits(run, what.stride or (run.ablation.stride,), sides))
    path = storage.join(what.out, "audit", f"run_id={run.run_id}", "flips.parquet")
    flips = pa.concat_tables(one.flips for one in found)
    write_parquet(path, flips.replace_schema_metadata(run.store.proof(run.manifest).bond))
    if what.json:
        rows = [{"run_id": run.run_id, **one._asdict(), "flips": path} for one in found]
        print(json.dumps(rows, indent=2))
    else:
        console = Console(highlight=False)
        print_audits(found, console)
        console.print(f"broken certificates: {path}", soft_wrap=True, markup=False)
        print(f"run_id={run.run_id}")
    return 0

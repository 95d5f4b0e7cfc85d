"""``patchcert audit``: the published certificate on stored votes. Also ``python -m jobs.audit``."""

import json
import sys
from dataclasses import dataclass

from pipeline.config import ConfigError


@dataclass(frozen=True, kw_only=True)
class AuditConfig:
    """What is held against the published rule.

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


def run_audit(what: AuditConfig) -> int:
    """Compare, write every broken certificate with how it is broken, and print the table.

    Raises:
        ConfigError: There is no such run, or its votes do not answer.
        ManifestError, StoreError: The votes are absent, incomplete or contradictory.
    """
    # Arrow: --help and usage errors must not wait for it.
    import pyarrow as pa  # noqa: PLC0415
    from rich.console import Console  # noqa: PLC0415

    from pipeline import storage  # noqa: PLC0415
    from pipeline.questions import open_run  # noqa: PLC0415
    from pipeline.questions.audit import audits  # noqa: PLC0415
    from pipeline.questions.rendering import parquet  # noqa: PLC0415
    from pipeline.report.analysis_tables import print_audits  # noqa: PLC0415
    from pipeline.resolve import default_patches  # noqa: PLC0415

    run = open_run(what.out, what.run_id)
    sides = what.patch or default_patches(run.ablation)
    found = list(audits(run, what.stride or (run.ablation.stride,), sides))
    path = storage.join(what.out, "audit", f"run_id={run.run_id}", "flips.parquet")
    storage.write_atomically(path, parquet(pa.concat_tables(audit.flips for audit in found)))
    if what.json:
        rows = [{"run_id": run.run_id, **audit._asdict(), "flips": path} for audit in found]
        print(json.dumps(rows, indent=2))
    else:
        console = Console(highlight=False)
        print_audits(found, console)
        console.print(f"broken certificates: {path}", soft_wrap=True, markup=False)
        print(f"run_id={run.run_id}")
    return 0


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["audit", *sys.argv[1:]]))

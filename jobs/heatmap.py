"""``patchcert heatmap``: where a patch does most harm."""

from dataclasses import dataclass

from cyclopts import Parameter
from rich.console import Console

from jobs.patches import AsksPatches
from pipeline.analysis import open_run
from pipeline.report.analysis_tables import print_maps
from pipeline.runs.resolve import default_threats


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class HeatmapConfig(AsksPatches):
    """Run and patches whose locations are drawn.

    Attributes:
        run_id: Which run, or the beginning of its id; may be left out where --out holds one only.
        patch: Sides of square patches in pixels, or 16x48 (height x width) [23 32 39, or 2 4 5 on
            the CIFAR-10 grid; of masks, what they cover].
        out: Folder of all results, local or s3://.
    """

    run_id: str | None = None
    patch: tuple[int | str, ...] | None = None
    out: str = "out"


def heatmap(*, what: HeatmapConfig = HeatmapConfig()) -> int:
    """Draw where a patch leaves most images uncertified, and store the numbers.

    Raises:
        ConfigError: There is no such run, no such place of such a patch, or its votes do not tell
            places apart.
        ManifestError, StoreError: The votes are absent, incomplete or contradictory.
    """
    # matplotlib: --help must not wait for it.
    from pipeline.report.plots import draw_run  # noqa: PLC0415

    run = open_run(what.out, what.run_id)
    threats = what.threats or tuple(default_threats(run.views))
    drawn = draw_run(run, threats, named=True)
    console = Console(highlight=False)
    print_maps(drawn.maps, console)
    for path in drawn.locations:
        console.print(f"locations:  {path}", soft_wrap=True, markup=False)
    console.print(f"picture:    {drawn.path}", soft_wrap=True, markup=False)
    print(f"run_id={run.run_id}")
    return 0

"""``patchcert heatmap``: where a patch does most harm. Also ``python -m jobs.heatmap``."""

import sys
from dataclasses import dataclass

from pipeline.config import ClaimsConfig


@dataclass(frozen=True, kw_only=True)
class HeatmapConfig:
    """Which places of which patches are looked at.

    Attributes:
        run_id: Which run, or the beginning of its id; may be left out where --out holds one only.
        patch: Sides of square patches in pixels, or 16x48 (height x width) [23 32 39, or 2 4 5 on
            the CIFAR-10 grid].
        out: Folder of all results, local or s3://.
    """

    run_id: str | None = None
    patch: tuple[int | str, ...] | None = None
    out: str = "out"

    def __post_init__(self) -> None:
        self.claims  # noqa: B018  (fails where a text means nothing)

    @property
    def claims(self) -> ClaimsConfig:
        """What is asked for, as of ``patchcert certify``.

        Raises:
            ConfigError: A text means nothing.
        """
        return ClaimsConfig(patch=self.patch)


def run_heatmap(what: HeatmapConfig) -> int:
    """Count, draw, and say where the worst places are.

    Raises:
        ConfigError: There is no such run, or no such place of such a patch.
        ManifestError, StoreError: The votes are absent, incomplete or contradictory.
    """
    # Arrow and matplotlib: --help and usage errors must not wait for them.
    from rich.console import Console  # noqa: PLC0415

    from pipeline import storage  # noqa: PLC0415
    from pipeline.certificates.threats import Threat  # noqa: PLC0415
    from pipeline.questions import open_run  # noqa: PLC0415
    from pipeline.questions.heatmap import breaking_maps, write_maps  # noqa: PLC0415
    from pipeline.questions.heatmap_picture import draw_maps  # noqa: PLC0415
    from pipeline.questions.reports import print_maps  # noqa: PLC0415
    from pipeline.resolve import default_patches  # noqa: PLC0415

    run = open_run(what.out, what.run_id)
    usual = map(Threat.square, default_patches(run.ablation))
    threats = set(what.claims.threats or usual)
    maps = breaking_maps(run, sorted(threats, key=lambda threat: threat.order))
    written = write_maps(maps)
    picture = storage.join(what.out, "summary", f"run_id={run.run_id}.heatmap.png")
    storage.write_atomically(picture, draw_maps(maps))
    console = Console(highlight=False)
    print_maps(maps, console)
    for path in written:
        console.print(f"locations:  {path}", soft_wrap=True, markup=False)
    console.print(f"picture:    {picture}", soft_wrap=True, markup=False)
    print(f"run_id={run.run_id}")
    return 0


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["heatmap", *sys.argv[1:]]))

"""Measurements as a table on a terminal."""

from typing import Any

from rich.console import Console
from rich.table import Table

from pipeline.bench.hardware import hardware_line
from pipeline.scoring.words import percent


def print_bench(result: dict[str, Any], console: Console) -> None:
    """Print paces, ratios, stages and what they were measured on."""
    settings = result["engine"]["settings"]
    table = Table(
        title=f"{settings['model']}, columns of {settings['size']} px", title_justify="left"
    )
    paces = result["engine"]["paces"]
    on_gpu = any(pace["peak_gpu_memory_mib"] is not None for pace in paces)
    heads = ("what", "dtype", "images/s", "views/s", "full passes", "nominal", "executed")
    for name in (*heads, *(["GPU MiB"] if on_gpu else [])):
        table.add_column(name, justify="left" if name in ("what", "dtype") else "right")
    for pace in paces:
        table.add_row(
            pace["name"],
            pace["dtype"],
            f"{pace['images_a_second']:.3g}",
            f"{pace['ablations_a_second']:.4g}" if pace["ablations_a_second"] else "",
            "" if pace["full_passes"] is None else f"{pace['full_passes']:.3g}",
            percent(pace["share_nominal"], 0, unknown=""),
            percent(pace["share_executed"], 0, unknown=""),
            *([f"{pace['peak_gpu_memory_mib']:.0f}"] if on_gpu else []),
        )
    console.print(table)
    for dtype, rate in result["engine"]["matmul_gflops"].items():
        console.print(f"large products, {dtype}: {rate:.1f} GFLOP/s; shares above are of this")
    for name, ratio in result["engine"]["ratios"].items():
        console.print(f"{name}: {ratio:.2f}x")
    for run in result["early_exit"]:
        console.print(
            f"early exit, run {run['run_id']}, {run['views']}: {run['views_asked']:.4g} of "
            f"{run['of']} views asked of an image, {percent(run['share_saved'])} left out"
        )
    for dtype, stages in result["engine"]["stages"].items():
        total = sum(stages.values())
        shares = ", ".join(f"{name} {percent(s / total, 0)}" for name, s in stages.items())
        console.print(f"time from bytes to votes, {dtype}: {shares}")
    for size, rate in result["decode"].items():
        console.print(f"decode and preprocess {size} JPEG: {rate:.0f} images/s a core")
    if result["pipeline"]:
        pipeline = result["pipeline"]
        console.print(
            f"pipeline {pipeline['pipeline_images_a_second']:.3g} images/s, bare engine "
            f"{pipeline['engine_images_a_second']:.3g}: {pipeline['pipeline_over_engine']:.2f}x; "
            f"without Ray {pipeline['no_ray_images_a_second']:.3g}: "
            f"{pipeline['no_ray_over_engine']:.2f}x"
        )
    console.print(
        f"peak memory of the process, in which all of them ran: {result['peak_memory_mib']:.0f} MiB"
    )
    console.print(hardware_line(result["hardware"]))

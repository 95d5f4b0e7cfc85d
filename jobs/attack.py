"""``patchcert attack``: try to refute a run's certificates."""

import json
import sys

from rich.console import Console

from pipeline.analysis import open_run
from pipeline.attack import MEANING
from pipeline.attack.config import AttackConfig
from pipeline.cluster.executor import find_executor
from pipeline.config import OutputConfig
from pipeline.report.tables import print_attack

# Failures told on the terminal; all are counted in the summary.
_MOST_TOLD = 3


def attack(*, what: AttackConfig = AttackConfig(), output: OutputConfig = OutputConfig()) -> int:
    """Try to refute a run's certificates with real patches, through the whole pipeline.

    Returns:
        1 if a certificate or its basis failed.
    """
    store = open_run(output.out, what.run_id).store
    from pipeline.attack.flow import attack_run  # noqa: PLC0415  (torch: --help must not wait)

    executor = find_executor(verbose=output.verbose)
    with executor.join_for_job():
        attacked = attack_run(store, what, executor)
    if output.json:
        print(json.dumps(attacked.summary, indent=2, sort_keys=True))
    else:
        console = Console(highlight=False)
        print_attack(attacked.summary, console)
        places = {
            "attacks": attacked.rows_path,
            "summary": attacked.summary_path,
            "images": attacked.images_path,
        }
        for name, place in places.items():
            console.print(f"{name + ':':14}{place}", soft_wrap=True, markup=False)
        print(f"run_id={store.run_id}")
    if attacked.failures:
        lines = attacked.failures[:_MOST_TOLD]
        if len(attacked.failures) > len(lines):
            lines.append(f"and {len(attacked.failures) - len(lines)} more")
        saved = attacked.counterexamples[0].rsplit("/", 1)[0]
        said = "\n  ".join(lines)
        print(f"patchcert: FALSIFIED\n  {said}\n{MEANING}: {saved}", file=sys.stderr)
    return 1 if attacked.failures else 0

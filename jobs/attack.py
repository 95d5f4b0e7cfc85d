"""``patchcert attack``: try to refute a run's certificates. Also ``python -m jobs.attack``."""

import json
import sys

from rich.console import Console

from pipeline.attack import MEANING
from pipeline.attack.config import AttackConfig
from pipeline.config import OutputConfig
from pipeline.questions import open_run

# Failures told on the terminal; all are counted in the summary.
_MOST_TOLD = 3


def run_attack(what: AttackConfig, output: OutputConfig) -> int:
    """Attack, report, and say where everything is; 1 if a certificate or its basis failed."""
    store = open_run(output.out, what.run_id).store
    # torch and ray: --help and usage errors must not wait for them.
    from pipeline.attack.flow import attack_run  # noqa: PLC0415
    from pipeline.report.tables import print_attack  # noqa: PLC0415

    attacked = attack_run(store, what, verbose=output.verbose)
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


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["attack", *sys.argv[1:]]))

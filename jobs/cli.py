"""The ``patchcert`` command: parses, calls one job, turns mistakes into one line and a code.

Exit codes: 0 done, 1 the job failed, 2 the request was wrong, 130 interrupted. Heavy
imports happen inside the jobs, so that ``--help`` and usage errors are immediate.
"""

import sys
from collections.abc import Sequence
from typing import Any, Literal

from cyclopts import CycloptsError

from jobs.commands import asking, attacking, exchanging, measuring, running, weights  # noqa: F401
from jobs.commands.app import app
from jobs.config_file import yaml_of
from jobs.stdout import let_readers_go
from models.errors import exit_code_of


@app.command
def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print a shell's completion of this command: eval "$(patchcert completion bash)".

    Args:
        shell: Whose.
    """
    print(app.generate_completion(prog_name="patchcert", shell=shell))
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code and never shows a traceback for a mistake."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app.config = yaml_of(tokens)
        result: Any = app(tokens, exit_on_error=False)
    except CycloptsError:
        return 2  # cyclopts has said what is wrong
    except KeyboardInterrupt:
        print("patchcert: interrupted; run again to resume", file=sys.stderr)
        return 130
    except Exception as error:
        code = exit_code_of(error)
        if code is None:
            raise
        print(f"patchcert: {error}", file=sys.stderr)
        return code
    return result if isinstance(result, int) else 0


def entry() -> None:
    """Console script."""
    let_readers_go()
    sys.exit(main())


if __name__ == "__main__":
    entry()

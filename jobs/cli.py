"""The ``patchcert`` command: parses, calls one job, turns mistakes into one line and a code.

Exit codes: 0 done, 1 the job failed, 2 the request was wrong, 130 interrupted, 143 terminated. A
command is a function of its module ``jobs/<command>.py``, which is imported when the command is
called, so that ``--help`` and usage errors wait for none of the others.
"""

import io
import itertools
import signal
import sys
from collections.abc import Sequence
from typing import Any, Literal

from cyclopts import App, CycloptsError, Group, Parameter

from jobs.config_file import check_whole_numbers, yaml_of
from models.errors import exit_code_of, said_of
from pipeline.runs.versions import program_version

# By group, in the order of --help. The texts are those of the functions' docstrings.
_COMMANDS = {
    "Evaluate": {
        "run": "Vote on every image, certify, and log the run: the whole job.",
        "votes": "Vote on every image and store the votes; resumes what is unfinished.",
        "certify": "Certify stored votes: no model, no images, no GPU.",
        "sweep": "Run every combination of settings that is missing; nested MLflow runs, one "
        "table.",
        "doctor": "Check all that a run needs: stores, data, output, MLflow, token, cluster, "
        "weights.",
    },
    "Ask": {
        "show": "Draw an image, some of its views with their tokens, and the worst patch.",
        "verify": "Say what is proven of a stored run: its rows, ids, labels, and all that is made "
        "from them.",
        "sql": "Ask stored results a question in SQL (DuckDB), over all runs at once.",
        "compare": "Compare two runs over the same images: paired differences, McNemar's test, "
        "equal votes.",
        "classes": "Show the accuracies of each class with their intervals.",
        "heatmap": "Draw where a patch leaves most images uncertified, and store the numbers.",
        "report": "Write one or several runs as one HTML page, whole in itself; log it to MLflow.",
    },
    "Challenge": {
        "attack": "Try to refute a run's certificates with real patches, through the whole "
        "pipeline.",
        "witness": "Rewrite stored votes to change every image without a certificate: no model, no "
        "images.",
        "audit": "Hold the published certificate against the sound rules, and break what it gets "
        "wrong.",
    },
    "Weights": {
        "systems": "List what can be evaluated: model families, token modes, voting.",
        "convert": "Convert a released smoothed-vit checkpoint to safetensors.",
        "train": "Fine-tune a network on ablations, into weights for `run`; resumes what is "
        "unfinished.",
        "register": "Enter a run's weights into MLflow's model registry, with its certified "
        "figures.",
    },
    "Exchange": {
        "import": "Make a run of votes that were cast elsewhere, so that every question can be "
        "asked of them.",
        "export": "Write a run as files for a leaderboard: images, headline, manifest, votes if "
        "asked.",
    },
    "Cluster and tools": {
        "submit": "Send a command to a Ray cluster as a job, follow its log, and end with its exit "
        "code.",
        "bench": "Measure the speed of the engine and the pipeline, as ratios of things timed side "
        "by side.",
    },
}


def _default(value: object) -> str | None:
    """Text of a default in --help; what is None or off is explained by the option's own text."""
    if value is None or value is False or value == ():
        return None
    values = value if isinstance(value, tuple) else (value,)
    return " ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in values)


# Those that this process was told to end by. What raises KeyboardInterrupt may be another's code,
# which drops it or raises an error of its own while it closes.
_signals: list[int] = []

app = App(
    name="patchcert",
    help="Certified accuracy of image classifiers against adversarial patches.\n\n"
    "Every command also takes --config FILE.yaml, with the flags below as keys; flags win.",
    help_format="plaintext",
    version=program_version,
    version_flags=["--version"],
    default_parameter=Parameter(negative=(), consume_multiple=True, show_default=_default),
    result_action="return_value",
    suppress_keyboard_interrupt=False,
)
_order = itertools.count()
_groups = {title: Group(title, sort_key=next(_order)) for title in _COMMANDS}
for _title, _commands in _COMMANDS.items():
    for _name, _text in _commands.items():
        _module = "import_votes" if _name == "import" else _name  # the other is a keyword
        app.command(
            f"jobs.{_module}:{_module}",
            name=_name,
            help=_text,
            group=_groups[_title],
            sort_key=next(_order),
        )


@app.command(group=_groups["Cluster and tools"], sort_key=next(_order))
def completion(shell: Literal["bash", "zsh", "fish"], /) -> int:
    """Print a shell's completion of this command: eval "$(patchcert completion bash)".

    Args:
        shell: Whose.
    """
    print(app.generate_completion(prog_name="patchcert", shell=shell))
    return 0


app["--help"].group = app["--version"].group = _groups["Cluster and tools"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code and never shows a traceback for a mistake."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app.config = (*yaml_of(tokens), check_whole_numbers)
        result: Any = app(tokens, exit_on_error=False)
    except CycloptsError:
        return 2  # cyclopts has said what is wrong
    except KeyboardInterrupt as stop:
        return _interrupted(next(iter(stop.args), signal.SIGINT))
    except Exception as error:
        if _signals:  # what it met is the end of all that had the signal too: Ray's processes
            return _interrupted(_signals[0])
        code = exit_code_of(error)
        if code is None:
            raise
        print(f"patchcert: {said_of(error)}", file=sys.stderr)
        return code
    finally:
        app.config = ()  # this request's
    return result if isinstance(result, int) else 0


class _Stdout(io.FileIO):
    """Standard output that drops what is written once nobody reads it, as after ``| head``.

    The command then ends with its own exit code: that of an attack that found something must not
    depend on who reads the table.
    """

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)


def _interrupted(number: int) -> int:
    print("patchcert: interrupted; run again to resume", file=sys.stderr)
    return 128 + number


def _end(number: int, _: object) -> None:
    """End in words and with everything closed: ctrl-c and evictions are no crashes."""
    _signals.append(number)
    if number == signal.SIGTERM:
        signal.signal(number, signal.SIG_IGN)  # another must not break what this one closes
    raise KeyboardInterrupt(number)


def entry() -> None:
    """Console script."""
    for number in (signal.SIGINT, signal.SIGTERM):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as a shell's background jobs have it
            signal.signal(number, _end)
    if sys.stdout is not None:
        raw = _Stdout(sys.stdout.fileno(), "w", closefd=False)
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=sys.stdout.encoding,
            errors=sys.stdout.errors,
            line_buffering=raw.isatty(),
        )
    sys.exit(main())

"""The ``patchcert`` command: parses, calls one job, turns mistakes into one line and a code.

Exit codes: 0 done, 1 the job failed, 2 the request was wrong. Heavy imports happen inside the
jobs, so that ``--help`` and usage errors are immediate.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Yaml

from jobs.convert import ConvertConfig
from jobs.show import ShowConfig
from pipeline.config import ClaimsConfig, OutputConfig, VotesConfig

_CONFIG = "--config"
_What = Annotated[VotesConfig, Parameter(name="*", group="What votes")]
_Claims = Annotated[ClaimsConfig, Parameter(name="*", group="What is certified")]
_Output = Annotated[OutputConfig, Parameter(name="*", group="Output")]

app = App(
    name="patchcert",
    help="Certified accuracy of image classifiers against adversarial patches.\n\n"
    "Every command also takes --config FILE.yaml, with the flags below as keys; flags win.",
    help_format="plaintext",
    version_flags=["--version"],
    default_parameter=Parameter(negative=(), consume_multiple=True, show_default=False),
    result_action="return_value",
)


@app.command
def run(
    *,
    what: _What,
    claims: _Claims = ClaimsConfig(),  # noqa: B008  (frozen)
    output: _Output = OutputConfig(),  # noqa: B008
) -> int:
    """Vote on every image, certify, and log the run: the whole job."""
    from jobs.run import run_all  # noqa: PLC0415

    return run_all(what, claims, output)


@app.command
def votes(*, what: _What, output: _Output = OutputConfig()) -> int:  # noqa: B008
    """Vote on every image and store the votes; resumes what is unfinished."""
    from jobs.votes import run_votes  # noqa: PLC0415

    return run_votes(what, output)


@app.command
def certify(
    *,
    run_id: str | None = None,
    claims: _Claims = ClaimsConfig(),  # noqa: B008
    output: _Output = OutputConfig(),  # noqa: B008
) -> int:
    """Certify stored votes: no model, no images, no GPU.

    Args:
        run_id: Which run; may be left out where --out holds one only.
        claims: What to certify.
        output: Where the votes lie and results go.
    """
    from jobs.certify import run_certify  # noqa: PLC0415

    return run_certify(run_id, claims, output)


@app.command
def convert(
    released: str,
    out: str,
    /,
    *,
    what: Annotated[ConvertConfig, Parameter(name="*", group="What it holds")],
) -> int:
    """Convert a released smoothed-vit checkpoint to safetensors.

    Args:
        released: The checkpoint (.pt); it is only read.
        out: Where the weights go (.safetensors).
        what: What the checkpoint holds.
    """
    from jobs.convert import run_convert  # noqa: PLC0415

    return run_convert(released, out, what)


@app.command
def show(*, what: Annotated[ShowConfig, Parameter(name="*", group="What is drawn")]) -> int:
    """Draw an image, some of its ablations with their tokens, and the worst patch."""
    from jobs.show import run_show  # noqa: PLC0415

    return run_show(what)


@app.command
def systems(*, markdown: bool = False) -> int:
    """List what can be evaluated: model families, ablations, token modes, voting.

    Args:
        markdown: Print the table of the documentation.
    """
    from jobs.systems import run_systems  # noqa: PLC0415

    return run_systems(markdown=markdown)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code and never shows a traceback for a mistake."""
    from jobs.errors import exit_code_of  # noqa: PLC0415

    tokens = list(sys.argv[1:] if arguments is None else arguments)
    try:
        app.config = _yaml_of(tokens)
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
    sys.exit(main())


def _yaml_of(tokens: list[str]) -> tuple[Yaml, ...]:
    """Take ``--config FILE`` out of the tokens."""
    from pipeline.config import ConfigError  # noqa: PLC0415

    for index, token in enumerate(tokens):
        name, equals, value = token.partition("=")
        if name != _CONFIG:
            continue
        if not equals:
            if index + 1 == len(tokens):
                raise ConfigError("--config: give the path of a YAML file")
            value = tokens.pop(index + 1)
        tokens.pop(index)
        if not Path(value).is_file():
            raise ConfigError(f"--config {value}: no such file")
        return (Yaml(value, use_commands_as_keys=False),)
    return ()


if __name__ == "__main__":
    entry()

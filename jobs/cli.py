"""The ``patchcert`` command: parses, calls one job, turns mistakes into one line and a code.

Exit codes: 0 done, 1 the job failed, 2 the request was wrong, 130 interrupted. Heavy
imports happen inside the jobs, so that ``--help`` and usage errors are immediate.
"""

import difflib
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import App, ArgumentCollection, CycloptsError, Parameter, UnknownOptionError
from cyclopts.config import Yaml

from jobs.audit import AuditConfig
from jobs.bench import BenchConfig
from jobs.bench_certificates import BenchCertificatesConfig
from jobs.bench_control_plane import BenchControlPlaneConfig
from jobs.bench_decide import BenchDecideConfig
from jobs.classes import ClassesConfig
from jobs.compare import CompareConfig
from jobs.convert import ConvertConfig
from jobs.heatmap import HeatmapConfig
from jobs.register import RegisterConfig
from jobs.report import ReportConfig
from jobs.show import ShowConfig
from jobs.sql import SqlConfig
from jobs.submit import SubmitConfig
from pipeline.attack.config import AttackConfig, WitnessConfig
from pipeline.config import (
    ClaimsConfig,
    DecidedConfig,
    EstimateConfig,
    OutputConfig,
    VotesConfig,
)
from pipeline.interchange.config import ExportConfig, ImportConfig
from pipeline.sweep.config import Axes, FixedConfig
from pipeline.training.config import TrainConfig, TrainingPlace

_CONFIG = "--config"
_What = Annotated[VotesConfig, Parameter(name="*", group="What votes")]
_Claims = Annotated[ClaimsConfig, Parameter(name="*", group="What is certified")]
_Decided = Annotated[DecidedConfig, Parameter(name="*", group="What is decided")]
_Attack = Annotated[AttackConfig, Parameter(name="*", group="What is attacked")]
_Witness = Annotated[WitnessConfig, Parameter(name="*", group="What is rewritten")]
_Estimate = Annotated[EstimateConfig, Parameter(name="*", group="Before it")]
_Output = Annotated[OutputConfig, Parameter(name="*", group="Output")]


def _version() -> str:
    """Of the installed distribution; a copy of the code alone, as on a cluster, has none."""
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415

    try:
        return version("patchcert")
    except PackageNotFoundError:
        return "unknown: not installed"


def _default(value: object) -> str | None:
    """What --help says of a default; what is None or off is explained by the option's own text."""
    if value is None or value is False or value == ():
        return None
    values = value if isinstance(value, tuple) else (value,)
    return " ".join(f"{one:g}" if isinstance(one, float) else str(one) for one in values)


app = App(
    name="patchcert",
    help="Certified accuracy of image classifiers against adversarial patches.\n\n"
    "Every command also takes --config FILE.yaml, with the flags below as keys; flags win.",
    help_format="plaintext",
    version=_version,
    version_flags=["--version"],
    default_parameter=Parameter(negative=(), consume_multiple=True, show_default=_default),
    result_action="return_value",
)


@app.command
def run(
    *,
    what: _What,
    claims: _Claims = ClaimsConfig(),  # noqa: B008  (frozen)
    output: _Output = OutputConfig(),  # noqa: B008
    before: _Estimate = EstimateConfig(),  # noqa: B008
) -> int:
    """Vote on every image, certify, and log the run: the whole job."""
    from jobs.run import run_all  # noqa: PLC0415

    return run_all(what, claims, output, before)


@app.command
def votes(
    *,
    what: _What,
    decided: _Decided = DecidedConfig(),  # noqa: B008
    output: _Output = OutputConfig(),  # noqa: B008
    before: _Estimate = EstimateConfig(),  # noqa: B008
) -> int:
    """Vote on every image and store the votes; resumes what is unfinished."""
    from jobs.votes import run_votes  # noqa: PLC0415

    return run_votes(what, output, before, decided)


@app.command
def sweep(
    *,
    axes: Annotated[Axes, Parameter(name="*", group="What varies")],
    fixed: Annotated[FixedConfig, Parameter(name="*", group="What all have in common")],
    claims: _Claims = ClaimsConfig(),  # noqa: B008
    output: _Output = OutputConfig(),  # noqa: B008
    dry_run: Annotated[bool, Parameter(group="Before it")] = False,
) -> int:
    """Run every combination of settings that is missing; nested MLflow runs, one table.

    Args:
        axes: Options with several values.
        fixed: Options with one.
        claims: What to certify.
        output: Where results go.
        dry_run: Say which points need votes, and how many; compute nothing.
    """
    from jobs.sweep import run_sweep  # noqa: PLC0415

    return run_sweep(axes, fixed, claims, output, dry_run=dry_run)


@app.command
def doctor(
    *,
    what: _What,
    claims: _Claims = ClaimsConfig(),  # noqa: B008
    output: _Output = OutputConfig(),  # noqa: B008
) -> int:
    """Check all that a run needs: stores, data, output, MLflow, token, cluster, weights."""
    from jobs.doctor import run_doctor  # noqa: PLC0415

    return run_doctor(what, claims, output)


@app.command
def submit(
    *command: Annotated[str, Parameter(allow_leading_hyphen=True)],
    where: Annotated[SubmitConfig, Parameter(name="*", group="Where")],
) -> int:
    """Send a command to a Ray cluster as a job, follow its log, and end with its exit code.

    Args:
        command: After --: the command, such as -- run --config run.yaml.
        where: Which cluster.
    """
    from jobs.submit import run_submit  # noqa: PLC0415

    return run_submit(command, where)


@app.command
def certify(
    *,
    run_id: str | None = None,
    stride: int | None = None,
    ray: bool = False,
    claims: _Claims = ClaimsConfig(),  # noqa: B008
    output: _Output = OutputConfig(),  # noqa: B008
) -> int:
    """Certify stored votes: no model, no images, no GPU.

    Args:
        run_id: Which run; may be left out where --out holds one only.
        stride: Count the votes of this stride only, in pixels, a multiple of the run's own.
        ray: Spread millions of images over Ray, as jobs on a cluster do by themselves.
        claims: What to certify.
        output: Where the votes lie and results go.
    """
    from jobs.certify import run_certify  # noqa: PLC0415

    return run_certify(run_id, stride, claims, output, ray=ray)


@app.command
def attack(
    *,
    what: _Attack = AttackConfig(),  # noqa: B008
    output: _Output = OutputConfig(),  # noqa: B008
) -> int:
    """Try to refute a run's certificates with real patches, through the whole pipeline."""
    from jobs.attack import run_attack  # noqa: PLC0415

    return run_attack(what, output)


@app.command
def witness(
    *,
    what: _Witness = WitnessConfig(),  # noqa: B008
    output: _Output = OutputConfig(),  # noqa: B008
) -> int:
    """Rewrite stored votes to change every image without a certificate: no model, no images."""
    from jobs.witness import run_witness  # noqa: PLC0415

    return run_witness(what, output)


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
def train(
    *,
    what: Annotated[TrainConfig, Parameter(name="*", group="What is learned")],
    place: Annotated[TrainingPlace, Parameter(name="*", group="Where")] = TrainingPlace(),  # noqa: B008
    before: _Estimate = EstimateConfig(),  # noqa: B008
) -> int:
    """Fine-tune a network on ablations, into weights for `run`; resumes what is unfinished."""
    from jobs.train import run_train  # noqa: PLC0415

    return run_train(what, place, before)


@app.command
def register(
    run: str | None = None,
    /,
    *,
    what: Annotated[RegisterConfig, Parameter(name="*", group="Where to")],
) -> int:
    """Enter a run's weights into MLflow's model registry, with its certified figures.

    Args:
        run: A run, or the beginning of its id; may be left out where --out holds one only.
        what: Name of the entry, and where it goes.
    """
    from jobs.register import run_register  # noqa: PLC0415

    return run_register(run, what)


@app.command
def show(*, what: Annotated[ShowConfig, Parameter(name="*", group="What is drawn")]) -> int:
    """Draw an image, some of its ablations with their tokens, and the worst patch."""
    from jobs.show import run_show  # noqa: PLC0415

    return run_show(what)


@app.command
def sql(
    query: str | None = None,
    /,
    *,
    how: Annotated[SqlConfig, Parameter(name="*", group="Output")] = SqlConfig(),  # noqa: B008
) -> int:
    """Ask stored results a question in SQL (DuckDB), over all runs at once.

    Args:
        query: One query over the views runs, claims, votes, images, certificates, detection,
            locations, witnesses and attacks, such as "from runs"; left out, it is read from
            standard input.
        how: Where the results lie and how the answer is printed.
    """
    from jobs.sql import run_sql  # noqa: PLC0415

    return run_sql(query, how)


bench = App(name="bench", help="Measure speed, as ratios of things timed side by side.")
app.command(bench)


@bench.default
def bench_engine(
    *,
    what: Annotated[BenchConfig, Parameter(name="*", group="What is measured")] = BenchConfig(),  # noqa: B008
) -> int:
    """Votes by dropped tokens beside the plain network, dense smoothing and the published path."""
    from jobs.bench import run_bench  # noqa: PLC0415

    return run_bench(what)


@bench.command(name="certificates")
def bench_certificates(
    *,
    what: Annotated[
        BenchCertificatesConfig, Parameter(name="*", group="What is measured")
    ] = BenchCertificatesConfig(),  # noqa: B008
) -> int:
    """Measure how fast (synthetic) votes become certificates, beside a plain loop."""
    from jobs.bench_certificates import run_bench_certificates  # noqa: PLC0415

    return run_bench_certificates(what)


@bench.command(name="control-plane")
def bench_control_plane(
    *,
    what: Annotated[
        BenchControlPlaneConfig, Parameter(name="*", group="What is measured")
    ] = BenchControlPlaneConfig(),  # noqa: B008  (frozen)
) -> int:
    """Measure what a job costs besides pixels and network, at any number of images."""
    from jobs.bench_control_plane import run_bench_control_plane  # noqa: PLC0415

    return run_bench_control_plane(what)


@bench.command(name="decide")
def bench_decide(
    *,
    what: Annotated[BenchDecideConfig, Parameter(name="*", group="What is replayed")] = (
        BenchDecideConfig()  # noqa: B008
    ),
) -> int:
    """Replay a run's votes as --decide would have cast them: the share that it saves."""
    from jobs.bench_decide import run_bench_decide  # noqa: PLC0415

    return run_bench_decide(what)


@app.command
def compare(
    first: str,
    second: str,
    /,
    *,
    how: Annotated[CompareConfig, Parameter(name="*", group="Output")] = CompareConfig(),  # noqa: B008
) -> int:
    """Compare two runs over the same images: paired differences, McNemar's test, equal votes.

    Args:
        first: A run, or the beginning of its id.
        second: The other; differences are the second minus the first.
        how: Where the results lie and how the answer is printed.
    """
    from jobs.compare import run_compare  # noqa: PLC0415

    return run_compare(first, second, how)


@app.command
def classes(
    *,
    what: Annotated[ClassesConfig, Parameter(name="*", group="What is shown")] = ClassesConfig(),  # noqa: B008
) -> int:
    """Show the accuracies of each class with their intervals."""
    from jobs.classes import run_classes  # noqa: PLC0415

    return run_classes(what)


@app.command
def heatmap(
    *,
    what: Annotated[HeatmapConfig, Parameter(name="*", group="What is shown")] = HeatmapConfig(),  # noqa: B008
) -> int:
    """Draw where a patch leaves most images uncertified, and store the numbers."""
    from jobs.heatmap import run_heatmap  # noqa: PLC0415

    return run_heatmap(what)


@app.command
def report(
    *runs: str,
    what: Annotated[ReportConfig, Parameter(name="*", group="Output")],
) -> int:
    """Write one or several runs as one HTML page, whole in itself; log it to MLflow.

    Args:
        runs: Runs, or the beginnings of their ids; may be left out where --out holds one only. The
            others are compared with the first.
        what: What the page holds, and where it goes.
    """
    from jobs.report import run_report  # noqa: PLC0415

    return run_report(runs, what)


@app.command
def audit(
    *,
    what: Annotated[AuditConfig, Parameter(name="*", group="What is compared")] = AuditConfig(),  # noqa: B008
) -> int:
    """Hold the published certificate against the sound rules, and break what it gets wrong."""
    from jobs.audit import run_audit  # noqa: PLC0415

    return run_audit(what)


@app.command
def export(
    run: str | None = None,
    /,
    *,
    what: Annotated[ExportConfig, Parameter(name="*", group="What is written")],
) -> int:
    """Write a run as files for a leaderboard: images, headline, manifest, votes if asked.

    Args:
        run: A run, or the beginning of its id; may be left out where --out holds one only.
        what: What is written, and where.
    """
    from jobs.export import run_export  # noqa: PLC0415

    return run_export(run, what)


@app.command(name="import")
def import_votes(
    *files: str,
    what: Annotated[ImportConfig, Parameter(name="*", group="What voted")] = ImportConfig(),  # noqa: B008
    out: Annotated[str, Parameter(group="Output")] = "out",
) -> int:
    """Make a run of votes that were cast elsewhere, so that every question can be asked of them.

    Args:
        files: Votes (.npz or .parquet, see docs/interchange.md), local or s3://.
        what: What voted.
        out: Folder of all results, local or s3://.
    """
    from jobs.import_votes import run_import  # noqa: PLC0415

    return run_import(files, what, out)


@app.command
def systems(*, markdown: bool = False) -> int:
    """List what can be evaluated: model families, ablations, token modes, voting.

    Args:
        markdown: Print the table of the documentation.
    """
    from jobs.systems import run_systems  # noqa: PLC0415

    return run_systems(markdown=markdown)


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
    if sys.stdout is not None:
        raw = _Stdout(sys.stdout.fileno(), "w", closefd=False)
        sys.stdout = io.TextIOWrapper(
            io.BufferedWriter(raw),
            encoding=sys.stdout.encoding,
            errors=sys.stdout.errors,
            line_buffering=raw.isatty(),
        )
    sys.exit(main())


class _Stdout(io.FileIO):
    """Standard output whose reader may go, as of ``patchcert classes | head``.

    What is printed then goes nowhere, and the command ends with its own exit code: that of an
    attack that found something must not depend on who reads the table.
    """

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.fileno())
            os.close(nowhere)
            return len(data)


class _File(Yaml):
    """A config file, of which a key that is no option is named with the nearest that is one."""

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        from pipeline.config import ConfigError  # noqa: PLC0415

        try:
            super().__call__(app, commands, arguments)
        except UnknownOptionError as error:
            key = (error.token.keyword or "").strip("[]")
            known = [name.removeprefix("--") for one in arguments for name in one.names]
            near = difflib.get_close_matches(key.replace("_", "-"), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]}?" if near else "`--help` lists them"
            raise ConfigError(
                f"--config {self.path}: {key} is no option of `patchcert {' '.join(commands)}`; "
                f"{hint}"
            ) from error


def _yaml_of(tokens: list[str]) -> tuple[Yaml, ...]:
    """Take ``--config FILE`` out of the tokens."""
    from pipeline.config import ConfigError  # noqa: PLC0415

    for index, token in enumerate(tokens):
        if token == "--":  # noqa: S105  (a token of the command line)
            break  # what follows is another command's
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
        return (_File(value, use_commands_as_keys=False),)
    return ()


if __name__ == "__main__":
    entry()

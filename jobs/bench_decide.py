"""``patchcert bench decide``: what --decide would have saved, from the votes of a finished run."""

import json
from dataclasses import dataclass
from typing import Any

from cyclopts import Parameter

from jobs.bench import log, reach
from pipeline.config import DecidedConfig


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class BenchDecideConfig:
    """Which votes are replayed, and what they have to decide.

    Attributes:
        run_id: Which run, or the beginning of its id; may be left out where --out holds one only.
        patch: As in certify; each alone, then all together [23 32 39, or 2 4 5 on the CIFAR-10
            grid].
        rule: exact, uniform [both].
        out: Folder of all results, local or s3://.
        json: Print JSON instead of text.
        mlflow: Tracking server to log to as well [none].
        experiment: MLflow experiment.
    """

    run_id: str | None = None
    patch: tuple[int | str, ...] | None = None
    rule: tuple[str, ...] | None = None
    out: str = "out"
    json: bool = False
    mlflow: str | None = None
    experiment: str = "patchcert-bench"

    def __post_init__(self) -> None:
        self.decided  # noqa: B018  (fails where a text means nothing)

    @property
    def decided(self) -> DecidedConfig:
        """The same, as of ``patchcert votes --decide``.

        Raises:
            ConfigError: A text means nothing.
        """
        return DecidedConfig(patch=self.patch, rule=self.rule)


def bench_decide(*, config: BenchDecideConfig = BenchDecideConfig()) -> int:
    """Replay a run's votes as --decide would have cast them: the share that it saves.

    Raises:
        CheckError: The tracking server does not answer.
        ConfigError: There is no such run, or its votes cannot be replayed.
        ManifestError, StoreError: The votes are absent, incomplete or contradictory.
    """
    from pipeline.bench.curtailment import replays  # noqa: PLC0415
    from pipeline.bench.hardware import hardware, in_words  # noqa: PLC0415
    from pipeline.claims import questions_of  # noqa: PLC0415
    from pipeline.curtailing import curtailment_of  # noqa: PLC0415
    from pipeline.questions import open_run  # noqa: PLC0415

    reach(config.mlflow, config.experiment)
    run = open_run(config.out, config.run_id)
    asked = curtailment_of(questions_of(run.manifest, config.decided.claims))
    found = replays(run, asked)
    where = hardware(torch_too=False)
    result = {"run_id": run.run_id, "replays": found, "hardware": where}
    log("decide", result, config)
    if config.json:
        print(json.dumps(result, indent=2))
    else:
        for one in found:
            print(_in_words(one))
        print(in_words(where))
        print(f"run_id={run.run_id}")
    return 1 if any(one["answers_that_differ"] for one in found) else 0


def _in_words(of: dict[str, Any]) -> str:
    saved = "-" if of["share_saved"] is None else f"{100 * of['share_saved']:.1f} %"
    return (
        f"{', '.join(of['threats'])} px, {' and '.join(of['rules'])}: {saved} of the votes not "
        f"needed ({of['images_ended']:,} of {of['images']:,} images end early), "
        f"{of['answers_that_differ']} answers differ, test {of['seconds']:.2f} s"
    )

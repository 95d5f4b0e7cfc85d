"""The scenes must tell every mutant of masks and decisions from the original."""

import pytest

from tests.pipeline.certificates.decision_scenes import JUDGEMENTS, SCENES, placement, unknown
from tests.pipeline.certificates.decisions_judge import Modules
from tests.pipeline.certificates.mutants import load
from tests.pipeline.certificates.mutants_decisions import MUTANTS


def faults(question: str, modules: Modules) -> int:
    """Faults of these modules, counted up to the first scene that has one."""
    if question == "placement":
        return placement(modules)
    judge = unknown if question == "unknown" else JUDGEMENTS[question]
    return next((wrong for scene in SCENES if (wrong := judge(modules, *scene))), 0)


@pytest.mark.parametrize("question", ["placement", "unknown", *JUDGEMENTS])
def test_the_original_survives(question):
    assert faults(question, load(None)) == 0


@pytest.mark.parametrize(
    ("mutant", "question"),
    [
        pytest.param(mutant, question, id=f"{question}: {mutant.what}")
        for mutant in MUTANTS
        for question in mutant.caught_by
    ],
)
def test_every_mutant_is_caught(mutant, question):
    assert faults(question, load(mutant)) > 0

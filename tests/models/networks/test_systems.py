"""The registry tells the truth about every row, without torch."""

import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch

from models.errors import UnsupportedModelError
from models.networks.droppable import ABSOLUTE, RELATIVE, droppable
from models.networks.systems import SYSTEMS, TOKEN_MODES, VOTING, drop_refusal
from tests.models.classifiers.families import DROPPABLE, MASKED


def test_importing_the_registry_imports_no_torch():
    script = "import sys, models.networks.systems; assert not {'torch', 'timm'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=Path(__file__).parents[3])


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.family)
def test_a_row_says_which_token_modes_work(system):
    for name in system.examples:
        with torch.device("meta"):  # shapes only: the largest models cost nothing
            network = timm.create_model(name)
        if "drop" in system.tokens:
            assert droppable(network) is network
        else:
            with pytest.raises(UnsupportedModelError) as refused:
                droppable(network)
            told = "share pixels" if "share pixels" in system.refusal else system.refusal
            assert told in str(refused.value)


def test_rows_are_complete():
    for system in SYSTEMS:
        assert system.tokens == (TOKEN_MODES if system.refusal is None else ("black",))
        assert system.voting == VOTING
        assert system.examples
    assert len({system.family for system in SYSTEMS}) == len(SYSTEMS)
    sources = {stem for system in SYSTEMS if "drop" in system.tokens for stem in system.source}
    assert sources == {kind.__module__.rpartition(".")[2] for kind in ABSOLUTE + RELATIVE}
    assert drop_refusal("a.b.unheard_of").startswith("is none of")


def test_every_source_file_exists_in_timm():
    folder = Path(timm.__file__).parent / "models"
    for system in SYSTEMS:
        for stem in system.source:
            assert (folder / f"{stem}.py").is_file(), stem


def test_families_that_are_evaluated_are_those_of_the_registry():
    """Every droppable source file has a member among the families tested against the reference."""
    modules = set()
    for name, arguments, *_ in DROPPABLE.values():
        with torch.device("meta"):
            modules.add(type(timm.create_model(name, **arguments)).__module__)
    assert modules == {kind.__module__ for kind in ABSOLUTE + RELATIVE}
    assert {name for name, *_ in MASKED.values()} <= set(timm.list_models())

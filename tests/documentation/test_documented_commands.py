"""Every command that README and docs show: understood at once, and carried out.

Understood is checked with every run of the tests. Carried out is a service test: in a folder where
the names of the documents exist, with small networks and few images, and with ``--dry-run`` where
the real thing takes a GPU, a cluster or hours.
"""

import re
import shlex
from pathlib import Path

import pytest

from jobs.cli import app, main
from jobs.config_file import yaml_of
from tests.conftest import REPOSITORY
from tests.documentation.commands import Documented, documented
from tests.documentation.world import base_for, make_world, two_runs

COMMANDS = documented()

# How each is carried out: the first pattern that is found in the command decides. Options that
# replace its own or are added; "" for as it stands; None, with the reason, for what another test
# carries out.
HOW: list[tuple[str, str | None]] = [
    (r"^patchcert (run|train|sweep) .*--dry-run", ""),
    (r"^patchcert (run|votes|train|sweep) ", "--dry-run"),
    (
        r"^patchcert bench$|^patchcert bench --",
        "--model test_vit --images 2 --rounds 1 --pipeline 0",
    ),
    (r"^patchcert attack", "--patch 8 --images 2 --steps 1 --locations 1 --restarts 1"),
    # tests/services/test_submitted_jobs.py, on a cluster
    (r"^patchcert submit", None),
    # tests/jobs/test_interchange.py, on votes made up there
    (r"--out theirs/", None),
    (r"^patchcert", ""),
]


def understood(command: Documented) -> list[str]:
    """Its tokens, with what ``...`` stands for."""
    tokens = command.tokens
    if "..." in tokens:
        at = tokens.index("...")
        tokens[at : at + 1] = base_for(tokens)
    return tokens


def replaced(tokens: list[str], options: list[str]) -> list[str]:
    """``tokens`` with ``options`` in place of the same options and their values."""
    kept, dropping = [], False
    for token in tokens:
        if token.startswith("--"):
            dropping = token in options
        if not dropping:
            kept.append(token)
    return [*kept, *options]


def test_there_are_commands_to_look_at():
    assert len(COMMANDS) > 40


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.place)
def test_every_documented_command_is_understood(command, monkeypatch):
    tokens = understood(command)
    if "--config" in tokens and tokens[0] != "submit":
        at = tokens.index("--config")
        file = REPOSITORY / tokens[at + 1]
        if file.exists():
            del tokens[at : at + 2]
            monkeypatch.setattr(app, "config", yaml_of(["--config", str(file)]))
        else:
            tokens[at : at + 2] = base_for(tokens)
    app.parse_args(tokens, exit_on_error=False, print_error=False)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def carried_out() -> set[tuple[str, ...]]:
    """Commands that have ended well, as they were carried out."""
    return set()


@pytest.mark.services
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.place)
def test_every_documented_command_can_be_carried_out(
    command, world, carried_out, monkeypatch, capsys
):
    appended = next(how for pattern, how in HOW if re.search(pattern, command.text))
    if appended is None:
        return
    tokens = understood(command)
    monkeypatch.chdir(world)
    if any(re.fullmatch("r[0-9a-f]{4}", token) for token in tokens):
        monkeypatch.chdir(world / "two")
        ids = iter(two_runs(world))
        tokens = [next(ids) if re.fullmatch("r[0-9a-f]{4}", token) else token for token in tokens]
    tokens = replaced(tokens, shlex.split(appended))
    if tuple(tokens) in carried_out:  # another page shows the same
        return
    code = main(tokens)
    assert code == 0, f"{command.text}: {capsys.readouterr().err}"
    carried_out.add(tuple(tokens))

"""Completion, as bash asks for it."""

import shlex
import subprocess

import pytest

from jobs.cli import main


def completed(script: str, *words: str) -> list[str]:
    """What bash offers for the last of ``words``."""
    asked = (
        f"{script}\nCOMP_WORDS=({shlex.join(words)}); COMP_CWORD={len(words) - 1}\n"
        "_patchcert; printf '%s\\n' \"${COMPREPLY[@]}\""
    )
    return subprocess.run(
        ["bash"], input=asked, capture_output=True, text=True, check=True
    ).stdout.split()


@pytest.fixture(scope="module")
def script() -> str:
    import contextlib
    import io

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["completion", "bash"]) == 0
    return printed.getvalue()


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (("certif",), {"certify"}),
        (("run", "--voti"), {"--voting"}),
        (("run", "--voting", ""), {"argmax", "threshold"}),
    ],
)
def test_bash_completes_commands_options_and_values(script, words, offered):
    assert offered <= set(completed(script, "patchcert", *words))


def test_zsh_gets_a_script_of_its_own(capsys):
    assert main(["completion", "zsh"]) == 0
    assert capsys.readouterr().out.startswith("#compdef patchcert")

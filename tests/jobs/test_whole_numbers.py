"""Whole numbers are taken as they are written, by every flag of every command, or refused."""

from typing import get_args

import pytest

from jobs.cli import app, main

COMMANDS = [name for name in app if not name.startswith("-")]


def _types(hint):
    inner = get_args(hint)
    return set().union(*map(_types, inner)) if inner else {hint}


def _flags():
    """Each command with each of its options that take whole numbers."""
    for command in COMMANDS:
        for argument in app[command].assemble_argument_collection():
            if int in _types(argument.hint) and argument.name.startswith("--"):
                yield command, argument.name


FLAGS = list(_flags())


def test_every_command_with_numbers_is_asked():
    assert len({command for command, _ in FLAGS}) >= 16
    assert {("run", "--patch"), ("certify", "--top-k"), ("sweep", "--stride")} <= set(FLAGS)
    assert {("import", "--size"), ("train", "--epochs"), ("bench", "--rounds")} <= set(FLAGS)


@pytest.mark.parametrize("text", ["2.9", "2.5", "2.0", "0x10", "1e1", "1_0"])
@pytest.mark.parametrize(("command", "flag"), FLAGS)
def test_a_number_that_is_not_whole_is_refused(command, flag, text, capsys):
    assert main([command, f"{flag}={text}"]) == 2
    err = capsys.readouterr().err
    assert err == f"patchcert: {flag} {text}: it must be a whole number, in digits\n"


@pytest.mark.parametrize(
    ("key", "text", "told"),
    [
        ("stride", "4.9", "4.9"),
        ("patch", "[8, 2.9]", "2.9"),
        ("top_k", "[2.0]", "2.0"),
        ("microbatch", "2.0", "2.0"),
        ("size", "0x10", "0x10"),
        ("limit", "1:30", "1:30"),
        ("limit", "true", "True"),
        ("seed", "no", "False"),
    ],
)
def test_a_config_file_is_read_by_the_same_rule(key, text, told, tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(f"data: x\nweights: y\n{key}: {text}\n", encoding="utf-8")
    assert main(["run", "--config", str(path)]) == 2
    said = f"--config {path}: {key.replace('_', '-')}: {told}: it must be a whole number, in digits"
    assert capsys.readouterr().err == f"patchcert: {said}\n"


def test_whole_numbers_and_texts_of_threats_pass(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    text = "limit: 010\nnum_classes: null\npatch: [8, 16x48, 2of32, area:64]\nseed: -1\n"
    path.write_text(text, encoding="utf-8")
    arguments = ["run", "--config", str(path), "--data", "x", "--weights", "y"]
    assert main(arguments) == 2
    # The first rule that is broken is another one.
    assert "--seed -1: it must be at least 0" in capsys.readouterr().err
    assert main([*arguments, "--seed", "1", "--patch", "+8", "16x48", "2of32"]) == 2
    assert "--seed 1: only random positions have a seed" in capsys.readouterr().err

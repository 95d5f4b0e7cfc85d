"""``--config FILE.yaml``: options of any command, as keys; and whole numbers, wherever written."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from cyclopts import App, ArgumentCollection, UnknownOptionError
from cyclopts.config import Yaml

from models.errors import RequestError
from models.nearest import did_you_mean

_CONFIG = "--config"


class _Loader(yaml.SafeLoader):
    """YAML whose whole numbers stay text: it would read 010 as 8, 0x10 as 16 and 1:30 as 90."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in found if tag != "tag:yaml.org,2002:int"]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _File(Yaml):
    """A config file, of which a key that is no option is named with the nearest that is one."""

    def _load_config(self, path: Path) -> dict[str, Any]:
        with path.open(encoding=self.encoding or "utf-8") as file:
            read: dict[str, Any] = _Loader(file).get_single_data()
        return read

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        try:
            super().__call__(app, commands, arguments)
        except UnknownOptionError as error:
            key = (error.token.keyword or "").strip("[]")
            known = [name.removeprefix("--") for one in arguments for name in one.names]
            hint = did_you_mean(key.replace("_", "-"), known) or "`--help` lists them"
            raise RequestError(
                f"--config {self.path}: {key} is no option of `patchcert {' '.join(commands)}`; "
                f"{hint}"
            ) from error


def yaml_of(tokens: list[str]) -> tuple[Yaml, ...]:
    """Take ``--config FILE`` out of the tokens."""
    for place, flag, path in config_files(tokens):
        del tokens[place if flag else place - 1 : place + 1]
        if not Path(path).is_file():
            raise RequestError(f"--config {path}: no such file")
        return (_File(path, use_commands_as_keys=False),)
    return ()


def config_files(tokens: Sequence[str]) -> Iterator[tuple[int, str, str]]:
    """Each config file a command names: place of its token, what it has before the path, the path.

    Raises:
        RequestError: There is no path.
    """
    for index, token in enumerate(tokens):
        if token == "--":  # noqa: S105  (a token of the command line)
            break  # what follows is another command's
        flag, equals, path = token.partition("=")
        if flag != _CONFIG:
            continue
        if equals:
            yield index, f"{_CONFIG}=", path
        elif index + 1 == len(tokens):
            raise RequestError("--config: give the path of a YAML file")
        else:
            yield index + 1, "", tokens[index + 1]


def check_whole_numbers(
    _app: App, _commands: tuple[str, ...], arguments: ArgumentCollection
) -> None:
    """Check every whole number of a request as it is written, on the command line or in YAML.

    The parser would round 2.9 to 3 and read 0x10 as 16.

    Raises:
        RequestError: An option of whole numbers has a value that is none, in digits.
    """
    for argument in arguments:
        types = _members(argument.hint)
        if int not in types:
            continue
        for token in argument.tokens:
            # A null of YAML has no text, and of an option that takes text too (--patch 16x48) only
            # what would pass for a number is wrong here.
            text = token.value
            wrong = text and not re.fullmatch(r"[+-]?[0-9]+", text)
            if wrong and (str not in types or _is_number(text)):
                name = f"{argument.name} {text}"
                if token.source != "cli":
                    name = f"--config {token.source}: {argument.name.removeprefix('--')}: {text}"
                raise RequestError(f"{name}: it must be a whole number, in digits")


def _members(hint: Any) -> set[Any]:
    """The types that a hint is made of."""
    inner = get_args(hint)
    return set().union(*map(_members, inner)) if inner else {hint}


def _is_number(text: str) -> bool:
    for read in (float, lambda digits: int(digits, 0)):
        try:
            read(text)
        except ValueError:
            continue
        return True
    return False

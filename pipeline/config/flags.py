"""Annotations of options for the command line, and the one rule that types do not state."""

import re
from typing import Annotated, Any, TypeVar, get_args

from cyclopts import App, ArgumentCollection, Group, Parameter

from pipeline.config.errors import ConfigError

T = TypeVar("T")

Advanced = Annotated[T, Parameter(group=Group("Advanced", sort_key=1))]
"""An option that ``--help`` lists below the common ones."""


def check_whole_numbers(
    _app: App, _commands: tuple[str, ...], arguments: ArgumentCollection
) -> None:
    """Check every whole number of a request as it is written, on the command line or in YAML.

    The parser would round 2.9 to 3 and read 0x10 as 16.

    Raises:
        ConfigError: An option of whole numbers has a value that is none, in digits.
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
                raise ConfigError(f"{name}: it must be a whole number, in digits")


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

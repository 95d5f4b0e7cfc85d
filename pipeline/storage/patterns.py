"""Names of many files in one: brace ranges, brace lists, and the order files are taken in."""

import glob
import os
import re
from collections.abc import Iterable
from itertools import pairwise

from models.errors import RequestError
from pipeline.storage.addresses import without_userinfo

_MAX_ALTERNATIVES = 1_000_000
_BRACES = re.compile(r"\{(?:([0-9]+)\.\.([0-9]+)|([^{}]*,[^{}]*))\}")


class PathError(RequestError):
    """A path or pattern is malformed, or names nothing; the message quotes it, but no password."""

    def __init__(self, message: str) -> None:
        super().__init__(without_userinfo(message))


def natural_key(text: str) -> tuple[tuple[str | int, ...], str]:
    """Sort key of ``shard-2`` before ``shard-10``; a total order, equal on every machine."""
    parts = re.split("([0-9]+)", text)  # text and digits alternate, so equal types meet
    return tuple(int(part) if index % 2 else part for index, part in enumerate(parts)), text


def expand_braces(pattern: str) -> list[str]:
    """Replace ``{000..049}`` (zero-padded as written) and ``{a,b}``, as a shell does.

    Raises:
        PathError: A range runs backwards, or there are over a million alternatives.
    """
    pending, done = [pattern], dict[str, None]()
    while pending:
        text = pending.pop()
        match = _BRACES.search(text)
        if match is None:
            done[text] = None
            continue
        first, last, choices = match.groups()
        if choices is None:
            if int(last) < int(first) or int(last) - int(first) >= _MAX_ALTERNATIVES:
                raise PathError(
                    f"{pattern!r}: {match.group()} must run from the smaller to the larger number "
                    f"and over at most {_MAX_ALTERNATIVES:,} of them"
                )
            padded = any(len(end) > 1 and end[0] == "0" for end in (first, last))
            width = max(len(first), len(last)) if padded else 0
            options: Iterable[str] = (f"{n:0{width}d}" for n in range(int(first), int(last) + 1))
        else:
            options = choices.split(",")
        pending += [text[: match.start()] + option + text[match.end() :] for option in options]
        if len(pending) + len(done) > _MAX_ALTERNATIVES:
            raise PathError(f"{pattern!r} has more than {_MAX_ALTERNATIVES:,} alternatives")
    return list(done)


def local_matches(pattern: str) -> list[str]:
    """Paths that a glob names, ``**`` for any depth; links are followed, fsspec's glob does not.

    Raises:
        OSError: A folder that it looks into cannot be read, which ``glob`` ignores.
    """
    above = pattern
    while glob.has_magic(above):
        above = os.path.dirname(above)
        for folder in glob.iglob(above, recursive=True):
            if os.path.isdir(folder):
                os.scandir(folder).close()
    return glob.glob(pattern, recursive=True)


def hidden(path: str) -> int:
    """Count the parts of a path that start with a dot, as macOS' ``._x.tar`` beside ``x.tar``."""
    return sum(part.startswith(".") for part in path.split("/"))


def split_range(pattern: str, parts: int) -> list[str]:
    """Cut the longest number range of a pattern into consecutive ones, as even as can be.

    Args:
        pattern: Such as ``s3://bucket/{000000..000999}.tar``.
        parts: How many; a range of one number is written as that number.

    Raises:
        PathError: There is no number range, or it has fewer numbers than parts.
    """
    ranges = [match for match in _BRACES.finditer(pattern) if match[3] is None]
    if not ranges:
        raise PathError(
            f"{pattern!r} has no number range to cut into {parts}; give one, such as "
            "{000000..000999}.tar"
        )
    longest = max(ranges, key=lambda match: int(match[2]) - int(match[1]))
    numbers = sorted(expand_braces(longest.group()), key=int)
    if not 1 <= parts <= len(numbers):
        raise PathError(
            f"{pattern!r}: {longest.group()} has {len(numbers):,} numbers and cannot be cut into "
            f"{parts:,}; give a number from 1 to {len(numbers):,}"
        )
    cuts = [len(numbers) * part // parts for part in range(parts + 1)]
    before, after = pattern[: longest.start()], pattern[longest.end() :]
    pieces = (numbers[start:stop] for start, stop in pairwise(cuts))
    return [
        before + (piece[0] if len(piece) == 1 else f"{{{piece[0]}..{piece[-1]}}}") + after
        for piece in pieces
    ]

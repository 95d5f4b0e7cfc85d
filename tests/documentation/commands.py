"""The commands that README and docs show, as a reader would type them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import REPOSITORY

DOCUMENTS = (
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md", "examples/cifar10/README.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
)
_SHOWN = re.compile(r"^(?: {4}|\$ )(patchcert .*)$")


@dataclass(frozen=True)
class Documented:
    """One command.

    Attributes:
        place: ``file:line``.
        text: As it stands there, continuation lines joined, comment cut off.
    """

    place: str
    text: str

    @property
    def tokens(self) -> list[str]:
        """What the shell would pass on, without ``patchcert``."""
        return shlex.split(self.text)[1:]


def documented() -> list[Documented]:
    """Every command that a document shows on a line of its own."""
    return [command for document in DOCUMENTS for command in _of(document)]


def _of(document: Path) -> list[Documented]:
    lines = iter(enumerate(document.read_text().splitlines(), 1))
    found = []
    for number, line in lines:
        shown = _SHOWN.match(line)
        if not shown:
            continue
        text = shown[1]
        while text.endswith("\\"):
            text = text[:-1].rstrip() + " " + next(lines)[1].strip()
        # Not by shlex: the comments of the documents hold apostrophes.
        text = re.sub(r"\s{2,}#.*$", "", text)
        found.append(Documented(f"{document.relative_to(REPOSITORY)}:{number}", text))
    return found

"""What a check found: one line, and the remedy where there is something to remedy."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """The outcome of one check.

    Attributes:
        name: What was checked.
        ok: Whether it holds.
        said: What was found; where it does not hold, also the remedy.
    """

    name: str
    ok: bool
    said: str

    def __str__(self) -> str:
        return f"{'ok  ' if self.ok else 'FAIL'}  {self.name}: {self.said}"


Check = tuple[str, Callable[[], str]]
"""A name, and what says that all is well or raises one of the errors users are shown."""


class PreflightError(RuntimeError):
    """Checks before the job failed; nothing was computed."""


class CheckError(RuntimeError):
    """A check does not hold; the message has the remedy."""


def look_at(checks: Iterable[Check], is_finding: Callable[[Exception], bool]) -> Iterator[Finding]:
    """Run checks one after another, each whatever the others found.

    Args:
        checks: What to check.
        is_finding: Whether an error is one; others are mistakes of ours and pass through.
    """
    for name, check in checks:
        try:
            yield Finding(name, True, check())
        except Exception as error:
            if not is_finding(error):
                raise
            yield Finding(name, False, " ".join(str(error).split()) or type(error).__name__)


def demand(findings: Iterable[Finding]) -> None:
    """Raise PreflightError with every finding that does not hold."""
    wrong = [finding for finding in findings if not finding.ok]
    if wrong:
        lines = "\n".join(str(finding) for finding in wrong)
        raise PreflightError(f"not started, since checks before it failed:\n{lines}")

"""Findings of checks: one line each, with the remedy where something is wrong."""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from models.errors import JobError, exit_code_of, said_of
from pipeline.runs.waiting import waiting


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

    @property
    def caution(self) -> bool:
        """True if the check holds, and yet something should be mended."""
        return isinstance(self.said, Caution)

    def __str__(self) -> str:
        mark = "FAIL" if not self.ok else "warn" if self.caution else "ok  "
        return f"{mark}  {self.name}: {self.said}"


class Caution(str):
    """Text of a check that holds, about something that should be mended."""


Check = tuple[str, Callable[[], str]]
"""A name, and what says that all is well or raises one of the errors users are shown."""


class PreflightError(JobError):
    """Checks before the job failed; nothing was computed."""


class CheckError(JobError):
    """A check does not hold; the message has the remedy."""


def look_at(checks: Iterable[Check]) -> Iterator[Finding]:
    """Run checks one after another; an error that users are shown is a finding."""
    for name, check in checks:
        try:
            with waiting(f"checking: {name}"):
                said = check()
        except Exception as error:
            if exit_code_of(error) is None:
                raise
            yield Finding(name, False, " ".join(said_of(error).split()))
        else:
            yield Finding(name, True, said)


def require(findings: Iterable[Finding]) -> None:
    """Raise PreflightError with every finding that does not hold; cautions go to standard error."""
    found = list(findings)
    for finding in found:
        if finding.caution:
            print(finding, file=sys.stderr, flush=True)
    wrong = [finding for finding in found if not finding.ok]
    if wrong:
        lines = "\n".join(str(finding) for finding in wrong)
        raise PreflightError(f"not started, since checks before it failed:\n{lines}")

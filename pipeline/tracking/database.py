"""The sqlite file that MLflow keeps runs in: its address, its soundness, and its artifacts' place.

A file that was made in part, cut off or locked makes MLflow fail after minutes, with a traceback.
Here it is looked at first, in milliseconds, and without MLflow.
"""

import re
import shlex
import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import quote, unquote

_ADDRESS = re.compile(r"sqlite(?:\+pysqlite)?:///([^?]+)")
_ARTIFACTS = "mlflow-artifacts"
# Jobs that log to the same file hold it for milliseconds.
_LOCK_SECONDS = 5.0
# Every column that MLflow derives from an experiment's place of artifacts.
_PLACES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
_MOVED = """
    UPDATE {table} SET {column} = ?1 || substr({column}, length(?2) + 1)
    WHERE {column} = ?2 OR substr({column}, 1, length(?2) + 1) = ?2 || '/'
"""
# Of every experiment the place of its artifacts, and whether nothing lies there yet.
_EXPERIMENTS = """
    SELECT artifact_location, experiment_id = 0 AND NOT EXISTS (
        SELECT 1 FROM runs WHERE runs.experiment_id = experiments.experiment_id
    ) FROM experiments
"""


class DatabaseError(OSError):
    """An sqlite file cannot be used; the message has the remedy."""


def address_of(path: str) -> str:
    """SQLAlchemy's address of an sqlite file, quoted; no shell finds anything special in it."""
    quoted = re.sub(r"[^\w/.@:,=~-]", lambda found: quote(found[0], safe=""), path)
    # Of an address in sqlite:/// MLflow makes the folder, by its name as it is quoted.
    scheme = "sqlite" if quoted == path else "sqlite+pysqlite"
    return f"{scheme}:///{quoted}"


def file_of(uri: str) -> Path | None:
    """The sqlite file of an address; None where it is of something else."""
    found = _ADDRESS.match(uri)
    if found is None or found[1] == ":memory:" or found[1].startswith("file:"):
        return None
    return Path(unquote(found[1]))


def artifacts_beside(path: Path) -> str:
    """The place of the artifacts of a file in ``--out``."""
    return (path.absolute().parent / _ARTIFACTS).as_uri()


def check_database(path: Path, artifacts: str | None = None) -> None:
    """Check that MLflow can use a file.

    Args:
        path: The file.
        artifacts: Where its artifacts lie now, if it is one of ``--out``; rows that name the
            place of a folder that it was copied or moved from are corrected.

    Raises:
        DatabaseError: It cannot be used.
    """
    if path.is_file() and not path.stat().st_size:
        raise DatabaseError(f"the file is empty; remove it: `rm {_shell(path)}`")
    try:
        with closing(_connect(path, "rw")) as db, db:
            db.execute("BEGIN IMMEDIATE")
            named = {name for (name,) in db.execute("SELECT name FROM sqlite_master")}
            if "experiments" not in named:
                raise DatabaseError(f"the file is not one of MLflow's; {_move(path)}")
            # The last step of its making enters the experiment Default.
            if not db.execute("SELECT count(*) FROM experiments").fetchone()[0]:
                raise DatabaseError(
                    "the file is half made and holds no runs (a job was stopped while MLflow made "
                    f"it); remove it: `rm {_shell(path)}`"
                )
            for place in [] if artifacts is None else _elsewhere(db, artifacts):
                for table, column in _PLACES:
                    db.execute(_MOVED.format(table=table, column=column), (artifacts, place))
    except sqlite3.Error as error:
        raise DatabaseError(_in_words(error, path)) from error


def is_in_place(path: Path) -> bool:
    """True where a file of ``--out`` can be read, and its artifacts lie beside it."""
    try:
        with closing(_connect(path, "ro")) as db:
            return not _elsewhere(db, artifacts_beside(path))
    except sqlite3.Error:
        return False


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    where = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(where, uri=True, timeout=_LOCK_SECONDS)


def _elsewhere(db: sqlite3.Connection, artifacts: str) -> list[str]:
    """Places of artifacts that were ours before the folder was moved, or that MLflow chose."""
    ours = re.compile(rf"file://.*/{_ARTIFACTS}")
    return [
        place
        for place, unused in set(db.execute(_EXPERIMENTS))
        if place and place != artifacts and (unused or ours.fullmatch(place))
    ]


def _in_words(error: sqlite3.Error, path: Path) -> str:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return (
            f"another program has locked the file for {_LOCK_SECONDS:g} s; end that program "
            f"(`fuser {_shell(path)}` shows it)"
        )
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return f"the file cannot be written ({error}); correct its rights: `ls -ld {_shell(path)}`"
    if name.startswith(("SQLITE_FULL", "SQLITE_IOERR")):
        return f"{error}; make room on its disk: `df {_shell(path.absolute().parent)}`"
    return f"the file is damaged, or not one of MLflow's ({error}); {_move(path)}"


def _move(path: Path) -> str:
    return f"move it away: `mv {_shell(path)} {_shell(path)}.bad`"


def _shell(path: Path) -> str:
    return shlex.quote(str(path))

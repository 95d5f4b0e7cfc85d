"""Write a folder that appears whole."""

import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pipeline import storage
from pipeline.config import ConfigError

SIGN = "summary.json"
"""File that is written last: on S3, where a folder cannot appear at once, it marks a whole one."""

# Earlier versions also wrote votes as npz.
_OURS = re.compile(r"(images\.(csv|parquet)|(manifest|summary)\.json|votes(-\d+)?\.(npz|parquet))")

Put = Callable[[str, bytes], None]


@contextmanager
def atomic_folder(target: str, *, overwrite: bool) -> Iterator[Put]:
    """Give a function that writes files; none is visible at ``target`` if the block fails.

    A local folder appears, or replaces the earlier one, by a rename. On S3 the files appear one by
    one, ``SIGN`` last: put it last.

    Args:
        target: The folder, local or s3://.
        overwrite: Replace an earlier export.

    Yields:
        A function of a name and the bytes.

    Raises:
        ConfigError: The folder exists and may not be replaced, or holds other files.
    """
    earlier = _existing(target, overwrite=overwrite)
    if target.startswith(storage.S3):
        # The sign first: what an interruption leaves is then no export.
        for path in sorted(earlier, key=lambda path: not path.endswith("/" + SIGN)):
            storage.remove(path)
        yield lambda name, data: storage.write_atomically(storage.join(target, name), data)
        return
    folder = os.path.realpath(storage.full_path(target))
    parent, name = os.path.split(folder)
    # Leading dots hide what a killed export leaves.
    stage, old = (
        os.path.join(parent, f".{name}.{uuid.uuid4().hex}.{end}") for end in ("tmp", "old")
    )
    os.makedirs(stage)
    try:
        yield lambda name, data: storage.write_atomically(os.path.join(stage, name), data)
        if earlier:
            os.rename(folder, old)
        os.rename(stage, folder)
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        if os.path.exists(old) and not os.path.exists(folder):
            os.rename(old, folder)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _existing(target: str, *, overwrite: bool) -> list[str]:
    """Return the files of the export that exists already."""
    if not target:
        raise ConfigError("--to is empty: give a folder that is not there yet")
    if not storage.is_directory(target):
        if storage.exists(target):
            raise ConfigError(f"--to {target}: there is a file of this name; give another folder")
        return []
    files, folders = storage.list_files(target), storage.list_folders(target)
    if not files and not folders:
        return []
    if not overwrite:
        raise ConfigError(
            f"--to {target}: it is there already; give another folder, or --overwrite"
        )
    names = [*folders, *(path.rsplit("/", 1)[-1] for path in files)]
    others = [name for name in names if name in folders or not _OURS.fullmatch(name)]
    if others:
        raise ConfigError(
            f"--to {target}: it holds {others[0]}, which no export wrote, and --overwrite would "
            "remove it; give another folder"
        )
    return files

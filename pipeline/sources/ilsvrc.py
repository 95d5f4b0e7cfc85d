"""ILSVRC2012 ids: the development kit's own numbering of the 1000 classes, in its own order.

Id 1 is the kit fox, class 0 of every published model the tench: subtracting one is wrong. The
kit's table, which lies beside its ground truth, translates them.
"""

import io
import posixpath
import re
from typing import Any

from pipeline import storage
from pipeline.sources.base import SourceError

_TABLES = ("meta.mat", "map_clsloc.txt")
_LINE = re.compile(r"(n[0-9]{8})\s+([0-9]+)\s+\S+")


def wnids_of_ids(ground_truth: str) -> dict[int, str]:
    """The wnid of every id, 1 to 1000, by the table beside ``ground_truth``.

    Raises:
        SourceError: There is no table, or it is not one of 1000 classes.
    """
    folder = posixpath.dirname(ground_truth)
    for name in _TABLES:
        path = storage.join(folder, name) if folder else name
        try:
            if not storage.exists(path):
                continue
            data = storage.read_bytes(path)
            wnids = _of_mat(data) if name.endswith(".mat") else _of_text(data)
        except storage.failures() as error:
            raise SourceError(f"{path} cannot be read: {error}") from error
        # scipy raises many kinds for bytes that are no MATLAB file.
        except Exception as error:
            raise SourceError(f"{path} is no table of ILSVRC2012 ids: {error}") from error
        if sorted(wnids) != list(range(1, 1001)) or len(set(wnids.values())) != 1000:
            raise SourceError(
                f"{path}: does not give the ids 1 to 1000 a class each; take the one of the "
                "ILSVRC2012 development kit"
            )
        return wnids
    raise SourceError(
        f"the ground truth {ground_truth}: ILSVRC2012 ids are in an order of their own, told by "
        f"{' or '.join(_TABLES)} of the development kit (folder data), which is not beside it; "
        "put it there, or give class numbers or wnids instead"
    )


def _of_text(data: bytes) -> dict[int, str]:
    matches = (_LINE.match(line) for line in data.decode().splitlines())
    return {int(match[2]): match[1] for match in matches if match}


def _of_mat(data: bytes) -> dict[int, str]:
    # Heavy, and needed for this one file.
    from scipy.io import loadmat  # noqa: PLC0415

    synsets: Any = loadmat(io.BytesIO(data), squeeze_me=True)["synsets"]
    pairs = zip(synsets["ILSVRC2012_ID"], synsets["WNID"], strict=True)
    # Above 1000 are the inner nodes of the hierarchy, which are no classes.
    return {int(number): str(wnid) for number, wnid in pairs if int(number) <= 1000}

"""Votes that were cast elsewhere, file by file, every number checked.

Shape suffixes: N images of a file, V ablations, K labels of an image.
"""

import hashlib
import json
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline import storage
from pipeline.config import ConfigError
from pipeline.interchange.columns import PICKLE, Columns
from pipeline.interchange.npz_file import read_npz
from pipeline.interchange.parquet_file import read_parquet
from pipeline.interchange.spec import Spec
from pipeline.interchange.views import check_views

_READERS = {".npz": read_npz, ".parquet": read_parquet}


@dataclass(frozen=True, kw_only=True)
class Given:
    """A file of votes.

    Attributes:
        path: Where it lies.
        sha256: Of its bytes.
        columns: What it holds.
        ids: Image ids, N of them: the file's, or ``<file stem>/<row>``.
        errors: Why an image has no votes; None where it has; N of them.
    """

    path: str
    sha256: str
    columns: Columns
    ids: list[str]
    errors: list[str | None]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def voted_n(self) -> NDArray[np.bool_]:
        """Images with votes; bool (N,)."""
        return np.array([error is None for error in self.errors], bool)

    @property
    def several(self) -> bool:
        """Whether an image may have several right classes."""
        return self.columns.labels.ndim == 2

    def labels(self) -> list[int | None] | list[list[int]]:
        """Right class of each image, None where unknown; or its right classes."""
        if self.several:
            return [[int(one) for one in right if one >= 0] for right in self.columns.labels]
        return [int(one) if one >= 0 else None for one in self.columns.labels]

    def plain(self) -> list[int | None]:
        """Class that the network gives each whole image; None where that is not known."""
        if self.columns.plain_n is None:
            return [None] * len(self)
        known = zip(self.columns.plain_n.tolist(), self.errors, strict=True)
        return [one if error is None else None for one, error in known]

    def add_to(self, digest: "hashlib._Hash") -> None:
        """Add the images to a digest that depends on what they say, not on the file's format."""
        votes_nv = self.columns.votes_nv.astype("<i4")
        facts = zip(self.ids, self.labels(), self.plain(), self.errors, strict=True)
        for row, fact in enumerate(facts):
            digest.update(json.dumps(fact).encode())
            if fact[-1] is None:
                digest.update(votes_nv[row].tobytes())


def read_given(path: str) -> Given:
    """Read a file of votes.

    Raises:
        ConfigError: It is not one; the message says what is wrong and what to do.
        OSError: It cannot be read.
    """
    stem, suffix = posixpath.splitext(posixpath.basename(path))
    if suffix not in _READERS:
        raise ConfigError(f"{path}: give files of votes ending in .npz or .parquet; {PICKLE}")
    data = storage.read_bytes(path)
    columns = _READERS[suffix](path, data)
    count = len(columns.votes_nv)
    for name, column in columns._asdict().items():
        if name != "told" and column is not None and len(column) != count:
            raise ConfigError(f"{path}: {len(column)} {name} for votes of {count} images")
    given = Given(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        columns=columns,
        ids=[f"{stem}/{row}" for row in range(count)] if columns.ids is None else columns.ids,
        errors=[None] * count if columns.errors is None else columns.errors,
    )
    for name, texts in (("image id", given.ids), ("error", given.errors)):
        _require_utf8(path, name, texts)
    return given


def _require_utf8(path: str, name: str, texts: Sequence[str | None]) -> None:
    """Raise ConfigError unless Parquet can hold every text: numpy's may be halves of characters."""
    for row, text in enumerate(texts):
        try:
            (text or "").encode()
        except UnicodeEncodeError:
            raise ConfigError(
                f"{path!a}, image {row}: its {name} {text!a} cannot be written as UTF-8; "
                "give it another"
            ) from None


def check_given(given: Given, spec: Spec) -> None:
    """Hold a file's numbers against what its votes are of.

    Raises:
        ConfigError: Naming the file, the image, the rule and the remedy.
    """
    votes_nv, voted_n = given.columns.votes_nv, given.voted_n
    if voted_n.any():
        check_views(given.path, votes_nv.shape[1], spec.ablation)
    idle_n = ~voted_n & (votes_nv != -1).any(axis=1)
    if idle_n.any():
        raise ConfigError(
            f"{given.path}, image {given.ids[int(idle_n.argmax())]}: it has an error and votes; "
            "the votes of an image with an error are -1 (null in Parquet)"
        )
    every = range(spec.num_classes)
    _check(given, "vote", votes_nv, spec.classes or every, voted_n)
    labels = given.columns.labels
    labels_nk = labels if given.several else labels[:, None]
    _check(given, "label", labels_nk, range(-1, spec.num_classes), np.ones(len(given), bool))
    if given.columns.plain_n is not None:
        _check(given, "plain prediction", given.columns.plain_n[:, None], every, voted_n)


def _check(
    given: Given,
    what: str,
    found_nv: NDArray[Any],
    allowed: range | tuple[int, ...],
    asked_n: NDArray[np.bool_],
) -> None:
    """Raise ConfigError unless everything of the images that are asked about is allowed."""
    wrong_nv = (found_nv < allowed[0]) | (found_nv > allowed[-1])
    if isinstance(allowed, tuple):
        wrong_nv |= ~np.isin(found_nv, allowed)
    wrong_nv &= asked_n[:, None]
    if not wrong_nv.any():
        return
    image, place = np.argwhere(wrong_nv)[0]
    rule = f"classes run from {max(allowed[0], 0)} to {allowed[-1]}"
    if isinstance(allowed, tuple):
        rule = f"it is none of the {len(allowed)} classes that could be voted for (--classes)"
    elif allowed[0] < 0:
        rule += ", and -1 is unknown"
    raise ConfigError(
        f"{given.path}, image {given.ids[image]}{f', ablation {place}' * (what == 'vote')}: {what} "
        f"{found_nv[image, place]}: {rule}; give the classes of the model that voted, from 0, and "
        "their --num-classes"
    )

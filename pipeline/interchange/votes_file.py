"""One file of votes cast elsewhere, every number checked.

Shape suffixes: N images of a file, V views, K labels of an image.
"""

import hashlib
import posixpath
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.views.ablations import Ablation
from models.views.family import ViewFamily
from models.views.masks import Masks, Placement
from pipeline import storage
from pipeline.certificates.early_exit import EarlyExit
from pipeline.config import ConfigError
from pipeline.interchange.formats import PICKLE, Columns, read_npz, read_parquet
from pipeline.interchange.spec import Spec
from pipeline.runs.proof import add_images

# Numbers of masks an axis to look through for the one that was meant.
_MOST_MASKS = 33
_READERS = {".npz": read_npz, ".parquet": read_parquet}


@dataclass(frozen=True, kw_only=True)
class VotesFile:
    """A file of votes.

    Attributes:
        path: Path of the file.
        sha256: Digest of its bytes.
        columns: Its contents.
        ids: N image ids: the file's, or ``<file stem>/<row>``.
        errors: N reasons why an image has no votes; None where it has them.
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
    def unasked_nv(self) -> NDArray[np.bool_]:
        """Views without a vote of images with votes; bool (N, V)."""
        missing_nv: NDArray[np.bool_] = (self.columns.votes_nv == -1) & self.voted_n[:, None]
        return missing_nv

    @property
    def several_labels(self) -> bool:
        """True if an image may have several right classes."""
        return self.columns.labels.ndim == 2

    def labels(self) -> list[int | None] | list[list[int]]:
        """Return the right class of each image, None where unknown; or its right classes."""
        if self.several_labels:
            return [[int(one) for one in right if one >= 0] for right in self.columns.labels]
        return [int(one) if one >= 0 else None for one in self.columns.labels]

    def plain(self) -> list[int | None]:
        """Return the network's class of each whole image; None where it is not known."""
        if self.columns.plain_n is None:
            return [None] * len(self)
        known = zip(self.columns.plain_n.tolist(), self.errors, strict=True)
        return [one if error is None else None for one, error in known]

    def add_to(self, digest: "hashlib._Hash") -> None:
        """Add the images to a digest that does not depend on the file's format."""
        votes_nv = self.columns.votes_nv.astype("<i4")
        facts = zip(self.ids, self.labels(), self.plain(), self.errors, strict=True)
        add_images(digest, facts, votes_nv)


def read_votes_file(path: str) -> VotesFile:
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
        if name != "spec" and column is not None and len(column) != count:
            raise ConfigError(f"{path}: {len(column)} {name} for votes of {count} images")
    file = VotesFile(
        path=path,
        sha256=hashlib.sha256(data).hexdigest(),
        columns=columns,
        ids=[f"{stem}/{row}" for row in range(count)] if columns.ids is None else columns.ids,
        errors=[None] * count if columns.errors is None else columns.errors,
    )
    for name, texts in (("image id", file.ids), ("error", file.errors)):
        _require_utf8(path, name, texts)
    return file


def _require_utf8(path: str, name: str, texts: Sequence[str | None]) -> None:
    """Raise ConfigError unless Parquet can hold every text: numpy's may be half characters."""
    for row, text in enumerate(texts):
        try:
            (text or "").encode()
        except UnicodeEncodeError:
            raise ConfigError(
                f"{path!a}, image {row}: its {name} {text!a} cannot be written as UTF-8; "
                "give it another"
            ) from None


def check_votes_file(file: VotesFile, spec: Spec) -> None:
    """Check the numbers of a file against the ablations and classes of its votes.

    Raises:
        ConfigError: Naming the file, the image, the rule and the remedy.
    """
    votes_nv, voted_n = file.columns.votes_nv, file.voted_n
    if voted_n.any():
        _require_all_views(file.path, votes_nv.shape[1], spec.views)
    contradictory_n = ~voted_n & (votes_nv != -1).any(axis=1)
    if contradictory_n.any():
        raise ConfigError(
            f"{file.path}, image {file.ids[int(contradictory_n.argmax())]}: it has an error and "
            "votes; the votes of an image with an error are -1 (null in Parquet)"
        )
    classes = spec.classes or range(spec.num_classes)
    if _all_are_needless(file, spec.views):
        votes_nv = np.where(file.unasked_nv, classes[0], votes_nv)
    _require_allowed(file, "vote", votes_nv, classes, voted_n)
    labels = file.columns.labels
    labels_nk = labels if file.several_labels else labels[:, None]
    all_n = np.ones(len(file), bool)
    _require_allowed(file, "label", labels_nk, range(-1, spec.num_classes), all_n)
    if file.columns.plain_n is not None:
        # As a run's own: a decision falls back on it, and a class without votes is no answer.
        _require_allowed(file, "plain prediction", file.columns.plain_n[:, None], classes, voted_n)


def _require_all_views(path: str, votes: int, views: ViewFamily) -> None:
    """Raise ConfigError unless there is one vote for each view; the message says what fits."""
    if votes == len(views):
        return
    if isinstance(views, Masks):
        of, remedy = _masks_remedy(votes, views)
    else:
        assert isinstance(views, Ablation), "no other family can be imported"
        of, remedy = _stride_remedy(votes, views)
    raise ConfigError(f"{path}: {votes} votes an image, and {of} are {len(views)}; {remedy}")


def _stride_remedy(votes: int, views: Ablation) -> tuple[str, str]:
    """Describe ablations, and the strides of which there are so many."""
    fixed = replace(views, random=None, seed=0)
    fitting = [
        stride
        for stride in range(1, min(views.lengths) + 1)
        if len(replace(fixed, stride=stride)) == votes
    ]
    remedy = "give the --ablation, --stride and --image-size that voted"
    if fitting:
        remedy = f"{votes} would be --stride {fitting[0]}"
        if len(fitting) > 1:
            remedy += f" to {fitting[-1]}, of which only its owner knows the right one"
    of = f"{views.random} random" if views.random else f"stride {views.stride}"
    image = f"{views.height}x{views.width} px image"
    return f"{views.kind} ablations of a {image} at {of} positions", remedy


def _masks_remedy(votes: int, views: Masks) -> tuple[str, str]:
    """Describe masks, and the number of them an axis of which there are so many views."""
    remedy = "give the --views, --covers and --masks, or --size and --stride, that voted"
    patch = views.covers[0]
    for most in range(1, _MOST_MASKS) if len(views.covers) == 1 else ():
        rows, columns = (
            Placement.covering(length, extent, most)
            for length, extent in zip((views.height, views.width), patch, strict=True)
        )
        masks = len(rows.starts) * len(columns.starts)
        if votes == (masks * (masks + 1) // 2 if views.pairs else masks):
            remedy = f"{votes} would be --covers {patch.height}x{patch.width} --masks {most}"
            break
    return f"views of {views}", remedy


def _all_are_needless(file: VotesFile, views: ViewFamily) -> bool:
    """Tell whether views have no vote, all of them such as early exit does not ask.

    Raises:
        ConfigError: One of them is needed, or nobody can tell.
    """
    unasked_nv = file.unasked_nv
    if not unasked_nv.any() or not isinstance(views, Masks) or not views.pairs:
        return False
    images = np.flatnonzero(unasked_nv.any(axis=1))
    if file.columns.plain_n is None:
        raise ConfigError(
            f"{file.path}, image {file.ids[images[0]]}: views without a vote (-1, or null in "
            "Parquet), and no plain predictions, which the decision then needs; give either"
        )
    votes_nv = file.columns.votes_nv[images].astype(np.int64)
    lacking = EarlyExit(views).lacking(votes_nv, file.columns.plain_n[images])
    if lacking is not None:
        place, view = lacking
        raise ConfigError(
            f"{file.path}, image {file.ids[images[place]]}: view {view} has no vote (-1, or null "
            "in Parquet), and the two-location decision needs it; give it"
        )
    return True


def _require_allowed(
    file: VotesFile,
    what: str,
    classes_nk: NDArray[Any],
    allowed: range | tuple[int, ...],
    images_n: NDArray[np.bool_],
) -> None:
    """Raise ConfigError unless every class of the chosen images is allowed."""
    wrong_nk = (classes_nk < allowed[0]) | (classes_nk > allowed[-1])
    if isinstance(allowed, tuple):
        wrong_nk |= ~np.isin(classes_nk, allowed)
    wrong_nk &= images_n[:, None]
    if not wrong_nk.any():
        return
    image, place = np.argwhere(wrong_nk)[0]
    rule = f"classes run from {max(allowed[0], 0)} to {allowed[-1]}"
    if isinstance(allowed, tuple):
        rule = f"it is none of the {len(allowed)} classes that could be voted for (--classes)"
    elif allowed[0] < 0:
        rule += ", and -1 is unknown"
    if what == "vote" and classes_nk[image, place] == -1 and file.path.endswith(".parquet"):
        rule = f"column votes has a null inside a list, or instead of one; {rule}"
    raise ConfigError(
        f"{file.path}, image {file.ids[image]}{f', ablation {place}' * (what == 'vote')}: {what} "
        f"{classes_nk[image, place]}: {rule}; give the classes of the model that voted, from 0, "
        "and their --num-classes"
    )

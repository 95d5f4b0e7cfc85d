"""Weight files: their digest, and what a safetensors header says about the network inside.

Reading a header needs neither torch nor timm, so that the identity of a run is known before
anything heavy is imported.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from safetensors import SafetensorError, safe_open

from models.errors import WeightsError
from models.preprocess import Preprocess

HUB = "timm:"
"""What weights on timm's hub begin with, before the model's name."""

_KEY = "patchcert"
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True, kw_only=True)
class WeightsCard:
    """What a weight file says of itself; every field may be unknown.

    Attributes:
        model: timm name of the network.
        num_classes: Length of the logits.
        classes: Class names in order.
        preprocess: The preprocessing the network was trained with.
        ablation: ``kind``, ``size`` and ``stride`` (pixels of the attacker's grid) it was
            trained for.
        tokens: Token mode it was trained in.
        recipe: Free-form provenance: data, schedule, figures.
    """

    model: str | None = None
    num_classes: int | None = None
    classes: tuple[str, ...] = ()
    preprocess: Preprocess | None = None
    ablation: Mapping[str, Any] = field(default_factory=dict)
    tokens: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)

    def origin(self, file: str, sha256: str) -> dict[str, Any]:
        """What the recipe of weights made from these says of them: which file, and its recipe.

        A header tells the recipe of one file once (``to_metadata``): where an origin has none, the
        first with its sha256 may.
        """
        recipe = {"recipe": dict(self.recipe)} if self.recipe else {}
        return {"file": PurePath(file).name, "sha256": sha256, **recipe}

    def to_metadata(self) -> dict[str, str]:
        """The safetensors header entry that ``read_card`` reads back.

        One entry only: safetensors writes several in any order, and the digest of equal weights,
        which the id of a run depends on, would be another one each time.
        """
        body = {
            "model": self.model,
            "num_classes": self.num_classes,
            "classes": list(self.classes),
            "preprocess": self.preprocess.to_dict() if self.preprocess else None,
            "ablation": dict(self.ablation),
            "tokens": self.tokens,
            "recipe": _told_once(self.recipe, set()),
        }
        return {_KEY: json.dumps(body, sort_keys=True)}


def _told_once(said: Any, known: set[str]) -> Any:
    """A recipe in which that of each file stands where the file is first named, in sorted order.

    Averages of averages, whose parts began alike, would else tell it as often as there are ways
    back to it: the fourth generation of the example had 350 kB of header, of which 19 were news.
    """
    if isinstance(said, Mapping):
        told = dict(said)
        if "sha256" in told and "recipe" in told:
            if told["sha256"] in known:
                del told["recipe"]
            known.add(said["sha256"])
        return {name: _told_once(told[name], known) for name in sorted(told)}
    if isinstance(said, list | tuple):
        return [_told_once(one, known) for one in said]
    return said


def check_weights_path(path: str) -> Path:
    """The file behind ``path``.

    Raises:
        WeightsError: There is none, or its name is not that of a weight file.
    """
    file = Path(path)
    if not file.is_file():
        raise WeightsError(f"weights {path}: no such file; give --weights an existing .safetensors")
    if file.suffix not in _SUFFIXES:
        raise WeightsError(
            f"weights {path}: weight files end in {', '.join(_SUFFIXES)}; save the state dict with "
            "safetensors.torch.save_file"
        )
    return file


def is_hub_name(weights: str) -> bool:
    """Whether ``weights`` names published weights (``timm:NAME``) rather than a file."""
    return weights.startswith(HUB)


def read_card(path: str) -> WeightsCard:
    """Read the card in a safetensors header; an empty card where there is none.

    Other formats have no header that could be read without loading them, so no card either.

    Raises:
        WeightsError: The file is missing or unreadable, or its card is malformed.
    """
    file = check_weights_path(path)
    if file.suffix != ".safetensors":
        return WeightsCard()
    try:
        with safe_open(file, framework="numpy") as archive:
            metadata = archive.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"weights {path}: not a readable safetensors file ({error})") from error
    if _KEY not in metadata:
        return WeightsCard()
    try:
        body = json.loads(metadata[_KEY])
        preprocess = body.get("preprocess")
        return WeightsCard(
            model=body.get("model"),
            num_classes=body.get("num_classes"),
            classes=tuple(body.get("classes") or ()),
            preprocess=Preprocess(**preprocess) if preprocess else None,
            ablation=body.get("ablation") or {},
            tokens=body.get("tokens"),
            recipe=body.get("recipe") or {},
        )
    except (ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"weights {path}: malformed {_KEY} metadata ({error})") from error


def read_shapes(path: str) -> dict[str, tuple[int, ...]] | None:
    """Shapes of a safetensors file's tensors by name, from its header; None of other files.

    Raises:
        WeightsError: The file is missing or unreadable.
    """
    file = check_weights_path(path)
    if file.suffix != ".safetensors":
        return None
    try:
        with safe_open(file, framework="numpy") as archive:
            return {key: tuple(archive.get_slice(key).get_shape()) for key in archive.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"weights {path}: not a readable safetensors file ({error})") from error


def sha256_of(path: str) -> str:
    """Hex sha256 of a weight file's bytes."""
    with check_weights_path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

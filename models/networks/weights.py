"""Weight files: their digest, and the description of the network in a safetensors header.

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
"""Prefix of the name of weights on timm's hub, before the model's name."""

MODULE = "module:"
"""Prefix of what stands for the weights of a module of a Python program, before its class."""

_KEY = "patchcert"
_SUFFIXES = (".safetensors", ".pth", ".pt", ".bin")


@dataclass(frozen=True, kw_only=True)
class WeightsCard:
    """Description of the network in a weight file; every field may be unknown.

    Attributes:
        model: timm name of the network.
        num_classes: Length of the logits.
        classes: Class names in order.
        preprocess: The preprocessing the network was trained with.
        ablation: Views it was trained for, in pixels of the attacker's grid: ``kind``, ``size`` and
            ``stride`` of ablations; ``kind``, ``covers`` and the ``family`` itself of masks.
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
        """Describe this file in the recipe of weights that are made from it."""
        recipe = {"recipe": dict(self.recipe)} if self.recipe else {}
        return {"file": PurePath(file).name, "sha256": sha256, **recipe}

    def to_metadata(self) -> dict[str, str]:
        """The safetensors header entry that ``read_card`` reads back.

        One entry only: safetensors writes several in any order, so that equal weights would have
        another digest each time, on which the id of a run depends.
        """
        body = {
            "model": self.model,
            "num_classes": self.num_classes,
            "classes": list(self.classes),
            "preprocess": self.preprocess.to_dict() if self.preprocess else None,
            "ablation": dict(self.ablation),
            "tokens": self.tokens,
            "recipe": dict(self.recipe),
        }
        return {_KEY: json.dumps(body, sort_keys=True)}


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
    check_content(file)
    return file


def check_content(file: Path) -> None:
    """Raise WeightsError for files that begin as something else than weights, saying what it is."""
    with file.open("rb") as stream:
        head = stream.read(64)
    # 8 bytes of length, below 4 GB, and JSON.
    is_safetensors, named_so = head[4:9] == b"\0\0\0\0{", file.suffix == ".safetensors"
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    found = None
    if not head:
        found = "empty, truncated on its way; fetch it again"
    elif is_safetensors:
        if not named_so:
            found = f"a safetensors file; rename it to {file.with_suffix('.safetensors').name}"
    elif text.startswith(b"version https://git-lfs"):
        found = (
            "a Git LFS pointer, a few lines of text in place of the weights; run `git lfs pull` "
            "in the clone it lies in"
        )
    elif text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml", b"<!--")):
        found = (
            "a web page, or a server's answer, in place of the weights; download the file itself "
            "(on huggingface.co its address has /resolve/ where the page's has /blob/)"
        )
    elif text.startswith(b"{"):
        found = "JSON, not weights; download the weight file itself"
    elif named_so and head.startswith((b"PK\x03\x04", b"\x80")):
        found = f"what torch.save writes; rename it to {file.with_suffix('.pth').name}"
    if found is not None:
        raise WeightsError(f"weights {file}: {found}")


def is_hub_name(weights: str) -> bool:
    """True where ``weights`` names published weights (``timm:NAME``) rather than a file."""
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


def sha256_of(path: str) -> str:
    """Hex sha256 of a weight file's bytes."""
    with check_weights_path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()

"""Resolve a request into a fully specified training: fill in defaults and find mistakes."""

import hashlib
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from models.networks.weights import WeightsCard, is_hub_name, read_card, sha256_of
from models.views.family import ViewFamily
from pipeline import storage
from pipeline.config import ConfigError, VotesConfig
from pipeline.runs.defense import Defense
from pipeline.runs.manifest import canonical
from pipeline.runs.resolve import resolve_defense
from pipeline.runs.weight_files import local_weights, weights_key
from pipeline.sources.base import SourceOptions
from pipeline.sources.listing import Listing, list_images
from pipeline.training.config import TrainConfig
from pipeline.training.order import EpochOrder, stratified_split

# The identity has digests of these instead.
_BY_CONTENT = ("data", "init", "teacher")
# The identity has the preprocessing that they make instead.
_OF_INPUT = ("preprocess", "pixel_scale")
# The identity has the family that they make instead.
_OF_VIEWS = ("views", "size", "stride", "covers", "masks", "wrap")

_Path = TypeVar("_Path", str, str | None)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A fully specified training.

    Attributes:
        config: The request.
        defense: The base classifier to be made; its ``weights`` are those to start from.
        classes: Class names, where the weights to start from hold them.
        init: Origin of these weights: name, sha256, the key in their checkpoint, and their own
            recipe, if they have one.
        teacher_sha256: Digest of the teacher's file; None without one.
        listing: The images.
        options: Options for reading their bytes.
        train: Rows of the listing to learn from, ascending; int64.
        held_out: Rows held out, ascending; int64.
    """

    config: TrainConfig
    defense: Defense
    classes: tuple[str, ...]
    init: dict[str, Any]
    teacher_sha256: str | None
    listing: Listing
    options: SourceOptions
    train: NDArray[np.int64]
    held_out: NDArray[np.int64]

    @property
    def labels(self) -> NDArray[np.int64]:
        """Class of every row of the listing; int64 (N,)."""
        labels: NDArray[np.int64] = self.listing.table["label"].to_numpy().astype(np.int64)
        return labels

    @property
    def order(self) -> EpochOrder:
        """Order in which the epochs see ``train``."""
        return EpochOrder(
            images=len(self.train),
            batch=self.config.batch,
            seed=self.config.seed,
            kind=self.listing.kind,
        )

    def rows(self, rows: NDArray[np.int64]) -> pa.Table:
        """Return rows of the listing, in the given order."""
        return self.listing.table.take(pa.array(rows))

    def identity(self) -> dict[str, Any]:
        """Return all that decides the weights, as plain JSON; a checkpoint must have the same."""
        settings = {
            field.name: getattr(self.config, field.name)
            for field in fields(self.config)
            if field.name not in (*_BY_CONTENT, *_OF_INPUT, *_OF_VIEWS, "views_per_image")
        }
        if self.config.hardest_of is None:
            # Checkpoints from before there was this option have no such entry.
            del settings["hardest_of"]
        if self.config.token_dropout:
            # Of each view's own tokens, once: a checkpoint from then does not resume as if it were.
            settings["dropout_of"] = "mean view"
        return settings | {
            "data": {"fingerprint": self.listing.fingerprint, "images": len(self.listing)},
            "init": self.init["sha256"],
            "teacher": self.teacher_sha256 or self.config.teacher,
            "model": self.defense.network.name,
            "num_classes": self.defense.network.num_classes,
            "preprocess": self.defense.model_input.to_dict(),
            "tokens": self.defense.tokens,
            # The name that it had when the first checkpoints were written.
            "views": self.config.views_per_image,
            **_family(self.defense.views),
        }

    @property
    def training_id(self) -> str:
        """``t`` and 16 hex digits, derived from the identity alone."""
        return "t" + hashlib.sha256(canonical(self.identity())).hexdigest()[:16]


def resolve_recipe(config: TrainConfig) -> Recipe:
    """Fill in the defaults of ``config``, list the images and split them.

    Raises:
        ConfigError, SourceError, WeightsError, UnknownModelError: The request is wrong.
    """
    config = replace(config, init=_absolute(config.init), teacher=_absolute(config.teacher))
    card = WeightsCard() if is_hub_name(config.init) else read_card(local_weights(config.init))
    options = SourceOptions(
        image_column=config.image_column,
        label_column=config.label_column,
        label_map=config.label_map,
    )
    known = config.num_classes or (card.num_classes if card.recipe else None)
    listing = list_images(config.data, options, known).head(config.limit)
    labels = _labels(listing, config)
    num_classes = known or max(2, int(labels.max()) + 1)
    defense = resolve_defense(
        VotesConfig(
            data=config.data,
            weights=config.init,
            model=config.model,
            num_classes=num_classes,
            **{name: getattr(config, name) for name in (*_OF_VIEWS, *_OF_INPUT)},
            tokens=config.tokens,
        )
    )
    _check_views(config, defense)
    try:
        train, held_out = stratified_split(labels, config.validation, config.seed)
    except ValueError as error:
        raise ConfigError(f"--validation {config.validation}: {error}; hold fewer out") from error
    if len(train) < config.batch:
        raise ConfigError(
            f"--batch {config.batch}: {len(train)} training images do not fill one; choose a "
            "smaller --batch"
        )
    key = weights_key(local_weights(defense.network.weights))
    file = config.teacher if config.teacher not in (None, "self") else None
    return Recipe(
        config=config,
        defense=defense,
        classes=card.classes if len(card.classes) == num_classes else (),
        init=card.origin(config.init, defense.network.weights_sha256)
        | ({} if key is None else {"weights": key}),
        teacher_sha256=sha256_of(local_weights(file)) if file else None,
        listing=listing,
        options=options,
        train=train,
        held_out=held_out,
    )


def _check_views(config: TrainConfig, defense: Defense) -> None:
    family = len(defense.views)
    if config.hardest_of is not None and config.hardest_of > family:
        raise ConfigError(
            f"--hardest-of {config.hardest_of}: the family has {family} views; give no more"
        )
    if config.token_dropout and defense.tokens != "drop":
        raise ConfigError(
            f"--token-dropout {config.token_dropout:g}: with --tokens {defense.tokens} the network "
            "takes every token of the grid; leave one of the two out"
        )


def _family(views: ViewFamily) -> dict[str, Any]:
    """Name the family of views in an identity: ablations by three facts, masks one by one."""
    shape, size, stride, *_ = views.describe()
    facts = {"ablation": shape, "size": size, "stride": stride}
    return facts | (views.to_identity() if views.hides else {})


def _absolute(weights: _Path) -> _Path:
    """Make a path absolute: Ray's workers run in another directory."""
    if weights is None or weights == "self" or is_hub_name(weights):
        return weights
    return storage.full_path(weights)


def _labels(listing: Listing, config: TrainConfig) -> NDArray[np.int64]:
    column = listing.table["label"]
    if column.null_count:
        missing = listing.table.filter(column.is_null())["image_id"].slice(0, 3).to_pylist()
        raise ConfigError(
            f"--data {config.data}: {column.null_count} of {len(listing)} images have no label, "
            f"such as {', '.join(missing)}; training needs one of each (--label-column, "
            "--label-map, or <key>.cls in a tar)"
        )
    labels: NDArray[np.int64] = column.to_numpy().astype(np.int64)
    if labels.min() < 0:
        raise ConfigError(f"--data {config.data}: label {labels.min()} is no class; start at 0")
    return labels

"""The views and classes that votes are of, as flags or the file itself state them."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from models.networks.weights import WeightsCard
from models.preprocess import Preprocess
from models.views.ablations import Ablation
from models.views.family import ViewFamily
from models.views.masks import Masks
from pipeline.config import ConfigError, VotesConfig
from pipeline.interchange.config import ImportConfig, sides_of
from pipeline.runs.manifest import Manifest
from pipeline.runs.resolve import resolve_views
from pipeline.runs.schema import MAX_CLASSES
from pipeline.sources.class_names import class_subset

_OF_VOTER = {"num_classes": "--num-classes", "classes": "--classes", "model": "--model"}
_FLAGS = {
    "kind": "--views",
    "size": "--size",
    "stride": "--stride",
    "random": "--positions",
    "seed": "--seed",
    "height": "--image-size",
    "width": "--image-size",
    "pixel_scale": "--model-size",
    **_OF_VOTER,
}
# The family itself, and whether some of its views were not asked.
_OF_MASKS = {"masks", "early_exit", *_OF_VOTER}
_NEEDED = ("kind", "size", "height", "num_classes")
_NEEDED_OF_MASKS = ("height", "num_classes")
_DEFAULTS: dict[str, Any] = {
    "stride": 1,
    "random": None,
    "seed": 0,
    "pixel_scale": 1,
    "classes": None,
    "model": "imported",
}


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Meaning of a matrix of votes.

    Attributes:
        views: Family of views; one column of votes for each, in their order.
        num_classes: Length of the logits.
        classes: Classes that could be voted for, ascending; None for all.
        model: Name of the model that voted.
        early_exit: Whether views were asked only as far as a decision needs them; the others have
            no vote.
    """

    views: ViewFamily
    num_classes: int
    classes: tuple[int, ...] | None = None
    model: str = "imported"
    early_exit: bool = False

    @classmethod
    def of(cls, manifest: Manifest) -> "Spec":
        """Describe the votes of a run.

        Raises:
            ConfigError: They are not one vote of each view of a fixed family.
        """
        if manifest.defense.voting.vote_sets:
            raise ConfigError(
                f"run {manifest.run_id}: its ablations cast sets of votes (--voting threshold), "
                "and the interchange format holds one vote an ablation; export it without --votes"
            )
        if manifest.defense.voting.draws is not None:
            raise ConfigError(
                f"run {manifest.run_id}: its positions were drawn at random for each image, which "
                "nobody can see from votes, and its certificate rests on it; export it without "
                "--votes"
            )
        return cls(
            views=manifest.defense.views,
            num_classes=manifest.defense.network.num_classes,
            classes=manifest.defense.network.classes,
            model=manifest.defense.network.name,
            early_exit=manifest.defense.voting.early_exit,
        )

    def facts(self) -> dict[str, Any]:
        """Return everything as one JSON object, which ``spec_from`` reads."""
        views = (
            {**self.views.to_identity(), "early_exit": self.early_exit}
            if self.views.hides
            else asdict(self.views)  # type: ignore[call-overload]
        )
        return {
            **views,
            "num_classes": self.num_classes,
            "classes": None if self.classes is None else list(self.classes),
            "model": self.model,
        }

    def to_json(self) -> str:
        """Return the text that a file of votes holds."""
        return json.dumps(self.facts(), sort_keys=True)


def spec_from(config: ImportConfig, text: str | None, path: str) -> Spec:
    """Combine the spec in a file with that of the flags.

    Args:
        config: The flags.
        text: Spec in the file (``Spec.to_json``); None where it has none.
        path: The file, for messages.

    Raises:
        ConfigError: Something is missing, contradictory or impossible.
        SourceError: ``--classes`` names no classes.
    """
    facts = _facts_of_file(text, path)
    flags = _facts_of_flags(config, facts)
    if "masks" in facts or flags.get("kind") in ("mask", "mask-pair"):
        flags = _with_masks(config, flags, facts, path)
    elif config.of_masks:
        flag = f"--{next(iter(config.of_masks))}"
        raise ConfigError(f"{flag}: only masks have it; leave it out, or add --views mask-pair")
    for name, value in flags.items():
        if text is not None and name != "model" and facts.get(name) != value:
            raise ConfigError(
                f"{_FLAGS[name]}: {path} says of itself that {name} is {facts.get(name)}, the "
                f"flag says {value}; leave the flag out, or give the right file"
            )
        facts[name] = value
    missing = [] if "masks" in facts else [_FLAGS[name] for name in _NEEDED if name not in facts]
    if missing:
        raise ConfigError(
            f"{path} does not say what voted: give {', '.join(missing)} (and --stride where it "
            "is not 1)"
        )
    facts = _DEFAULTS | facts
    classes, early_exit = facts.pop("classes"), facts.pop("early_exit", False)
    num_classes, model = facts.pop("num_classes"), facts.pop("model")
    if not 2 <= num_classes <= MAX_CLASSES:
        raise ConfigError(f"--num-classes {num_classes}: votes name 2 to {MAX_CLASSES} classes")
    try:
        views = Masks.from_identity(facts["masks"]) if "masks" in facts else Ablation(**facts)
    except (ValueError, TypeError, KeyError) as error:
        if "masks" in facts:
            raise _unreadable(path) from error
        raise ConfigError(str(error)) from error
    return Spec(
        views=views,
        num_classes=num_classes,
        classes=None if classes is None else tuple(classes),
        model=model,
        early_exit=early_exit,
    )


def _facts_of_file(text: str | None, path: str) -> dict[str, Any]:
    if text is None:
        return {}
    try:
        facts = json.loads(text)
        if set(facts) not in (set(_FLAGS), _OF_MASKS) or not _plausible(facts):
            raise ValueError
        facts["model"].encode()  # JSON may hold half a character
    except (ValueError, TypeError) as error:
        raise _unreadable(path) from error
    return dict(facts)


def _unreadable(path: str) -> ConfigError:
    return ConfigError(
        f"{path}: its spec cannot be read; export it again, or take the spec out of the file "
        "and give flags"
    )


def _plausible(facts: Mapping[str, Any]) -> bool:
    """Return True if every value of a file's spec has its type; masks are read later."""
    if "masks" in facts:
        numbers = {"num_classes": facts["num_classes"]}
        of_views = isinstance(facts["masks"], dict) and isinstance(facts["early_exit"], bool)
    else:
        numbers = {n: value for n, value in facts.items() if n not in ("kind", "classes", "model")}
        of_views = isinstance(facts["kind"], str)
        if numbers["random"] is None:  # offsets at a stride
            del numbers["random"]
    classes = facts["classes"]
    return (
        of_views
        and all(type(number) is int for number in numbers.values())
        and isinstance(facts["model"], str)
        and (
            classes is None
            or (
                all(type(one) is int and 0 <= one < facts["num_classes"] for one in classes)
                and sorted(set(classes)) == classes
                and len(classes) >= 2
            )
        )
    )


def _facts_of_flags(config: ImportConfig, in_file: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that the flags state, by the names of ``Spec.facts``."""
    facts: dict[str, Any] = {
        "kind": config.views,
        "size": config.size,
        "stride": config.stride,
        "random": config.random,
        "seed": config.seed,
        "num_classes": config.num_classes,
        "model": config.model,
    }
    if config.image_size is not None:
        facts["height"], facts["width"] = sides_of("image-size", config.image_size)
        facts["pixel_scale"] = _scale(config.image_size, config.model_size)
    facts = {name: value for name, value in facts.items() if value is not None}
    if config.classes is not None:
        num_classes = config.num_classes or in_file.get("num_classes")
        if num_classes is None:
            raise ConfigError("--classes: it names some of --num-classes; give both")
        facts["classes"] = list(class_subset(config.classes, num_classes))
    return facts


def _with_masks(
    config: ImportConfig, flags: Mapping[str, Any], in_file: Mapping[str, Any], path: str
) -> dict[str, Any]:
    """Return the facts of flags with the family of masks in place of the flags that make it.

    Raises:
        ConfigError: A flag is missing or means nothing, or the file holds another family.
    """
    voter = {name: value for name, value in flags.items() if name in _OF_VOTER}
    of_views = set(flags) - set(voter)
    if in_file and not (of_views or config.of_masks):
        return voter
    known = in_file.get("masks", {})
    given = {**known, **flags}
    needed = {"height": "--image-size", "num_classes": "--num-classes"}
    missing = [flag for name, flag in needed.items() if name not in {**in_file, **given}]
    if missing:
        raise ConfigError(f"{path} does not say what voted: give {', '.join(missing)}")
    grid = Preprocess(
        resize=None,
        crop=(given["height"], given["width"]),
        interpolation="nearest",
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        pixel_scale=given.get("pixel_scale", 1),
    )
    asked = VotesConfig(
        data=path,
        weights=path,
        views=config.views or ("mask-pair" if known.get("pairs") else "mask"),
        size=config.size,
        stride=config.stride,
        positions=config.positions,
        seed=config.seed or 0,
        **config.of_masks,
    )
    family = resolve_views(asked, WeightsCard(), grid)
    if known and family.to_identity().get("masks") != known:
        raise ConfigError(
            f"--views: {path} says of itself that its votes are of "
            f"{Masks.from_identity(known)}, the flags say {family}; leave the flags out, or give "
            "the right file"
        )
    return {**voter, **family.to_identity()}


def _scale(image: str, model: str | None) -> int | None:
    """Return model pixels per pixel of the image; None where the flags do not say."""
    if model is None:
        return None
    (height, width), (model_height, model_width) = (
        sides_of("image-size", image),
        sides_of("model-size", model),
    )
    scale = model_height // height
    if not scale or (height * scale, width * scale) != (model_height, model_width):
        raise ConfigError(
            f"--model-size {model}: it is no exact enlargement of --image-size {image}; measure "
            "patches on the model's input then, and leave --model-size out"
        )
    return scale

"""Networks by name with weights from a local file: the only code that asks timm for models."""

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import timm
import torch
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from models.errors import UnknownModelError, WeightsError
from models.nearest import did_you_mean
from models.networks.checkpoint import read_state
from models.networks.weights import HUB
from models.preprocess import Preprocess

_MEAN_NORM = "fc_norm.weight"
_RANDOM = (Tensor.normal_, nn.init.normal_, Tensor.erfinv_, Tensor.clamp_)


def check_model_name(name: str) -> None:
    """Raise UnknownModelError, naming the nearest models, unless timm knows ``name``."""
    if timm.is_model(name):
        try:
            timm.get_pretrained_cfg(name)
        except RuntimeError as error:
            tags = ", ".join(timm.list_pretrained(f"{name.partition('.')[0]}.*"))
            raise UnknownModelError(f"model {name!r}: {error} timm publishes: {tags}") from error
        return
    stem = name.split(".", maxsplit=1)[0]
    hint = did_you_mean(stem, timm.list_models(), at_most=3) or "see timm.list_models()"
    raise UnknownModelError(f"model {name!r}: timm has no model of that name; {hint}")


def default_num_classes(name: str) -> int:
    """Length of the logits that the model's published weights have."""
    check_model_name(name)
    config = timm.get_pretrained_cfg(name)
    return int(config.num_classes) if config is not None else 1000


def default_preprocess(name: str) -> Preprocess:
    """The evaluation preprocessing of timm's data config for ``name``.

    Raises:
        ValueError: The config cannot be expressed (a non-square input, another crop mode).
    """
    return preprocess_of(outline(name), name)


def preprocess_of(network: nn.Module, name: str) -> Preprocess:
    """The same of a network of timm's.

    Raises:
        ValueError: As ``default_preprocess``.
    """
    config = resolve_model_data_config(network)  # type: ignore[no-untyped-call]
    _, height, width = config["input_size"]
    # Of an input that is not square timm scales each side by itself.
    if height != width or config["crop_mode"] != "center":
        raise ValueError(
            f"model {name!r}: its timm preprocessing ({height}x{width} px, "
            f"{config['crop_mode']} crop) is not a centre crop of a square; give --preprocess"
        )
    return Preprocess(
        resize=int(height / config["crop_pct"]),
        crop=height,
        interpolation=config["interpolation"],
        mean=config["mean"],
        std=config["std"],
    )


def load_network(
    name: str, num_classes: int, weights: str, input_px: tuple[int, int] | None = None
) -> nn.Module:
    """Build ``name`` and load every one of its weights, in float32, evaluation mode.

    Args:
        name: timm name of the network.
        num_classes: Length of the logits.
        weights: Weight file.
        input_px: Height and width of the input in model pixels; None for the model's own. Weights
            of a network of fixed size must be of that size: positions are not resampled.

    Raises:
        UnknownModelError: timm has no such model.
        WeightsError: The file is missing or its keys or shapes are not exactly the network's.
    """
    check_model_name(name)
    state = read_state(weights)
    network = built(name, num_classes, state, input_px)
    _check_file(network, state, name, num_classes, weights)
    network.load_state_dict(state)
    return network.eval()


def check_weights(
    name: str, num_classes: int, weights: str, input_px: tuple[int, int] | None = None
) -> nn.Module:
    """Check weights as ``load_network`` does; the network, without memory for its weights.

    Raises:
        UnknownModelError: timm has no such model.
        WeightsError: The file is missing, cannot be read, or its keys or shapes are not exactly the
            network's.
    """
    check_model_name(name)
    state = read_state(weights)
    with torch.device("meta"):
        network = built(name, num_classes, state, input_px)
    _check_file(network, state, name, num_classes, weights)
    return network.eval()


def built(
    name: str,
    num_classes: int,
    tensors: Collection[str],
    input_px: tuple[int, int] | None = None,
    **settings: Any,
) -> nn.Module:
    """The network with uninitialized or random weights, in the variant that ``tensors`` tell.

    Args:
        name: timm name of the network.
        num_classes: Length of the logits.
        tensors: Names of the weights that are to be loaded.
        input_px: Height and width of the input in model pixels; None for the model's own.
        settings: Other settings of timm's.
    """
    plain = outline(name)
    if input_px is not None and _fixed_px(plain) not in (None, input_px):
        settings["img_size"] = input_px
    # Transformers fine-tuned after MAE classify the mean of their patches, normalized after it.
    if _MEAN_NORM in tensors and getattr(plain, "global_pool", "") == "token":
        settings["global_pool"] = "avg"
    network: nn.Module = timm.create_model(
        name, pretrained=False, num_classes=num_classes, **settings
    )
    return network


def parameters_of(network: nn.Module, layer: str) -> list[str]:
    """List the parameters and buffers of the part that timm calls ``layer``.

    Args:
        network: A network of timm.
        layer: ``first_conv`` or ``classifier``; a network can have several of either.
    """
    names = network.pretrained_cfg[layer]  # type: ignore[index]
    prefixes = tuple(f"{name}." for name in ([names] if isinstance(names, str) else names or ()))
    return [key for key in network.state_dict() if key.startswith(prefixes)]


def _check_file(
    network: nn.Module, state: Mapping[str, Tensor], name: str, num_classes: int, weights: str
) -> None:
    """Raise WeightsError unless a file's tensors are exactly the network's."""
    remedy = "Give the --model, --num-classes and --crop these weights were trained with"
    if any(key.startswith("model.") for key in state):
        remedy = (
            "Its keys are a training wrapper's: "
            f"`patchcert convert {weights} out.safetensors --model {name}`"
        )
    missing = set(network.state_dict()) - set(state)
    if missing and missing == set(parameters_of(network, "classifier")):
        remedy = (
            "They have no classifier; learn one: "
            f"`patchcert train --init {weights} --model {name} --data ...`"
        )
    what = f"weights {weights} do not fit {name} with {num_classes} classes"
    check_fit(network, state, what, remedy)


def _fixed_px(network: nn.Module) -> tuple[int, int] | None:
    """Height and width of the only input that a network takes; None where it takes others too."""
    config: Mapping[str, Any] = network.pretrained_cfg  # type: ignore[assignment]
    fixed = config.get("fixed_input_size") and not getattr(network, "dynamic_img_size", False)
    return tuple(config["input_size"][1:]) if fixed else None


def outline(name: str, num_classes: int | None = None) -> nn.Module:
    """The network with shapes but without memory for its weights.

    Raises:
        UnknownModelError: timm has no such model.
    """
    check_model_name(name)
    given: dict[str, Any] = {} if num_classes is None else {"num_classes": num_classes}
    with torch.device("meta"), _NoRandomValues():
        network: nn.Module = timm.create_model(name, pretrained=False, **given)
    return network


class _NoRandomValues(TorchFunctionMode):
    """Leave out of initialization what memory without values can do without.

    Parts of normal distributions have no kernel there, and torch imports its compiler, which takes
    seconds, to do without.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        return (*args, *named.values())[0] if func in _RANDOM else func(*args, **named)


def check_fit(network: nn.Module, state: Mapping[str, Tensor], what: str, remedy: str) -> None:
    """Raise WeightsError unless the keys and shapes of ``state`` are exactly the network's."""
    expected = network.state_dict()
    missing = sorted(set(expected) - set(state))
    unexpected = sorted(set(state) - set(expected))
    misshapen = [
        f"{key} is {tuple(state[key].shape)}, the network's is {tuple(expected[key].shape)}"
        for key in sorted(set(state) & set(expected))
        if state[key].shape != expected[key].shape
    ]
    parts = [
        f"{len(keys)} {how}: {_at_most_ten(keys)}"
        for how, keys in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", misshapen),
        )
        if keys
    ]
    if parts:
        raise WeightsError(f"{what}: {'; '.join(parts)}. {remedy}")


def fetch_hub_weights(weights: str) -> Path:
    """The local copy of ``timm:NAME[.TAG]``, downloaded from the Hugging Face hub once.

    Only safetensors are fetched: hub pickles are never opened.

    Raises:
        UnknownModelError: timm has no such model or tag.
        WeightsError: timm publishes no weights for it there, or they cannot be fetched.
    """
    # With its telemetry and HTTP client it is slow to import, and needed for nothing else.
    from huggingface_hub import errors, hf_hub_download  # noqa: PLC0415

    name = weights.removeprefix(HUB)
    check_model_name(name)
    config = timm.get_pretrained_cfg(name)
    if config is None or not config.hf_hub_id:
        raise WeightsError(
            f"weights {weights}: timm publishes none for {name} on the hub; give a file"
        )
    repository, _, revision = config.hf_hub_id.partition("@")
    try:
        return Path(hf_hub_download(repository, "model.safetensors", revision=revision or None))
    except errors.LocalEntryNotFoundError as error:
        raise _no_hub(weights, repository, error) from error
    except errors.EntryNotFoundError as error:
        raise WeightsError(
            f"weights {weights}: {repository} on the hub has no model.safetensors; download its "
            "weights and give the file"
        ) from error
    # httpx or requests, by version, whose errors need not be OSErrors.
    except Exception as error:
        raise _no_hub(weights, repository, error) from error


def _no_hub(weights: str, repository: str, error: Exception) -> WeightsError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return WeightsError(
        f"weights {weights}: https://huggingface.co/{repository} cannot be reached and the local "
        f"cache has no copy ({reason}); download model.safetensors where there is a network and "
        "give the file"
    )


def _at_most_ten(items: Iterable[str]) -> str:
    listed = list(items)
    return ", ".join(listed[:10]) + (", ..." if len(listed) > 10 else "")


def token_px(model_name: str) -> tuple[int, int] | None:
    """Height and width of a model's tokens, in pixels; None where it has none.

    Raises:
        UnknownModelError: timm has no such model.
    """
    size = getattr(getattr(outline(model_name), "patch_embed", None), "patch_size", None)
    return None if size is None else (int(size[0]), int(size[1]))

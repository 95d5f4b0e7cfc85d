"""The mean of networks that were fine-tuned from the same weights: one network."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from torch import Tensor, dtype

from models.errors import WeightsError
from models.networks.checkpoint import check_finite, read_state
from models.networks.weights import WeightsCard, read_card, sha256_of

_SAME = ("model", "num_classes", "classes", "preprocess", "ablation", "tokens")


def average_weights(
    paths: Sequence[str], save_as: dtype | None = None
) -> tuple[dict[str, Tensor], WeightsCard]:
    """The mean of each tensor over weight files, and a card with the recipe of every one.

    A "model soup": trainings that begin at the same weights mostly end in one basin of the loss,
    where the mean of their ends often classifies better than each, and costs no more (Wortsman
    et al. 2022, arXiv 2203.05482). Weights that began differently have no such mean, and no file
    shows that it is one: only the votes on held-out images do.

    Args:
        paths: safetensors files, each as often as it is to count.
        save_as: Type of the mean; None for the types of the first file.

    Returns:
        Tensors, summed in float64, and the card.

    Raises:
        WeightsError: There is one file only, or they are not of one network; the message lists the
            differences.
    """
    if len(paths) < 2:
        raise WeightsError(f"{len(paths)} weight files: a mean takes two or more")
    cards = [read_card(path) for path in paths]
    for path, card in zip(paths[1:], cards[1:], strict=True):
        differing = [name for name in _SAME if getattr(card, name) != getattr(cards[0], name)]
        if differing:
            differences = "; ".join(
                f"{name}: {getattr(cards[0], name)}, there {getattr(card, name)}"
                for name in differing
            )
            raise WeightsError(f"weights {path}: not of the network of {paths[0]} ({differences})")
    first = read_state(paths[0])
    _check_averageable(first, paths[0])
    sums = {name: value.double() for name, value in first.items()}
    for path in paths[1:]:
        state = read_state(path)
        _check_averageable(state, path)
        _add(sums, state, path)
    mean = {
        name: (sums[name] / len(paths)).to(save_as or value.dtype) for name, value in first.items()
    }
    check_finite(mean, f"as {save_as or 'they are'} (--save-as float32 holds larger numbers)")
    parts = [card.origin(path, sha256_of(path)) for path, card in zip(paths, cards, strict=True)]
    return mean, replace(cards[0], recipe={"averaged": parts})


def _check_averageable(state: Mapping[str, Tensor], path: str) -> None:
    """Raise WeightsError for tensors whose mean is not the mean network's."""
    for name, value in state.items():
        if not value.is_floating_point() or "running_" in name:
            raise WeightsError(
                f"weights {path}: {name} counts or describes batches of a training: the mean of "
                "two is not that of the mean network; average networks without batch normalization"
            )


def _add(sums: dict[str, Tensor], state: Mapping[str, Tensor], path: str) -> None:
    for name in sorted(sums.keys() | state.keys()):
        theirs, before = (tuple(one[name].shape) if name in one else None for one in (state, sums))
        if theirs != before:
            raise WeightsError(
                f"weights {path}: {name} has the shape {theirs}, in the first file {before}"
            )
        sums[name] += state[name]

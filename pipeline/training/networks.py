"""Build the networks of a training: the one that learns, and its teacher."""

import math

import torch
from timm.layers.pos_embed import resample_abs_pos_embed
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from models.networks.checkpoint import read_state
from models.networks.droppable import ABSOLUTE, Droppable
from models.networks.zoo import built, check_fit, check_model_name, load_network, parameters_of
from pipeline.runs.weight_files import local_weights
from pipeline.training.forward import AblationLogits
from pipeline.training.recipe import Recipe

_POSITIONS = "pos_embed"


def starting_network(recipe: Recipe) -> nn.Module:
    """Build the network with the weights to start from.

    A head of another length, or none, is new; positions of another token grid are resampled.

    Raises:
        WeightsError: The weights are not this network's, but for the head.
    """
    defense = recipe.defense
    check_model_name(defense.network.name)
    state = read_state(local_weights(defense.network.weights))
    torch.manual_seed(recipe.config.seed)
    network = built(
        defense.network.name,
        defense.network.num_classes,
        state,
        defense.model_input.model_px,
        drop_path_rate=recipe.config.drop_path,
    )
    own, of_head = network.state_dict(), parameters_of(network, "classifier")
    if any(key not in state or state[key].shape != own[key].shape for key in of_head):
        state |= {key: own[key] for key in of_head}
    if type(network) in ABSOLUTE and _POSITIONS in state:
        state[_POSITIONS] = _on_grid(state[_POSITIONS], network)
    what = f"weights {defense.network.weights} do not fit {defense.network.name}"
    check_fit(network, state, what, "Give the --model these weights were trained with")
    network.load_state_dict(state)
    return network


def _on_grid(positions: Tensor, network: Droppable) -> Tensor:
    """Resample positions (1, P + N, D) of a square grid to the network's own, as timm does."""
    prefix = 0 if network.no_embed_class else network.num_prefix_tokens
    side = math.isqrt(positions.shape[1] - prefix)
    if side**2 != positions.shape[1] - prefix:
        return positions  # of a grid that is not square nothing is known
    grid = list(network.patch_embed.grid_size)
    resampled: Tensor = resample_abs_pos_embed(
        positions, grid, [side, side], num_prefix_tokens=prefix
    )
    return resampled


def prefer_plain_attention(network: nn.Module) -> None:
    """Let a network compute its attention by matrix products, which have a fast gradient.

    The gradient of torch's fused attention in bfloat16 on CPUs takes half of a step; matrix
    products use the processor's bfloat16 units.
    """
    for module in network.modules():
        if hasattr(module, "fused_attn"):
            setattr(module, "fused_attn", False)  # noqa: B010  (not declared by nn.Module)


def teacher_of(
    recipe: Recipe, average: ModelEmaV3 | None, device: torch.device
) -> AblationLogits | None:
    """Build the teacher, which sees whole images; None where none is asked for.

    Raises:
        WeightsError: The teacher's weights are not this network's.
    """
    defense, name = recipe.defense, recipe.config.teacher
    if name is None:
        return None
    if name == "self":
        assert average is not None  # the configuration requires it
        network: nn.Module = average.module
    else:
        network = load_network(
            defense.network.name,
            defense.network.num_classes,
            local_weights(name),
            defense.model_input.model_px,
        )
    teacher = AblationLogits(network, defense.views, defense.model_input, defense.tokens)
    return teacher.to(device).eval()

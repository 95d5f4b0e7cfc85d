"""``patchcert average``: the mean of trained weights."""

from pipeline import storage
from pipeline.runs.weight_files import check_new_weights, local_weights
from pipeline.training.config import Precision


def average(weights: list[str], /, *, out: str, save_as: Precision | None = None) -> int:
    """Average weights that were trained from the same ones: one network, often better than each.

    Args:
        weights: Files that `train` wrote, local or s3://; two or more.
        out: Where the mean goes (.safetensors).
        save_as: Type of the written weights [the first file's].

    Raises:
        ConfigError: ``out`` exists, or is not named as safetensors are.
        WeightsError: The files are not of one network.
    """
    check_new_weights(out)
    # torch: --help and usage errors must not wait for it.
    import torch  # noqa: PLC0415
    from safetensors.torch import save  # noqa: PLC0415

    from models.networks.averaging import average_weights  # noqa: PLC0415

    dtype = None if save_as is None else getattr(torch, save_as)
    state, card = average_weights([local_weights(path) for path in weights], dtype)
    storage.write_atomically(out, save(state, metadata=card.to_metadata()))
    print(f"{out}: the mean of {len(weights)} files of {card.model}, {card.num_classes} classes")
    return 0

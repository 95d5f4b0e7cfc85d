"""``patchcert average``: the mean of trained weights. Also ``python -m jobs.average``."""

import sys
from collections.abc import Sequence

from pipeline.training.config import Precision


def run_average(weights: Sequence[str], out: str, save_as: Precision | None) -> int:
    """Average, and say what was written; the weights are only read.

    Raises:
        ConfigError: ``out`` exists, or is not named as safetensors are.
        WeightsError: The files are not of one network.
    """
    from pipeline import storage  # noqa: PLC0415
    from pipeline.weight_files import check_new_weights, local_weights  # noqa: PLC0415

    check_new_weights(out)
    # torch: --help and usage errors must not wait for it.
    import torch  # noqa: PLC0415
    from safetensors.torch import save  # noqa: PLC0415

    from models.averaging import average_weights  # noqa: PLC0415

    dtype = None if save_as is None else getattr(torch, save_as)
    state, card = average_weights([local_weights(path) for path in weights], dtype)
    storage.write_atomically(out, save(state, metadata=card.to_metadata()))
    print(f"{out}: the mean of {len(weights)} files of {card.model}, {card.num_classes} classes")
    return 0


if __name__ == "__main__":
    from jobs.cli import main

    sys.exit(main(["average", *sys.argv[1:]]))

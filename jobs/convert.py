"""``patchcert convert``: a released checkpoint to safetensors."""

from dataclasses import dataclass

from cyclopts import Parameter

from models.networks.systems import TokenMode
from models.preprocess import PresetName
from models.views.ablations import AblationKind
from pipeline import storage
from pipeline.config import at_least
from pipeline.runs.weight_files import check_new_weights


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Contents of a checkpoint, as far as it does not say so itself.

    Attributes:
        model: timm name of the network, such as deit_tiny_patch16_224.
        num_classes: Length of the logits [the head's].
        preprocess: How images were resized and cropped [told from the normalizer inside].
        ablation: Shape of the ablations it was trained on.
        size: Their size in pixels; recorded, and the default of later runs.
        stride: Their stride in pixels; recorded, and the default of later runs.
        tokens: Token mode it was trained in [black, if it has the layout of the released weights].
        trust_pickle: Unpickle the file, which runs whatever code its maker put inside. Needed for
            the released checkpoints; give it only for files whose origin you trust.
    """

    model: str
    num_classes: int | None = None
    preprocess: PresetName | None = None
    ablation: AblationKind = "column"
    size: int | None = None
    stride: int | None = None
    tokens: TokenMode | None = None
    trust_pickle: bool = False

    def __post_init__(self) -> None:
        at_least(2, num_classes=self.num_classes)
        at_least(1, size=self.size, stride=self.stride)


def convert(released: str, out: str, /, *, what: ConvertConfig) -> int:
    """Convert a released smoothed-vit checkpoint to safetensors.

    Args:
        released: The checkpoint (.pt or .safetensors); it is only read.
        out: Where the weights go (.safetensors).
        what: What the checkpoint holds.

    Raises:
        ConfigError: ``out`` exists, or is not named as safetensors are.
        UnknownModelError, WeightsError: As ``models.networks.convert`` says.
    """
    check_new_weights(out)
    lengths = {"size": what.size, "stride": what.stride}
    given = {name: value for name, value in lengths.items() if value is not None}
    # torch and timm: --help and usage errors must not wait for them.
    from safetensors.torch import save  # noqa: PLC0415

    from models.networks.convert import convert_checkpoint  # noqa: PLC0415

    state, card = convert_checkpoint(
        released,
        what.model,
        num_classes=what.num_classes,
        preset=what.preprocess,
        ablation={"kind": what.ablation, **given} if given else None,
        tokens=what.tokens,
        trust_pickle=what.trust_pickle,
    )
    storage.write_atomically(out, save(state, metadata=card.to_metadata()))
    preprocess = card.preprocess
    assert preprocess is not None
    if "weights" in card.recipe["converted_from"]:
        print(f"{out}: the checkpoint's moving average, {card.recipe['converted_from']['weights']}")
    if card.tokens is None:
        print(f"{out}: its token mode is unknown, so that `run` drops tokens; --tokens says it")
    elif what.tokens is None:
        print(f"{out}: tokens {card.tokens}, as the released weights; --tokens drop if otherwise")
    print(
        f"{out}: {len(state)} tensors of {card.model}, {card.num_classes} classes, "
        f"{'x'.join(map(str, preprocess.crop_px))} px, mean {preprocess.mean}, std {preprocess.std}"
    )
    return 0

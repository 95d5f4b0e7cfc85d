"""The registry of model families, token modes and voting that can be evaluated.

``patchcert systems``, the table in the docs, the refusals of ``models.networks.droppable`` and the
tests all read it. Imports neither torch nor timm.
"""

from dataclasses import dataclass
from typing import Literal, get_args

TokenMode = Literal["drop", "black"]
VotingName = Literal["argmax", "threshold"]

TOKEN_MODES: tuple[TokenMode, ...] = get_args(TokenMode)
VOTING: tuple[VotingName, ...] = get_args(VotingName)


@dataclass(frozen=True, kw_only=True)
class System:
    """A model family and how it can be evaluated; every combination listed is allowed.

    Attributes:
        family: Name for people.
        examples: timm names of members.
        source: timm source files (stems) whose network classes belong here.
        refusal: Reason for which hidden tokens cannot be dropped soundly, as the end of a sentence
            that begins with the network; None where they can.
        note: A remark on the family's logits, for users.
        voting: Voting rules.
    """

    family: str
    examples: tuple[str, ...]
    source: tuple[str, ...]
    refusal: str | None = None
    note: str = ""
    voting: tuple[VotingName, ...] = VOTING

    @property
    def tokens(self) -> tuple[TokenMode, ...]:
        """Token modes allowed."""
        return TOKEN_MODES if self.refusal is None else ("black",)


_VIT = ("vision_transformer",)
CONVOLUTIONS = "has convolutions, which look across hidden pixels; it has no tokens to drop"
_HIERARCHY = "merges neighbouring tokens between stages, so that a token needs its neighbours"
_OTHER_MIXING = "mixes tokens in ways not known to leave one alone when others are dropped"

SYSTEMS: tuple[System, ...] = (
    System(
        family="ViT, AugReg, DINOv2, MAE",
        examples=("vit_tiny_patch16_224", "vit_small_patch8_224", "vit_small_patch14_dinov2"),
        source=_VIT,
    ),
    System(
        family="DeiT, DeiT-III",
        examples=("deit_tiny_patch16_224", "deit3_small_patch16_224"),
        source=_VIT,
    ),
    System(
        family="DeiT, distilled",
        examples=("deit_tiny_distilled_patch16_224",),
        source=("deit",),
        note="logits are the mean of the class and the distillation head",
    ),
    System(
        family="CLIP, AIMv2 (normalized before the blocks)",
        examples=("vit_xsmall_patch16_clip_224", "vit_base_patch16_clip_quickgelu_224"),
        source=_VIT,
    ),
    System(
        family="ViT with register tokens",
        examples=("vit_wee_patch16_reg1_gap_256", "vit_small_patch14_reg4_dinov2"),
        source=_VIT,
    ),
    System(
        family="ViT with average pooling",
        examples=("vit_medium_patch16_gap_256", "beit3_base_patch16_224"),
        source=_VIT,
        note="under drop the mean is over the kept tokens",
    ),
    System(
        family="SigLIP (attention pooling)",
        examples=("vit_base_patch16_siglip_224",),
        source=_VIT,
        note="under drop only kept tokens are pooled",
    ),
    System(
        family="ViT with parallel blocks or differential attention",
        examples=("vit_small_patch16_18x2_224", "vit_dwee_patch16_reg1_gap_256"),
        source=_VIT,
    ),
    System(
        family="BEiT, BEiT v2",
        examples=("beit_base_patch16_224", "beitv2_base_patch16_224"),
        source=("beit",),
        note="kept tokens keep their relative position bias",
    ),
    System(
        family="ViT with relative positions",
        examples=("vit_relpos_small_patch16_224", "vit_srelpos_small_patch16_224"),
        source=("vision_transformer_relpos",),
        note="kept tokens keep their relative position bias",
    ),
    System(
        family="ViT on a convolutional stem",
        examples=("vit_tiny_r_s16_p8_224", "vitamin_small_224"),
        source=("vision_transformer_hybrid", "vitamin"),
        refusal="makes its tokens by convolutions, so that they share pixels",
    ),
    System(
        family="EVA-02, RoPE ViT, DINOv3, Perception Encoder",
        examples=("eva02_tiny_patch14_224", "vit_small_patch16_rope_224"),
        source=("eva",),
        refusal="is of a class whose attention takes rotary positions of the whole grid of tokens",
    ),
    System(
        family="SAM, windowed ViT",
        examples=("samvit_base_patch16_224",),
        source=("vision_transformer_sam", "hieradet_sam2"),
        refusal="attends within windows, which hidden tokens fill",
    ),
    System(
        family="Swin, Swin v2",
        examples=("swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"),
        source=("swin_transformer", "swin_transformer_v2", "swin_transformer_v2_cr"),
        refusal="attends within windows and merges neighbouring tokens between stages",
    ),
    System(
        family="Hierarchical transformers (MViT, PVT, Hiera, Twins, PiT, MaxViT, LeViT, ...)",
        examples=("mvitv2_tiny", "pvt_v2_b0", "pit_ti_224"),
        source=(
            *("mvitv2", "pvt_v2", "hiera", "twins", "pit", "maxxvit", "levit", "gcvit", "davit"),
            *("nest", "tiny_vit", "efficientformer", "coat", "focalnet", "nextvit"),
        ),
        refusal=_HIERARCHY,
    ),
    System(
        family="Other transformers (XCiT, CaiT, VOLO, TNT, ConViT, NaFlexViT, ...)",
        examples=("xcit_nano_12_p16_224", "cait_xxs24_224"),
        source=("crossvit", "xcit", "cait", "volo", "tnt", "convit", "naflexvit"),
        refusal=_OTHER_MIXING,
    ),
    System(
        family="ResNet, Wide ResNet",
        examples=("resnet18", "resnet50", "wide_resnet101_2"),
        source=("resnet", "resnetv2"),
        refusal=CONVOLUTIONS,
    ),
    System(
        family="EfficientNet",
        examples=("tf_efficientnet_lite0", "efficientnet_b0"),
        source=("efficientnet",),
        refusal=CONVOLUTIONS,
    ),
    System(
        family="ConvNeXt and any other CNN of timm",
        examples=("convnext_atto", "densenet121"),
        source=("convnext", "densenet", "mobilenetv3", "regnet", "vgg", "byobnet", "nfnet"),
        refusal=CONVOLUTIONS,
    ),
)
"""Every row; a network of a class in none of them is refused for drop and allowed for black."""


def drop_refusal(module: str) -> str:
    """Reason for which ``drop`` refuses a network that the Python module ``module`` defines."""
    stem = module.rpartition(".")[2]
    for system in SYSTEMS:
        if stem in system.source and system.refusal is not None:
            return system.refusal
    return "is none of the transformers whose tokens are known to be droppable"

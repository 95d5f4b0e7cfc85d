"""Small members of every family, with weights that make their votes differ."""

from collections.abc import Iterator
from contextlib import contextmanager

import timm
import torch

from models.classifiers.black import BlackMasked
from models.preprocess import Preprocess
from models.views.ablations import Ablation

CLASSES = 7
_SMALL = {"img_size": 64, "embed_dim": 48, "depth": 2, "num_heads": 3}

# Key: (timm name, arguments, side of the image in pixels, side of a token in pixels).
DROPPABLE = {
    "ViT": ("test_vit", {"img_size": 64}, 64, 16),
    "ViT patch 14": ("test_vit", {"img_size": 56, "patch_size": 14}, 56, 14),
    "ViT patch 8": ("test_vit", {"img_size": 48, "patch_size": 8}, 48, 8),
    "ViT patch 4": ("test_vit", {"img_size": 32, "patch_size": 4}, 32, 4),
    "ViT fixed size": ("vit_tiny_patch16_224", _SMALL, 64, 16),
    "ViT dynamic size": ("test_vit", {}, 96, 16),
    "ViT avg": ("test_vit2", {"img_size": 64}, 64, 16),
    "ViT map": ("test_vit3", {"img_size": 64}, 64, 16),
    "ViT RMS norm": ("test_vit4", {"img_size": 64}, 64, 16),
    "AugReg patch 8": ("vit_small_patch8_224", _SMALL | {"img_size": 32}, 32, 8),
    "no class token": ("vit_medium_patch16_gap_256", _SMALL, 64, 16),
    "DeiT-III": ("deit3_small_patch16_224", _SMALL, 64, 16),
    "distilled": ("deit_tiny_distilled_patch16_224", _SMALL, 64, 16),
    "registers": ("vit_small_patch14_reg4_dinov2", _SMALL | {"img_size": 56}, 56, 14),
    "registers avg": ("vit_wee_patch16_reg1_gap_256", _SMALL, 64, 16),
    "CLIP": ("vit_base_patch16_clip_quickgelu_224", _SMALL, 64, 16),
    "SigLIP": ("vit_base_patch16_siglip_224", _SMALL, 64, 16),
    "BEiT-3": ("beit3_base_patch16_224", _SMALL, 64, 16),
    "AIMv2": ("aimv2_large_patch14_224", _SMALL | {"img_size": 56}, 56, 14),
    "parallel": ("vit_small_patch16_18x2_224", _SMALL, 64, 16),
    "parallel scaling": ("vit_base_patch16_xp_224", _SMALL, 64, 16),
    "post-norm": ("vit_base_patch16_rpn_224", _SMALL, 64, 16),
    "differential": ("vit_dwee_patch16_reg1_gap_256", _SMALL | {"num_heads": 2}, 64, 16),
    "parallel differential": ("vit_dpwee_patch16_reg1_gap_256", _SMALL | {"num_heads": 2}, 64, 16),
    "BEiT": ("beit_base_patch16_224", _SMALL, 64, 16),
    "BEiT class token": ("beitv2_base_patch16_224", _SMALL | {"global_pool": "token"}, 64, 16),
    "BEiT shared bias": (
        "beit_base_patch16_224",
        _SMALL | {"use_rel_pos_bias": False, "use_shared_rel_pos_bias": True},
        64,
        16,
    ),
    "BEiT both positions": (
        "beit_base_patch16_224",
        _SMALL | {"use_abs_pos_emb": True, "use_shared_rel_pos_bias": True},
        64,
        16,
    ),
    "relative": ("vit_relpos_small_patch16_224", _SMALL, 64, 16),
    "relative class token": ("vit_relpos_base_patch16_cls_224", _SMALL, 64, 16),
    "relative shared": ("vit_srelpos_small_patch16_224", _SMALL, 64, 16),
    "relative table": ("test_vit_relpos", {"img_size": 64, "rel_pos_type": "bias"}, 64, 16),
}
MASKED = {
    "ResNet": ("test_resnet", {}, 64),
    "EfficientNet": ("test_efficientnet", {}, 64),
    "ConvNeXt": ("test_convnext", {}, 64),
    "Swin": (
        "swin_tiny_patch4_window7_224",
        {"img_size": 64, "embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)},
        64,
    ),
    "EVA": ("eva02_tiny_patch14_224", _SMALL | {"img_size": 56}, 56),
    "ViT black": ("test_vit", {"img_size": 64}, 64),
    "distilled black": ("deit_tiny_distilled_patch16_224", _SMALL, 64),
}


@contextmanager
def one_thread() -> Iterator[None]:
    """Networks this small lose far more by waiting for a second thread than they gain."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def lively(name: str, arguments: dict | None = None, seed: int = 0) -> torch.nn.Module:
    """Evaluation mode, weights so large that logits differ by far more than rounding does."""
    generator = torch.Generator().manual_seed(seed)
    network = timm.create_model(name, num_classes=CLASSES, **(arguments or {}))
    with torch.no_grad():
        for key, tensor in network.state_dict().items():
            if not tensor.is_floating_point():
                continue
            noise = torch.randn(tensor.shape, generator=generator)
            if key.endswith("running_var"):
                tensor.copy_(0.5 + noise.abs())
            elif key.endswith(("cls_token", "reg_token", "dist_token")):
                tensor.copy_(0.02 * noise)  # else they outshout the image
            elif "bias_table" in key or "pos_embed" in key:
                tensor.copy_(noise)
            elif tensor.ndim > 1:
                tensor.copy_(noise * 2 / tensor[0].numel() ** 0.5)
            elif key.endswith(("weight", "gamma", "gamma_1", "gamma_2")):
                tensor.copy_(1 + 0.1 * noise)
            else:
                tensor.copy_(0.1 * noise)
    return network.eval()


def preprocess_of(side: int | tuple[int, int]) -> Preprocess:
    return Preprocess(
        resize=None,
        crop=side,
        interpolation="bilinear",
        mean=(0.5, 0.4, 0.3),
        std=(0.2, 0.25, 0.3),
    )


def ablation_of(kind: str, size: int, stride: int, side: int | tuple[int, int]) -> Ablation:
    height, width = (side, side) if isinstance(side, int) else side
    return Ablation(kind=kind, size=size, stride=stride, height=height, width=width)


def masked_model(
    family: str, kind: str = "column", share: float = 0.3, stride: int = 10
) -> BlackMasked:
    """A member of ``MASKED`` on ablations of a share of its side."""
    name, arguments, side = MASKED[family]
    ablation = ablation_of(kind, round(side * share), stride, side)
    return BlackMasked(lively(name, arguments), ablation, preprocess_of(side)).eval()


def all_logits(model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits of every ablation of every image; (B, V, C)."""
    views, rows = len(model.views), None
    with torch.inference_mode():
        tokens = model.tokens(images)
        for _, group in model.groups():
            for image in range(len(images)):
                view_s = torch.from_numpy(group)
                logits = model(tokens, torch.full_like(view_s, image), view_s)
                if rows is None:
                    rows = torch.empty((len(images), views, logits.shape[1]))
                rows[image, view_s] = logits.float()
    return rows

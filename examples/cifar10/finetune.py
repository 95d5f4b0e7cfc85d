"""Fine-tune DeiT-Tiny on the column ablations of CIFAR-10: the example's weights.

One process, plain torch. Reads Parquet files of encoded 32x32 images with labels; the test file
is never read here. Checkpoints every epoch and resumes from the last one:

    python examples/cifar10/finetune.py --train cifar10_train.parquet \
        --init deit_tiny_patch16_224.safetensors --out smoothed_deit_tiny.safetensors --epochs 6
"""

import argparse
import io
import math
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import timm
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from models.ablation import Ablation
from models.preprocess import PRESETS
from models.vit import TokenDropViT
from models.weights import WeightsCard

MODEL = "deit_tiny_patch16_224"
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
PREPROCESS = PRESETS["cifar10"]


def read_images(path: str) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All images (n, 32, 32, 3) and labels (n,) of a Parquet file."""
    table = pq.read_table(path, columns=["image", "label"])
    pixels = [
        np.asarray(Image.open(io.BytesIO(cell.as_py())).convert("RGB")) for cell in table["image"]
    ]
    return np.stack(pixels), table["label"].to_numpy().astype(np.int64)


def augment(images: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Flip half of the images and shift each by up to 4 px, black outside."""
    padded = np.pad(images, ((0, 0), (4, 4), (4, 4), (0, 0)))
    shifts = rng.integers(0, 9, size=(len(images), 2))
    out = np.stack(
        [image[y : y + 32, x : x + 32] for image, (y, x) in zip(padded, shifts, strict=True)]
    )
    flip = rng.random(len(images)) < 0.5
    out[flip] = out[flip, :, ::-1]
    return out


def enlarge(images: NDArray[np.uint8]) -> Tensor:
    """The model's input: every pixel becomes 7 x 7 model pixels."""
    scale = PREPROCESS.pixel_scale
    return torch.from_numpy(images.repeat(scale, axis=1).repeat(scale, axis=2))


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--train", required=True)
    parser.add_argument("--init", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--size", type=int, default=4)
    parser.add_argument("--lr", type=float, default=4e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--max-steps", type=int, default=None, help="stop early, to time a step")
    args = parser.parse_args()

    torch.manual_seed(args.seed)
    images, labels = read_images(args.train)
    network = timm.create_model(MODEL, pretrained=False, num_classes=len(CLASSES))
    init = {k: v for k, v in load_file(args.init).items() if not k.startswith("head.")}
    missing, unexpected = network.load_state_dict(init, strict=False)
    if set(missing) != {"head.weight", "head.bias"} or unexpected:
        raise SystemExit(f"{args.init}: missing {missing}, unexpected {unexpected}")
    ablation = Ablation(kind="column", size=args.size, stride=1, height=32, width=32, pixel_scale=7)
    model = TokenDropViT(network, ablation, PREPROCESS)
    groups = [views for _, views in model.groups()]
    shares = np.array([len(views) for views in groups]) / len(ablation)

    decay = [p for p in network.parameters() if p.ndim > 1]
    plain = [p for p in network.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decay, "weight_decay": 0.05}, {"params": plain, "weight_decay": 0.0}]
    )
    steps_an_epoch = len(images) // args.batch
    steps = steps_an_epoch * args.epochs
    checkpoint = Path(args.out).with_suffix(".checkpoint.pt")
    first_epoch = 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        first_epoch = state["epoch"]
        print(f"resumed after epoch {first_epoch}", flush=True)

    started, seen = time.time(), 0
    for epoch in range(first_epoch, args.epochs):
        # A generator per epoch makes a resumed epoch the one that was interrupted.
        rng = np.random.default_rng([args.seed, epoch])
        order = rng.permutation(len(images))
        hits = total = 0
        for index in range(steps_an_epoch):
            step = epoch * steps_an_epoch + index
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(step, steps, args.lr, warmup=200)
            chosen = order[index * args.batch : (index + 1) * args.batch]
            pixels = enlarge(augment(images[chosen], rng))
            target = torch.from_numpy(labels[chosen])
            # Every image its own random ablation; one token count a step, so shapes agree.
            views = rng.choice(groups[rng.choice(len(groups), p=shares)], size=len(chosen))
            with torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bfloat16"):
                logits = model(
                    model.tokens(pixels), torch.arange(len(chosen)), torch.from_numpy(views)
                )
            loss = functional.cross_entropy(logits.float(), target, label_smoothing=0.05)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            hits += int((logits.argmax(1) == target).sum())
            total += len(chosen)
            seen += len(chosen)
            if index % 50 == 49:
                rate = seen / (time.time() - started)
                left = (steps - step - 1) * args.batch / rate / 60
                print(
                    f"epoch {epoch + 1}/{args.epochs} step {index + 1}/{steps_an_epoch} "
                    f"loss {loss.item():.3f} ablation accuracy {hits / total:.3f} "
                    f"{rate:.0f} images/s, {left:.0f} min left",
                    flush=True,
                )
            if args.max_steps is not None and step + 1 >= args.max_steps:
                return
        torch.save(
            {
                "network": network.state_dict(),
                "optimizer": optimizer.state_dict(),
                "epoch": epoch + 1,
            },
            checkpoint,
        )

    card = WeightsCard(
        model=MODEL,
        num_classes=len(CLASSES),
        classes=tuple(CLASSES),
        preprocess=PREPROCESS,
        ablation={"kind": "column", "size": args.size, "stride": 1},
        tokens="drop",
        recipe={
            "script": "examples/cifar10/finetune.py",
            "init": "DeiT-Tiny, ImageNet-1k",
            "data": "CIFAR-10 training set, 50,000 images",
            "epochs": args.epochs,
            "batch": args.batch,
            "lr": args.lr,
            "seed": args.seed,
            "dtype": args.dtype,
        },
    )
    half = {k: v.to(torch.float16).contiguous() for k, v in network.state_dict().items()}
    save_file(half, args.out, metadata=card.to_metadata())
    print(f"wrote {args.out}", flush=True)


if __name__ == "__main__":
    main()

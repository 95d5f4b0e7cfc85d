"""A network on images, evaluated in this process: the same engine, store and rules as the commands.

torch is imported once something is evaluated.
"""

import html
import io
import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_args

from rich.console import Console

from models.networks.systems import TokenMode
from models.networks.weights import HUB, MODULE, WeightsCard, read_card
from models.preprocess import PRESETS, Preprocess, PresetName
from models.views.family import ViewsKind
from models.views.threats import Threat
from pipeline.analysis import Run, open_run
from pipeline.certificates.rules import uncovered
from pipeline.cluster.executor import IN_PROCESS
from pipeline.config import ClaimsConfig, ConfigError, Device, OutputConfig, VotesConfig
from pipeline.notebook.labels import as_options, needs_covers
from pipeline.notebook.pictures import write_dataset
from pipeline.preflight.checks import check_plan
from pipeline.report.tables import print_summary
from pipeline.runs.defense import Defense, Network
from pipeline.runs.resolve import defense_of, hub_or_path, resolve_defense
from pipeline.runs.schema import CertifiedEntry, Summary
from pipeline.runs.weight_files import local_weights
from pipeline.scoring.certify import Certified, certify_votes
from pipeline.scoring.claims import Claim, Claims, resolve_claims
from pipeline.scoring.source import notes
from pipeline.voting.plan import found_votes, open_plan, vote

if TYPE_CHECKING:  # torch is heavy, and a run that is finished needs none
    from torch import nn
    from torch.utils.data import Dataset

# Columns of a table where nobody says how wide the page is.
_WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class Result:
    """What ``evaluate`` found: figures, and the stored run that they are of.

    ``clean_accuracy`` and ``certified_accuracy`` speak of one claim, the first of ``claims``: the
    first patch that was asked for, by the first rule that was named. Where none was named it is
    two-location for pairs of masks, which recovers the right answer; one-location for single masks,
    which detects; and exact for ablations. Every other answer is in ``claims``.

    Attributes:
        run_id: The run; ``patchcert`` commands take the beginning of it.
        out: Folder of all results.
        summary: All that was ever asked of the run, as ``patchcert certify --json`` prints it.
        claims: The answers to this call, in the order of the table but for the first.
        lines: What the threats come to on the grid, in words.
    """

    run_id: str
    out: str
    summary: Summary
    claims: Sequence[CertifiedEntry]
    lines: Sequence[str] = ()

    @property
    def certified_accuracy(self) -> float:
        """Share of the labelled images that stay right under every such patch; NaN without any.

        Under a rule that alerts (one-location): that stay right or raise an alert.
        """
        return _known(self.claims[0]["value"])

    @property
    def certified_interval(self) -> tuple[float, float]:
        """Its 95 % Wilson interval."""
        return _known(self.claims[0]["low"]), _known(self.claims[0]["high"])

    @property
    def clean_accuracy(self) -> float:
        """Share that the same rule answers rightly without a patch; NaN without labelled images."""
        return _known(self.claims[0]["clean_accuracy"]["value"])

    @property
    def plain_accuracy(self) -> float:
        """Share that the network alone classifies rightly, nothing hidden; NaN without any."""
        return _known(self.summary["plain_accuracy"]["value"])

    @cached_property
    def run(self) -> Run:
        """The stored run: its tables, votes and margins."""
        return open_run(self.out, self.run_id)

    def table(self) -> str:
        """The answers as the table that ``patchcert certify`` prints."""
        sink = io.StringIO()
        console = Console(file=sink, width=_WIDTH, highlight=False, color_system=None)
        print_summary(self.summary, console, Claims(frozenset(map(Claim.from_dict, self.claims))))
        for line in self.lines:
            console.print(line, soft_wrap=True, markup=False)
        return "\n".join(line.rstrip() for line in sink.getvalue().splitlines())

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.table())}</pre>"


def _known(share: float | None) -> float:
    return float("nan") if share is None else share


def evaluate(
    model: "nn.Module | str",
    data: "str | os.PathLike[str] | Dataset[Any]",
    *,
    patch: int | str | Sequence[int | str],
    weights: str | os.PathLike[str] | None = None,
    views: ViewsKind = "mask-pair",
    covers: int | str | None = None,
    masks: int | str | None = None,
    size: int | None = None,
    stride: int | None = None,
    all_views: bool | None = None,
    tokens: TokenMode | None = None,
    preprocess: PresetName | Preprocess | None = None,
    label_map: str | os.PathLike[str] | None = None,
    rules: Sequence[str] | None = None,
    limit: int | None = None,
    max_error_rate: float = 0.01,
    device: Device = "auto",
    overwrite: bool = False,
    out: str | os.PathLike[str] = "out",
) -> Result:
    """Vote on images in this process, certify, and store the run; asked again it computes nothing.

    A run is identified by all that determines its votes. Of a module that is its class's qualified
    name and the sha256 of its state; of its settings (attributes that are plain values) and of the
    code of its classes as well, so that a method that was edited makes another run. What a method
    calls elsewhere, and hooks, are not seen: after changing those say ``overwrite=True``. A module
    is copied, and votes in evaluation mode; a run of one can be asked by every command that reads
    votes, while those that need the network again (attack, register) say that it cannot be built.

    Args:
        model: timm name of a network, or a ``torch.nn.Module`` that takes normalized batches
            (B, 3, height, width) and returns logits.
        data: What ``patchcert run --data`` takes (tar shards, Parquet, a folder of class folders;
            local or s3://), or a map-style ``Dataset`` of (image, class number), whose images are
            PIL images or uint8 pixels. Its images are written to ``out/pictures`` once, as PNG.
        patch: What the attacker may do: 32, 2%, 16x48, area:1024, source:2%, or several of these.
        weights: Weight file of a timm name; None takes those that timm publishes.
        views: What a view hides (mask, mask-pair) or shows alone (column, row, block).
        covers: The largest patch for which masks are cut; None takes ``patch``.
        masks: Masks an axis, at most; None takes 6, which are up to 666 pairs.
        size: Width of a band, or side of a block or mask, in pixels.
        stride: Distance of neighbouring bands, blocks or masks of a given size, in pixels.
        all_views: Ask every view of every image, for other questions later; None does so where
            several patches are asked, which early exit does not answer.
        tokens: drop or black; None drops the hidden tokens of a transformer that is known to
            compute the same without them, and gives black pixels to every other network.
        preprocess: Resize, crop and normalization: a preset (imagenet, cifar10, model) or a
            ``models.preprocess.Preprocess``; None takes the weights' own, else timm's, else
            imagenet.
        label_map: File that gives class folders, or labels as the data have them, their class
            numbers.
        rules: Names of the rules to ask, the headline's first; None asks all that fit the views.
        limit: Only the first so many images.
        max_error_rate: Share of images that may have an error, such as one that cannot be decoded;
            above it the call fails, though all is stored.
        device: auto, cpu or cuda, where votes are computed in bfloat16 and not in float32.
        overwrite: Compute again what this very run has stored.
        out: Folder of all results, local or s3://.

    Raises:
        ValueError: The request is wrong; the message names the argument, the rule and the remedy.
        JobError: The job failed; calling again resumes.
    """
    _check_model(model)
    _check_options(patch, rules, limit, preprocess, device)
    patches = (patch,) if isinstance(patch, int | str) else tuple(patch)
    claims = ClaimsConfig(patch=patches, rule=None if rules is None else tuple(rules))
    family = {"covers": covers, "masks": masks, "size": size, "stride": stride}
    given = {name: value for name, value in family.items() if value is not None}
    if needs_covers(views, given):
        given["covers"] = _largest(claims.threats or ())
    several = len(patches) > 1 and views == "mask-pair"
    if not isinstance(model, str) and weights is not None:
        raise ConfigError(
            f"weights={os.fspath(weights)}: a module has its own; load them into it, or give the "
            "network's timm name in place of the module"
        )
    if not isinstance(data, str | os.PathLike):
        data, limit = write_dataset(data, os.fspath(out), limit), None
    request = VotesConfig(
        data=os.fspath(data),
        weights=_weights(model, weights),
        model=model if isinstance(model, str) else None,
        views=views,
        all_views=several if all_views is None else all_views,
        tokens=tokens,
        preprocess=None if isinstance(preprocess, Preprocess) else preprocess,
        label_map=None if label_map is None else os.fspath(label_map),
        limit=limit,
        max_error_rate=max_error_rate,
        device=device,
        overwrite=overwrite,
        actors=1,
        **as_options(given),
    )
    look = preprocess if isinstance(preprocess, Preprocess) else None
    output = OutputConfig(out=os.fspath(out))
    from models.classifiers.determinism import kept_settings  # noqa: PLC0415

    with kept_settings():
        if isinstance(model, str):
            defense = _of_name(request, model, look)
        else:
            defense = _of_module(request, model, look)
        asked = resolve_claims(defense, claims)
        plan = open_plan(request, defense, output, IN_PROCESS)
        outcome = found_votes(plan)
        if outcome is None:
            check_plan(plan, output)
            outcome = vote(plan, nullcontext())
    certified = certify_votes(plan.store, claims, overwrite=overwrite)
    outcome.error_images.check(outcome.images, request.max_error_rate)
    return _result(certified, claims, asked, output.out)


def _check_options(patch: Any, rules: Any, limit: int | None, preprocess: Any, device: str) -> None:
    """Raise ConfigError for options of a wrong kind, of which later steps speak less plainly."""
    numbers = patch if isinstance(patch, list | tuple) else [patch]
    if not numbers or not all(isinstance(one, int | str) for one in numbers):
        raise ConfigError(
            f"patch={patch!r}: give a whole number of pixels, a text such as '2%' or 'source:50', "
            "or a list of these"
        )
    if isinstance(rules, str):
        raise ConfigError(f"rules={rules!r}: give a list of names, such as [{rules!r}]")
    if limit is not None and limit < 1:
        raise ConfigError(f"limit={limit}: it must be at least 1, or None for all images")
    if isinstance(preprocess, str) and preprocess not in get_args(PresetName):
        known = ", ".join(get_args(PresetName))
        raise ConfigError(f"preprocess={preprocess!r}: give one of {known}, or a Preprocess")
    if device not in get_args(Device):
        raise ConfigError(f"device={device!r}: give one of {', '.join(get_args(Device))}")


def _check_model(model: Any) -> None:
    """Raise ConfigError for what is neither a name nor a module."""
    if not isinstance(model, str) and not hasattr(model, "state_dict"):
        raise ConfigError(
            f"model: a {type(model).__name__} is neither the name of a network nor a "
            "torch.nn.Module; wrap a function in a module, and make an object of a class"
        )
    if isinstance(model, type):
        raise ConfigError(
            f"model: {model.__name__} is a class; give a module, {model.__name__}(...)"
        )


def _result(certified: Certified, claims: ClaimsConfig, asked: Claims, out: str) -> Result:
    entries = [
        entry
        for entry in certified.summary["certified_accuracy"]
        if Claim.from_dict(entry) in asked.claims
    ]
    views, threats = certified.manifest.defense.views, claims.threats or ()
    names = [entry["rule"] for entry in entries]
    rules = claims.rule or [name for name in names if name in uncovered(names)]
    # Rules for masks come in the registry's order: recovery before detection.
    first = rules[0] if claims.rule or "two-location" not in rules else "two-location"
    against = str(threats[0].on(views))
    entries.sort(key=lambda entry: (entry["threat"], entry["rule"]) != (against, first))
    return Result(
        run_id=certified.manifest.run_id,
        out=out,
        summary=certified.summary,
        claims=entries,
        lines=notes(entries, threats, (views.height, views.width)),
    )


def _largest(threats: Sequence[Threat]) -> str:
    """The threat for which masks are cut, of those that are asked.

    Raises:
        ConfigError: That is not plain.
    """
    kinds = {(one.source, one.percent is None, one.side is None) for one in threats}
    alike = len(threats) == 1 or kinds <= {(False, True, False), (False, False, True)}
    if len(kinds) != 1 or not alike or threats[0].source or threats[0].count > 1:
        raise ConfigError(
            f"patch={', '.join(map(str, threats))}: say for which one patch on the grid the masks "
            "are cut, such as covers=48; a patch of the picture becomes at most so large on the "
            "grid as the table then says"
        )
    return str(max(threats, key=lambda one: one.order))


def _weights(model: "nn.Module | str", weights: str | os.PathLike[str] | None) -> str:
    if not isinstance(model, str):
        from models.networks.modules import module_name  # noqa: PLC0415

        return MODULE + module_name(model)
    return HUB + model if weights is None else os.fspath(weights)


def _of_name(request: VotesConfig, model: str, look: Preprocess | None) -> Defense:
    """The defense of a network that timm knows."""
    from models.errors import UnsupportedModelError  # noqa: PLC0415
    from models.networks.droppable import droppable  # noqa: PLC0415
    from models.networks.zoo import outline  # noqa: PLC0415

    card = read_card(local_weights(hub_or_path(request.weights)))
    if request.tokens is None and card.tokens is None:
        try:
            droppable(outline(model))
        except UnsupportedModelError:
            request = replace(request, tokens="black")
    return resolve_defense(request, look)


def _of_module(request: VotesConfig, module: "nn.Module", look: Preprocess | None) -> Defense:
    """The defense of a program's own module."""
    from models.networks.modules import adopt  # noqa: PLC0415
    from models.networks.zoo import preprocess_of  # noqa: PLC0415

    if look is None and request.preprocess in PRESETS:
        look = PRESETS[request.preprocess]
    if request.preprocess == "model" and not hasattr(module, "pretrained_cfg"):
        raise ConfigError(
            "preprocess='model': the module has no pretrained_cfg, which says it; give a preset "
            "(imagenet, cifar10) or a models.preprocess.Preprocess"
        )
    if look is None and hasattr(module, "pretrained_cfg"):
        try:
            look = preprocess_of(module, type(module).__name__)
        except ValueError as error:
            raise ConfigError(str(error)) from error
    look = look or PRESETS["imagenet"]
    adopted = adopt(module, look.model_px)
    network = Network(
        name=adopted.name,
        num_classes=adopted.num_classes,
        weights_sha256=adopted.sha256,
        weights=request.weights,
        module=adopted.module,
    )
    return defense_of(request, WeightsCard(tokens=adopted.tokens), look, network)

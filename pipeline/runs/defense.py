"""The defense that a run evaluates: preprocessing, network, views and voting, as one value.

It is resolved from a request before the votes are cast (``resolve``), and read back from the
manifest of stored votes. Planning, voting, scoring and analysis all ask this one type.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from models.networks.systems import TokenMode
from models.preprocess import Preprocess
from models.views.ablations import Ablation
from models.views.family import IntArray, ViewFamily
from models.views.masks import Masks
from pipeline.certificates.subsets import coarser_places
from pipeline.config import ConfigError

if TYPE_CHECKING:  # torch is heavy, and most questions about a run need none
    from torch import nn

Json = Any


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network and the classes that it may vote for.

    Attributes:
        name: timm name of the network, or the class of a module of a Python program.
        num_classes: Length of its logits.
        weights_sha256: Digest of the bytes of the weight file, or of the module.
        classes: Classes that the logits are restricted to, ascending; None for all.
        weights: Path of the weight file, or its s3:// address; open ``local_weights`` of it. The
            digest identifies the weights, so their place takes no part in equality. Of a module
            ``module:`` and its class.
        module: The module, in the program that made it; None elsewhere, and of a weight file.
    """

    name: str
    num_classes: int
    weights_sha256: str = ""
    classes: tuple[int, ...] | None = None
    weights: str = field(default="", compare=False)
    module: "nn.Module | None" = field(default=None, compare=False, repr=False)

    @cached_property
    def voted_classes(self) -> IntArray:
        """Classes that can get votes, ascending; int64 (C,)."""
        return np.array(self.classes or range(self.num_classes), np.int64)


@dataclass(frozen=True, kw_only=True)
class Voting:
    """The way from a view's logits to its vote, and the views that vote on an image.

    Attributes:
        theta: Threshold of threshold voting; None votes for the largest logit.
        gaps: Whether top-two logit gaps are stored.
        early_exit: Whether an image's views are asked only as far as the decision for the covered
            patch needs them; the others have no vote.
        draws: Positions drawn for each image by randomized smoothing; None votes on all views.
        draw_seed: Seed of those draws.
    """

    theta: float | None = None
    gaps: bool = False
    early_exit: bool = False
    draws: int | None = None
    draw_seed: int = 0

    @property
    def vote_sets(self) -> bool:
        """True if a view votes for a set of classes, as threshold voting does."""
        return self.theta is not None

    @property
    def most_votes(self) -> int | None:
        """The most classes of a vote set, which the attacker may use; None of single votes."""
        return None if self.theta is None else int(1.0 / self.theta)


@dataclass(frozen=True, kw_only=True)
class Defense:
    """A fully specified defense: all that an actor needs to vote and a rule to certify.

    Attributes:
        preprocess: From the decoded image to the model's input; None of imported votes.
        network: The network and its classes.
        views: The views that vote, or that are drawn from, on the attacker's grid.
        tokens: Treatment of hidden tokens; "unknown" of imported votes.
        voting: From logits to votes.
    """

    preprocess: Preprocess | None
    network: Network
    views: ViewFamily
    tokens: TokenMode
    voting: Voting = Voting()

    @property
    def model_input(self) -> Preprocess:
        """The preprocessing of a defense that can vote; imported votes have none."""
        assert self.preprocess is not None, "imported votes are never cast again"
        return self.preprocess

    @property
    def votes_per_image(self) -> int:
        """Number of views that vote on one image."""
        return self.voting.draws or len(self.views)

    @property
    def ablation(self) -> Ablation:
        """The views, for a question about ablations.

        Raises:
            ConfigError: They hide instead.
        """
        if not isinstance(self.views, Ablation):
            raise ConfigError(
                f"this run votes on {self.views}, and what was asked is about views that show one "
                "band or block; ask a run of ablations"
            )
        return self.views

    @property
    def own_stride(self) -> int | None:
        """Stride of the views in pixels; None for random positions and for masks."""
        views, drawn = self.views, self.voting.draws is not None
        if drawn or not isinstance(views, Ablation) or views.random is not None:
            return None
        return views.stride

    def views_at(self, stride: int | None) -> ViewFamily:
        """Return the views of a stride, all of which have voted.

        Raises:
            ValueError: Some of them did not vote.
        """
        if stride == self.own_stride:
            return self.views
        if stride is None or self.voting.draws is not None:
            raise ValueError(f"stride={stride}: votes at random positions answer for no stride")
        return coarser_places(self.ablation, stride)[1]

    def to_identity(self) -> dict[str, Json]:
        """Write the defense as the part of a run's identity that it decides, plain JSON."""
        network, voting = self.network, self.voting
        facts: dict[str, Json] = {
            "model": {
                "name": network.name,
                "num_classes": network.num_classes,
                "weights_sha256": network.weights_sha256,
                "classes": None if network.classes is None else list(network.classes),
            },
            **self.views.to_identity(),
            "tokens": self.tokens,
            "voting": {"theta": voting.theta, "gaps": voting.gaps},
            "randomized": {"draws": voting.draws, "seed": voting.draw_seed},
        }
        if voting.early_exit:  # absent from runs that were begun without knowing of it
            facts["voting"]["early_exit"] = True
        if self.preprocess is not None:
            facts["preprocess"] = self.preprocess.to_dict()
        return facts

    @classmethod
    def from_identity(cls, identity: Mapping[str, Json], weights: str = "") -> "Defense":
        """Read what ``to_identity`` wrote; keys that older runs lack have their old meaning.

        Args:
            identity: Identity of a run.
            weights: Place of its weight file, where that is known.
        """
        model = identity["model"]
        voting, randomized = identity.get("voting", {}), identity.get("randomized", {})
        preprocess, classes = identity.get("preprocess"), model.get("classes")
        return cls(
            preprocess=None if preprocess is None else Preprocess(**preprocess),
            network=Network(
                name=model.get("name", "unknown"),
                num_classes=int(model["num_classes"]),
                weights_sha256=model.get("weights_sha256", ""),
                classes=None if classes is None else tuple(classes),
                weights=weights,
            ),
            views=views_of(identity),
            voting=Voting(
                theta=voting.get("theta"),
                gaps=bool(voting.get("gaps")),
                early_exit=bool(voting.get("early_exit")),
                draws=randomized.get("draws"),
                draw_seed=randomized.get("seed") or 0,
            ),
            tokens=identity.get("tokens", "unknown"),
        )


def views_of(identity: Mapping[str, Json]) -> ViewFamily:
    """Read the family of views that a run's identity names."""
    if "masks" in identity:
        return Masks.from_identity(identity["masks"])
    return Ablation(**identity["ablation"])

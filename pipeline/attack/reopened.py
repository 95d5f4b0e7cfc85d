"""A finished run's model, arithmetic and images again, held against its manifest."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.preprocess import Preprocess
from models.weights import sha256_of
from pipeline.attack.config import AttackConfig
from pipeline.config import ConfigError, VotesConfig
from pipeline.decoding import pixels_of_rows
from pipeline.manifest import Manifest, flatten
from pipeline.numerics import Numerics, probe_machine, resolve_numerics
from pipeline.resolve import Voter, hub_or_path
from pipeline.sources.listing import SourceOptions, list_images
from pipeline.weight_files import local_weights


@dataclass(frozen=True, kw_only=True)
class Reopened:
    """What voted, able to vote again.

    Attributes:
        voter: The run's network, preprocessing and ablations.
        numerics: The run's arithmetic, which is this machine's.
    """

    voter: Voter
    numerics: Numerics

    def request(self, data: str) -> VotesConfig:
        """The request for votes on other images, with the same arithmetic."""
        return _request(self.numerics, data, self.voter.weights)


def reopen(manifest: Manifest, config: AttackConfig) -> Reopened:
    """The run's voter and arithmetic, if this machine can compute the same bits.

    Raises:
        ConfigError: The votes were imported, the weights are others, or this machine computes
            otherwise.
        WeightsError: The weights are missing.
    """
    if manifest.imported:
        raise ConfigError(
            f"run_id={manifest.run_id} was imported: its votes were cast elsewhere, and without "
            "the weights and the images nothing can be voted on again; attack a run of "
            "`patchcert run`, or rewrite these votes with `patchcert witness`"
        )
    facts, where = manifest.identity, manifest.execution
    weights = hub_or_path(config.weights or str(where["weights"]))
    voted, found = facts["model"]["weights_sha256"], sha256_of(local_weights(weights))
    if voted != found:
        raise ConfigError(
            f"--weights {weights}: their sha256 is {found[:12]}, the run voted with {voted[:12]}; "
            "give the run's own file"
        )
    numerics = Numerics(**facts["numerics"])
    _check_machine(numerics, weights)
    preprocess = Preprocess(**facts["preprocess"])
    voter = Voter(
        model=facts["model"]["name"],
        num_classes=manifest.num_classes,
        weights=weights,
        weights_sha256=voted,
        preprocess=preprocess,
        ablation=manifest.ablation,
        tokens=facts["tokens"],
        theta=manifest.theta,
        gaps=manifest.gaps,
        classes=manifest.classes,
    )
    return Reopened(voter=voter, numerics=numerics)


def read_images(
    manifest: Manifest, config: AttackConfig, preprocess: Preprocess, image_ids: list[str]
) -> NDArray[np.uint8]:
    """The images as the model received them, on the attacker's grid; uint8 (N, H, W, 3).

    Raises:
        ConfigError: The data are not those of the run.
        SourceError: They cannot be read.
    """
    data = config.data or str(manifest.execution["data"])
    options = SourceOptions(
        image_column=manifest.identity["data"]["image_column"],
        label_column=config.label_column,
        label_map=config.label_map,
    )
    # Labels are the stored ones: what the listing says of them is not asked.
    listing = list_images(data, options, manifest.num_classes)
    if listing.fingerprint != manifest.identity["data"]["fingerprint"]:
        raise ConfigError(
            f"--data {data}: these are not the files that the run voted on (their fingerprint "
            "differs); give the run's own data, unchanged and in the same kind of storage"
        )
    return pixels_of_rows(listing.table, image_ids, options, preprocess)


def _request(numerics: Numerics, data: str, weights: str) -> VotesConfig:
    return VotesConfig(
        data=data,
        weights=weights,
        image_column="image",
        dtype=numerics.dtype,  # type: ignore[arg-type]  # as a VotesConfig once said
        device=numerics.device,  # type: ignore[arg-type]
        microbatch=numerics.microbatch,
        threads=numerics.threads or None,
        overwrite=True,
    )


def _check_machine(numerics: Numerics, weights: str) -> None:
    """Raise ConfigError unless this machine computes the bits that the run did."""
    here = resolve_numerics(
        _request(numerics, "-", weights),
        probe_machine("cuda" if numerics.device == "cuda" else "cpu"),
    )
    ours, theirs = flatten(here.to_dict()), flatten(numerics.to_dict())
    differing = [
        f"{name} is {ours.get(name)} here and was {theirs.get(name)}"
        for name in sorted(ours.keys() | theirs.keys())
        if ours.get(name) != theirs.get(name)
    ]
    if differing:
        raise ConfigError(
            f"this machine does not compute the run's bits: {'; '.join(differing)}. Attack it "
            "where it was voted on, or vote again here and attack that run"
        )

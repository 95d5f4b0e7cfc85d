"""Export a run as files for other programs: images, headline, manifest and votes."""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from functools import reduce
from operator import or_
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from models.views.threats import Threat
from pipeline import storage
from pipeline.analysis.run import Run
from pipeline.certificates.randomized import CONFIDENCE
from pipeline.certificates.rule import Terms
from pipeline.certificates.rules import rule_named
from pipeline.config import ClaimsConfig, ConfigError
from pipeline.interchange.config import ExportConfig
from pipeline.interchange.folder import SIGN, atomic_folder
from pipeline.interchange.formats import SPEC
from pipeline.interchange.spec import Spec
from pipeline.runs.manifest import AS_GIVEN, Manifest
from pipeline.runs.reading import tables, vote_columns
from pipeline.runs.schema import CertifiedEntry, Summary
from pipeline.runs.versions import program_version
from pipeline.scoring.claims import Claim, Claims, resolve_claims
from pipeline.scoring.score import Scored, score_votes
from pipeline.scoring.summary import Totals
from pipeline.scoring.words import size
from pipeline.storage.tables import parquet, write_csv

FORMAT = "patchcert export 1"

# Images scored at once, and votes in one file: 256 MiB before it is compressed.
_BATCH_IMAGES, _FILE_VOTES = 1 << 13, 1 << 27

_OF = "of the labelled images; one with an error counts as wrong, one without a label is left out"
_COMPUTED = (
    "computed by patchcert as manifest.json says; what is proven, tested and assumed of them is in "
    "docs/soundness.md"
)


def export_run(run: Run, config: ExportConfig) -> dict[str, str]:
    """Write a run's images, headline and manifest, and its votes if asked; return paths by name.

    Nothing is written under ``<out>``, and only the votes are read: the certificates are computed
    again from them.

    Raises:
        ConfigError: These votes cannot answer a claim, no file can hold them, or the folder exists
            already.
        ManifestError, StoreError: The votes are absent, incomplete or contradictory.
    """
    manifest = run.manifest
    questions = _questions(run, config)
    spec = None if config.votes is None else Spec.of(manifest)
    run.store.units(manifest)
    totals, parts, written = Totals(), [], dict[str, dict[str, Any]]()
    with atomic_folder(config.to, overwrite=config.overwrite) as put:

        def write(name: str, data: bytes) -> None:
            put(name, data)
            written[name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}

        gaps = ["gaps"] if questions.need_gaps else []
        columns = vote_columns(manifest, "plain_prediction", "counts", *gaps)
        for table in tables(run.store, columns, images=_BATCH_IMAGES):
            scored = score_votes(table, manifest, questions)
            totals.add(scored.totals)
            parts.append(image_rows(table, scored, questions))
        run.store.check_count(manifest, totals.images)
        rows = pa.concat_tables(parts)
        write("images.parquet", parquet(rows))
        text = io.StringIO()
        write_csv(rows.schema, rows.to_batches(), text)
        write("images.csv", text.getvalue().encode())
        write("manifest.json", storage.read_bytes(run.store.manifest_path))
        if spec is not None:
            for name, votes in _votes_files(run, spec):
                write(name, parquet(votes))
        summary = headline(manifest, totals.summary(manifest), program_version(), written)
        put(SIGN, (json.dumps(summary, indent=2) + "\n").encode())
    return {name: storage.join(config.to, name) for name in (SIGN, *written)}


def _questions(run: Run, config: ExportConfig) -> Claims:
    """Return the claims asked for: where no patch is named, those that the run was certified for.

    A rule that is named, and by which the run was not certified, is asked about the same patches.

    Raises:
        ConfigError: These votes cannot answer a claim.
    """
    try:
        earlier = Claims.from_summary(run.summary or {}).claims
    except (ValueError, KeyError, TypeError):
        earlier = frozenset()  # written by an older version, or never certified
    own = run.manifest.defense.own_stride
    known = [
        claim
        for claim in earlier
        if claim.top_k == 1 and claim.stride == own and not claim.threat.source
    ]
    if any(threat.source for threat in ClaimsConfig(patch=config.patch).threats or ()):
        raise ConfigError(
            "--patch source:...: an export can be checked without the pictures' sizes, which such "
            "certificates depend on; name patches on the grid, such as 32"
        )
    confidences = [claim.confidence for claim in known if claim.confidence is not None]
    confidence = max(confidences, default=CONFIDENCE)
    asked = []
    patch, rules = config.patch, config.rule
    if patch is None and known:
        certified = {claim.rule for claim in known}
        asked = [
            _again(claim, confidence) for claim in known if rules is None or claim.rule in rules
        ]
        patch = tuple({str(claim.threat) for claim in known})
        rules = tuple(rule for rule in rules or () if rule not in certified)
    if rules is None or rules:
        asked.append(ClaimsConfig(patch=patch, rule=rules, confidence=confidence))
    questions = (resolve_claims(run.manifest.defense, one) for one in asked)
    return reduce(or_, questions, Claims())


def _again(claim: Claim, confidence: float) -> ClaimsConfig:
    """The request that leads to a claim."""
    return ClaimsConfig(
        patch=(str(claim.threat),),
        rule=(claim.rule,),
        assume=None if claim.assumes in (None, claim.threat) else str(claim.assumes),
        tau=None if claim.tau is None else (claim.tau,),
        confidence=confidence,
    )


def _votes_files(run: Run, spec: Spec) -> Iterator[tuple[str, pa.Table]]:
    """Yield name and rows of the files of votes; there are several where one would be too large."""
    manifest, store = run.manifest, run.store
    names = ["image_id", "labels" if manifest.data.several_labels else "label", "votes"]
    names += ["plain_prediction"] if manifest.plain_known else []
    unit_votes = manifest.execution.unit_images * manifest.defense.votes_per_image
    units, step = store.units(manifest), max(1, _FILE_VOTES // unit_votes)
    for number, start in enumerate(range(0, len(units), step)):
        of_file = units[start : start + step]
        table = store.read_units(of_file, [*names, "error"])
        if table["error"].null_count == table.num_rows:
            table = table.drop_columns("error")
        name = "votes" if step >= len(units) else f"votes-{number:03d}"
        yield f"{name}.parquet", table.replace_schema_metadata({SPEC: spec.to_json()})


def image_rows(table: pa.Table, scored: Scored, questions: Claims) -> pa.Table:
    """Build the rows of the export, one an image, with a column for every certificate.

    Args:
        table: Rows of the votes dataset, with their counts.
        scored: Certificates and margins of these rows.
        questions: Claims that were asked for.
    """
    label = "labels" if "labels" in table.schema.names else "label"
    first, second = (_ranked(table["counts"], place) for place in (0, 1))
    columns: dict[str, Any] = {
        "image_id": table["image_id"],
        label: table[label],
        "plain_prediction": table["plain_prediction"],
        "prediction": table["prediction"],
        "votes_first": first["votes"],
        "second": second["class"],
        "votes_second": second["votes"],
        "lead": scored.images["lead"],
    }
    for claim, rows in _by_claim(scored.certificates, questions, table.num_rows):
        name = f"{claim.rule}_{threat_slug(claim)}"
        if rule_named(claim.rule).about_masks:
            columns[f"answer_{name}"] = rows["prediction"]
        columns[f"certified_{name}"] = rows["certified"]
        columns[f"margin_{name}"] = rows["margin"]
    for name in ("largest_exact_px", "largest_uniform_px", "error"):
        columns[name] = scored.images[name]
    return pa.table(columns)


def threat_slug(claim: Claim) -> str:
    """Write threat and terms as part of a column's name: 32x32, area_1024, 16x16_assumes_32x32."""
    text = str(claim.threat)
    if claim.assumes not in (None, claim.threat):
        text += f" assumes {claim.assumes}"
    if claim.tau is not None:
        text += f" tau {claim.tau}"
    return text.replace("<=", "_").replace(" ", "_")


def _by_claim(
    certificates: pa.Table, questions: Claims, images: int
) -> list[tuple[Claim, pa.Table]]:
    """Split the certificates by claim; within a claim the images keep their order."""
    claims = sorted(questions.claims, key=lambda claim: claim.order)
    found = [
        (claim, certificates.slice(number * images, images)) for number, claim in enumerate(claims)
    ]
    for claim, rows in found if images else ():
        stated = Claim.from_dict(rows.slice(0, 1).to_pylist()[0])
        assert stated == claim, f"certificates of {stated} where those of {claim} belong"
    return found


def _ranked(counts: pa.ChunkedArray, place: int) -> dict[str, pa.Array]:
    """Return class and votes at a rank: no class and 0 votes where fewer classes have votes."""
    lists = counts.combine_chunks()
    lengths_n = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    there_n = lengths_n > place
    places = pa.array(lists.offsets.to_numpy()[:-1] + place, mask=~there_n)
    cells = lists.values.take(places)
    votes = pc.if_else(pa.array(there_n), cells.field("votes").cast(pa.int32()), 0)
    return {
        "class": pc.if_else(pa.array(there_n), cells.field("class").cast(pa.int32()), None),
        "votes": pc.if_else(lists.is_valid(), votes, None),
    }


def headline(
    manifest: Manifest,
    summary: Summary,
    version: str,
    files: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """Build the ``summary.json``: every figure with its counts, its interval and its claim.

    Args:
        manifest: Manifest of the run.
        summary: Its accuracies (``Totals.summary``).
        version: Version of this program.
        files: The other files of the folder, with their sha256.
    """
    certified = summary["certified_accuracy"]
    views = manifest.defense.views
    asked = {} if "views_asked" not in summary else {"views_asked": summary["views_asked"]}
    return {
        "format": FORMAT,
        "exported_by": f"patchcert {version}",
        "run_id": manifest.run_id,
        "votes": AS_GIVEN if manifest.imported else _COMPUTED,
        "model": manifest.defense.to_identity()["model"],
        "data": {"kind": manifest.data.kind, "fingerprint": manifest.data.fingerprint},
        **views.to_identity(),
        "ablations": summary["ablations"],
        **asked,
        "tokens": manifest.defense.tokens,
        "versions": manifest.numerics.versions,
        "images": summary["images"],
        "images_with_error": summary["images_with_error"],
        "images_without_label": summary["images_without_label"],
        "interval": "95 % Wilson score interval",
        "patches": list(dict.fromkeys(entry["threat"] for entry in certified)),
        "rules": {
            name: rule_named(name).at(Terms(confidence)).guarantee
            for name, confidence in sorted({(e["rule"], e["confidence"]) for e in certified})
        },
        "figures": [
            _figure(
                "plain_accuracy",
                summary["plain_accuracy"],
                f"the network classifies the whole image correctly; share {_OF}",
            ),
            *([] if views.hides else _figures_of_votes(summary)),
            *(
                figure
                for entry in certified
                for figure in (
                    *_clean_figure(entry),
                    _figure("certified_accuracy", entry, _claim(entry, manifest)),
                )
            ),
        ],
        "files": {name: dict(facts) for name, facts in files.items()},
    }


def _figure(name: str, entry: Mapping[str, Any], claim: str) -> dict[str, Any]:
    return {"figure": name, "claim": claim, **entry}


def _figures_of_votes(summary: Summary) -> list[dict[str, Any]]:
    """Return the accuracies of the majority and of single views, which of masks answer nothing."""
    return [
        _figure(
            "smoothed_accuracy",
            summary["smoothed_accuracy"],
            f"the class with most votes (the lowest on ties) is right; share {_OF}",
        ),
        {
            "figure": "mean_ablation_accuracy",
            "claim": "share of single ablations that vote for a right class, over the labelled "
            "images",
            "value": summary["mean_ablation_accuracy"],
        },
    ]


def _clean_figure(entry: CertifiedEntry) -> list[dict[str, Any]]:
    """Return the clean accuracy of a rule with an answer of its own."""
    rule = rule_named(entry["rule"])
    if not rule.about_masks:
        return []
    without = ", without an alert" if rule.alerts else ""
    claim = (
        f"the answer of {rule.name} to the clean image is right{without}{_terms(entry)}; "
        f"share {_OF}"
    )
    of = {name: entry[name] for name in ("rule", "threat", "assumes", "tau")}
    return [_figure("clean_accuracy", {**of, **entry["clean_accuracy"]}, claim)]


def _terms(entry: Mapping[str, Any]) -> str:
    """State what a decision assumes, and which views it leaves out."""
    said = ""
    if entry["assumes"] is not None:
        said = f", by a decision that assumes a patch of at most {size(entry['assumes'])}"
    if entry["tau"] is not None:
        said += f" and counts views whose two largest logits are more than {entry['tau']:g} apart"
    return said


def _claim(entry: Mapping[str, Any], manifest: Manifest) -> str:
    """State in one sentence what a certified accuracy claims."""
    views, threat = manifest.defense.views, Threat.parse(entry["threat"])
    if threat.area is not None:
        where = f"any one rectangle of at most {threat.area} px"
    else:
        where = f"any {threat.count} squares of" if threat.count > 1 else "any one square of"
        if threat.patch is not None and threat.patch.height != threat.patch.width:
            where = where.replace("square", "rectangle")
        where += f" {threat.patch}"
    sure = ""
    if entry["confidence"] is not None:
        # A probabilistic certificate must not be taken for a proof.
        sure = f", with confidence {entry['confidence']:g} an image, of the ideal classifier"
    written = (
        f"whatever is written into {where} of the {views.height}x{views.width} px image, wherever"
    )
    rule = rule_named(entry["rule"])
    if rule.alerts:
        what = (
            f"the answer of {rule.name} to the clean image is right, and {written}, the answer "
            "stays or an alert is raised"
        )
    elif rule.about_masks:
        what = f"the answer of {rule.name} is right and stays so {written}"
    else:
        what = f"the smoothed prediction is right and stays so {written}{sure}"
    return f"{what}{_terms(entry)}; share {_OF}"

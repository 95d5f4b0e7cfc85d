"""One row an image, with a column for every certificate: what a leaderboard reads."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.claims import Claim, Questions
from pipeline.judging import Judged


def image_rows(table: pa.Table, judged: Judged, questions: Questions) -> pa.Table:
    """Rows of the export.

    Args:
        table: Rows of the votes dataset, with their counts.
        judged: The answers about them.
        questions: What was asked.
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
        "lead": judged.images["lead"],
    }
    for claim, rows in _by_claim(judged.certificates, questions, table.num_rows):
        name = f"{claim.rule}_{threat_slug(claim)}"
        columns[f"certified_{name}"] = rows["certified"]
        columns[f"margin_{name}"] = rows["margin"]
    for name in ("largest_exact_px", "largest_uniform_px", "error"):
        columns[name] = judged.images[name]
    return pa.table(columns)


def threat_slug(claim: Claim) -> str:
    """The threat as a part of a column's name: 32x32, area_1024, 2_of_32x32."""
    return str(claim.threat).replace("<=", "_").replace(" ", "_")


def _by_claim(
    certificates: pa.Table, questions: Questions, images: int
) -> list[tuple[Claim, pa.Table]]:
    """The certificates of each claim: the images one after the other, in their order."""
    claims = sorted(questions.claims, key=lambda claim: claim.order)
    found = [
        (claim, certificates.slice(number * images, images)) for number, claim in enumerate(claims)
    ]
    for claim, rows in found if images else ():
        stated = Claim.from_dict(rows.slice(0, 1).to_pylist()[0])
        assert stated == claim, f"certificates of {stated} where those of {claim} belong"
    return found


def _ranked(counts: pa.ChunkedArray, place: int) -> dict[str, pa.Array]:
    """Class and votes at a rank: no class and 0 votes where fewer classes have votes."""
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

"""The units that a listing is cut into, as they are sent to workers."""

import pyarrow as pa
import pytest

from pipeline.sources.base import LISTING
from pipeline.voting.job import plan_units

IMAGES = 23


def listing(images_a_file: int) -> pa.Table:
    rows = [
        {
            "image_id": f"{n}",
            "label": n % 3,
            "file": f"/data/{n // images_a_file}.tar",
            "offset": n,
            "size": 1,
            "state": 1,
            "digest": 2,
        }
        for n in range(IMAGES)
    ]
    return pa.Table.from_pylist(rows, schema=LISTING)


@pytest.mark.parametrize("images_a_file", [1, 5, IMAGES])
@pytest.mark.parametrize("size", [1, 4, 100])
def test_units_hold_all_rows_in_order_and_no_path_of_others(images_a_file, size):
    table = listing(images_a_file)
    units = plan_units(table, size)
    assert [unit.num_rows for unit in units[:-1]] == [size] * (len(units) - 1)
    assert pa.concat_tables(units).drop_columns("unit").to_pylist() == table.to_pylist()
    for number, unit in enumerate(units):
        assert set(unit["unit"].to_pylist()) == {number}
        assert unit.schema.field("file") == LISTING.field("file")
        (paths,) = unit["file"].chunks
        assert sorted(paths.dictionary.to_pylist()) == sorted(set(unit["file"].to_pylist()))

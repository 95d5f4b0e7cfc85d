"""The labels of a listing: where they come from, and that the model could answer them."""

import pyarrow as pa
import pyarrow.compute as pc

from pipeline.sources.base import LABELLED, Kind, SourceError, SourceOptions
from pipeline.sources.ground_truth import ground_truth

_MAX_CLASS = 2**31 - 1


def with_labels(
    table: pa.Table, options: SourceOptions, kind: Kind, num_classes: int | None
) -> pa.Table:
    """A source's RAW_LISTING as LABELLED: -1 becomes null, a ground-truth file replaces labels.

    Raises:
        SourceError: A label is no class that the model can answer, or the ground-truth file cannot
            be used.
    """
    ids = table.column("image_id")
    if options.ground_truth is not None:
        single, several = ground_truth(ids.to_pylist(), options, kind, num_classes)
        labels, multiple = pa.array(single, pa.int64()), pa.array(several, pa.list_(pa.int64()))
    elif options.numbering is not None:
        raise SourceError("--numbering has no meaning without --ground-truth: leave it out")
    else:
        labels = table.column("label").combine_chunks()
        multiple = pa.nulls(len(labels), pa.list_(pa.int64()))
    labels = pc.if_else(pc.equal(labels, -1), pa.scalar(None, pa.int64()), labels)
    _check_range(labels, ids, num_classes)
    owners = ids.take(pc.list_parent_indices(multiple))
    _check_range(pc.list_flatten(multiple), owners, num_classes)
    # Of several right labels some may be left out: the others can still be answered.
    _check_subset(labels, ids, options.classes)
    columns = [*table.columns, multiple.cast(LABELLED.field("labels").type)]
    columns[1] = labels.cast(pa.int32())
    return pa.Table.from_arrays(columns, schema=LABELLED)


def _check_range(labels: pa.Array, ids: pa.ChunkedArray, num_classes: int | None) -> None:
    limit = _MAX_CLASS if num_classes is None else num_classes
    wrong = pc.or_(pc.less(labels, 0), pc.greater_equal(labels, limit))
    if (first := pc.index(pc.fill_null(wrong, False), True).as_py()) >= 0:
        known = f"the model has {num_classes} classes" if num_classes else "classes start at 0"
        raise SourceError(
            f"image {ids[first].as_py()!r} has label {labels[first].as_py()}, "
            f"but {known}, and only -1 stands for unknown; choose the model, --label-column or "
            "--label-map that fits the data"
        )


def _check_subset(labels: pa.Array, ids: pa.ChunkedArray, classes: tuple[int, ...] | None) -> None:
    if classes is None:
        return
    allowed = pc.is_in(labels, value_set=pa.array([*classes, None], pa.int64()))
    if (first := pc.index(allowed, False).as_py()) >= 0:
        raise SourceError(
            f"image {ids[first].as_py()!r} has label {labels[first].as_py()}, which is none of the "
            f"{len(classes)} --classes, so no answer could be right; name that class too, or give "
            "--data without its images"
        )

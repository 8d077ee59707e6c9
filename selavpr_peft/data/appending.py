"""Put places behind those of another table, whose columns keep their types."""

import pyarrow as pa
from datasets import Dataset, Features, Value

from selavpr_peft.data.schema import radius_unit
from selavpr_peft.errors import DatasetFormatError

EMPTY = Value("null")
"""Type of a column without any value; it fits every other."""


def append_places(places: Dataset, more: Dataset) -> pa.Table:
    """Give one table of two.

    Args:
        places: Table of places.
        more: Places behind them, with positions of the same kind. A column that only one of the tables has is empty
            (None) for the places of the other; one that both have gets the type it has in the first.

    Raises:
        DatasetFormatError: If positions are of another kind, or a column cannot be brought to its type.
    """
    if radius_unit(more) != radius_unit(places):
        raise DatasetFormatError(
            f"Positions must be in {radius_unit(places)} as those of the places there are, got {radius_unit(more)}."
        )
    features = Features(places.features)
    for name, feature in more.features.items():
        if features.get(name, EMPTY) == EMPTY:
            features[name] = feature
    first, second = (table.with_format("arrow")[:] for table in (places, more))
    for position, name in enumerate(second.column_names):
        column = _brought_to(second[name], more.features[name], features[name], name)
        second = second.set_column(position, name, column)
    joined = pa.concat_tables([first, second], promote_options="default")
    return joined.select(list(features)).cast(features.arrow_schema)


def _brought_to(column: pa.ChunkedArray, found: object, wanted: object, name: str) -> pa.ChunkedArray:
    """Give a column another type, if all its values can take it."""
    if found in (wanted, EMPTY):
        return column
    reason = ""
    if isinstance(found, Value) and isinstance(wanted, Value):
        try:
            return column.cast(wanted.pa_type)
        except pa.ArrowException as error:
            reason = f" ({error})"
    raise DatasetFormatError(
        f"The column {name!r} must be of the type it has for the places there are, {wanted}, got {found}{reason};"
        " change or rename it."
    )

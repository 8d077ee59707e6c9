"""Put places behind those of another table, whose columns keep their types."""

import pyarrow as pa
from datasets import Dataset, Features, Value

from selavpr_peft.data.schema import has_positions, radius_unit
from selavpr_peft.errors import DatasetFormatError

EMPTY = Value("null")
"""Type of a column without any value; it fits every other."""


def append_places(places: Dataset, more: Dataset) -> pa.Table:
    """Give one table of two.

    Args:
        places: Table of places.
        more: Places behind them, with positions of the same kind, or none as they. A column that only one of the
            tables has is empty (None) for the places of the other; one that both have gets its type in the first.

    Raises:
        DatasetFormatError: If positions are of another kind, or a column cannot be brought to its type.
    """
    kinds = [radius_unit(table) if has_positions(table) else "none" for table in (places, more)]
    if kinds[1] != kinds[0]:
        raise DatasetFormatError(
            f"Positions must be of the kind that the places there have, {kinds[0]}, got {kinds[1]}; add places of that"
            " kind, or build another database."
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

"""Tables of places behind one another: what is kept, what becomes empty, and what does not fit."""

import pytest
from datasets import ClassLabel, Dataset, Value

from selavpr_peft.data.appending import append_places
from selavpr_peft.errors import DatasetFormatError


def table(*keys, **columns):
    """Places with frames 0, 1, ... and further columns."""
    columns = {"key": list(keys), "frame": list(range(len(keys)))} | columns
    return Dataset.from_dict({name: values for name, values in columns.items() if values is not None})


class TestAppendPlaces:
    def test_rows_stand_behind_one_another_and_missing_values_are_empty(self):
        joined = append_places(table("a", "b", street=["x", "y"]), table("c", weather=["rain"]))
        assert joined.to_pydict() == {
            "key": ["a", "b", "c"],
            "frame": [0, 1, 0],
            "street": ["x", "y", None],
            "weather": [None, None, "rain"],
        }

    def test_the_order_of_columns_does_not_matter(self):
        more = Dataset.from_dict({"frame": [5], "key": ["c"]})
        assert append_places(table("a"), more).to_pydict() == {"key": ["a", "c"], "frame": [0, 5]}

    @pytest.mark.parametrize(
        ("there", "found", "expected"),
        [
            (Value("float64"), [7], 7.0),
            (Value("float32"), [0.5], 0.5),
            (Value("int64"), [7.0], 7),
            (Value("string"), [None], None),
            (Value("large_string"), ["x"], "x"),
        ],
    )
    def test_columns_keep_their_types(self, there, found, expected):
        joined = Dataset(append_places(table("a", level=[None]).cast_column("level", there), table("b", level=found)))
        assert joined["level"][:] == [None, expected]
        assert joined.features["level"] == there

    def test_a_column_without_values_takes_the_type_of_what_comes(self):
        joined = Dataset(append_places(table("a", street=[None]), table("b", street=["x"])))
        assert (joined["street"][:], joined.features["street"]) == ([None, "x"], Value("string"))

    def test_labels_stay_labels(self):
        labels = ClassLabel(names=["day", "night"])
        tables = (
            table("a", light=[0]).cast_column("light", labels),
            table("b", light=[1]).cast_column("light", labels),
        )
        assert Dataset(append_places(*tables)).features["light"] == labels

    @pytest.mark.parametrize(
        ("there", "found"),
        [
            (Value("int64"), table("b", level=[0.5])),
            (Value("float64"), table("b", level=["ground"])),
            (Value("float64"), table("b", level=[[1.0]])),
            (
                ClassLabel(names=["day", "night"]),
                table("b", level=[0]).cast_column("level", ClassLabel(names=["night", "day"])),
            ),
        ],
    )
    def test_values_that_do_not_fit_are_refused(self, there, found):
        with pytest.raises(
            DatasetFormatError, match="The column 'level' must be of the type it has .*, got .*rename it"
        ):
            append_places(table("a", level=[1]).cast_column("level", there), found)

    @pytest.mark.parametrize(("kind", "metres"), [("m", {"easting_m": [1.0], "northing_m": [2.0]}), ("none", {})])
    def test_positions_of_another_kind_are_refused(self, kind, metres):
        others = table("b", frame=None, **metres)
        with pytest.raises(DatasetFormatError, match=f"must be of the kind .* have, frames, got {kind};"):
            append_places(table("a"), others)
        with pytest.raises(DatasetFormatError, match=f"must be of the kind .* have, {kind}, got frames;"):
            append_places(others, table("a"))

    def test_photographs_without_positions_stand_behind_one_another(self):
        tables = [table(key, frame=None) for key in "ab"]
        assert append_places(*tables).to_pydict() == {"key": ["a", "b"]}

"""The columns of a table of places: what is accepted, and what a refusal says."""

import hashlib
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset, Image

from selavpr_peft.data.schema import check_places, picture_names, positions, radius_unit, row_of_picture
from selavpr_peft.errors import DatasetFormatError


def table(**columns):
    """A valid table of two frames, with columns replaced, added, or (None) left out."""
    columns = {"image": ["a.jpg", "b.jpg"], "key": ["a", "b"], "frame": [4, 7]} | columns
    return Dataset.from_dict({name: values for name, values in columns.items() if values is not None})


class TestCheckPlaces:
    @pytest.mark.parametrize(
        "columns",
        [
            {},
            {"frame": [4.0, 7.0]},
            {"frame": [4, 4]},
            {"frame": None, "easting_m": [0.5, -1e6], "northing_m": [1, 2]},
            {"traverse": ["day", "night"], "weather": ["sun", None]},
        ],
    )
    def test_a_table_as_described_is_accepted(self, columns):
        assert check_places(table(**columns), "walk") is None

    @pytest.mark.parametrize("name", ["image", "key"])
    def test_a_missing_column_is_named_beside_those_that_are_there(self, name):
        with pytest.raises(DatasetFormatError, match=rf"walk must have a column '{name}', got \[.*'frame'"):
            check_places(table(**{name: None}), "walk")

    @pytest.mark.parametrize(
        "columns",
        [
            {"frame": None},
            {"frame": None, "easting_m": [1.0, 2.0]},
            {"frame": None, "northing_m": [1.0, 2.0]},
            {"easting_m": [1.0, 2.0], "northing_m": [1.0, 2.0]},
            {"easting_m": [1.0, 2.0]},
        ],
    )
    def test_positions_are_either_metres_or_frames(self, columns):
        places = table(**columns)
        with pytest.raises(DatasetFormatError) as error:
            check_places(places, "walk")
        assert str(error.value) == (
            "walk must have either the columns 'easting_m' and 'northing_m' or the column 'frame', got"
            f" {places.column_names}."
        )

    @pytest.mark.parametrize("missing", [None, float("nan"), float("inf")])
    def test_a_row_without_a_position_is_named(self, missing):
        places = table(frame=None, easting_m=[1.0, 2.0], northing_m=[3.0, missing])
        with pytest.raises(
            DatasetFormatError, match=r"walk has 1 rows without .* first in row 1 \(b\); expected finite"
        ):
            check_places(places, "walk")

    def test_a_frame_is_a_whole_number(self):
        with pytest.raises(
            DatasetFormatError, match=r"walk has 2 rows .* first in row 0 \(a\); expected whole numbers"
        ):
            check_places(table(frame=[0.5, 1.5]), "walk")

    @pytest.mark.parametrize(
        ("values", "type_name"), [(["4", "7"], "string"), ([[4], [7]], "List"), ([True, False], "bool")]
    )
    def test_positions_are_numbers(self, values, type_name):
        with pytest.raises(
            DatasetFormatError, match=rf"walk must have numbers in the column 'frame', got .*{type_name}"
        ):
            check_places(table(frame=values), "walk")

    @pytest.mark.parametrize(
        ("latitude", "longitude"),
        [
            ([90.0, -90.0], [360.0, -360.0]),
            ([60, 61], [24, 25]),
            ([None, 60.0], [float("nan"), None]),
            ([None, None], [None, None]),
            (None, [181.0, 359.0]),
            ([Decimal("60.1"), None], [Decimal("24.9"), Decimal("-0.5")]),
        ],
    )
    def test_degrees_lie_in_their_ranges_or_are_missing(self, latitude, longitude):
        assert check_places(table(latitude=latitude, longitude=longitude), "walk") is None

    @pytest.mark.parametrize(
        ("name", "values", "found"),
        [
            ("latitude", [60.0, 153.021072], r"1 rows with an impossible latitude, .* row 1 \(b\): 153\.021072;"),
            ("latitude", [601699000, 601700000], r"2 rows with an impossible latitude, .* row 0 \(a\): 601699000;"),
            ("latitude", [-90.0001, None], r"1 rows with an impossible latitude, .* row 0 \(a\): -90\.0001;"),
            ("latitude", [float("nan"), float("inf")], r"1 rows .* row 1 \(b\): inf;"),
            ("longitude", [Decimal("-360.5"), Decimal(0)], r"1 rows with an impossible longitude, .* -360\.5;"),
        ],
    )
    def test_degrees_that_are_none_are_refused_with_their_row_and_what_to_do(self, name, values, found):
        with pytest.raises(DatasetFormatError, match=f"walk has {found} expected a latitude in") as error:
            check_places(table(**{name: values}), "walk")
        assert str(error.value).endswith(
            "expected a latitude in [-90, 90] and a longitude in [-360, 360], in degrees. Swap the two columns if they"
            " are the wrong way round; divide them by 1e7 if they are whole numbers."
        )

    def test_degrees_in_words_are_refused(self):
        with pytest.raises(DatasetFormatError, match="walk must have numbers in the column 'latitude', got .* string"):
            check_places(table(latitude=["60.17 N", None]), "walk")

    def test_degrees_of_a_selection_are_those_of_its_rows(self):
        places = table(latitude=[60.0, 153.0])
        assert check_places(places.select([0]), "walk") is None
        with pytest.raises(DatasetFormatError, match=r"first in row 0 \(b\): 153"):
            check_places(places.select([1, 0]), "walk")

    def test_an_image_named_twice_is_refused_with_its_name(self):
        places = table(image=list("abcd"), key=["x", "y", "y", "y"], frame=[1, 2, 3, 4])
        with pytest.raises(
            DatasetFormatError, match=r"walk must name every image once, got 1 of them .* first is y\."
        ):
            check_places(places, "walk")

    @pytest.mark.parametrize("missing", [None, ""])
    def test_an_image_without_a_name_is_refused_with_its_row(self, missing):
        with pytest.raises(
            DatasetFormatError, match="walk must name an image in every row, got none in row 1, counted"
        ):
            check_places(table(key=["a", missing]), "walk")

    def test_refusals_can_be_caught_as_value_errors(self):
        with pytest.raises(ValueError, match="must have a column 'image'"):
            check_places(Dataset.from_dict({}), "walk")


class TestPositions:
    def test_frames_are_one_column(self):
        values = positions(table())
        assert (values.tolist(), values.dtype) == ([[4.0], [7.0]], np.float64)

    def test_metres_are_easting_then_northing(self):
        places = table(frame=None, northing_m=[3, 4], easting_m=[1.5, 2])
        assert positions(places).tolist() == [[1.5, 3.0], [2.0, 4.0]]

    def test_a_missing_position_is_no_number(self):
        assert np.isnan(positions(table(frame=[None, 7]))).tolist() == [[True], [False]]

    @pytest.mark.parametrize("rows", [[2, 0], [1, 2], []])
    def test_a_selection_has_the_positions_of_its_rows(self, rows):
        places = table(image=list("abc"), key=list("abc"), frame=[10, 20, 30])
        assert positions(places.select(rows))[:, 0].tolist() == [(10, 20, 30)[row] for row in rows]


class TestPictureNames:
    def test_a_picture_is_named_by_its_file_or_by_what_it_holds_but_not_by_its_key(self):
        entries = [
            {"path": "a.jpg", "bytes": None},
            {"path": "b.jpg", "bytes": b"0"},
            {"path": None, "bytes": b"1"},
            None,
        ]
        places = Dataset.from_dict({"image": entries, "key": list("wxyz")}).cast_column("image", Image())
        names = picture_names(places)
        assert names[0] == str(Path("a.jpg").absolute())
        assert names[1:3] == [hashlib.sha256(content).hexdigest() for content in (b"0", b"1")]
        assert names[3] == "no picture in row 3"
        assert picture_names(places.remove_columns("key")) == names

    def test_a_file_has_one_name_from_here_and_from_the_root_and_an_address_stays(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        paths = ["city/a.png", str(tmp_path / "city" / "a.png"), "https://example.org/a.png"]
        places = Dataset.from_dict({"image": paths}).cast_column("image", Image())
        assert picture_names(places) == [paths[1], *paths[1:]]


class TestRadiusUnit:
    def test_frames_and_metres_are_told_apart(self):
        metres = table(frame=None, easting_m=[1.0, 2.0], northing_m=[1.0, 2.0])
        assert (radius_unit(table()), radius_unit(metres)) == ("frames", "m")


class TestRowOfPicture:
    def test_a_file_is_found_whichever_way_its_path_is_written(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        places = Dataset.from_dict({"image": [str(tmp_path / name) for name in ("a.png", "b.png")]})
        assert row_of_picture(places.cast_column("image", Image()), "x/../b.png") == 1

    def test_a_picture_that_is_not_there_is_named(self):
        places = Dataset.from_dict({"image": ["a.png"]}).cast_column("image", Image())
        with pytest.raises(ValueError, match=r"c\.png is none of the 1 images of the table"):
            row_of_picture(places, "c.png")

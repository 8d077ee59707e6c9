"""Places from every source: the two splits, what makes a picture the same in both, and what is refused."""

from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict, Image
from PIL import Image as Pillow

from selavpr_peft.data.loading import load_database, load_places
from selavpr_peft.data.schema import picture_names, positions
from selavpr_peft.errors import DatasetFormatError


def table(number=3, **columns):
    """A table of places whose pictures do not exist, at frames 0, 1, ..."""
    columns = {"image": [f"{row}.jpg" for row in range(number)], "frame": list(range(number))} | columns
    return Dataset.from_dict({name: values for name, values in columns.items() if values is not None}).cast_column(
        "image", Image()
    )


@pytest.fixture
def utm_folder(tmp_path):
    for split, eastings in {"database": (1, 2), "queries": (1,)}.items():
        (tmp_path / split).mkdir()
        for easting in eastings:
            Pillow.new("RGB", (4, 3)).save(tmp_path / split / f"@{easting}@0@.jpg")
    return tmp_path


@pytest.fixture
def walk(tmp_path):
    (tmp_path / "places.csv").write_text("image,traverse,frame\na.jpg,day,1\nb.jpg,night,1\nc.jpg,day,2\n")
    return tmp_path


@pytest.fixture
def photographs(tmp_path):
    """Two pictures and a note, as they come from a camera."""
    (tmp_path / "trip").mkdir()
    for name in ("IMG_2.JPG", "trip/IMG_1.png"):
        Pillow.new("RGB", (4, 3)).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("a walk")
    return tmp_path


class TestFolders:
    @pytest.mark.parametrize("as_text", [True, False])
    def test_an_utm_folder_has_its_own_splits(self, utm_folder, as_text):
        places = load_places(str(utm_folder) if as_text else utm_folder)
        assert places["database"]["easting_m"][:] == [1, 2]
        assert places["queries"]["easting_m"][:] == [1]

    def test_equal_names_in_both_splits_are_two_pictures(self, utm_folder):
        places = load_places(utm_folder)
        assert places["queries"]["key"][0] == places["database"]["key"][0]
        assert not set(picture_names(places["queries"])) & set(picture_names(places["database"]))

    def test_a_table_makes_every_image_a_query_among_all(self, walk):
        places = load_places(walk)
        assert places["queries"]["key"][:] == places["database"]["key"][:] == ["a.jpg", "b.jpg", "c.jpg"]

    def test_a_traverse_and_frames_of_a_table_are_taken(self, walk):
        places = load_places(f"{walk}:day", frames=(2, 5))
        assert places["queries"]["key"][:] == places["database"]["key"][:] == ["c.jpg"]

    def test_frames_of_an_utm_folder_are_an_error(self, utm_folder):
        with pytest.raises(DatasetFormatError, match=r"in metres, so frames \(0, 1\) cannot be taken"):
            load_places(utm_folder, frames=(0, 1))

    def test_photographs_without_a_table_are_places_without_positions(self, photographs):
        places = load_places(photographs)
        assert places["database"].column_names == ["image", "key"]
        assert places["queries"]["key"][:] == places["database"]["key"][:] == ["IMG_2.JPG", "trip/IMG_1.png"]
        assert places["database"][0]["image"].size == (4, 3)

    def test_photographs_without_a_table_may_tell_positions_by_their_names(self, utm_folder):
        assert load_places(utm_folder / "database")["database"]["easting_m"][:] == [1, 2]

    @pytest.mark.parametrize("folder", ["photographs", "utm_folder"])
    def test_a_folder_is_gone_through_once(self, request, monkeypatch, folder):
        folder, gone_through, rglob = request.getfixturevalue(folder), [], Path.rglob
        monkeypatch.setattr(Path, "rglob", lambda path, pattern: gone_through.append(path) or rglob(path, pattern))
        load_places(folder)
        assert len(gone_through) == len(set(gone_through)) > 0

    def test_positions_that_nobody_knows_are_asked_for(self, photographs):
        with pytest.raises(
            DatasetFormatError, match=r"Expected places with positions .* got \['image', 'key'\]; .* Write"
        ):
            positions(load_places(photographs)["queries"])

    def test_frames_of_photographs_without_a_table_are_an_error(self, photographs):
        with pytest.raises(DatasetFormatError, match=r"has no places.csv, so frames \(0, 1\) cannot be taken"):
            load_places(photographs, frames=(0, 1))

    def test_another_folder_is_refused_with_what_is_expected(self, tmp_path):
        with pytest.raises(DatasetFormatError, match=r"Expected places.csv"):
            load_places(tmp_path)


class TestDatasets:
    def test_a_dataset_makes_every_image_a_query_among_all(self):
        places = load_places(table())
        assert places["queries"]["key"][:] == places["database"]["key"][:]
        assert len(places["queries"]) == 3

    def test_both_splits_of_a_dictionary_are_taken_and_others_are_not(self):
        given = DatasetDict({"queries": table(2), "database": table(3), "test": table(1)})
        places = load_places(given)
        assert {name: len(split) for name, split in places.items()} == {"queries": 2, "database": 3}

    def test_given_keys_and_further_columns_are_kept(self):
        places = load_places(table(key=["a", "b", "c"], note=["x", "y", "z"]))
        assert places["queries"]["key"][:] == ["a", "b", "c"]
        assert places["database"]["note"][:] == ["x", "y", "z"]

    def test_keys_that_are_numbers_become_text(self):
        assert load_places(table(key=[7, 8, 9]))["database"]["key"][:] == ["7", "8", "9"]

    def test_keys_that_cannot_be_text_are_refused(self):
        with pytest.raises(DatasetFormatError, match="dataset must have text in the column 'key', got List"):
            load_places(table(key=[[1], [2], [3]]))

    @pytest.mark.parametrize(
        "form", [{"type": "arrow"}, {"type": "pandas"}, {"type": "torch"}, {"columns": ["frame"]}]
    )
    def test_the_format_that_a_dataset_has_for_others_does_not_matter(self, form):
        plain, formatted = table(key=["a", "b", "c"]), table(key=["a", "b", "c"]).with_format(**form)
        found = load_places(formatted)["database"]
        assert found.column_names == plain.column_names
        assert found.remove_columns("image")[1] == plain.remove_columns("image")[1]

    def test_missing_keys_tell_the_splits_apart(self):
        # Pictures inside a table are told apart by their keys: row 0 of both splits must not be the same one.
        places = load_places(DatasetDict({"queries": table(2), "database": table(2)}))
        assert not set(places["queries"]["key"]) & set(places["database"]["key"])

    def test_missing_keys_of_one_dataset_are_the_same_in_both_splits(self):
        places = load_places(table())
        assert places["queries"]["key"][:] == places["database"]["key"][:]

    @pytest.mark.parametrize("as_dictionary", [True, False])
    def test_frames_are_taken_with_both_ends(self, as_dictionary):
        given = DatasetDict({"queries": table(5), "database": table(9)}) if as_dictionary else table(9)
        places = load_places(given, frames=(3, 5))
        assert places["database"]["frame"][:] == [3, 4, 5]
        assert places["queries"]["frame"][:] == ([3, 4] if as_dictionary else [3, 4, 5])


class TestLoadDatabase:
    @pytest.mark.parametrize("folder", ["utm_folder", "walk", "photographs"])
    def test_it_is_the_database_of_what_is_loaded_and_takes_what_it_and_loading_give(self, request, folder):
        folder = request.getfixturevalue(folder)
        places = load_places(folder)
        found = [load_database(source) for source in (folder, places, load_database(folder))]
        assert [table.to_pandas().to_dict() for table in found] == 3 * [places["database"].to_pandas().to_dict()]

    def test_photographs_without_names_are_called_by_their_rows(self):
        assert load_database(table(frame=None))["key"][:] == ["dataset/0", "dataset/1", "dataset/2"]

    def test_photographs_have_a_name_each(self):
        with pytest.raises(DatasetFormatError, match="dataset must name every image once, .* the first is a"):
            load_database(table(frame=None, key=["a", "a", "b"]))

    def test_a_table_whose_positions_are_called_otherwise_is_not_taken_for_photographs_alone(self):
        with pytest.raises(DatasetFormatError, match=r"must have either the columns .* 'easting', 'northing'"):
            load_database(table(frame=None, easting=[1.0, 2, 3], northing=[1.0, 2, 3]))


class TestErrors:
    def test_what_is_neither_path_nor_dataset(self):
        with pytest.raises(
            TypeError, match="must be a folder, a table of them or a datasets.Dataset, got list|Type-ch"
        ):
            load_places(["a.jpg"])

    def test_a_dictionary_without_one_of_the_splits(self):
        with pytest.raises(DatasetFormatError, match=r"'database' and 'queries' are needed, got \['train'\]"):
            load_places(DatasetDict({"train": table()}))

    def test_no_positions(self):
        with pytest.raises(DatasetFormatError, match="dataset must have either the columns"):
            load_places(table(frame=None))

    def test_the_split_at_fault_is_named(self):
        with pytest.raises(
            DatasetFormatError, match="queries has 1 rows without a valid position, the first in row 1"
        ):
            load_places(DatasetDict({"database": table(), "queries": table(3, frame=[0.0, float("nan"), 2.0])}))

    @pytest.mark.parametrize("load", [load_places, load_database])
    def test_degrees_that_are_swapped(self, load):
        swapped = table(latitude=[153.01, 153.02, 153.03], longitude=[-27.4, -27.4, -27.4])
        with pytest.raises(DatasetFormatError, match="database has 3 rows with an impossible latitude, .* Swap the"):
            load(DatasetDict({"database": swapped, "queries": table()}))

    def test_frames_of_places_in_metres(self):
        metres = table(frame=None, easting_m=[0.0, 1, 2], northing_m=[0.0, 0, 0])
        with pytest.raises(DatasetFormatError, match=r"no column 'frame', so frames \(0, 1\) cannot be taken"):
            load_places(metres, frames=(0, 1))

    def test_frames_that_no_place_has(self):
        with pytest.raises(DatasetFormatError, match="dataset has no frame in 7-9"):
            load_places(table(), frames=(7, 9))

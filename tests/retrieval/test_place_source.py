"""Where a place database takes its places from: tables, and streams that are read once."""

import tracemalloc

import numpy as np
import pytest
from datasets import Dataset, Image, IterableDataset, IterableDatasetDict

from selavpr_peft.errors import DatasetFormatError, PlaceDatabaseError
from selavpr_peft.modeling.preprocessing import read_image
from selavpr_peft.retrieval import PlaceDatabase, building
from selavpr_peft.retrieval.place_source import with_paths
from tests.retrieval.test_place_database import content, damage


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch):
    monkeypatch.setattr(building, "STEP_IMAGES", 4)


class TestWithPaths:
    @pytest.mark.parametrize("rows", [[0, 1, 2], [2, 0]])
    def test_pictures_are_replaced_by_their_paths(self, rows):
        entries = [{"path": "a.jpg", "bytes": None}, {"path": "b.jpg", "bytes": b"x"}, {"path": None, "bytes": b"x"}]
        places = Dataset.from_dict({"image": entries, "key": list("abc")}).cast_column("image", Image())
        expected = [("a", "a.jpg"), ("b", "b.jpg"), ("c", None)]
        found = with_paths(places.select(rows)).to_pydict()
        assert list(zip(found["key"], found["image"], strict=True)) == [expected[row] for row in rows]

    def test_pictures_inside_the_table_are_not_read(self):
        entries = [{"path": f"{number}.jpg", "bytes": bytes(1_000_000)} for number in range(30)]
        places = Dataset.from_dict({"image": entries, "key": list(map(str, range(30)))}).cast_column("image", Image())
        tracemalloc.start()
        with_paths(places)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 5_000_000


class TestStream:
    """A database of a streaming dataset is that of the same places in a table."""

    @pytest.fixture
    def stream(self, places):
        return places.to_iterable_dataset()

    def test_it_ends_with_the_same_files(self, model, places, stream, tmp_path):
        PlaceDatabase.build(model, places, tmp_path / "table", batch_size=4)
        PlaceDatabase.build(model, stream, tmp_path / "stream", batch_size=4)
        assert content(tmp_path / "stream") == content(tmp_path / "table")

    def test_the_split_of_the_database_is_taken(self, model, stream, tmp_path):
        splits = IterableDatasetDict({"database": stream, "queries": stream.take(1)})
        assert len(PlaceDatabase.build(model, splits, tmp_path / "db")) == 10

    def test_one_that_tells_no_columns_beforehand_may_hold_decoded_pictures(self, model, places, tmp_path):
        stream = IterableDataset.from_generator(
            lambda: ({"image": read_image(row["image"]), "key": row["key"]} for row in places)
        )
        assert stream.features is None
        database = PlaceDatabase.build(model, stream, tmp_path / "db")
        table = PlaceDatabase.build(model, places, tmp_path / "table")
        assert database.places["key"][:] == places["key"][:]
        assert database.places["image"][:] == [None] * 10  # they have no paths
        last = np.array([9])
        assert (database.local_features(last) == table.local_features(last)).all()

    def test_places_without_keys_are_called_by_their_numbers(self, model, stream, tmp_path):
        database = PlaceDatabase.build(model, stream.remove_columns("key"), tmp_path / "db")
        assert database.places["key"][:] == [f"stream/{row}" for row in range(10)]

    def test_no_more_than_a_step_is_taken_before_it_is_described(self, model, places, tmp_path, monkeypatch):
        taken, ahead, encode = [], [], building.encode_places
        monkeypatch.setattr("selavpr_peft.retrieval.place_source.PlaceStream.FIRST", 1)

        def rows():
            for row in places.remove_columns("image").add_column("image", [row["image"] for row in places]):
                taken.append(row["key"])
                yield row

        def count(model, part, *args, **options):
            ahead.append((len(taken), part["key"][-1]))
            return encode(model, part, *args, **options)

        monkeypatch.setattr(building, "encode_places", count)
        PlaceDatabase.build(model, IterableDataset.from_generator(rows), tmp_path / "db")
        assert [key for _, key in ahead] == ["place 3", "place 7", "place 9"]
        assert [number - 1 for number, _ in ahead] == [4, 8, 10]  # one was looked at beforehand

    def test_a_build_goes_on_and_describes_no_place_again(self, model, places, stream, tmp_path, monkeypatch):
        encode, described = building.encode_places, []

        def stop_at_the_second_step(model, part, *args, **options):
            described.append(part["key"][:])
            if len(described) == 2:
                raise KeyboardInterrupt
            return encode(model, part, *args, **options)

        monkeypatch.setattr(building, "encode_places", stop_at_the_second_step)
        with pytest.raises(KeyboardInterrupt):
            PlaceDatabase.build(model, stream, tmp_path / "stream", batch_size=4)
        PlaceDatabase.build(model, stream, tmp_path / "stream", batch_size=4)
        assert described[1:] == [places["key"][4:8], places["key"][4:8], places["key"][8:]]
        PlaceDatabase.build(model, places, tmp_path / "table", batch_size=4)
        assert content(tmp_path / "stream") == content(tmp_path / "table")
        with pytest.raises(PlaceDatabaseError, match="holds a database that differs in places"):
            PlaceDatabase.build(model, stream.skip(1), tmp_path / "stream")

    def test_one_that_has_become_shorter_is_refused(self, model, stream, tmp_path, monkeypatch):
        monkeypatch.setattr("selavpr_peft.retrieval.place_source.PlaceStream.FIRST", 2)
        finish = building.finish_database
        monkeypatch.setattr(building, "finish_database", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            PlaceDatabase.build(model, stream, tmp_path / "db")
        monkeypatch.setattr(building, "finish_database", finish)
        with pytest.raises(PlaceDatabaseError, match="was begun with more than the 3 places that there are now"):
            PlaceDatabase.build(model, stream.take(3), tmp_path / "db")

    def test_images_that_cannot_be_read_are_left_out_and_named(self, model, stream, photographs, tmp_path):
        damage(photographs, 6)
        database = PlaceDatabase.build(model, stream, tmp_path / "db")
        assert (len(database), database.manifest.unreadable_images) == (9, ["place 6"])

    def test_what_cannot_be_right_is_refused(self, model, places, stream, tmp_path):
        again = Dataset.from_dict(places[:] | {"key": [f"place {row % 6}" for row in range(10)]}).to_iterable_dataset()
        with pytest.raises(DatasetFormatError, match="must name every image once, got"):
            PlaceDatabase.build(model, again, tmp_path / "db")
        with pytest.raises(ValueError, match="At least one image is needed, got none"):
            PlaceDatabase.build(model, stream.take(0), tmp_path / "db")
        with pytest.raises(DatasetFormatError, match="must have a column 'image'"):
            PlaceDatabase.build(model, stream.remove_columns("image"), tmp_path / "db")
        whole = stream.map(lambda row: {"latitude": 1e7 * row["latitude"]})
        with pytest.raises(
            DatasetFormatError, match=r"impossible latitude, .* \(place 0\): 660000000; .* divide them"
        ):
            PlaceDatabase.build(model, whole, tmp_path / "db")
        with pytest.raises(ValueError, match="must be one of 'flat'"):
            PlaceDatabase.build(model, stream, tmp_path / "db", index_kind="lsh")
        assert not (tmp_path / "db").exists()

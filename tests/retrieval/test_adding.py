"""Adding to a place database: the outcome is that of one build, and whoever stops it, nobody sees a half of it."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from datasets import concatenate_datasets
from filelock import FileLock

from selavpr_peft.errors import DatasetFormatError, PlaceDatabaseError, UnreadableImageError
from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer, building, opening
from selavpr_peft.retrieval.sharded_array import ShardedArray
from tests.retrieval.conftest import make_model
from tests.retrieval.test_place_database import content, damage, flip_a_byte, keys_found


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch):
    monkeypatch.setattr(building, "STEP_IMAGES", 3)


@pytest.fixture
def old(places):
    return places.select(range(6))


@pytest.fixture
def new(places):
    return places.select(range(6, 10))


@pytest.fixture
def database(model, old, tmp_path):
    return PlaceDatabase.build(model, old, tmp_path / "db", batch_size=1)


@pytest.fixture
def described_keys(monkeypatch):
    """Keys in the order in which they are described from here on."""
    encode, keys = building.encode_places, []

    def note(model, part, preprocessing, **options):
        keys.extend(part["key"][:])
        return encode(model, part, preprocessing, **options)

    monkeypatch.setattr(building, "encode_places", note)
    return keys


def interrupt_at(key, database, model, new):
    """Begin to add places, and stop before the step that describes one of them, as Ctrl-C does."""
    encode = building.encode_places

    def stop(model, part, preprocessing, **options):
        if key in part["key"][:]:
            raise KeyboardInterrupt
        return encode(model, part, preprocessing, **options)

    with pytest.MonkeyPatch.context() as context:
        context.setattr(building, "encode_places", stop)
        with pytest.raises(KeyboardInterrupt):
            database.add(model, new)


def arrays(folder):
    """Descriptors and local features of all rows, whatever shards they are in."""
    return [ShardedArray(folder / name).read_all() for name in ("descriptors", "local_features")]


def files(folder):
    """Content of a folder without what write_atomically had not renamed yet."""
    return {name: data for name, data in content(folder).items() if not Path(name).name.startswith(".")}


class TestOutcome:
    """A database that has grown is the one that a single build of all places gives."""

    @pytest.mark.parametrize("settings", [{}, {"local_dtype": "binary", "keep_locations": 50}])
    def test_it_is_that_of_one_build(self, model, places, old, new, photographs, tmp_path, settings):
        grown = PlaceDatabase.build(model, old, tmp_path / "db", batch_size=1, **settings)
        grown.add(model, new, batch_size=1)
        whole = PlaceDatabase.build(model, places, tmp_path / "whole", batch_size=1, **settings)
        for opened in (grown, PlaceDatabase.open(tmp_path / "db")):
            assert len(opened) == 10
            assert opened.places[:] == whole.places[:]
            is_other = {"places", "places_file", "index_file", "places_crc32"}
            assert opened.manifest.model_dump(exclude=is_other) == whole.manifest.model_dump(exclude=is_other)
            for found, expected in zip(arrays(opened.folder), arrays(whole.folder), strict=True):
                assert np.array_equal(found, expected)
            assert (opened.folder / "index-10.faiss").read_bytes() == (whole.folder / "index.faiss").read_bytes()
            answers = [PlaceRecognizer(model, x).recognize(photographs / "8.png") for x in (opened, whole)]
            assert answers[0] == answers[1]
        assert not list(grown.damaged_places())

    def test_only_the_valid_files_are_left(self, model, new, database):
        database.add(model, new)
        found = {path.name for path in database.folder.iterdir()} - {".lock"}
        assert found == {"manifest.json", "places-10.parquet", "index-10.faiss", "index-10.json", *building.ARRAYS}

    @pytest.mark.parametrize("index_kind", ["hnsw", "ivf-sq"])
    def test_an_approximate_index_finds_old_and_new(self, model, places, old, new, photographs, tmp_path, index_kind):
        database = PlaceDatabase.build(model, old, tmp_path / "db", index_kind=index_kind)
        database.add(model, new)
        assert keys_found(model, database, photographs / "7.png") == set(places["key"])
        assert database.index.kind == PlaceDatabase.open(tmp_path / "db").manifest.index == index_kind

    def test_places_are_added_again_and_again(self, model, places, old, tmp_path):
        database = PlaceDatabase.build(model, old, tmp_path / "db")
        for row in range(6, 10):
            database.add(model, places.select([row]))
        assert database.places[:] == PlaceDatabase.build(model, places, tmp_path / "whole").places[:]
        assert keys_found(model, database, places[9]["image"]) == set(places["key"])

    def test_places_of_a_stream_are_added(self, model, new, database, tmp_path):
        PlaceDatabase.open(shutil.copytree(database.folder, tmp_path / "table")).add(model, new)
        database.add(model, new.to_iterable_dataset())
        assert files(database.folder) == files(tmp_path / "table")

    def test_a_model_without_local_head_adds_to_a_database_for_retrieval_alone(self, old, new, tmp_path):
        model = make_model(use_local_head=False)
        database = PlaceDatabase.build(model, old, tmp_path / "db")
        database.add(model, new)
        assert len(database) == 10
        assert not database.has_local_features

    def test_images_that_cannot_be_read_are_left_out_and_named(self, model, old, new, photographs, tmp_path):
        for number in (2, 6, 9):
            damage(photographs, number)
        database = PlaceDatabase.build(model, old, tmp_path / "db")
        database.add(model, new)
        assert database.places["frame"][:] == [0, 1, 3, 4, 5, 7, 8]
        assert database.manifest.unreadable_images == ["place 2", "place 6", "place 9"]
        assert not list(database.damaged_places())

    def test_an_image_that_has_been_repaired_can_be_added(self, model, places, old, photographs, tmp_path):
        good = (photographs / "2.png").read_bytes()
        damage(photographs, 2)
        database = PlaceDatabase.build(model, old, tmp_path / "db")
        (photographs / "2.png").write_bytes(good)
        database.add(model, places.select([2]))
        assert database.manifest.unreadable_images == []
        assert PlaceRecognizer(model, database).recognize(photographs / "2.png")[0].row == 5

    def test_without_a_readable_image_nothing_changes_and_repaired_ones_are_taken(
        self, model, new, photographs, database
    ):
        good, before = (photographs / "7.png").read_bytes(), database.manifest
        for number in range(6, 10):
            damage(photographs, number)
        with pytest.raises(PlaceDatabaseError, match="None of the 4 images can be read"):
            database.add(model, new)
        assert PlaceDatabase.open(database.folder).manifest == before
        (photographs / "7.png").write_bytes(good)
        database.add(model, new)
        assert database.places["key"][-1] == "place 7"


class TestColumns:
    def test_what_a_table_lacks_is_empty(self, model, old, new, photographs, tmp_path):
        old, new = old.remove_columns("street"), new.remove_columns(["latitude", "longitude"])
        database = PlaceDatabase.build(model, old, tmp_path / "db")
        database.add(model, new)
        opened = PlaceDatabase.open(database.folder)
        assert opened.places["street"][:] == [None] * 6 + ["Aðalgata"] * 4
        assert opened.places["latitude"][5:] == [66.005, None, None, None, None]
        found = PlaceRecognizer(model, opened).recognize(photographs / "7.png", near=(66.002, -18.0), radius_m=120)
        assert sorted(place.row for place in found) == [1, 2, 3]

    def test_positions_of_another_kind_are_refused_before_anything_is_described(
        self, model, new, database, described_keys
    ):
        metres = new.remove_columns("frame").add_column("easting_m", [0.0] * 4).add_column("northing_m", [0.0] * 4)
        before = content(database.folder)
        with pytest.raises(DatasetFormatError, match="must be of the kind that the places there have, frames, got m"):
            database.add(model, metres)
        assert (described_keys, content(database.folder)) == ([], before)


class TestRemovedPlaces:
    def test_they_stay_removed_and_the_others_keep_their_rows(self, model, places, new, photographs, database):
        database.remove(["place 2"])
        database.add(model, new)
        assert len(database) == 9
        assert keys_found(model, PlaceDatabase.open(database.folder), photographs / "2.png") == (
            set(places["key"]) - {"place 2"}
        )
        best = PlaceRecognizer(model, database).recognize(photographs / "5.png")[0]
        assert (best.key, best.row) == ("place 5", 5)

    def test_they_can_be_added_anew(self, model, places, photographs, database):
        database.remove(["place 2", "place 3"])
        database.add(model, places.select([2]))
        best = PlaceRecognizer(model, database).recognize(photographs / "2.png")[0]
        assert (best.key, best.row, len(database)) == ("place 2", 6, 5)
        database.remove(["place 2"])
        assert len(database) == 4

    def test_the_rest_of_its_life_goes_on(self, model, places, new, photographs, database, tmp_path):
        database.add(model, new)
        database.remove(["place 0", "place 7"])
        flip_a_byte(database.folder / "index-10.faiss", -1)
        PlaceDatabase.rebuild_index(database.folder, "hnsw")
        compact = PlaceDatabase.open(database.folder).compact(tmp_path / "compact")
        assert {path.name for path in compact.folder.iterdir()} >= {"places.parquet", "index.faiss"}
        compact.add(model, places.select([7, 0]))
        assert keys_found(model, compact, photographs / "7.png") == set(places["key"])
        assert PlaceRecognizer(model, compact).recognize(photographs / "7.png")[0].row == 8

    def test_the_build_given_again_opens_what_it_has_become(self, model, old, new, database):
        database.add(model, new)
        assert len(PlaceDatabase.build(model, old, database.folder)) == 10


class TestInterruption:
    """Whatever is left by a kill, it opens as the old database or as the new one, and the same call completes it."""

    def test_every_state_that_a_kill_can_leave_is_whole_and_is_completed(
        self, model, places, new, database, tmp_path, monkeypatch
    ):
        states, numbers_seen, elsewhere = [], [], PlaceDatabase.open(database.folder)
        before = [array[:6] for array in arrays(database.folder)]

        def look():
            """Keep the folder as a kill would leave it here, and look at it through a database that is open."""
            states.append(tmp_path / f"killed {len(states)}")
            shutil.copytree(database.folder, states[-1])
            elsewhere.refresh()
            numbers_seen.append(len(elsewhere))
            assert np.array_equal(elsewhere.local_features(np.arange(6)).numpy(), before[1])

        def before_it(method):
            def look_and_do(self, *arguments, **options):
                if self.exists():
                    look()
                return method(self, *arguments, **options)

            return look_and_do

        with monkeypatch.context() as context:
            for name in ("replace", "unlink"):  # all that changes what a folder holds under a name
                context.setattr(Path, name, before_it(getattr(Path, name)))
            database.add(model, new, batch_size=1)
        expected = files(database.folder)
        assert len(states) == 1 + 2 * 3 * 2 + 4 + 4  # adding.json, 2 steps, table and index and manifest, deleted ones
        assert numbers_seen == [6] * 17 + [10] * 4
        for state, number in zip(states, numbers_seen, strict=True):
            opened = PlaceDatabase.open(state)
            assert len(opened) == len(opened.places) == len(opened.index) == number
            assert opened.places["key"][:] == places["key"][:number]
            assert not list(opened.damaged_places())
            opened.add(model, new, batch_size=1)
            assert (len(opened), files(state)) == (10, expected)

    def test_finished_steps_are_not_done_again(self, model, new, database, described_keys):
        interrupt_at("place 9", database, model, new)
        described_keys.clear()
        database.add(model, new)
        assert described_keys == ["place 9"]

    @pytest.mark.parametrize(("damaged", "frames"), [((3, 4, 5), [0, 1, 2, 6, 7, 8, 9]), (range(3, 9), [0, 1, 2, 9])])
    def test_steps_without_a_readable_image_are_counted_right(
        self, model, old, new, photographs, tmp_path, damaged, frames
    ):
        for number in damaged:
            damage(photographs, number)
        database = PlaceDatabase.build(model, old, tmp_path / "db")
        interrupt_at("place 9", database, model, new)
        database.add(model, new)
        assert database.places["frame"][:] == frames
        assert PlaceRecognizer(model, database).recognize(photographs / "9.png")[0].row == len(frames) - 1
        assert not list(database.damaged_places())

    def test_a_full_disk_leaves_the_old_database_and_room_lets_it_go_on(self, model, new, database, monkeypatch):
        def full(*arguments, **options):
            raise OSError(28, "No space left on device")

        with monkeypatch.context() as context:
            context.setattr(building.parquet, "write_table", full)
            with pytest.raises(OSError, match="No space left"):
                database.add(model, new)
        assert len(database) == len(PlaceDatabase.open(database.folder)) == 6
        database.add(model, new)
        assert len(database) == 10

    def test_an_unreadable_image_stops_a_strict_call_which_goes_on_once_it_is_repaired(
        self, model, places, new, photographs, database, described_keys
    ):
        good = (photographs / "9.png").read_bytes()
        damage(photographs, 9)
        with pytest.raises(UnreadableImageError, match=r"9\.png"):
            database.add(model, new, is_strict=True)
        (photographs / "9.png").write_bytes(good)
        described_keys.clear()
        database.add(model, new, is_strict=True)
        assert (described_keys, database.places["key"][:]) == (["place 9"], places["key"][:])

    def test_other_places_wait_until_it_is_finished_or_given_up(self, model, places, new, photographs, database):
        interrupt_at("place 9", database, model, new)
        with pytest.raises(PlaceDatabaseError, match=r"has begun to take other places; .* delete .*adding\.json"):
            database.add(model, places.select([9]))
        (database.folder / "adding.json").unlink()
        database.add(model, places.select([9]))
        assert PlaceDatabase.open(database.folder).places["key"][:] == [*places["key"][:6], "place 9"]
        assert PlaceRecognizer(model, database).recognize(photographs / "9.png")[0].row == 6
        assert not list(database.damaged_places())

    def test_a_damaged_note_of_what_was_begun_is_named(self, model, new, database):
        interrupt_at("place 9", database, model, new)
        (database.folder / "adding.json").write_text('{"num_places": 6}')
        with pytest.raises(PlaceDatabaseError, match=r"adding\.json is damaged: it lacks places; delete it"):
            database.add(model, new)

    def test_places_can_be_removed_and_the_index_made_anew_meanwhile(self, model, places, new, photographs, database):
        interrupt_at("place 9", database, model, new)
        database.remove(["place 1"])
        PlaceDatabase.rebuild_index(database.folder, "hnsw")
        database.add(model, new)
        assert PlaceDatabase.open(database.folder).index.kind == "hnsw"
        assert keys_found(model, database, photographs / "8.png") == set(places["key"]) - {"place 1"}


class TestReaders:
    def test_an_open_database_sees_new_places_when_it_looks(self, model, new, photographs, database):
        elsewhere = PlaceDatabase.open(database.folder)
        recognizer = PlaceRecognizer(model, elsewhere)
        database.add(model, new)
        assert recognizer.recognize(photographs / "7.png")[0].row < 6
        elsewhere.refresh()
        best = recognizer.recognize(photographs / "7.png")[0]
        assert (best.key, best.row, len(elsewhere)) == ("place 7", 7, 10)
        assert best.num_matches > 200  # with its own local features

    def test_an_open_database_removes_and_adds_to_what_it_has_become(self, model, places, new, database):
        elsewhere = PlaceDatabase.open(database.folder)
        database.add(model, new.select([0, 1]))
        elsewhere.remove(["place 7"])
        database.add(model, new.select([2]))
        elsewhere.add(model, new.select([3]))
        assert PlaceDatabase.open(database.folder).places["key"][:] == places["key"][:]
        assert (len(elsewhere), len(database)) == (9, 8)

    def test_one_that_is_being_opened_meanwhile_is_whole(self, model, new, database, monkeypatch):
        read = opening._read_places

        def add_first(folder, manifest):
            monkeypatch.setattr(opening, "_read_places", read)
            database.add(model, new)  # which deletes the table that the manifest names
            return read(folder, manifest)

        monkeypatch.setattr(opening, "_read_places", add_first)
        opened = PlaceDatabase.open(database.folder)
        assert len(opened) == len(opened.places) == 10

    def test_a_second_writer_is_refused(self, model, new, database):
        with (
            FileLock(database.folder / ".lock"),
            pytest.raises(PlaceDatabaseError, match="is being built or changed by another process"),
        ):
            database.add(model, new)
        assert len(PlaceDatabase.open(database.folder)) == 6

    def test_nobody_else_writes_while_places_are_described(self, model, places, new, database, monkeypatch):
        encode, refused = building.encode_places, []

        def write(*arguments, **options):
            other = PlaceDatabase.open(database.folder)
            for change in (lambda: other.remove(["place 1"]), lambda: other.add(model, places.select([9]))):
                with pytest.raises(PlaceDatabaseError, match="by another process"):
                    change()
                refused.append(change)
            return encode(*arguments, **options)

        monkeypatch.setattr(building, "encode_places", write)
        database.add(model, new)
        assert len(refused) == 4


class TestRefusals:
    @pytest.mark.parametrize(("rows", "number"), [([5, 6], "1 of the 2"), (range(10), "6 of the 10")])
    def test_keys_that_are_there_are_named_before_anything_is_described(
        self, model, places, database, described_keys, rows, number
    ):
        before = content(database.folder)
        key = "place 5" if number[0] == "1" else "place 0"
        with pytest.raises(PlaceDatabaseError, match=f"has a place '{key}' already .{number} keys are there"):
            database.add(model, places.select(rows))
        assert (described_keys, content(database.folder)) == ([], before)

    def test_a_stream_is_refused_where_it_comes_to_a_key_that_is_there(
        self, model, places, new, database, described_keys, monkeypatch
    ):
        monkeypatch.setattr("selavpr_peft.retrieval.place_source.PlaceStream.FIRST", 1)
        with pytest.raises(PlaceDatabaseError, match=r"has a place 'place 2' already \(1 of the 1 keys"):
            database.add(model, places.select([6, 7, 8, 2]).to_iterable_dataset())
        assert len(PlaceDatabase.open(database.folder)) == 6
        database.add(model, new.to_iterable_dataset())  # begins as that one did
        assert (len(database), described_keys) == (10, ["place 6", "place 7", "place 8", "place 9"])

    def test_places_that_were_added_are_there(self, model, new, database):
        database.add(model, new)
        with pytest.raises(PlaceDatabaseError, match="has a place 'place 6' already"):
            database.add(model, new)

    @pytest.mark.parametrize(
        ("settings", "name"),
        [({"seed": 1}, "adapter"), ({"resize": "official"}, "preprocessing")],
    )
    def test_another_model_is_refused(self, new, database, settings, name):
        with pytest.raises(PlaceDatabaseError, match=f"was built with another {name};"):
            database.add(make_model(**settings), new)

    def test_no_place_is_refused(self, model, new, database):
        with pytest.raises(ValueError, match="At least one image is needed, got none"):
            database.add(model, new.select([]))

    def test_a_key_that_stands_twice_is_refused(self, model, new, database):
        with pytest.raises(DatasetFormatError, match="must name every image once"):
            database.add(model, concatenate_datasets([new, new]))

    @pytest.mark.parametrize("name", ["places_file", "index_file"])
    def test_a_manifest_that_names_a_file_elsewhere_is_refused(self, database, name):
        building.write_manifest(database.folder, database.manifest.model_copy(update={name: "../other"}))
        for use in (PlaceDatabase.open, PlaceDatabase.rebuild_index):
            with pytest.raises(
                PlaceDatabaseError, match=f"{name} must name a file beside the manifest.*, got '../other'"
            ):
                use(database.folder)

    def test_a_database_of_before_whose_manifest_names_no_files_is_read_and_added_to(
        self, model, places, new, photographs, database
    ):
        text = database.manifest.model_dump_json(exclude={"places_file", "index_file"})
        (database.folder / "manifest.json").write_text(text)
        PlaceDatabase.open(database.folder).add(model, new)
        assert keys_found(model, PlaceDatabase.open(database.folder), photographs / "7.png") == set(places["key"])

"""Place databases pushed and fetched over HTTP, against a server on this machine (see hub_server.py)."""

import numpy as np
import pyarrow as pa
import pytest
import yaml

from selavpr_peft.errors import HubError, PlaceDatabaseError
from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer, building
from selavpr_peft.retrieval.publishing import publishable_table
from tests.hub.hub_client import TOKEN
from tests.hub.hub_server import Repository
from tests.retrieval.conftest import make_model

REPOSITORY = "datasets/me/street"


@pytest.fixture(autouse=True)
def _small_steps(monkeypatch):
    monkeypatch.setattr(building, "STEP_IMAGES", 4)


@pytest.fixture
def database(model, places, tmp_path):
    return PlaceDatabase.build(model, places, tmp_path / "db")


def fetch(**options):
    return PlaceDatabase.from_pretrained("me/street", token=TOKEN, **options)


def push(database, **options):
    return database.push_to_hub("me/street", token=TOKEN, **options)


def uploads(server):
    return [path for method, path in server.requests if method == "PUT"]


class TestPushAndFetch:
    def test_a_fetched_database_finds_what_the_pushed_one_finds(self, server, model, database, photographs, tmp_path):
        push(database, image_root=photographs)
        fetched = fetch()
        assert fetched.folder.is_relative_to(tmp_path / "cache")
        expected, found = (PlaceRecognizer(model, x).recognize(photographs / "7.png") for x in (database, fetched))
        assert [(place.key, place.score, place.num_matches) for place in found] == [
            (place.key, place.score, place.num_matches) for place in expected
        ]
        assert found[0].image == "7.png"
        assert list(fetched.damaged_places()) == []

    def test_only_the_own_files_are_pushed_and_no_path_or_token_with_them(self, server, database, tmp_path):
        (database.folder / "notes.txt").write_text("private")
        (database.folder / "local_features" / ".00003.npy.abc").write_bytes(b"half a shard")
        push(database)
        files = server.repositories[REPOSITORY].files
        arrays = {f"{n}/{s:05d}{e}.npy" for n in building.ARRAYS for s in range(3) for e in ("", ".crc")}
        assert set(files) == {"README.md", "manifest.json", "places.parquet", "index.faiss", "index.json"} | arrays
        assert f"Bearer {TOKEN}" in server.tokens
        for content in files.values():
            assert str(tmp_path).encode() not in content
            assert TOKEN.encode() not in content
        assert fetch().places["image"][:] == [None] * 10

    def test_a_smaller_database_takes_the_place_of_a_larger_one(self, server, database, tmp_path):
        push(database)
        database.remove(["place 0", "place 1", "place 2"])
        push(database.compact(tmp_path / "compact"))
        assert len(fetch()) == 7
        assert "descriptors/00002.npy" not in server.repositories[REPOSITORY].files

    def test_a_database_that_has_grown_is_published_as_if_built_at_once(
        self, server, model, places, database, photographs, tmp_path
    ):
        grown = PlaceDatabase.build(model, places.select(range(6)), tmp_path / "grown")
        grown.add(model, places.select(range(6, 10)))
        push(grown)
        names = set(server.repositories[REPOSITORY].files)
        push(database)
        assert names == set(server.repositories[REPOSITORY].files)
        push(grown, image_root=photographs)
        fetched = fetch()
        assert PlaceRecognizer(model, fetched).recognize(photographs / "7.png")[0].image == "7.png"
        assert list(fetched.damaged_places()) == []

    def test_what_is_only_being_added_is_not_published(self, server, model, places, database, monkeypatch):
        def stop(*arguments):
            raise KeyboardInterrupt

        further = places.map(lambda place: {"key": f"further {place['key']}"})
        with monkeypatch.context() as context:
            context.setattr("selavpr_peft.retrieval.adding.write_places", stop)
            with pytest.raises(KeyboardInterrupt):
                database.add(model, further)
        push(database)
        files = set(server.repositories[REPOSITORY].files)
        assert (database.folder / "descriptors" / "00003.npy").is_file()
        assert not [name for name in files if "0003" in name or "adding" in name]
        assert len(fetch()) == 10

    def test_removed_places_are_not_published(self, server, database):
        database.remove(["place 3"])
        with pytest.raises(PlaceDatabaseError, match=r"holds the data of 1 removed places.*compact\(\)"):
            push(database)
        assert server.requests == []

    def test_the_card_says_what_the_manifest_says(self, server, database):
        push(database)
        card = server.repositories[REPOSITORY].files["README.md"].decode()
        _, metadata, text = card.split("---\n", 2)
        assert yaml.safe_load(metadata)["configs"][0]["data_files"] == "places.parquet"
        assert "visual-place-recognition" in yaml.safe_load(metadata)["tags"]
        assert "10 places" in text
        # 56 x 70 pixels are 4 x 5 patches, so 13 x 17 locations of 8 channels and 2 bytes: 3536 bytes
        assert "| local features | 13 x 17 x 8, `float16`, 0.00 MB per place |" in text
        assert f"| adapter (digest of its weights) | `{database.manifest.adapter}` |" in text
        assert "| paths of images | 0 of 10 |" in text
        assert 'PlaceDatabase.from_pretrained("me/street")' in text

    def test_a_database_without_local_features_has_a_card_too(self, server, places, tmp_path):
        push(PlaceDatabase.build(make_model(use_local_head=False), places, tmp_path / "db"))
        assert b"| local features | none |" in server.repositories[REPOSITORY].files["README.md"]
        assert not fetch().has_local_features

    def test_a_branch_is_made_for_a_revision(self, server, database):
        push(database, revision="next")
        assert ("POST", "/api/datasets/me/street/branch/next") in server.requests
        assert ("POST", "/api/datasets/me/street/commit/next") in server.requests

    def test_what_was_fetched_is_there_without_the_hub(self, server, database):
        push(database)
        fetch()
        num_requests = len(server.requests)
        assert len(fetch(local_files_only=True)) == 10
        assert len(server.requests) == num_requests

    def test_a_folder_is_opened_without_the_hub(self, server, database):
        assert len(PlaceDatabase.from_pretrained(database.folder)) == 10
        assert server.requests == []


class TestInterruption:
    def test_an_interrupted_push_publishes_nothing_and_goes_on_where_it_was(self, server, database):
        server.failures.append(("PUT /lfs/", 403))
        with pytest.raises(HubError, match="The token may not do this with the place database me/street"):
            push(database)
        assert server.repositories[REPOSITORY].files == {}
        num_sent, num_tried = len(server.objects), len(uploads(server))
        push(database)
        assert len(fetch()) == 10
        again = uploads(server)[num_tried:]
        assert len(again) == len(server.objects) - num_sent
        assert len(again) < len(server.objects)

    def test_a_server_that_fails_once_is_asked_again(self, server, database):
        server.failures.append(("PUT /lfs/", 503))
        push(database)
        assert len(fetch()) == 10


class TestRefusals:
    def test_a_repository_that_is_not_there_is_named_in_one_line(self, server):
        with pytest.raises(
            HubError, match="There is no place database me/street on the Hub, or .* Log in with"
        ) as error:
            fetch()
        assert len(str(error.value).splitlines()) == 1
        assert TOKEN not in str(error.value)

    @pytest.mark.parametrize(("status", "message"), [(401, "does not accept the token for"), (403, "may not do this")])
    def test_a_push_without_access_is_refused_in_one_line(self, server, database, status, message):
        server.failures.append(("/api/repos/create", status))
        with pytest.raises(HubError, match=message) as error:
            push(database)
        assert len(str(error.value).splitlines()) == 1
        assert TOKEN not in str(error.value)

    def test_without_the_hub_and_without_a_copy_there_is_one_line(self, server):
        with pytest.raises(HubError, match="me/street on the Hub .* is not in the cache") as error:
            fetch(local_files_only=True)
        assert len(str(error.value).splitlines()) == 1

    @pytest.mark.parametrize("name", ["street.placedb", "/a/b/street.placedb"])
    def test_a_name_that_is_neither_folder_nor_repository_is_named(self, server, name):
        with pytest.raises(PlaceDatabaseError, match=f"{name} is no place database: neither a folder nor a Hub id"):
            PlaceDatabase.from_pretrained(name)

    @pytest.mark.parametrize("name", ["index.faiss", "places.parquet"])
    def test_what_was_damaged_on_the_way_is_named_and_what_to_delete(self, server, database, tmp_path, name):
        push(database)
        files = server.repositories[REPOSITORY].files
        files[name] = files[name][:-20] + bytes(20)
        with pytest.raises(PlaceDatabaseError, match=rf"{name} .*damaged.* to fetch it again, delete .*datasets--me"):
            fetch()

    def test_a_shard_that_was_damaged_on_the_way_is_named_when_it_is_read(self, server, database):
        push(database)
        files = server.repositories[REPOSITORY].files
        files["local_features/00001.npy"] = files["local_features/00001.npy"][:-1] + b"\xff"
        fetched = fetch()
        assert [key for key, _ in fetched.damaged_places()] == ["place 7"]
        assert fetched.local_features(np.array([6])).shape == (1, 13, 17, 8)

    def test_a_repository_that_lacks_a_shard_is_refused(self, server, database):
        push(database)
        del server.repositories[REPOSITORY].files["local_features/00002.crc.npy"]
        with pytest.raises(PlaceDatabaseError, match="local_features holds 8 places, but the manifest says 10"):
            fetch()

    def test_a_dataset_that_is_no_place_database_is_refused(self, server):
        server.repositories[REPOSITORY] = repository = Repository()
        repository.commit("main", {"data.csv": b"1,2", "README.md": b""})
        with pytest.raises(PlaceDatabaseError, match="it has no manifest.json. It was fetched from me/street"):
            fetch()


class TestPublishableTable:
    def test_addresses_stay_paths_become_relative_and_others_go(self, tmp_path):
        images = [
            "https://example.org/a.jpg",
            "hf://datasets/me/photos/a.jpg",
            str(tmp_path / "photos" / "day" / "a.jpg"),
            str(tmp_path / "other" / "a.jpg"),
            str(tmp_path / "photos" / ".." / "other" / "a.jpg"),
            None,
        ]
        table = pa.table({"key": list("abcdef"), "image": images, "frame": range(6)})
        expected = [*images[:2], "day/a.jpg", None, None, None]
        found = publishable_table(table, tmp_path / "photos")
        assert found["image"].to_pylist() == expected
        assert found.column_names == table.column_names
        assert publishable_table(table, None)["image"].to_pylist() == [*images[:2], None, None, None, None]

    def test_relative_paths_are_those_of_the_current_folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        table = pa.table({"image": ["photos/a.jpg", "b.jpg"]})
        assert publishable_table(table, tmp_path / "photos")["image"].to_pylist() == ["a.jpg", None]

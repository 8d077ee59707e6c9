"""A database that grows and shrinks while it is served is seen as it is, by whoever asks and without a restart."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from fastapi.testclient import TestClient

from selavpr_peft.retrieval import PlaceDatabase
from selavpr_peft.retrieval.manifest import MANIFEST
from selavpr_peft.serving import create_app
from selavpr_peft.serving.served_database import ServedDatabase
from tests.retrieval.conftest import make_model
from tests.serving.conftest import some_places


@pytest.fixture
def client(growing):
    with TestClient(create_app(growing)) as client:
        yield client


@pytest.fixture
def elsewhere(growing):
    """The same database, opened by somebody else."""
    return PlaceDatabase.open(growing.database.folder)


def best_key(client, city, number):
    photograph = (city / "day" / f"{number:04d}.jpg").read_bytes()
    return client.post("/api/recognize?top_k=1", content=photograph).json()["places"][0]["key"]


class TestAdded:
    def test_places_are_found_and_shown(self, client, growing, elsewhere, city):
        assert best_key(client, city, 7) != "day/0007.jpg"
        elsewhere.add(make_model(), some_places(city, 6, 8))
        assert best_key(client, city, 7) == "day/0007.jpg"
        assert client.get("/api/thumbnail?key=day/0007.jpg").status_code == 200

    def test_the_description_counts_and_draws_them(self, client, growing, elsewhere, city):
        before = client.get("/api/database").json()
        elsewhere.add(make_model(), some_places(city, 6, 8))
        after = client.get("/api/database").json()
        assert (before["num_places"], after["num_places"], len(after["points"])) == (6, 8, 8)
        assert before["version"] != after["version"]

    def test_a_request_in_progress_is_answered_from_what_it_began_with(self, growing, elsewhere, city, monkeypatch):
        recognize, has_begun, may_end = growing.recognize, threading.Event(), threading.Event()

        def slow(*arguments, **options):
            places = recognize(*arguments, **options)
            has_begun.set()
            assert may_end.wait(30)
            return places

        monkeypatch.setattr(growing, "recognize", slow)
        with TestClient(create_app(growing)) as client, ThreadPoolExecutor(2) as users:
            first = users.submit(best_key, client, city, 3)
            assert has_begun.wait(30)
            elsewhere.add(make_model(), some_places(city, 6, 8))
            second = users.submit(best_key, client, city, 7)
            assert client.get("/api/thumbnail?key=day/0003.jpg").status_code == 200
            may_end.set()
            assert (first.result(30), second.result(30)) == ("day/0003.jpg", "day/0007.jpg")

    def test_many_users_while_it_grows_all_get_answers(self, client, growing, elsewhere, city):
        def ask(number):
            client.get("/api/database").raise_for_status()
            return best_key(client, city, number % 6)

        with ThreadPoolExecutor(8) as users:
            answers = [users.submit(ask, number) for number in range(12)]
            elsewhere.add(make_model(), some_places(city, 6, 7))
            elsewhere.remove(["day/0006.jpg"])
            answers += [users.submit(ask, number) for number in range(12)]
            found = [answer.result(60) for answer in answers]
        assert found == [f"day/{number % 6:04d}.jpg" for number in range(12)] * 2


class TestRemoved:
    def test_places_are_neither_found_nor_shown_nor_drawn(self, client, elsewhere, city):
        assert best_key(client, city, 3) == "day/0003.jpg"
        elsewhere.remove(["day/0003.jpg"])
        found = client.get("/api/database").json()
        assert (found["num_places"], found["points"]) == (5, [[frame, 0] for frame in (0, 1, 2, 4, 5)])
        assert best_key(client, city, 3) != "day/0003.jpg"
        assert client.get("/api/thumbnail?key=day/0003.jpg").status_code == 404

    def test_a_key_that_comes_back_shows_its_new_picture(self, client, growing, elsewhere, city):
        """Also to a browser that has kept the old one: its address is another."""
        photograph = (city / "day" / "0003.jpg").read_bytes()
        before = client.post("/api/recognize?top_k=1", content=photograph).json()["places"][0]
        elsewhere.remove(["day/0003.jpg"])
        elsewhere.add(make_model(), some_places(city, 3, 4))
        after = client.post("/api/recognize?top_k=1", content=photograph).json()["places"][0]
        assert before["key"] == after["key"] == "day/0003.jpg"
        assert before["thumbnail"] != after["thumbnail"]

    def test_where_none_is_left_the_answer_is_empty(self, client, elsewhere, city):
        elsewhere.remove(elsewhere.places["key"][:])
        photograph = (city / "day" / "0003.jpg").read_bytes()
        assert client.post("/api/recognize", content=photograph).json()["places"] == []


class TestUnreadable:
    @pytest.mark.parametrize("content", [None, "{"])
    def test_it_is_served_as_it_was_and_told_once(self, client, growing, city, caplog, content):
        manifest = growing.database.folder / MANIFEST
        whole = manifest.read_text()
        manifest.unlink()
        if content is not None:
            manifest.write_text(content)
        for _ in range(2):
            assert best_key(client, city, 3) == "day/0003.jpg"
        assert caplog.text.count("The database has changed and is served as it was") == 1
        manifest.write_text(whole)
        assert best_key(client, city, 3) == "day/0003.jpg"

    def test_a_database_of_another_model_is_not_taken_over(self, growing, city, caplog, tmp_path):
        served = ServedDatabase(growing.database)
        other = PlaceDatabase.build(make_model(seed=1), some_places(city, 0, 4), tmp_path / "other")
        (growing.database.folder / MANIFEST).write_text((other.folder / MANIFEST).read_text())
        served.refresh()
        assert served.catalogue.num_places == 6
        assert "was built anew with another adapter; open it again." in caplog.text


class TestUnchanged:
    def test_only_the_manifest_s_file_is_looked_at(self, growing, monkeypatch):
        served = ServedDatabase(growing.database)
        served.refresh()
        catalogue = served.catalogue
        monkeypatch.setattr(PlaceDatabase, "refresh", None)
        assert not served.has_changed
        served.refresh()
        assert served.catalogue is catalogue

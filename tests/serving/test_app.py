"""The application answers the page's requests, refuses bad ones in one sentence, and tells nothing of its machine."""

import io
import re
import threading
import time
import tomllib
import zlib
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace

import numpy as np
import pytest
from datasets import Dataset
from fastapi.testclient import TestClient
from PIL import Image

from selavpr_peft.cli.serve import LOOPBACK_NAMES
from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer
from selavpr_peft.serving import app as app_file
from selavpr_peft.serving import create_app, pictures
from selavpr_peft.serving.model_queue import MAX_WAITING
from tests.conftest import REPOSITORY
from tests.retrieval.conftest import make_model
from tests.serving.conftest import NUM_PLACES, calibration_of, encoded


def refusal(answer, status):
    """Check that an answer is one sentence in JSON, and give it."""
    assert answer.status_code == status, answer.text
    assert list(answer.json()) == ["detail"]
    sentence = answer.json()["detail"]
    assert sentence.endswith(".")
    assert "\n" not in sentence
    return sentence


class TestDatabase:
    def test_it_is_described(self, client, recognizer):
        found = client.get("/api/database").json()
        assert {
            "name": "city.placedb",
            "num_places": NUM_PLACES,
            "adapter": recognizer.database.manifest.adapter,
            "unit": "frames",
            "can_match": True,
        }.items() <= found.items()
        assert found["points"] == [[frame, 0] for frame in range(NUM_PLACES)]


class TestRecognize:
    def test_the_answer_is_that_of_the_recognizer(self, client, recognizer, city, photograph):
        answer = client.post("/api/recognize?top_k=3&rerank_num=5", content=photograph).json()
        expected = recognizer.recognize(city / "day" / "0003.jpg", top_k=3, rerank_num=5)
        assert [place["key"] for place in answer["places"]] == [place.key for place in expected]
        assert [place["score"] for place in answer["places"]] == pytest.approx([place.score for place in expected])
        assert [place["num_matches"] for place in answer["places"]] == [place.num_matches for place in expected]
        assert answer["places"][0]["key"] == "day/0003.jpg"
        assert answer["places"][0]["coordinates"] == {"frame": 3}
        assert answer["places"][0]["point"] == [3, 0]
        assert answer["duration_s"] > 0

    def test_without_re_ranking_there_are_no_match_counts(self, client, photograph):
        places = client.post("/api/recognize?rerank_num=0", content=photograph).json()["places"]
        assert len(places) == NUM_PLACES
        assert {place["num_matches"] for place in places} == {None}

    def test_a_photograph_lying_on_its_side_is_turned_upright(self, client, city):
        with Image.open(city / "day" / "0005.jpg") as image:
            exif = Image.Exif()
            exif[0x0112] = 6  # shown after a quarter turn to the right
            lying = encoded(image.transpose(Image.Transpose.ROTATE_90), exif=exif)
        places = client.post("/api/recognize", content=lying).json()["places"]
        assert places[0]["key"] == "day/0005.jpg"
        matches = client.post("/api/match?key=day/0005.jpg", content=lying).json()
        assert matches["query_size"] == [112, 84]

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ("top_k=0", "top_k: Input should be greater than or equal to 1, got '0'"),
            ("top_k=1000", "top_k: Input should be less than or equal to 100, got '1000'"),
            ("rerank_num=many", "rerank_num: Input should be a valid integer.*, got 'many'"),
        ],
    )
    def test_numbers_out_of_range_are_named(self, client, photograph, parameters, message):
        sentence = refusal(client.post(f"/api/recognize?{parameters}", content=photograph), 422)
        assert re.search(message, sentence)


class TestProbability:
    @pytest.fixture
    def fitted(self, recognizer, city, monkeypatch):
        """A calibration for 5 candidates, by which place 3 is right with 93 %, by its own picture."""
        evidence = recognizer.recognize(city / "day" / "0003.jpg", rerank_num=5)[0].evidence
        calibration = calibration_of(recognizer.database, probability=0.93, evidence=evidence)
        monkeypatch.setattr(recognizer, "calibration", calibration)

    def probabilities(self, client, photograph, parameters=""):
        answer = client.post(f"/api/recognize{parameters}", content=photograph).json()
        return [place["probability"] for place in answer["places"]]

    @pytest.mark.usefixtures("fitted")
    def test_the_first_place_has_one_and_the_others_have_none(self, client, photograph):
        first, *others = self.probabilities(client, photograph)
        assert first == pytest.approx(0.93)
        assert others == [None] * (NUM_PLACES - 1)

    @pytest.mark.usefixtures("fitted")
    def test_it_holds_for_the_number_that_the_server_names_and_uses(self, client, photograph):
        assert client.get("/api/database").json()["calibrated_rerank_num"] == 5
        assert self.probabilities(client, photograph, "?rerank_num=5") == self.probabilities(client, photograph)
        assert set(self.probabilities(client, photograph, "?rerank_num=6")) == {None}

    def test_without_a_calibration_there_is_none(self, client, photograph):
        assert client.get("/api/database").json()["calibrated_rerank_num"] is None
        assert set(self.probabilities(client, photograph)) == {None}

    @pytest.mark.parametrize("form", [{"local_dtype": "int8"}, {"rerank_num": 1001}])
    def test_nor_where_it_does_not_hold(self, client, recognizer, photograph, monkeypatch, form):
        calibration = calibration_of(recognizer.database, probability=0.93, evidence=100)
        monkeypatch.setattr(recognizer, "calibration", replace(calibration, form={**calibration.form, **form}))
        assert client.get("/api/database").json()["calibrated_rerank_num"] is None
        assert set(self.probabilities(client, photograph)) == {None}


class TestPhotographs:
    def test_no_picture_is_refused(self, client):
        sentence = refusal(client.post("/api/recognize", content=b"image,traverse,frame"), 415)
        assert sentence.startswith("This file is no picture that can be read")

    def test_half_a_picture_is_refused(self, client, photograph):
        refusal(client.post("/api/recognize", content=photograph[: len(photograph) // 2]), 415)

    def test_nothing_at_all_is_refused(self, client):
        assert refusal(client.post("/api/recognize"), 400).startswith("No photograph arrived")

    def test_a_format_that_starts_other_programs_is_refused(self, client):
        refusal(client.post("/api/recognize", content=encoded(Image.new("RGB", (8, 8)), "EPS")), 415)

    @pytest.mark.parametrize("kind", ["JPEG", "MPO", "PNG", "WEBP", "AVIF", "GIF", "BMP"])
    def test_the_usual_formats_are_read(self, client, kind):
        content = encoded(Image.new("RGB", (64, 48), "teal"), kind)
        assert client.post("/api/recognize", content=content).status_code == 200

    def test_a_file_that_is_too_large_is_refused_by_its_announced_size(self, client, monkeypatch):
        monkeypatch.setattr(pictures, "MAX_UPLOAD_BYTES", 1_000_000)
        sentence = refusal(client.post("/api/recognize", content=bytes(1_000_001)), 413)
        assert sentence == "The photograph is larger than 1 MB; send a smaller copy."

    def test_a_file_of_unknown_size_is_given_up_at_the_limit(self, client, monkeypatch):
        monkeypatch.setattr(pictures, "MAX_UPLOAD_BYTES", 1_000_000)
        refusal(client.post("/api/recognize", content=(bytes(100_000) for _ in range(11))), 413)

    @pytest.mark.parametrize(("height", "status"), [(20, 200), (21, 413)])
    def test_the_number_of_pixels_is_limited(self, client, monkeypatch, height, status):
        monkeypatch.setattr(pictures, "MAX_PIXELS", 50 * 20)
        answer = client.post("/api/recognize", content=encoded(Image.new("L", (50, height))))
        assert answer.status_code == status

    def test_a_decompression_bomb_is_refused(self, client):
        bomb = bytearray(encoded(Image.new("L", (1, 1))))
        bomb[16:24] = (60_000).to_bytes(4, "big") * 2  # width and height in the header
        bomb[29:33] = zlib.crc32(bomb[12:29]).to_bytes(4, "big")
        sentence = refusal(client.post("/api/recognize", content=bytes(bomb)), 413)
        assert "million pixels, and 50 are the most that is read" in sentence


class TestMatch:
    def test_points_are_those_of_the_recognizer_the_most_similar_first(self, client, recognizer, city, photograph):
        answer = client.post("/api/match?key=day/0004.jpg", content=photograph).json()
        assert (answer["query_size"], answer["database_size"]) == ([112, 84], [112, 84])
        place = next(p for p in recognizer.recognize(city / "day" / "0003.jpg") if p.key == "day/0004.jpg")
        points = recognizer.match(city / "day" / "0003.jpg", place)
        found = [(*match["query"], *match["database"], match["similarity"]) for match in answer["matches"]]
        expected = np.column_stack([points.query_points_px, points.database_points_px, points.similarities])
        assert len(found) == len(expected) > 0
        np.testing.assert_allclose(sorted(found), sorted(expected.tolist()), atol=1e-4)
        similarities = [match["similarity"] for match in answer["matches"]]
        assert similarities == sorted(similarities, reverse=True)

    def test_a_picture_matches_itself_point_for_point(self, client, photograph):
        matches = client.post("/api/match?key=day/0003.jpg", content=photograph).json()["matches"]
        assert all(match["query"] == match["database"] for match in matches)
        assert matches[0]["similarity"] == pytest.approx(1.0, abs=1e-4)

    def test_an_unknown_key_is_named(self, client, photograph):
        sentence = refusal(client.post("/api/match?key=day/0099.jpg", content=photograph), 404)
        assert sentence == "No place of this database is called 'day/0099.jpg'; take a key from a result."

    def test_a_missing_key_is_told(self, client, photograph):
        assert "key: Field required" in refusal(client.post("/api/match", content=photograph), 422)

    def test_a_model_without_local_head_cannot_match(self, city, photograph, tmp_path):
        model = make_model(use_local_head=False)
        recognizer = PlaceRecognizer(model, PlaceDatabase.build(model, f"{city}:day", tmp_path / "db"))
        with TestClient(create_app(recognizer)) as client:
            assert client.get("/api/database").json()["can_match"] is False
            assert client.post("/api/recognize", content=photograph).json()["places"][0]["num_matches"] is None
            sentence = refusal(client.post("/api/match?key=day/0003.jpg", content=photograph), 409)
        assert sentence == "The model has no local head, so there is nothing to match."


class TestPictures:
    @pytest.mark.parametrize(("address", "longer_side"), [("thumbnail", 320), ("picture", 1600)])
    def test_they_are_small_upright_copies_without_metadata(self, model_and_large_database, address, longer_side):
        with TestClient(create_app(PlaceRecognizer(*model_and_large_database))) as client:
            answer = client.get(f"/api/{address}", params={"key": "a/b c?#.jpg"})
        assert answer.headers["content-type"] == "image/jpeg"
        with Image.open(io.BytesIO(answer.content)) as image:
            assert image.size == (longer_side, longer_side // 2)
            assert not image.getexif()

    @pytest.fixture
    def model_and_large_database(self, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6
        exif[0x010F] = "secret camera"
        Image.new("RGB", (1000, 2000), "teal").save(tmp_path / "large.jpg", exif=exif)
        places = Dataset.from_dict({"image": [str(tmp_path / "large.jpg")], "key": ["a/b c?#.jpg"], "frame": [0]})
        model = make_model()
        return model, PlaceDatabase.build(model, places, tmp_path / "db")

    def test_the_addresses_in_a_result_lead_to_them(self, client, photograph):
        for place in client.post("/api/recognize?top_k=2", content=photograph).json()["places"]:
            for address in (place["thumbnail"], place["picture"]):
                assert client.get(f"/{address}").headers["content-type"] == "image/jpeg"

    def test_browsers_keep_pictures_as_long_as_the_server_runs(self, recognizer, photograph):
        addresses = []
        for _ in range(2):  # another database may have the same keys
            with TestClient(create_app(recognizer)) as client:
                (place,) = client.post("/api/recognize?top_k=1", content=photograph).json()["places"]
                addresses += [place["thumbnail"], place["picture"]]
                for address in addresses[-2:]:
                    assert client.get(f"/{address}").headers["cache-control"] == "private, max-age=3600"
        assert len(set(addresses)) == 4

    def test_nothing_else_is_kept_without_asking(self, client):
        for address in ("/", "/static/page.js", "/api/database"):
            assert client.get(address).headers["cache-control"] == "no-cache"

    @pytest.mark.parametrize("key", ["../places.csv", "/etc/passwd", "night/0003.jpg", ""])
    def test_a_key_is_looked_up_and_never_a_path(self, client, key):
        assert "is called" in refusal(client.get("/api/thumbnail", params={"key": key}), 404)

    def test_a_picture_that_has_gone_is_told_without_its_path(self, city, photograph, tmp_path, caplog):
        image = tmp_path / "gone.jpg"
        image.write_bytes(photograph)
        model = make_model()
        places = Dataset.from_dict({"image": [str(image)], "key": ["gone"], "frame": [0]})
        recognizer = PlaceRecognizer(model, PlaceDatabase.build(model, places, tmp_path / "db"))
        image.unlink()
        with TestClient(create_app(recognizer)) as client:
            assert client.post("/api/recognize", content=photograph).json()["places"][0]["key"] == "gone"
            sentence = refusal(client.get("/api/thumbnail?key=gone"), 404)
            assert refusal(client.post("/api/match?key=gone", content=photograph), 404) == sentence
        assert sentence == "The server cannot read its picture of gone; its log says why."
        assert str(image) in caplog.text

    def test_a_database_without_files_has_no_addresses_of_pictures(self, photograph, tmp_path):
        with Image.open(io.BytesIO(photograph)) as image:
            places = Dataset.from_dict({"image": [image.copy()], "key": ["inside"], "frame": [0]})
        model = make_model()
        recognizer = PlaceRecognizer(model, PlaceDatabase.build(model, places, tmp_path / "db"))
        with TestClient(create_app(recognizer)) as client:
            (place,) = client.post("/api/recognize", content=photograph).json()["places"]
            assert (place["thumbnail"], place["picture"]) == (None, None)
            refusal(client.get("/api/thumbnail?key=inside"), 404)


class TestPrivacy:
    def test_no_answer_names_a_folder_of_the_server(self, client, city, recognizer, photograph):
        answers = [
            client.get("/"),
            client.get("/api/database"),
            client.get("/api/openapi.json"),
            client.post("/api/recognize", content=photograph),
            client.post("/api/match?key=day/0003.jpg", content=photograph),
            client.post("/api/recognize", content=b"no picture"),
            client.get("/api/thumbnail?key=x"),
        ]
        for answer in answers:
            for folder in (city, recognizer.database.folder.parent):
                assert str(folder) not in answer.text + str(answer.headers)

    def test_keys_that_are_absolute_paths_lose_what_they_share(self, city, photograph, tmp_path):
        images = [str(city / name) for name in ("day/0003.jpg", "night/0003.jpg")]
        model = make_model()
        places = Dataset.from_dict({"image": images, "key": images, "frame": [3, 3]})
        recognizer = PlaceRecognizer(model, PlaceDatabase.build(model, places, tmp_path / "db"))
        with TestClient(create_app(recognizer)) as client:
            answer = client.post("/api/recognize", content=photograph)
            assert [place["key"] for place in answer.json()["places"]] == ["day/0003.jpg", "night/0003.jpg"]
            assert str(city) not in answer.text
            assert client.get("/api/thumbnail?key=night/0003.jpg").status_code == 200

    def test_a_failure_of_the_server_is_told_without_details(self, recognizer, photograph, monkeypatch):
        def fail(*arguments, **options):
            raise OSError("/home/somebody/city.placedb is damaged")

        monkeypatch.setattr(recognizer, "recognize", fail)
        with TestClient(create_app(recognizer), raise_server_exceptions=False) as client:
            sentence = refusal(client.post("/api/recognize", content=photograph), 500)
        assert sentence == "The server failed at this request; its log says why."

    def test_every_answer_has_the_headers_that_protect_it(self, recognizer, photograph, monkeypatch):
        monkeypatch.setattr(recognizer, "recognize", None)  # fails
        with TestClient(create_app(recognizer), raise_server_exceptions=False) as client:
            answers = [
                client.get("/"),
                client.get("/api/thumbnail?key=day/0003.jpg"),
                client.get("/nowhere"),
                client.post("/api/recognize", content=b"no picture"),
                client.post("/api/recognize", content=photograph),
            ]
        assert [answer.status_code for answer in answers] == [200, 200, 404, 415, 500]
        for answer in answers:
            assert {name: answer.headers[name] for name in app_file.HEADERS} == app_file.HEADERS

    def test_nothing_is_fetched_from_elsewhere(self, client):
        page = client.get("/")
        assert "default-src 'self'" in page.headers["content-security-policy"]
        assert "//" not in page.text.replace("<!doctype html>", "")

    @pytest.mark.parametrize("host", ["127.0.0.1:8000", "localhost:8000", "[::1]:8000"])
    def test_on_loopback_it_answers_under_every_name_of_that(self, recognizer, host):
        with TestClient(create_app(recognizer, allowed_hosts=LOOPBACK_NAMES)) as client:
            assert client.get("/api/database", headers={"host": host}).status_code == 200

    def test_a_foreign_host_name_is_refused(self, recognizer):
        with TestClient(create_app(recognizer, allowed_hosts=LOOPBACK_NAMES)) as client:
            assert client.get("/api/database", headers={"host": "elsewhere.example"}).status_code == 400


class TestSeveralUsers:
    def test_the_model_works_for_one_at_a_time_and_everybody_gets_their_own_answer(
        self, recognizer, city, monkeypatch
    ):
        recognize, at_work, most_at_work = recognizer.recognize, 0, 0

        def watched(*arguments, **options):
            nonlocal at_work, most_at_work
            at_work += 1
            most_at_work = max(most_at_work, at_work)
            time.sleep(0.02)
            places = recognize(*arguments, **options)
            at_work -= 1
            return places

        monkeypatch.setattr(recognizer, "recognize", watched)
        contents = [(city / "day" / f"{number:04d}.jpg").read_bytes() for number in range(NUM_PLACES)]
        with TestClient(create_app(recognizer)) as client, ThreadPoolExecutor(NUM_PLACES) as users:
            answers = list(users.map(lambda content: client.post("/api/recognize", content=content), contents))
        best = [answer.json()["places"][0]["key"] for answer in answers]
        assert best == [f"day/{number:04d}.jpg" for number in range(NUM_PLACES)]
        assert most_at_work == 1

    def test_thumbnails_are_served_while_the_model_works(self, recognizer, photograph, monkeypatch):
        recognize, has_begun, may_end = recognizer.recognize, threading.Event(), threading.Event()

        def blocked(*arguments, **options):
            has_begun.set()
            assert may_end.wait(30)
            return recognize(*arguments, **options)

        monkeypatch.setattr(recognizer, "recognize", blocked)
        with TestClient(create_app(recognizer)) as client, ThreadPoolExecutor(1) as user:
            answer = user.submit(client.post, "/api/recognize", content=photograph)
            assert has_begun.wait(30)
            assert client.get("/api/thumbnail?key=day/0003.jpg").status_code == 200
            assert not answer.done()
            may_end.set()
            assert answer.result(30).status_code == 200

    def test_too_many_waiting_photographs_are_refused(self, recognizer, photograph, monkeypatch):
        may_end = threading.Event()
        monkeypatch.setattr(recognizer, "recognize", lambda *arguments, **options: may_end.wait(30) and [])
        with TestClient(create_app(recognizer)) as client, ThreadPoolExecutor(MAX_WAITING + 1) as users:
            answers = [users.submit(client.post, "/api/recognize", content=photograph) for _ in range(MAX_WAITING + 1)]
            refused = next(as_completed(answers)).result()
            assert refusal(refused, 503) == f"{MAX_WAITING} photographs are waiting already; try again in a moment."
            may_end.set()
            statuses = sorted(answer.result(30).status_code for answer in answers)
        assert statuses == [200] * MAX_WAITING + [503]


class TestPage:
    @pytest.mark.parametrize("path", sorted(app_file.STATIC.iterdir()), ids=lambda path: path.name)
    def test_every_file_of_it_is_served(self, client, path):
        assert client.get(f"/static/{path.name}").content == path.read_bytes()

    @pytest.mark.parametrize("path", sorted(app_file.STATIC.iterdir()), ids=lambda path: path.name)
    def test_every_file_of_it_is_installed(self, path):
        settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]
        patterns = settings["package-data"]["selavpr_peft"]
        assert any(path.relative_to(REPOSITORY / "selavpr_peft").match(pattern) for pattern in patterns)

    def test_there_are_no_files_beside_it(self, client):
        assert client.get("/static/../app.py").status_code == 404
        assert client.get("/static/%2e%2e/app.py").status_code == 404

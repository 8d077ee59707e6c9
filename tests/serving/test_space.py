"""The Space in examples/space builds the application, and its files agree with one another."""

import importlib.util

import pytest
import yaml
from fastapi.testclient import TestClient

import selavpr_peft
from selavpr_peft.training import toy_run
from tests.conftest import REPOSITORY
from tests.retrieval.conftest import make_model

SPACE = REPOSITORY / "examples" / "space"


@pytest.fixture
def space():
    spec = importlib.util.spec_from_file_location("space", SPACE / "app.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class TestApp:
    @pytest.mark.slow
    def test_without_variables_a_synthetic_city_is_learnt_and_shown(self, space, tmp_path, monkeypatch):
        for name in ("BACKBONE", "ADAPTER", "PLACES"):
            monkeypatch.delenv(name, raising=False)
        draw = toy_run.draw_toy_city
        monkeypatch.setattr(toy_run, "draw_toy_city", lambda folder: draw(folder, num_places=6))
        monkeypatch.setattr(toy_run, "LAST_TRAINED_FRAME", 2)
        monkeypatch.setattr(toy_run.train_on_toy_city, "__kwdefaults__", {"num_rounds": 1, "seed": 0})
        with TestClient(space.make_app(tmp_path)) as client:
            assert client.get("/api/database").json()["num_places"] == 6
            photograph = (tmp_path / "city" / "day" / "0004.jpg").read_bytes()
            places = client.post("/api/recognize", content=photograph).json()["places"]
        assert places[0]["key"] == "day/0004.jpg"

    def test_variables_name_model_and_places(self, space, city, tmp_path, monkeypatch):
        asked = []
        monkeypatch.setattr(space, "load_adapted_model", lambda *names: asked.append(names) or make_model())
        monkeypatch.setenv("BACKBONE", "facebook/dinov2-base")
        monkeypatch.setenv("ADAPTER", "me/selavpr-city")
        monkeypatch.setenv("PLACES", f"{city}:night")
        with TestClient(space.make_app(tmp_path)) as client:
            assert client.get("/api/thumbnail?key=night/0001.jpg").status_code == 200
        assert asked == [("facebook/dinov2-base", "me/selavpr-city")]


class TestFiles:
    def test_the_card_names_the_port_that_is_served(self, space):
        card = yaml.safe_load((SPACE / "README.md").read_text().split("---")[1])
        assert (card["sdk"], card["app_port"]) == ("docker", space.PORT)

    def test_the_requirements_name_this_version(self):
        wheel = f"./selavpr_peft-{selavpr_peft.__version__}-py3-none-any.whl[serve]"
        assert wheel in (SPACE / "requirements.txt").read_text().splitlines()

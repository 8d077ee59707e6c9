"""`selavpr demo`: from nothing, or from a folder of photographs, to a table and a picture."""

import json
import re

import pytest
from peft import PeftModel
from PIL import Image

from selavpr_peft.data.place_table import read_place_table
from selavpr_peft.evaluation.evaluator import evaluate_two_stage
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.training import toy_run
from selavpr_peft.visualization import figures
from tests.cli.conftest import draw_walk


@pytest.fixture
def small_city(monkeypatch):
    """A city of six places, of which three are trained on, in one round."""
    draw = toy_run.draw_toy_city
    monkeypatch.setattr(toy_run, "draw_toy_city", lambda folder: draw(folder, num_places=6))
    monkeypatch.setattr(toy_run, "NUM_PLACES", 6)
    monkeypatch.setattr(toy_run, "LAST_TRAINED_FRAME", 2)
    monkeypatch.setattr(toy_run, "NUM_ROUNDS", 1)


def check_picture(path):
    with Image.open(path) as picture:
        picture.load()
        assert picture.format == "PNG"
        assert min(picture.size) > 300
        assert len(picture.convert("RGB").getcolors(maxcolors=1 << 24)) > 1000  # something is on it


@pytest.mark.usefixtures("small_city")
class TestCity:
    def test_without_arguments_a_city_is_drawn_and_its_places_are_found(self, selavpr, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        run = selavpr("demo")
        assert run.code == 0, run.err
        lines = run.out.splitlines()
        assert lines[:3] == [
            "database  demo/toy_city:day: 3 images",
            "queries   demo/toy_city:rain: 3 images, positives within 0 frames",
            "model     a tiny random DINOv2 with demo/adapter, float32, 56x70 antialias",
        ]
        assert [line.split()[0] for line in lines[4:7]] == ["R@1", "retrieval", "re-ranked"]
        assert lines[8] == "Before training, on other places of the city:"
        assert [line.split()[0] for line in lines[9:12]] == ["R@1", "retrieval", "re-ranked"]
        assert lines[-1].split() == ["picture", "demo/recognition.png"]
        check_picture(tmp_path / "demo" / "recognition.png")
        assert (tmp_path / "demo" / "toy_city" / "places.csv").is_file()
        assert (tmp_path / "demo" / "adapter" / "adapter_model.safetensors").is_file()

    def test_the_trained_adapter_that_is_saved_is_the_one_that_locates(self, selavpr, tmp_path):
        report = selavpr("demo", "--output", tmp_path, "--json", "-").report
        adapted = PeftModel.from_pretrained(toy_run.toy_model(seed=0).unload(), tmp_path / "adapter").eval()
        tables = [read_place_table(f"{tmp_path}/toy_city:{traverse}", frames=(3, 5)) for traverse in ("rain", "day")]
        result = evaluate_two_stage(
            adapted, *tables, Preprocessing(image_size=toy_run.IMAGE_SIZE), positive_radius=0, rerank_num=20
        )
        expected = result.as_report({})
        assert {key: report[key] for key in ("retrieval", "reranked")} == {
            key: expected[key] for key in ("retrieval", "reranked")
        }
        assert list(report["untrained"]["reranked"]) == ["1", "5", "10"]

    def test_no_rounds_do_not_train(self, selavpr, tmp_path):
        run = selavpr("demo", "--output", tmp_path, "--rounds", 0)
        assert "with a fresh adapter" in run.out
        assert "Before training" not in run.out
        assert "by chance R@1 would be 33.3" in run.out
        assert not (tmp_path / "adapter").exists()

    def test_rounds_are_for_the_tiny_network_in_the_city(self, selavpr, tmp_path, models):
        run = selavpr("demo", "--output", tmp_path, "--rounds", 1, "--backbone", models / "backbone")
        assert (run.code, run.out) == (2, "")
        assert "--rounds is for the tiny network" in run.err

    def test_a_second_run_in_the_same_folder_gives_the_same(self, selavpr, tmp_path):
        first, second = (selavpr("demo", "--output", tmp_path, "--json", "-").report for _ in range(2))
        assert first == second
        assert sorted(file.name for file in tmp_path.iterdir()) == ["adapter", "recognition.png", "toy_city"]

    def test_json_alone_is_on_standard_output(self, selavpr, tmp_path):
        report = selavpr("demo", "--output", tmp_path, "--json", "-", "--rerank-num", 2).report
        assert (report["num_queries"], report["num_database"]) == (3, 3)
        assert {"positive_radius": 0.0, "radius_unit": "frames", "rerank_num": 2}.items() <= report["protocol"].items()
        assert list(report["reranked"]) == ["1", "5", "10"]

    def test_a_radius_that_is_given_counts(self, selavpr, tmp_path):
        run = selavpr("demo", "--output", tmp_path, "--positive-radius", 2, "--json", tmp_path / "result.json")
        assert "positives within 2 frames" in run.out
        assert json.loads((tmp_path / "result.json").read_text())["retrieval"]["1"] == 1.0  # all three are positives

    def test_results_come_before_the_picture(self, selavpr, tmp_path, monkeypatch):
        def fail(figure, path):
            raise ImportError("drawing needs matplotlib")

        monkeypatch.setattr(figures, "save_figure", fail)
        run = selavpr("demo", "--output", tmp_path, "--json", tmp_path / "result.json")
        assert (run.code, run.err.splitlines()[-1]) == (2, "Error: drawing needs matplotlib")
        assert "re-ranked" in run.out
        assert (tmp_path / "result.json").is_file()

    def test_an_adapter_needs_its_backbone(self, selavpr, tmp_path, models):
        run = selavpr("demo", "--output", tmp_path, "--adapter", models / "adapter")
        assert (run.code, run.out) == (2, "")
        assert run.err == "Error: --adapter needs --backbone: the backbone it was trained on.\n"


class TestOwnPhotographs:
    def test_a_folder_of_places_is_recognised(self, selavpr, walk, models, tmp_path):
        run = selavpr(
            *("demo", "--data", walk, "--database", "day", "--queries", "night", "--output", tmp_path / "out"),
            *("--backbone", models / "backbone", "--adapter", models / "adapter"),
        )
        assert run.code == 0, run.err
        assert f"queries   {walk}:night: 6 images, positives within 3 frames" in run.out
        check_picture(tmp_path / "out" / "recognition.png")
        assert [file.name for file in (tmp_path / "out").iterdir()] == ["recognition.png"]

    def test_without_a_backbone_a_random_one_is_used(self, selavpr, tmp_path):
        walk = draw_walk(tmp_path / "walk", num_places=2)
        run = selavpr("demo", "--data", walk, "--database", "day", "--queries", "night", "--output", tmp_path)
        assert "a tiny random DINOv2 with a fresh adapter, float32, 224x224" in run.out

    def test_a_picture_that_cannot_be_written_is_told_before_anything_is_loaded(self, selavpr, walk):
        run = selavpr("demo", "--data", "nowhere", "--output", walk / "places.csv")
        assert (run.code, run.out) == (2, "")
        assert re.fullmatch(
            r"Error: .*/recognition\.png cannot be written, because .*; write it elsewhere\.\n", run.err
        )

    def test_unknown_traverses_are_answered_with_those_there_are(self, selavpr, walk, tmp_path):
        run = selavpr("demo", "--data", walk, "--output", tmp_path / "out")
        assert (run.code, run.out) == (2, "")
        assert re.fullmatch(r"Error: .* has no traverse 'day_right'; it has \['day', 'night'\]\.\n", run.err)

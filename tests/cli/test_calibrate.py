"""`selavpr calibrate`: from then on `selavpr query` says how likely its answer is, where that was fitted."""

import json
import re
import shutil

import pytest

from selavpr_peft.data.place_table import read_place_table
from selavpr_peft.evaluation.calibration import fit_calibration
from selavpr_peft.hub import load_adapted_model, save_adapter, save_calibration
from selavpr_peft.retrieval import PlaceDatabase, PlaceRecognizer
from tests.evaluation.noisy_walk import write_noisy_walk


@pytest.fixture(scope="module")
def walk(tmp_path_factory):
    return write_noisy_walk(tmp_path_factory.mktemp("walk"))


@pytest.fixture(scope="module")
def calibrated(walk, models, tmp_path_factory):
    """A database, and the model with a calibrated adapter."""
    folder = tmp_path_factory.mktemp("calibrated")
    shutil.copytree(models / "adapter", folder / "adapter")
    model = load_adapted_model(models / "backbone", folder / "adapter")
    recognizer = PlaceRecognizer(model, PlaceDatabase.build(model, f"{walk}:day", folder / "walk.placedb"))
    queries = read_place_table(f"{walk}:night")
    save_calibration(fit_calibration(recognizer, queries, positive_radius=0), folder / "adapter")
    return folder / "walk.placedb", ("--backbone", models / "backbone", "--adapter", folder / "adapter")


class TestCalibrate:
    def test_what_was_fitted_and_how_good_it_is_are_told(self, selavpr, calibrated, walk):
        folder, (*model, adapter) = calibrated
        given = ("--queries", f"{walk}:night", "--positive-radius", 0)
        run = selavpr("calibrate", folder, *given, *model, adapter)
        assert run.code == 0, run.err
        queries, quality, threshold, kept = run.out.splitlines()
        assert queries == "queries    40 of 60 were right within 0 frames"
        number = r"\d\.\d{3}"
        assert re.fullmatch(
            rf"quality    Brier score {number} \({number} for always saying the share\), expected calibration error"
            rf" {number}",
            quality,
        )
        assert re.fullmatch(
            rf"threshold  {number}: \d+ queries are answered, \d+ of them rightly \(a share of {number} or more with"
            r" 95 % confidence\)",
            threshold,
        )
        assert kept == f"kept in {adapter / 'calibration.json'}"

    def test_the_card_of_the_adapter_states_it(self, selavpr, calibrated, walk, tmp_path):
        folder, (_, backbone, *_, adapter) = calibrated
        save_adapter(load_adapted_model(backbone, adapter), tmp_path / "city")
        card = tmp_path / "city" / "README.md"
        card.write_text(card.read_text().replace("## Use", "My own words.\n\n## Use"))
        given = ("--queries", f"{walk}:night", "--positive-radius", 0, "--backbone", backbone)
        run = selavpr("calibrate", folder, *given, "--adapter", tmp_path / "city")
        assert run.out.splitlines()[-1] == f"kept in {tmp_path / 'city' / 'calibration.json'}, stated in its README.md"
        assert "My own words." in card.read_text()
        assert "| queries | 60, 40 of them answered rightly within 0 frames |" in card.read_text()

    def test_json_is_the_calibration_as_it_is_kept(self, selavpr, calibrated, walk):
        folder, (*model, adapter) = calibrated
        arguments = ("--queries", f"{walk}:night", "--positive-radius", 0, "--query-frames", "0-10000")
        run = selavpr("calibrate", folder, *arguments, *model, adapter, "--json", "-")
        assert run.report["fitted_on"]["data"] == f"{walk.name}:night, frames 0-10000, in walk.placedb"
        kept = json.loads((adapter / "calibration.json").read_text())
        assert kept == {"format_version": 1} | run.report

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--query-frames", "0-50"], "needs at least 50 queries, got"),
            (["--positive-radius", "100000"], "got 60 and 0; add queries that are harder"),
            (["--adapter", "me/city"], "--adapter must be a folder, to keep the calibration in, got me/city"),
        ],
    )
    def test_a_mistake_is_one_line_and_keeps_the_old_one(self, selavpr, calibrated, walk, arguments, message):
        folder, (*model, adapter) = calibrated
        before = (adapter / "calibration.json").read_bytes()
        given = ("--queries", f"{walk}:night", "--positive-radius", 0)
        run = selavpr("calibrate", folder, *given, *model, adapter, *arguments)
        assert (run.code, run.out) == (2, "")
        assert message in run.err.splitlines()[-1]
        assert (adapter / "calibration.json").read_bytes() == before

    def test_a_file_that_cannot_be_kept_is_refused_before_any_work(self, selavpr, walk, tmp_path):
        (tmp_path / "calibration.json").mkdir()
        given = ("--queries", f"{walk}:night", "--positive-radius", 0, "--backbone", "not/there")
        run = selavpr("calibrate", tmp_path / "no.placedb", *given, "--adapter", tmp_path)
        assert (run.code, run.err) == (
            2,
            f"Error: {tmp_path / 'calibration.json'} is a folder; name a file in it.\n",
        )


class TestQuery:
    def test_the_first_place_has_a_probability(self, selavpr, calibrated, walk):
        folder, model = calibrated
        run = selavpr("query", folder, walk / "night" / "0.png", *model, "--top-k", 2)
        first, second = run.out.splitlines()
        assert re.fullmatch(r".* shows the place of day/0\.png .*, right with a probability of [01]\.\d\d\.", first)
        assert "probability" not in second

    def test_json_has_it_too(self, selavpr, calibrated, walk):
        folder, model = calibrated
        run = selavpr("query", folder, walk / "night" / "0.png", *model, "--top-k", 2, "--json", "-")
        first, second = run.report["queries"][0]["places"]
        assert 0 < first["probability"] < 1
        assert second["probability"] is None

    def test_where_it_does_not_hold_the_reason_is_told(self, selavpr, calibrated, walk):
        folder, model = calibrated
        run = selavpr("query", folder, walk / "night" / "0.png", *model, "--top-k", 1, "--rerank-num", 5)
        answer, _, reason = run.out.splitlines()
        assert "probability" not in answer
        assert reason == "no probabilities: the adapter was calibrated with another rerank_num"

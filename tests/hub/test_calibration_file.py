"""`calibration.json`: it stays with the weights that it was fitted for, wherever they go, and with no others."""

import json
import re
from dataclasses import replace

import pytest

import selavpr_peft
from selavpr_peft.errors import CheckpointError
from selavpr_peft.hub import add_adapter, push_adapter, save_adapter, save_calibration
from selavpr_peft.hub.calibration_file import read_calibration
from selavpr_peft.modeling.toy_backbone import toy_backbone
from selavpr_peft.retrieval.calibration import calibration_of, carry_calibration
from selavpr_peft.retrieval.fingerprint import adapter_fingerprint
from tests.hub.hub_client import use_the_hub
from tests.hub.published import adapted, calibration_of_weights


@pytest.fixture
def model():
    return adapted()


@pytest.fixture
def calibration(model):
    return calibration_of_weights(model)


@pytest.fixture
def folder(model, calibration, tmp_path):
    save_adapter(model, tmp_path / "city")
    save_calibration(calibration, tmp_path / "city")
    return tmp_path / "city"


def load(adapter):
    return selavpr_peft.load(adapter, backbone=toy_backbone(num_layers=2))


def carried_by(model, name="default"):
    return calibration_of(model, adapter_fingerprint(model, name))


def edit(folder, **changes):
    path = folder / "calibration.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class TestSaveCalibration:
    def test_what_is_written_is_read(self, folder, calibration):
        assert read_calibration(folder) == calibration
        assert json.loads((folder / "calibration.json").read_text())["format_version"] == 1

    def test_one_of_other_weights_is_refused_and_the_old_one_stays(self, folder, calibration):
        with pytest.raises(ValueError, match="must be of the adapter with digest"):
            save_calibration(calibration_of_weights(adapted(seed=1)), folder)
        assert read_calibration(folder) == calibration


class TestReadCalibration:
    def test_an_adapter_without_one_gives_none(self, folder):
        (folder / "calibration.json").unlink()
        assert read_calibration(folder) is None

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"format_version": 2}, "must have the format version 1, got 2"),
            ({"slope": "steep"}, "slope is wrong"),
            ({"slope": -1.0}, "a positive slope, got -2.5 and -1.0"),
            ({"intercept": float("nan")}, "a finite intercept"),
            ({"surprise": 1}, "surprise is wrong"),
        ],
    )
    def test_one_that_is_not_as_it_should_be_is_refused(self, folder, changes, message):
        edit(folder, **changes)
        with pytest.raises(CheckpointError, match=message):
            read_calibration(folder)

    @pytest.mark.parametrize("text", ["{", "[]", ""])
    def test_a_damaged_one_is_named(self, folder, text):
        (folder / "calibration.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"calibration\.json is damaged .*remove it"):
            read_calibration(folder)


class TestLoad:
    def test_the_model_carries_it(self, folder, calibration):
        assert carried_by(load(folder)) == calibration

    def test_adapters_without_one_load_as_they_did(self, model, tmp_path):
        save_adapter(model, tmp_path / "plain")
        assert carried_by(load(tmp_path / "plain")) is None

    def test_every_adapter_of_a_model_has_its_own(self, folder, calibration, tmp_path):
        second = adapted(seed=1)
        save_adapter(second, tmp_path / "second")
        other = replace(calibration_of_weights(second), slope=1.0)
        save_calibration(other, tmp_path / "second")
        model = load(folder)
        add_adapter(model, tmp_path / "second", "second")
        assert (carried_by(model), carried_by(model, "second")) == (calibration, other)

    def test_one_of_other_weights_is_refused(self, folder):
        edit(folder, adapter="0f")
        with pytest.raises(CheckpointError, match=r"calibration\.json is of other weights: .* got one of 0f"):
            load(folder)


class TestSaveAdapter:
    def test_what_the_model_carries_is_saved_with_it(self, folder, calibration, tmp_path):
        save_adapter(load(folder), tmp_path / "copy")
        assert read_calibration(tmp_path / "copy") == calibration

    def test_other_weights_do_not_inherit_it(self, folder):
        save_adapter(adapted(seed=1), folder)
        assert read_calibration(folder) is None

    def test_weights_that_have_changed_lose_it(self, model, calibration, tmp_path):
        carry_calibration(model, replace(calibration, adapter="before training"))
        save_adapter(model, tmp_path / "trained")
        assert read_calibration(tmp_path / "trained") is None


class TestPush:
    def test_it_is_pushed_and_pulled_with_the_adapter(self, server, folder, calibration, monkeypatch, tmp_path):
        push_adapter(folder, "me/city")
        assert "calibration.json" in server.repositories["me/city"].files
        use_the_hub(monkeypatch, server.url, tmp_path / "another-cache")
        assert carried_by(load("me/city")) == calibration

    def test_other_weights_take_it_away(self, server, folder, tmp_path):
        push_adapter(folder, "me/city")
        save_adapter(adapted(seed=1), tmp_path / "second")
        push_adapter(tmp_path / "second", "me/city")
        assert "calibration.json" not in server.repositories["me/city"].files

    def test_one_of_other_weights_is_not_pushed(self, server, folder):
        edit(folder, adapter="0f")
        with pytest.raises(ValueError, match="got one of 0f"):
            push_adapter(folder, "me/city")
        assert "me/city" not in server.repositories


class TestCard:
    def section(self, folder):
        (found,) = re.findall(r"## Calibration\n\n(.*?)\n\n##", (folder / "README.md").read_text(), re.DOTALL)
        return found

    def test_every_number_is_one_of_the_calibration(self, folder, calibration):
        save_adapter(load(folder), folder)
        numbers = {float(number) for number in re.findall(r"\d+(?:\.\d+)?", self.section(folder).replace("int8", ""))}
        assert numbers == {5, 7, 25, 61, 141, 43, 4, 10, 0.071, 0.208, 0.051, 99, 0.916, 31, 30, 0.856, 95}

    def test_a_calibration_that_lets_nothing_through_says_so(self, model, calibration, tmp_path):
        quality = calibration.quality | {"threshold": None}
        form = calibration.form | {"kept_locations": None, "rerank_num": 0}
        carry_calibration(model, replace(calibration, quality=quality, form=form))
        save_adapter(model, tmp_path)
        assert "| threshold for 99% right answers | none |" in self.section(tmp_path)
        assert "| local features | `int8`, all |\n| candidates re-ranked | 0 |" in self.section(tmp_path)

    def test_without_one_there_is_no_such_section(self, model, tmp_path):
        save_adapter(model, tmp_path)
        assert "Calibration" not in (tmp_path / "README.md").read_text()

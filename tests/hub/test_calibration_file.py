"""`calibration.json`: it stays with the weights that it was fitted for, wherever they go, and with no others."""

import functools
import json
import operator
import re
from dataclasses import asdict, replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import selavpr_peft
from selavpr_peft.errors import CheckpointError
from selavpr_peft.hub import add_adapter, push_adapter, save_adapter, save_calibration
from selavpr_peft.hub.adapter_facts import AdapterFacts
from selavpr_peft.hub.calibration_file import read_calibration
from selavpr_peft.hub.calibration_schema import AnswerForm, CalibrationFile, FittedOn, Quality, Threshold
from selavpr_peft.hub.model_card import MARK, model_card
from selavpr_peft.modeling.toy_backbone import toy_backbone
from selavpr_peft.retrieval.calibration import calibration_of, carry_calibration
from selavpr_peft.retrieval.description_form import InputForm, KeptLocations
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


def edit(folder, place, value, *, is_removed=False):
    """Change a value of the file; its place is a path of keys, with dots between."""
    path = folder / "calibration.json"
    content = json.loads(path.read_text())
    *parents, key = place.split(".")
    inner = functools.reduce(operator.getitem, parents, content)
    inner[key] = value
    if is_removed:
        del inner[key]
    path.write_text(json.dumps(content))


PLACES = [
    *CalibrationFile.model_fields,
    "surprise",
    *(f"form.{key}" for key in AnswerForm.model_fields),
    *(f"form.preprocessing.{key}" for key in InputForm.model_fields),
    *(f"form.kept_locations.{key}" for key in KeptLocations.model_fields),
    *(f"fitted_on.{key}" for key in FittedOn.model_fields),
    *(f"quality.{key}" for key in Quality.model_fields),
    *(f"quality.threshold.{key}" for key in Threshold.model_fields),
]
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("int8")
VALUES = PLAIN | st.lists(PLAIN, max_size=3) | st.dictionaries(st.text(max_size=3), PLAIN, max_size=3)


class TestSaveCalibration:
    def test_what_is_written_is_read(self, folder, calibration):
        assert read_calibration(folder) == calibration
        assert json.loads((folder / "calibration.json").read_text())["format_version"] == 1

    def test_one_of_other_weights_is_refused_and_the_old_one_stays(self, folder, calibration):
        with pytest.raises(ValueError, match="must be of the adapter with digest"):
            save_calibration(calibration_of_weights(adapted(seed=1)), folder)
        assert read_calibration(folder) == calibration

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"quality": {}}, r"A calibration that is kept must be complete: it lacks quality.brier_score, quality"),
            ({"intercept": float("inf")}, "intercept must be a finite number, got inf"),
        ],
    )
    def test_one_that_could_not_be_read_again_is_not_written(self, folder, calibration, changes, message):
        with pytest.raises(ValueError, match=message):
            save_calibration(replace(calibration, **changes), folder)
        assert read_calibration(folder) == calibration


class TestReadCalibration:
    def test_an_adapter_without_one_gives_none(self, folder):
        (folder / "calibration.json").unlink()
        assert read_calibration(folder) is None

    def test_one_of_another_version_is_refused(self, folder):
        edit(folder, "format_version", 2)
        with pytest.raises(CheckpointError, match="must have the format version 1, got 2; install the release"):
            read_calibration(folder)

    @pytest.mark.parametrize(
        ("place", "value", "message"),
        [
            ("surprise", 1, "it has an entry surprise, which is not known"),
            ("adapter", "../..", r"adapter must match pattern .*, got '../..'"),
            ("intercept", float("nan"), "intercept must be a finite number, got nan"),
            ("intercept", True, "intercept must be a valid number, got True"),
            ("slope", "steep", "slope must be a valid number, got 'steep'"),
            ("slope", 0, "slope must be greater than 0, got 0"),
            ("slope", float("inf"), "slope must be a finite number, got inf"),
            ("slope", 10**400, "slope must be .*, got "),
            ("form", [], r"form must be an object, got \[\]"),
            ("form", {}, "it lacks form.backbone, form.kept_locations, "),
            ("form.rerank_num", "many", "form.rerank_num must be a valid integer, got 'many'"),
            ("form.rerank_num", 20.0, "form.rerank_num must be a valid integer, got 20.0"),
            ("form.rerank_num", -1, "form.rerank_num must be greater than or equal to 0, got -1"),
            ("form.local_dtype", "pickle", "form.local_dtype must be one of 'float32', .*, got 'pickle'"),
            ("form.preprocessing.image_size", [224], "it lacks form.preprocessing.image_size.1"),
            ("form.preprocessing.crop", 1, "it has an entry form.preprocessing.crop, which is not known"),
            ("form.kept_locations.grid", [0, 7], "form.kept_locations.grid.0 must be greater than 0, got 0"),
            ("fitted_on.data", "a\n# b", "fitted_on.data must be printable text, got"),
            ("fitted_on.data", "x" * 1001, "fitted_on.data must have at most 1000 characters, got"),
            ("fitted_on.num_right", 62, "fitted_on must count 61 right at most, as many as there are, got 62"),
            ("fitted_on.radius_unit", "miles", "fitted_on.radius_unit must be 'm' or 'frames', got 'miles'"),
            ("quality.brier_score", 1.5, "quality.brier_score must be less than or equal to 1, got 1.5"),
            ("quality.threshold", False, "quality.threshold must be an object, got False"),
            ("quality.threshold.num_answered", 62, "it must count 61 answered at most, as many as there are, got 62"),
            (
                "quality.threshold.num_right",
                32,
                "quality.threshold must count 31 right at most, .* got 32",
            ),
        ],
    )
    def test_a_value_that_cannot_be_is_named_with_what_to_do(self, folder, place, value, message):
        edit(folder, place, value)
        remedy = "; remove it, and fit it anew with `selavpr calibrate`"
        with pytest.raises(CheckpointError, match=rf"calibration\.json cannot be used: {message}.*{remedy}"):
            read_calibration(folder)

    @pytest.mark.parametrize("place", ["form.rerank_num", "fitted_on.data", "quality.threshold.probability", "slope"])
    def test_a_key_that_is_missing_is_named(self, folder, place):
        edit(folder, place, None, is_removed=True)
        with pytest.raises(CheckpointError, match=f"it lacks {place};"):
            read_calibration(folder)

    @pytest.mark.parametrize("content", [b"{", b"[]", b"", b"[" * 50_000, b"\xff\xfe", b"1" * 5000])
    def test_a_damaged_one_is_named(self, folder, content):
        (folder / "calibration.json").write_bytes(content)
        with pytest.raises(CheckpointError, match=r"calibration\.json is damaged .*remove it"):
            read_calibration(folder)

    def test_what_is_too_large_is_not_even_read(self, folder):
        (folder / "calibration.json").write_bytes(b" " * 100_001)
        with pytest.raises(CheckpointError, match=r"must have at most 100000 bytes, got 100001: .*remove it"):
            read_calibration(folder)

    @given(data=st.data())
    @settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    def test_whatever_stands_in_it_is_refused_or_can_be_used(self, folder, calibration, data):
        (folder / "calibration.json").write_text(json.dumps({"format_version": 1, **asdict(calibration)}))
        edit(folder, data.draw(st.sampled_from(PLACES)), data.draw(VALUES))
        refused = ""
        try:
            found = read_calibration(folder)
        except CheckpointError as error:
            refused = str(error)
        if refused:
            assert refused.endswith("remove it, and fit it anew with `selavpr calibrate`.")
        else:
            assert 0 <= found.probability(100) <= 1
            assert "## Calibration" in str(
                model_card(
                    AdapterFacts.of(folder), reports=[], training={}, calibration=found, name="city", license_id=None
                )
            )


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
        edit(folder, "adapter", "0f")
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
        edit(folder, "adapter", "0f")
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

    def test_it_is_stated_at_once_as_it_would_be_on_a_push(self, folder, calibration, tmp_path):
        assert "| queries | 61, 43 of them" in self.section(folder)
        save_adapter(load(folder), tmp_path / "again" / folder.name)
        assert (folder / "README.md").read_text() == (tmp_path / "again" / folder.name / "README.md").read_text()

    def test_only_what_it_says_is_replaced(self, folder, calibration):
        """Also where the card was changed by hand under our mark: around the section, and below its table."""
        card = folder / "README.md"
        edited = card.read_text().replace(
            "\n\n## What was trained", "\n\nFitted in autumn.\n\n### Where\n\nIn Bern.\n\n## Mine"
        )
        card.write_text(edited.replace("## Use", "My own words.\n\n## Use"))
        before = card.read_text()
        newer = replace(calibration, fitted_on=calibration.fitted_on | {"num_queries": 62})
        assert save_calibration(newer, folder)
        assert card.read_text() == before.replace("| queries | 61,", "| queries | 62,") != before

    def test_a_card_without_the_section_receives_it_in_its_place(self, model, folder, calibration, tmp_path):
        save_adapter(model, tmp_path / "plain")
        card = tmp_path / "plain" / "README.md"
        card.write_text(card.read_text().replace("## Evaluation", "## My evaluation"))
        assert save_calibration(calibration, tmp_path / "plain")
        headings = re.findall("^## .*", card.read_text(), re.MULTILINE)
        assert headings[1:4] == ["## My evaluation", "## Calibration", "## What was trained"]
        assert self.section(tmp_path / "plain") == self.section(folder)

    def test_without_the_section_behind_it_it_comes_last(self, folder, calibration):
        (folder / "README.md").write_text(f"{MARK}\n\n# City\n")
        assert save_calibration(calibration, folder)
        assert (folder / "README.md").read_text().startswith(f"{MARK}\n\n# City\n\n## Calibration\n\n")

    @pytest.mark.parametrize("text", ["# My own words\n", "## Calibration\n\n| what | value |\n| --- | --- |\n", None])
    def test_a_card_of_somebody_else_stays(self, folder, calibration, text):
        card = folder / "README.md"
        card.unlink()
        if text is not None:
            card.write_text(text)
        assert not save_calibration(calibration, folder)
        assert (card.read_text() if card.is_file() else None) == text

    def test_without_one_there_is_no_such_section(self, model, tmp_path):
        save_adapter(model, tmp_path)
        assert "Calibration" not in (tmp_path / "README.md").read_text()

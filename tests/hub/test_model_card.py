"""Model cards: every figure is a fact, the Hub's own reader understands them, and nobody's own card is lost."""

import json
import re

import pytest
from huggingface_hub import ModelCard

from selavpr_peft.hub.adapter_facts import AdapterFacts
from selavpr_peft.hub.model_card import CITATION, LIMITS, hub_id, write_model_card
from selavpr_peft.hub.saving import read_facts, save_adapter
from selavpr_peft.retrieval.fingerprint import adapter_fingerprint
from tests.hub.published import QUOTED, adapted, report_of


@pytest.fixture
def model():
    return adapted()


@pytest.fixture
def folder(model, tmp_path):
    """An adapter saved with a measured and a quoted report."""
    reports = [report_of(model), QUOTED]
    save_adapter(model, tmp_path / "city", reports=reports, training={"learning_rate": 1e-5}, license_id="apache-2.0")
    return tmp_path / "city"


def card_of(folder):
    return ModelCard.load(folder / "README.md")


class TestMetadata:
    def test_the_recalls_come_back_as_evaluation_results(self, folder):
        measured = {
            (result.metric_type, result.metric_name): result.metric_value
            for result in card_of(folder).data.eval_results
            if result.source_url is None
        }
        assert measured == {
            ("recall_at_1", "Recall@1, retrieval"): 0.7117,
            ("recall_at_5", "Recall@5, retrieval"): 0.9009,
            ("recall_at_10", "Recall@10, retrieval"): 0.9369,
            ("recall_at_1", "Recall@1, re-ranked (top 20)"): 0.9459,
            ("recall_at_5", "Recall@5, re-ranked (top 20)"): 0.982,
            ("recall_at_10", "Recall@10, re-ranked (top 20)"): 1.0,
        }

    def test_quoted_figures_name_their_source(self, folder):
        quoted = [result for result in card_of(folder).data.eval_results if result.source_url]
        assert [result.metric_value for result in quoted] == [0.908, 0.964, 0.972]
        assert {result.source_url for result in quoted} == {QUOTED["quoted_from"]["url"]}
        assert {result.dataset_name for result in quoted} == {"MSLS-val"}
        assert all(result.dataset_config.startswith("quoted") for result in quoted)

    def test_it_says_what_the_hub_searches_by(self, folder):
        data = card_of(folder).data
        assert (data.library_name, data.pipeline_tag, data.license) == (
            "peft",
            "image-feature-extraction",
            "apache-2.0",
        )
        assert "visual-place-recognition" in data.tags

    def test_without_reports_there_are_no_results(self, model, tmp_path):
        save_adapter(model, tmp_path)
        assert card_of(tmp_path).data.eval_results is None
        assert "without an evaluation report" in card_of(tmp_path).text


class TestText:
    def test_every_number_is_one_of_the_facts(self, model, folder):
        text = card_of(folder).text
        for fixed in (LIMITS, CITATION, "arxiv.org/abs/2402.14505"):
            assert fixed in text
            text = text.replace(fixed, "")
        facts = AdapterFacts.of(folder)
        text = text.replace(facts.fingerprint, "").replace(facts.config.backbone_fingerprint, "")
        text = re.sub(r"R@\d+|Apache-2.0|apache-2.0|\(1, D\)|```", "", text)
        numbers = {float(number.replace(",", "")) for number in re.findall(r"\d[\d,]*(?:\.\d+)?(?:e-?\d+)?", text)}
        recalls = [*report_of(model)["retrieval"].values(), *report_of(model)["reranked"].values()]
        recalls += QUOTED["reranked"].values()
        known = {round(100 * share, 1) for share in recalls}
        known |= {103, 139, 3, 37, 140, 2, 20, 56, 84, 740, 100}  # of the protocols
        known |= {0.5, 0.2, 8, 4, 3.0, 1e-5}  # of the configuration and the training
        known |= {2, 64, 14, 32}  # of the backbone: blocks, width, patches, bits of float32
        assert numbers <= known | {facts.num_parameters, facts.num_bytes}
        assert {facts.num_parameters, facts.num_bytes, 94.6, 71.2, 90.8} <= numbers

    def test_parameters_are_those_that_peft_counts(self, model, folder):
        assert AdapterFacts.of(folder).num_parameters == model.get_nb_trainable_parameters()[0]
        assert AdapterFacts.of(folder).fingerprint == adapter_fingerprint(model)

    def test_measured_and_quoted_stand_under_different_headings(self, folder):
        measured, quoted = card_of(folder).text.split("## Quoted, not measured")
        assert "94.6" in measured
        assert "90.8" not in measured
        assert "90.8" in quoted
        assert "Quoted from [the authors' README]" in quoted

    def test_it_does_not_tell_where_files_lie(self, model, folder, tmp_path):
        text = (folder / "README.md").read_text()
        assert "/home" not in text
        assert str(tmp_path) not in text
        assert "walk:night in walk:day" in text

    def test_a_name_of_places_does_not_break_tables_or_lines(self, model, tmp_path):
        report = report_of(model)
        report["protocol"]["queries"] = "walk\n# by night"
        save_adapter(model, tmp_path / "city", reports=[report], training={"training_places": "day|night\n| walk"})
        text = card_of(tmp_path / "city").text
        assert "| training places | day\\|night \\| walk |" in text.splitlines()
        assert "\n# by night" not in text

    def test_the_import_comes_first_in_its_snippet(self, folder):
        (code,) = re.findall(r"```python\n(.*?)```", card_of(folder).text, re.DOTALL)
        assert code.startswith("import selavpr_peft")
        compile(code, "README.md", "exec")


class TestWriteModelCard:
    def test_a_report_of_other_weights_is_refused(self, folder):
        with pytest.raises(ValueError, match=r"must be of the weights with digest .*evaluate this adapter"):
            write_model_card(folder, reports=[report_of(adapted(seed=1))])

    def test_a_report_that_does_not_say_of_which_weights_is_refused(self, model, folder):
        report = report_of(model)
        del report["protocol"]["adapter_fingerprint"]
        with pytest.raises(ValueError, match="got none"):
            write_model_card(folder, reports=[report])

    def test_a_file_that_is_no_report_is_refused(self, folder):
        with pytest.raises(ValueError, match="must be the JSON of `selavpr evaluate --json PATH`"):
            write_model_card(folder, reports=[{"accuracy": 1.0}])

    def test_a_card_of_somebody_else_stays(self, folder):
        (folder / "README.md").write_text("# My own words\n")
        assert not write_model_card(folder)
        assert (folder / "README.md").read_text() == "# My own words\n"

    def test_the_empty_form_of_peft_is_replaced(self, model, tmp_path):
        model.save_pretrained(tmp_path)
        assert write_model_card(tmp_path)
        assert "More Information Needed" not in (tmp_path / "README.md").read_text()


class TestSaveAdapter:
    def test_the_facts_are_kept_beside_the_adapter(self, model, folder):
        assert read_facts(folder) == ([report_of(model), QUOTED], {"learning_rate": 1e-5})

    def test_facts_of_earlier_weights_do_not_stay(self, folder):
        save_adapter(adapted(seed=1), folder)
        assert read_facts(folder) == ([], None)
        assert "94.6" not in (folder / "README.md").read_text()

    def test_an_adapter_of_any_name_is_written_as_the_only_one(self, model, tmp_path):
        model.add_adapter("other", model.peft_config["default"].__class__(local_channels=(4, 2)))
        model.set_adapter("other")
        save_adapter(model, tmp_path)
        names = {path.name for path in tmp_path.iterdir()}
        assert names == {"adapter_config.json", "adapter_model.safetensors", "preprocessor_config.json", "README.md"}
        assert json.loads((tmp_path / "adapter_config.json").read_text())["local_channels"] == [4, 2]


class TestHubId:
    @pytest.mark.parametrize(
        ("name", "found"),
        [
            ("facebook/dinov2-large", "facebook/dinov2-large"),
            ("/home/somebody/dinov2", None),
            ("../weights/dinov2", None),
            ("", None),
            (None, None),
        ],
    )
    def test_a_path_is_none(self, name, found):
        assert hub_id(name) == found

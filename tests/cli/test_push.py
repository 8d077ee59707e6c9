"""`selavpr push`: what it prints, and every mistake a user may make; what arrives is in tests/hub."""

import json
import re

import huggingface_hub
import pytest

from selavpr_peft.hub import save_adapter
from tests.hub.hub_client import TOKEN
from tests.hub.published import adapted, report_of

REPO = "me/city"


@pytest.fixture(autouse=True)
def _bars_come_back():
    yield
    huggingface_hub.utils.enable_progress_bars()


@pytest.fixture
def model():
    return adapted()


@pytest.fixture
def adapter(model, tmp_path):
    save_adapter(model, tmp_path / "city")
    return tmp_path / "city"


class TestPush:
    def test_it_prints_where_the_adapter_is(self, selavpr, server, adapter):
        run = selavpr("push", adapter, REPO)
        assert (run.code, run.err) == (0, "")
        assert run.out.startswith(f"{server.url}/{REPO}/commit/")
        assert "load it by selavpr_peft.load('me/city')" in run.out
        assert "whoever loads it has to pass backbone=" in run.out
        assert "adapter_model.safetensors" in server.repositories[REPO].files

    def test_reports_become_the_card(self, selavpr, server, model, adapter, tmp_path):
        (tmp_path / "report.json").write_text(json.dumps(report_of(model)))
        run = selavpr("push", adapter, REPO, "--report", tmp_path / "report.json", "--license", "apache-2.0")
        assert run.code == 0, run.err
        card = huggingface_hub.ModelCard(server.repositories[REPO].files["README.md"].decode())
        assert card.data.license == "apache-2.0"
        assert 0.9459 in {result.metric_value for result in card.data.eval_results}

    def test_a_private_branch(self, selavpr, server, adapter):
        run = selavpr("push", adapter, REPO, "--private", "--revision", "next", "--json", "-")
        assert run.code == 0, run.err
        repository = server.repositories[REPO]
        assert repository.is_private
        assert (run.report["revision"], run.report["repo"]) == ("next", REPO)
        assert not repository.files
        assert "adapter_config.json" in repository.at("next")

    def test_a_card_of_ones_own_stays(self, selavpr, server, adapter):
        (adapter / "README.md").write_text("# My own words\n")
        run = selavpr("push", adapter, REPO)
        assert "stays as it is" in run.out
        assert server.repositories[REPO].files["README.md"] == b"# My own words\n"


class TestMistakes:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (("{folder}/nowhere", REPO), "nowhere must be the folder of a saved adapter"),
            (("{folder}", REPO), "has no adapter_config.json"),
            (("{folder}/city", "no/such/name"), "'no/such/name' is neither a folder .* nor a Hub id"),
            (("{folder}/city", REPO, "--report", "{folder}/no.json"), r"no\.json"),
            (("{folder}/city", REPO, "--report", "{folder}/text.json"), "text.json must be the JSON of"),
            (("{folder}/city", REPO, "--report", "{folder}/other.json"), "must be of the weights with digest"),
        ],
    )
    def test_a_mistake_is_one_line_and_code_2(self, selavpr, server, adapter, tmp_path, arguments, message):
        (tmp_path / "text.json").write_text("R@1 was great")
        (tmp_path / "other.json").write_text(json.dumps(report_of(adapted(seed=1))))
        run = selavpr("push", *(argument.format(folder=tmp_path) for argument in arguments))
        assert (run.code, run.out) == (2, "")
        assert len(run.err.splitlines()) == 1
        assert re.search(message, run.err), run.err
        assert not server.repositories

    def test_a_refusal_does_not_show_the_token(self, selavpr, server, adapter):
        server.accounts = {}
        run = selavpr("push", adapter, REPO)
        assert (run.code, run.out) == (2, "")
        assert "does not accept the token for me/city" in run.err
        assert TOKEN not in run.err

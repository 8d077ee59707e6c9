"""Publishing and loading over HTTP: what arrives, who may, and what happens when the network or the Hub fails.

The server is tests/hub/hub_server.py; it says what that proves.
"""

import json
import logging
import shutil

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from huggingface_hub.utils import _http

import selavpr_peft
from selavpr_peft.errors import CheckpointError, HubError
from selavpr_peft.hub import add_adapter, push_adapter, save_adapter
from selavpr_peft.hub_access import NUM_ATTEMPTS
from selavpr_peft.modeling.toy_backbone import toy_backbone
from selavpr_peft.retrieval.fingerprint import adapter_fingerprint
from tests.hub.hub_client import TOKEN, use_the_hub
from tests.hub.hub_server import DROP, HALF, SIGNATURE, Repository, hub
from tests.hub.published import adapted, report_of

READER = "hf_areaderstoken"
REPO = "me/city"


@pytest.fixture
def waits(monkeypatch):
    """How long was waited, without waiting."""
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    return waits


@pytest.fixture
def server(monkeypatch, tmp_path, waits):
    with hub() as running:
        running.accounts = {TOKEN: "write", READER: "read"}
        use_the_hub(monkeypatch, running.url, tmp_path / "cache")
        yield running


@pytest.fixture
def model():
    return adapted()


@pytest.fixture
def folder(model, tmp_path):
    save_adapter(model, tmp_path / "city")
    return tmp_path / "city"


def load(repo=REPO, **options):
    return selavpr_peft.load(repo, backbone=toy_backbone(num_layers=2), **options)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestRoundTrip:
    def test_what_was_pushed_is_loaded_with_its_card(self, server, model, folder):
        before = contents(folder)
        published = push_adapter(folder, REPO, reports=[report_of(model)], license_id="apache-2.0")
        files = server.repositories[REPO].files
        assert set(files) == {
            *("adapter_config.json", "adapter_model.safetensors", "preprocessor_config.json"),
            *("README.md", "evaluation.json"),
        }
        assert published.url.startswith(f"{server.url}/{REPO}/commit/")
        assert published.num_bytes == sum(map(len, files.values()))
        card = ModelCard(files["README.md"].decode())
        assert {result.metric_value for result in card.data.eval_results} >= {0.7117, 0.9459}
        assert f'selavpr_peft.load("{REPO}", backbone=' in card.text
        assert adapter_fingerprint(load()) == adapter_fingerprint(model)
        assert contents(folder) == before

    def test_the_card_passes_the_form_that_the_hub_checks(self, server, model, folder):
        if not hasattr(_http, "close_session"):
            pytest.skip("huggingface_hub 0.36 always asks huggingface.co to check a card")
        save_adapter(model, folder, reports=[report_of(model)])
        ModelCard.load(folder / "README.md").validate()
        assert server.asked("POST /api/validate-yaml") == 1
        with pytest.raises(ValueError, match="model id"):
            ModelCard("---\nbase_model: /home/somebody/backbone\n---\n").validate()

    def test_the_token_is_in_the_requests_and_nowhere_else(self, server, folder, tmp_path, caplog, capfd):
        caplog.set_level(logging.DEBUG)
        server.failures += [("PUT /lfs", 503), ("POST .*/commit/", 503)]
        push_adapter(folder, REPO)
        load()
        assert f"Bearer {TOKEN}" in server.tokens
        said = caplog.text + "".join(capfd.readouterr())
        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        written = [path.read_bytes() for path in files] + list(server.repositories[REPO].files.values())
        assert TOKEN not in said
        assert SIGNATURE not in said
        assert not [content for content in written if TOKEN.encode() in content]

    def test_a_backbone_of_this_machine_is_not_named(self, server, model, tmp_path):
        model.active_peft_config.base_model_name_or_path = str(tmp_path)
        save_adapter(model, tmp_path / "named")
        assert push_adapter(tmp_path / "named", REPO).backbone is None
        files = server.repositories[REPO].files
        assert not [name for name, content in files.items() if str(tmp_path).encode() in content]
        with pytest.raises(ValueError, match="does not name the backbone"):
            selavpr_peft.load(REPO)

    def test_the_backbone_can_be_named_and_recorded(self, server, model, tmp_path, monkeypatch):
        model.save_pretrained(tmp_path / "plain")  # PEFT alone records no digest
        monkeypatch.setattr(
            "selavpr_peft.hub.loading.load_backbone", lambda name, dtype=None: toy_backbone(num_layers=2)
        )
        assert push_adapter(tmp_path / "plain", REPO, backbone="me/backbone").backbone == "me/backbone"
        config = json.loads(server.repositories[REPO].files["adapter_config.json"])
        assert config["base_model_name_or_path"] == "me/backbone"
        assert config["backbone_fingerprint"].startswith("float32:")
        assert adapter_fingerprint(selavpr_peft.load(REPO)) == adapter_fingerprint(model)

    def test_facts_of_earlier_weights_are_removed(self, server, model, folder):
        push_adapter(folder, REPO, reports=[report_of(model)])
        push_adapter(folder, REPO)
        assert "evaluation.json" not in server.repositories[REPO].files

    def test_a_second_city_comes_over_the_same_backbone(self, server, folder, tmp_path):
        other = adapted(seed=1)
        save_adapter(other, tmp_path / "other")
        push_adapter(folder, REPO)
        push_adapter(tmp_path / "other", "me/other")
        model = load()
        add_adapter(model, "me/other", "other")
        model.set_adapter("other")
        assert adapter_fingerprint(model) == adapter_fingerprint(other)


class TestRevisions:
    def test_a_branch_is_made_and_main_stays(self, server, model, folder, tmp_path):
        push_adapter(folder, REPO)
        other = adapted(seed=1)
        save_adapter(other, tmp_path / "other")
        push_adapter(tmp_path / "other", REPO, revision="next")
        push_adapter(tmp_path / "other", REPO, revision="next")  # the branch is there already
        assert adapter_fingerprint(load()) == adapter_fingerprint(model)
        assert adapter_fingerprint(load(revision="next")) == adapter_fingerprint(other)

    def test_a_commit_can_be_loaded_after_the_next_one(self, server, model, folder, tmp_path):
        first = push_adapter(folder, REPO).url.rpartition("/")[2]
        save_adapter(adapted(seed=1), tmp_path / "other")
        push_adapter(tmp_path / "other", REPO)
        assert adapter_fingerprint(load(revision=first)) == adapter_fingerprint(model)

    def test_a_revision_that_is_not_there_is_named(self, server, folder):
        push_adapter(folder, REPO)
        with pytest.raises(HubError, match="has no revision 'nightly'; name one of its branches"):
            load(revision="nightly")


class TestWhoMay:
    def test_a_private_model_is_loaded_with_a_token_only(self, server, model, folder):
        push_adapter(folder, REPO, private=True)
        assert server.repositories[REPO].is_private
        assert adapter_fingerprint(load(token=READER)) == adapter_fingerprint(model)
        shutil.rmtree(huggingface_hub.constants.HF_HUB_CACHE)
        with pytest.raises(HubError, match=r"me/city.*Log in with `hf auth login`"):
            load(token=False)

    def test_a_reader_may_not_write(self, server, folder):
        with pytest.raises(HubError, match="token may not do this .* write access") as refusal:
            push_adapter(folder, REPO, token=READER)
        assert READER not in str(refusal.value)  # the server's answer names it
        assert refusal.value.__cause__ is None

    def test_a_token_that_is_not_known_is_refused(self, server, folder):
        with pytest.raises(HubError, match="does not accept the token for me/city") as refusal:
            push_adapter(folder, REPO, token="hf_unknown")
        assert "hf_unknown" not in str(refusal.value)

    @pytest.mark.parametrize(("status", "message"), [(403, "token may not do this.* may read it"), (404, "refuses")])
    def test_a_refused_download_is_not_taken_for_a_missing_network(self, server, folder, status, message):
        push_adapter(folder, REPO)
        server.failures += [("GET .*", status)] * 100
        with pytest.raises(HubError, match=message) as refusal:
            load()
        assert "HF_HUB_OFFLINE" not in str(refusal.value)

    def test_a_gated_model_says_where_to_ask(self, server, folder):
        push_adapter(folder, REPO)
        server.repositories[REPO].is_gated = True
        with pytest.raises(HubError, match=r"me/city on the Hub is gated: ask for access on its page"):
            load()

    def test_a_model_that_is_not_there_is_named(self, server):
        with pytest.raises(HubError, match=r"There is no model me/nothing on the Hub, or it is private"):
            load("me/nothing")

    def test_a_model_that_is_no_adapter_is_named(self, server):
        server.repositories["me/other"] = Repository()
        server.repositories["me/other"].commit("main", {"config.json": b"{}"})
        with pytest.raises((CheckpointError, HubError), match="me/other"):
            load("me/other")


class TestFailures:
    @pytest.mark.parametrize("failure", [500, 502, 503, 504, 429, DROP])
    @pytest.mark.parametrize(
        "request_", ["POST /api/repos/create", "POST .*/preupload/", "POST .*/batch", "PUT /lfs", "POST .*/commit/"]
    )
    def test_a_push_survives_one_failure_anywhere(self, server, model, folder, request_, failure):
        server.failures.append((request_, failure))
        push_adapter(folder, REPO)
        assert not server.failures
        assert adapter_fingerprint(load()) == adapter_fingerprint(model)

    @pytest.mark.parametrize("failure", [503, 429, DROP, HALF])
    @pytest.mark.parametrize("request_", ["GET .*/revision/main", "GET .*/resolve/.*/adapter_model.safetensors"])
    def test_a_download_survives_one_failure_anywhere(self, server, model, folder, request_, failure):
        push_adapter(folder, REPO)
        server.failures.append((request_, failure))
        assert adapter_fingerprint(load()) == adapter_fingerprint(model)
        assert not server.failures

    def test_it_waits_as_long_as_the_hub_asks(self, server, folder, waits):
        server.failures.append(("POST /api/repos/create", (429, {"Retry-After": "17"})))
        push_adapter(folder, REPO)
        assert 17.0 in waits

    def test_a_hub_that_stays_away_is_given_up(self, server, folder):
        server.failures += [("POST /api/repos/create", 503)] * NUM_ATTEMPTS
        with pytest.raises(HubError, match=rf"answers 503, after {NUM_ATTEMPTS} attempts .* are not sent again"):
            push_adapter(folder, REPO)
        assert not server.failures

    def test_a_hub_that_cannot_be_reached_is_said_to_be(self, server, folder):
        server.server_close()
        with pytest.raises(HubError, match="cannot be reached"):
            push_adapter(folder, REPO)

    def test_an_interrupted_push_goes_on_without_sending_the_weights_again(self, server, model, folder):
        server.failures += [("POST .*/commit/", 400)]
        with pytest.raises(HubError, match=r"refuses this for me/city \(400\)"):
            push_adapter(folder, REPO)
        assert not server.repositories[REPO].files  # nobody sees half of an adapter
        assert server.asked("PUT /lfs") == 1
        push_adapter(folder, REPO)
        assert server.asked("PUT /lfs") == 1
        assert adapter_fingerprint(load()) == adapter_fingerprint(model)

    def test_what_the_hub_says_is_told_without_tokens(self, server, folder):
        refusal = (422, {"X-Error-Message": f"Bad request of {TOKEN}"})
        server.failures += [("POST .*/commit/", refusal)]
        with pytest.raises(HubError, match=r"\(422\): .*Bad request of hf_\.\.\.") as error:
            push_adapter(folder, REPO)
        assert TOKEN not in str(error.value)


class TestOffline:
    def test_what_was_loaded_once_is_loaded_without_network(self, server, model, folder, monkeypatch):
        push_adapter(folder, REPO)
        load()
        use_the_hub(monkeypatch, server.url, huggingface_hub.constants.HF_HUB_CACHE, is_offline=True)
        server.requests.clear()
        assert adapter_fingerprint(load()) == adapter_fingerprint(model)
        assert not server.requests

    def test_a_hub_that_is_down_leaves_what_is_in_the_cache(self, server, model, folder):
        push_adapter(folder, REPO)
        load()
        server.failures += [("GET .*", 503)] * 100
        assert adapter_fingerprint(load()) == adapter_fingerprint(model)

    def test_what_was_never_loaded_is_named_with_the_remedy(self, server, monkeypatch, tmp_path):
        use_the_hub(monkeypatch, server.url, tmp_path / "empty", is_offline=True)
        with pytest.raises(HubError, match=r"me/city .* is not in the cache.*HF_HUB_OFFLINE.*Fetch it once"):
            load()

    def test_the_same_numbers_come_from_the_cache(self, server, model, folder, monkeypatch):
        push_adapter(folder, REPO)
        pixels = torch.randn(1, 3, 56, 84)
        with torch.inference_mode():
            online = load()(pixel_values=pixels).local_features
            use_the_hub(monkeypatch, server.url, huggingface_hub.constants.HF_HUB_CACHE, is_offline=True)
            assert torch.equal(load()(pixel_values=pixels).local_features, online)

"""What a trainer saves can be published: its card is made of its own evaluations, and it is pushed when asked for."""

import io
import json
import logging

import pytest
import torch
from huggingface_hub import ModelCard

import selavpr_peft
from selavpr_peft.errors import HubError
from selavpr_peft.hub.adapter_facts import AdapterFacts
from selavpr_peft.hub.saving import read_facts
from selavpr_peft.retrieval.fingerprint import adapter_fingerprint
from tests.hub.hub_client import TOKEN
from tests.training.tiny import tiny_backbone, tiny_model

REPO = "me/city"
PUSHING = {"push_to_hub": True, "hub_model_id": REPO, "num_train_epochs": 2.0, "save_strategy": "epoch"}


class TestSave:
    def test_the_card_has_the_evaluation_of_the_weights_that_are_saved(self, make_trainer, city, tmp_path):
        trainer = make_trainer(eval_places=city, eval_strategy="epoch", save_strategy="epoch")
        trainer.train()
        trainer.save_model()
        reports, training = read_facts(tmp_path / "run")
        digest = AdapterFacts.of(tmp_path / "run").fingerprint
        assert digest == adapter_fingerprint(trainer.model)
        assert [report["protocol"]["adapter_fingerprint"] for report in reports] == [digest]
        best = max(entry["eval_reranked_recall@5"] for entry in trainer.state.log_history if "eval_runtime" in entry)
        assert reports[0]["reranked"]["5"] == best
        assert (training["steps"], training["learning_rate"]) == (trainer.state.global_step, 1e-3)
        card = ModelCard.load(tmp_path / "run" / "README.md")
        assert {result.metric_value for result in card.data.eval_results} >= set(reports[0]["reranked"].values())
        assert str(tmp_path) not in card.content

    def test_weights_that_were_not_evaluated_get_a_card_without_figures(self, make_trainer, tmp_path):
        trainer = make_trainer(num_train_epochs=1.0)
        trainer.train()
        trainer.save_model()
        assert read_facts(tmp_path / "run")[0] == []
        assert "without an evaluation report" in (tmp_path / "run" / "README.md").read_text()

    def test_the_backbone_is_recorded_and_checked(self, make_trainer, tmp_path):
        trainer = make_trainer(num_train_epochs=1.0)
        trainer.save_model()
        config = json.loads((tmp_path / "run" / "adapter_config.json").read_text())
        assert config["backbone_fingerprint"].startswith("float32:")
        assert (tmp_path / "run" / "preprocessor_config.json").is_file()

    def test_an_adapter_of_another_name_is_completed_where_it_lies(self, make_trainer, tmp_path):
        model = tiny_model()
        model.add_adapter("city", tiny_model(local_channels=(4, 2)).peft_config["default"])
        model.set_adapter("city")
        make_trainer(model=model).save_model()
        assert AdapterFacts.of(tmp_path / "run" / "city").config.local_channels == (4, 2)
        assert (tmp_path / "run" / "city" / "README.md").is_file()


class TestPush:
    @pytest.mark.parametrize(("save_strategy", "num_commits"), [("no", 0), ("epoch", 2), ("steps", 2)])
    def test_every_save_is_pushed_and_nothing_but_the_adapter(
        self, make_trainer, server, save_strategy, num_commits, caplog
    ):
        trainer = make_trainer(
            **PUSHING | {"save_strategy": save_strategy, "save_steps": 2.0, "hub_strategy": "every_save"}
        )
        trainer.train()
        assert server.asked("POST .*/commit/") == num_commits
        trainer.push_to_hub()
        files = server.repositories[REPO].files
        assert set(files) == {
            *("adapter_config.json", "adapter_model.safetensors", "preprocessor_config.json"),
            *("README.md", "training.json"),
        }
        pulled = selavpr_peft.load(REPO, backbone=tiny_backbone())
        assert adapter_fingerprint(pulled) == adapter_fingerprint(trainer.model)
        assert TOKEN not in caplog.text

    def test_with_the_strategy_end_checkpoints_stay_here(self, make_trainer, server):
        trainer = make_trainer(**PUSHING)
        trainer.train()
        assert server.asked("POST .*/commit/") == 0
        trainer.save_model()  # which pushes, as Trainer's does
        assert server.asked("POST .*/commit/") == 1

    def test_a_hub_that_is_away_does_not_end_the_training(self, make_trainer, server, caplog):
        trainer = make_trainer(**PUSHING | {"hub_strategy": "every_save"})
        server.failures += [("POST .*/preupload/", 503)] * 100
        trainer.train()
        assert trainer.state.global_step == 4
        assert "is not published, and training goes on" in caplog.text
        assert not server.repositories[REPO].files

    def test_a_branch_a_private_repository_and_a_future(self, make_trainer, server):
        trainer = make_trainer(**PUSHING | {"num_train_epochs": 1.0, "hub_private_repo": True})
        published = trainer.push_to_hub(revision="next", blocking=False).result()
        assert published.url.startswith(server.url)
        assert server.repositories[REPO].is_private
        assert not server.repositories[REPO].files
        assert "adapter_config.json" in server.repositories[REPO].at("next")

    def test_a_token_among_the_settings_is_used_and_never_written(
        self, make_trainer, server, tmp_path, caplog, capfd, monkeypatch
    ):
        secret = "hf_amongthesettings"
        server.accounts = {secret: "write"}
        save, saved = torch.save, []

        def noting_save(content, file, *args, **kwargs):
            saved.append(io.BytesIO())
            save(content, saved[-1])
            return save(content, file, *args, **kwargs)

        monkeypatch.setattr(torch, "save", noting_save)
        caplog.set_level(logging.DEBUG)
        trainer = make_trainer(**PUSHING | {"hub_strategy": "every_save", "hub_token": secret})
        trainer.train()
        trainer.save_model()
        assert f"Bearer {secret}" in server.tokens
        assert trainer.args.hub_token == secret
        shown = [
            caplog.text,
            *capfd.readouterr(),
            str(trainer.args),
            repr(trainer.args),
            trainer.args.to_json_string(),
        ]
        files = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        files += [*server.repositories[REPO].files.values(), *(buffer.getvalue() for buffer in saved)]
        assert saved
        assert not [text for text in shown if secret in text]
        assert not [content for content in files if secret.encode() in content]

    def test_a_token_that_is_refused_is_said_before_training(self, make_trainer, server):
        server.accounts = {}
        with pytest.raises(HubError, match="does not accept the token for me/city") as error:
            make_trainer(**PUSHING)
        assert TOKEN not in str(error.value)

"""The settings: the official ones by default, what is derived from them, and what is refused."""

import dataclasses

import pytest
from transformers import HfArgumentParser, TrainingArguments

from selavpr_peft.training import SelaTrainingArguments


def make(tmp_path, **settings):
    return SelaTrainingArguments(output_dir=str(tmp_path), use_cpu=True, report_to=[], **settings)


class TestOfficialPreset:
    def test_golden_values(self, tmp_path):
        # parser.py: lr 1e-5, 4 queries per batch, 2 negatives, 1000 queries per cache, 1000 sampled negatives, 5000
        # queries per epoch, 50 epochs, patience 3, margin 0.1, 16 images per inference batch, rerank_num 100, partial
        # mining; train.py: torch.optim.Adam, no scheduler, no clipping, best and stop by re-ranked R@5
        found = make(tmp_path)
        expected = {
            "learning_rate": 1e-5,
            "adam_beta1": 0.9,
            "adam_beta2": 0.999,
            "adam_epsilon": 1e-8,
            "weight_decay": 0.0,
            "max_grad_norm": 0.0,
            "optim": "adamw_torch",
            "lr_scheduler_type": "constant",
            "warmup_steps": 0,
            "per_device_train_batch_size": 4,
            "per_device_eval_batch_size": 16,
            "gradient_accumulation_steps": 1,
            "num_negatives": 2,
            "queries_per_round": 1000,
            "negative_pool": 1000,
            "queries_per_epoch": 5000,
            "mining": "partial",
            "num_train_epochs": 250,
            "rounds_per_evaluation": 5,
            "patience": 3,
            "metric_for_best_model": "reranked_recall@5",
            "greater_is_better": True,
            "load_best_model_at_end": True,
            "eval_strategy": "epoch",
            "save_strategy": "epoch",
            "rerank_num": 100,
            "global_margin": 0.1,
            "local_margin": 0.0,
            "local_weight": 1.0,
            "colour_jitter": 0.0,
            "perspective": 0.0,
            "random_resized_crop": 0.0,
            "horizontal_flip": 0.0,
        }
        assert {name: getattr(found, name) for name in expected} == expected
        assert [found.radius(name, "m") for name in ("positive_radius", "negative_radius")] == [10, 25]
        assert found.radius("eval_positive_radius", "m") == 25

    def test_on_msls_an_official_epoch_is_thirty_rounds(self, tmp_path):
        found = make(tmp_path, queries_per_epoch=30000)
        assert (found.rounds_per_evaluation, found.num_train_epochs) == (30, 1500)

    def test_an_official_epoch_is_at_least_one_round(self, tmp_path):
        found = make(tmp_path, queries_per_epoch=10, queries_per_round=1000)
        assert (found.rounds_per_evaluation, found.num_train_epochs) == (1, 50)

    def test_a_given_length_is_kept(self, tmp_path):
        assert make(tmp_path, num_train_epochs=7.0).num_train_epochs == 7


class TestDerived:
    def test_the_best_model_is_loaded_only_where_evaluated_models_are_saved(self, tmp_path):
        assert make(tmp_path).load_best_model_at_end is True
        assert make(tmp_path, save_strategy="no").load_best_model_at_end is False
        assert make(tmp_path, eval_strategy="no", save_strategy="no").load_best_model_at_end is False
        assert make(tmp_path, load_best_model_at_end=False).load_best_model_at_end is False

    def test_gradient_checkpointing_is_never_the_reentrant_kind_unless_asked_for(self, tmp_path):
        assert checkpointed(tmp_path).gradient_checkpointing_kwargs == {"use_reentrant": False}
        assert make(tmp_path).gradient_checkpointing_kwargs is None


def checkpointed(tmp_path, **settings):
    """Settings with gradient checkpointing, under the name that this version of transformers does not warn of."""
    names = {field.name for field in dataclasses.fields(TrainingArguments)}
    name = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
    return make(tmp_path, **{name: True}, **settings)


class TestFields:
    def test_every_field_of_ours_says_what_it_is(self):
        theirs = {field.name for field in dataclasses.fields(TrainingArguments)}
        ours = [field for field in dataclasses.fields(SelaTrainingArguments) if field.name not in theirs]
        assert len(ours) >= 17
        assert all(len(field.metadata["help"]) > 10 for field in ours)

    def test_the_command_line_parser_of_transformers_reads_them(self):
        given = ["--positive_radius", "3", "--mining", "full", "--load_best_model_at_end", "false"]
        found = HfArgumentParser(SelaTrainingArguments).parse_args(given)
        assert (found.positive_radius, found.negative_radius, found.mining) == (3.0, None, "full")
        assert found.load_best_model_at_end is False


class TestErrors:
    @pytest.mark.parametrize(
        "name",
        [
            *("queries_per_round", "queries_per_epoch", "num_negatives", "negative_pool", "rerank_num"),
            *("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"),
        ],
    )
    def test_counts_below_one(self, tmp_path, name):
        with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
            make(tmp_path, **{name: 0})

    def test_a_learning_rate_below_zero(self, tmp_path):
        with pytest.raises(ValueError, match="learning_rate must be at least 0, got -1"):
            make(tmp_path, learning_rate=-1.0)

    @pytest.mark.parametrize("name", ["colour_jitter", "perspective", "random_resized_crop", "horizontal_flip"])
    @pytest.mark.parametrize("value", [-0.1, 1.5])
    def test_strengths_outside_the_unit_interval(self, tmp_path, name, value):
        with pytest.raises(ValueError, match=rf"{name} must be in \[0, 1\], got {value}"):
            make(tmp_path, **{name: value})

    def test_negative_patience(self, tmp_path):
        with pytest.raises(ValueError, match="patience must be at least 0, got -1"):
            make(tmp_path, patience=-1)

    def test_removing_columns(self, tmp_path):
        with pytest.raises(ValueError, match="remove_unused_columns must be False"):
            make(tmp_path, remove_unused_columns=True)

    def test_pushing_while_training(self, tmp_path):
        assert make(tmp_path, push_to_hub=True).hub_strategy == "end"
        make(tmp_path, push_to_hub=True, hub_strategy="every_save")
        for strategy in ("checkpoint", "all_checkpoints"):
            with pytest.raises(ValueError, match=f"hub_strategy must be 'end' or 'every_save', got {strategy!r}"):
                make(tmp_path, push_to_hub=True, hub_strategy=strategy)

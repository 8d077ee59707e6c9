"""The Trainer: what it learns and leaves alone, when it evaluates, what it refuses, and what the host's options do."""

import dataclasses
import json
import logging

import numpy as np
import PIL.Image
import pytest
import torch
from datasets import Dataset, DatasetDict, Image
from peft import LoraConfig, get_peft_model
from transformers import TrainerCallback, TrainingArguments

from selavpr_peft.data.loading import load_places
from selavpr_peft.errors import DatasetFormatError
from selavpr_peft.evaluation.evaluator import evaluate_two_stage
from selavpr_peft.modeling.output import SelaOutput
from selavpr_peft.training import SelaTrainer
from selavpr_peft.training.images import TripletImages, TripletIndex, collate_triplets
from tests.training.tiny import WithUnreadable, tiny_backbone, tiny_model, tiny_trainer, trained_weights

SGD = {"optim": "sgd", "learning_rate": 0.05}  # Adam would turn rounding of tiny gradients into whole steps

ONE_STEP = {"queries_per_round": 4, "queries_per_epoch": 8, "mining": "random"}
"""Rounds of a single step, of which two make an official epoch."""


def batch_of(trainer, triplets):
    """The images of some mined triplets, as the loss takes them."""
    rows = [trainer.train_dataset[index].pixel_values for index in triplets]
    return {"pixel_values": torch.stack(rows)}


def loss_of(trainer, batch):
    trainer.model.eval()
    with torch.no_grad():
        return float(trainer.compute_loss(trainer.model, batch))


def assert_same_weights(first, second, **tolerance):
    assert first.keys() == second.keys()
    for name, weight in first.items():
        torch.testing.assert_close(weight, second[name], msg=lambda m, name=name: f"{name}: {m}", **tolerance)


def logged(trainer, key):
    return [entry[key] for entry in trainer.state.log_history if key in entry]


class Scripted(SelaTrainer):
    """A trainer whose evaluations find what a test says."""

    def _recalls(self, splits, prefix):
        return {f"{prefix}_reranked_recall@5": self.script.pop(0)}


def scripted_trainer(city, tmp_path, script, **settings):
    trainer = tiny_trainer(city, tmp_path / "run", eval_places=city, **ONE_STEP | settings)
    trainer.__class__ = Scripted
    trainer.script = list(script)
    return trainer


def trainer_indices(rows):
    return [TripletIndex(0, position, tuple(row)) for position, row in enumerate(rows.tolist())]


class TestTraining:
    def test_the_loss_of_the_same_triplets_goes_down(self, make_trainer):
        trainer = make_trainer(num_train_epochs=10.0, learning_rate=1e-2)
        rows = trainer.mine(0)
        trainer.mine = lambda number: rows
        trainer.train()
        losses = logged(trainer, "loss")
        assert losses[0] > 0.05
        assert np.mean(losses[-4:]) < 0.6 * np.mean(losses[:4])

    def test_adapters_and_heads_change_and_nothing_else_does(self, make_trainer):
        trainer = make_trainer()
        before = {name: weight.clone() for name, weight in trainer.model.state_dict().items()}
        trainer.train()
        after = trainer.model.state_dict()
        changed = {name for name, weight in after.items() if not torch.equal(weight, before[name])}
        assert changed == {name for name in before if "sela_" in name}
        backbone = tiny_backbone().state_dict()
        frozen = trainer.model.unload().state_dict()
        assert all(torch.equal(frozen[name], weight) for name, weight in backbone.items())

    def test_both_losses_are_logged_and_add_up(self, make_trainer):
        trainer = make_trainer()
        trainer.train()
        total, first, second = (logged(trainer, name) for name in ("loss", "global_loss", "local_loss"))
        assert len(total) == len(first) == len(second) == 4
        np.testing.assert_allclose(np.add(first, second), total, atol=2e-4)  # transformers 4 rounds to 4 digits
        assert min(first) > 0

    def test_a_round_is_mined_when_it_begins_with_the_weights_of_that_moment(self, make_trainer):
        trainer = make_trainer(num_train_epochs=3.0)
        mined = []
        original = trainer.mine

        def mine(number):
            mined.append((number, trainer.state.global_step))
            return original(number)

        trainer.mine = mine
        trainer.train()
        assert mined == [(0, 0), (1, 2), (2, 4)]

    def test_without_a_local_head_only_the_global_loss_is_trained(self, make_trainer):
        trainer = make_trainer(model=tiny_model(use_local_head=False))
        before = trained_weights(trainer.model)
        trainer.train()
        assert set(logged(trainer, "local_loss")) == {0}
        assert all(not torch.equal(weight, before[name]) for name, weight in trained_weights(trainer.model).items())

    def test_a_second_run_begins_anew(self, make_trainer):
        trainer = make_trainer(mining="full", num_train_epochs=1.0)
        mined = []
        original = trainer.mine

        def mine(number):
            mined.append((number, dict(trainer.negative_cache.rows)))
            return original(number)

        trainer.mine = mine
        trainer.train()
        assert trainer.negative_cache.rows
        trainer.train()
        assert mined == [(0, {}), (0, {})]

    def test_a_seed_gives_the_same_weights_and_another_seed_others(self, make_trainer):
        weights = []
        for seed in (1, 1, 2):
            trainer = make_trainer(seed=seed, max_steps=2)
            trainer.train()
            weights.append(trained_weights(trainer.model))
        assert_same_weights(weights[0], weights[1], atol=0, rtol=0)
        assert any(not torch.equal(weights[0][name], weights[2][name]) for name in weights[0])

    def test_any_number_of_workers_gives_the_same_weights(self, make_trainer):
        weights = []
        for num_workers in (0, 2):
            trainer = make_trainer(dataloader_num_workers=num_workers, colour_jitter=0.5, horizontal_flip=0.5)
            trainer.train()
            weights.append(trained_weights(trainer.model))
        assert_same_weights(*weights, atol=0, rtol=0)


class TestMine:
    def test_rows_are_a_query_a_positive_and_negatives_of_the_city(self, make_trainer):
        trainer = make_trainer(queries_per_round=24, negative_pool=24)
        frames = np.array(trainer.places.database["frame"][:])
        traverses = np.array(trainer.places.database["traverse"][:])
        rows = trainer.mine(0)
        assert sorted(rows[:, 0]) == list(range(24))
        assert (frames[rows[:, 1]] == frames[rows[:, 0]]).all()
        assert (traverses[rows[:, 1:]] != traverses[rows[:, :1]]).all()
        assert (abs(frames[rows[:, 2:]] - frames[rows[:, :1]]) > 1).all()

    def test_seed_and_round_decide(self, make_trainer):
        first = make_trainer(seed=1).mine(0)
        assert np.array_equal(make_trainer(seed=1).mine(0), first)
        assert not np.array_equal(make_trainer(seed=1).mine(1), first)
        assert not np.array_equal(make_trainer(seed=2).mine(0), first)

    def test_the_model_stays_in_the_mode_it_was_in(self, make_trainer):
        trainer = make_trainer()
        for is_training in (True, False):
            trainer.model.train(is_training)
            trainer.mine(0)
            assert trainer.model.training is is_training


class TestHostOptions:
    def test_accumulated_gradients_equal_a_larger_batch(self, make_trainer):
        weights = []
        for batch_size, num_batches in ((4, 1), (2, 2)):
            trainer = make_trainer(
                per_device_train_batch_size=batch_size, gradient_accumulation_steps=num_batches, **SGD
            )
            trainer.train()
            assert trainer.state.global_step == 4
            weights.append(trained_weights(trainer.model))
        assert_same_weights(*weights, atol=1e-6, rtol=1e-5)

    def test_gradient_checkpointing_gives_the_same_weights(self, make_trainer):
        names = {field.name for field in dataclasses.fields(TrainingArguments)}
        name = "activation_checkpointing" if "activation_checkpointing" in names else "gradient_checkpointing"
        weights = []
        for is_on in (False, True):
            trainer = make_trainer(**{name: is_on}, **SGD)
            trainer.train()
            weights.append(trained_weights(trainer.model))
        assert_same_weights(*weights, atol=1e-6, rtol=1e-5)

    def test_in_bfloat16_training_and_mining_run_under_autocast_and_weights_stay_float32(
        self, make_trainer, monkeypatch
    ):
        monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")  # transformers 4 sets it for the whole process
        unchecked = getattr(SelaOutput.__init__, "__wrapped__", SelaOutput.__init__)
        monkeypatch.setattr(SelaOutput, "__init__", unchecked)  # accelerate makes it from a dictionary
        trainer = make_trainer(bf16=True, max_steps=2)
        norm = trainer.model.base_model.model.encoder.layer[0].norm1
        seen = set()
        norm.register_forward_hook(
            lambda module, args, output: seen.add((torch.is_grad_enabled(), torch.is_autocast_enabled("cpu")))
        )
        trainer.train()
        assert seen == {(True, True), (False, True)}
        weights = trained_weights(trainer.model).values()
        assert all(weight.dtype is torch.float32 and weight.isfinite().all() for weight in weights)
        assert logged(trainer, "loss")[0] > 0

    def test_a_callback_of_the_user_is_called(self, make_trainer):
        class Count(TrainerCallback):
            steps = 0

            def on_step_end(self, args, state, control, **kwargs):
                self.steps += 1

        count = Count()
        make_trainer(callbacks=[count]).train()
        assert count.steps == 4


class TestUnreadableTriplets:
    def test_the_others_of_the_batch_are_trained(self, make_trainer, caplog):
        trainer = make_trainer(max_steps=1, **SGD)
        trainer.train_dataset = WithUnreadable(trainer.train_dataset, {1, 2})
        before = trained_weights(trainer.model)
        trainer.train()
        assert "triplet left out: The image at position 1 cannot be read." in caplog.text
        assert any(not torch.equal(weight, before[name]) for name, weight in trained_weights(trainer.model).items())
        assert logged(trainer, "loss")[0] > 0

    def test_a_batch_without_any_has_no_loss_and_gradients_of_zero(self, make_trainer):
        trainer = make_trainer()
        trainer.model.train()
        loss = trainer.compute_loss(trainer.model, collate_triplets([TripletImages(None, "damaged")]))
        loss.backward()
        assert loss.detach() == 0
        trained = [parameter for parameter in trainer.model.parameters() if parameter.requires_grad]
        assert all(parameter.grad is not None and not parameter.grad.any() for parameter in trained)

    def test_such_a_batch_changes_nothing_in_a_run(self, make_trainer, caplog):
        trainer = make_trainer(max_steps=1)
        trainer.train_dataset = WithUnreadable(trainer.train_dataset, {0, 1, 2, 3})
        before = trained_weights(trainer.model)
        trainer.train()
        assert caplog.text.count("triplet left out") == 4
        assert_same_weights(trained_weights(trainer.model), before, atol=0, rtol=0)

    def test_a_round_stays_as_long_although_mining_leaves_queries_out(self, own_city, tmp_path, caplog):
        for number in (2, 5):
            (own_city / "day" / f"{number:04}.jpg").write_bytes(b"no picture")
        trainer = tiny_trainer(own_city, tmp_path / "run", queries_per_round=24, negative_pool=24)
        trainer.train()
        assert trainer.state.global_step == 2 * 6
        # Queries 2 and 5 by day cannot be read, and by night they have no other positive.
        assert "4 of 24 triplets of round 0 are repeated" in caplog.text
        assert "day/0002.jpg cannot be read" in caplog.text


class TestComputeLoss:
    def test_the_output_is_given_if_wanted(self, make_trainer):
        trainer = make_trainer()
        batch = batch_of(trainer, trainer_indices(trainer.mine(0)[:2]))
        loss, output = trainer.compute_loss(trainer.model, batch, return_outputs=True)
        assert torch.equal(loss, trainer.compute_loss(trainer.model, batch))
        assert output.global_descriptors.shape == (8, 32)

    def test_margins_and_weight_are_those_of_the_settings(self, make_trainer):
        batch_trainer = make_trainer()
        batch = batch_of(batch_trainer, trainer_indices(batch_trainer.mine(0)[:4]))
        wide = make_trainer(global_margin=1.1, local_margin=0.5, local_weight=2.0)
        settings = (wide.loss.global_margin, wide.loss.local_margin, wide.loss.local_weight)
        assert settings == (1.1, 0.5, 2.0)
        assert loss_of(wide, batch) > loss_of(batch_trainer, batch) + 0.9


class TestEvaluation:
    def test_it_is_the_two_stage_recall_of_the_model(self, make_trainer, city):
        trainer = make_trainer(eval_places=city, eval_positive_radius=2.0)
        found = trainer.evaluate()
        splits = load_places(city)
        expected = evaluate_two_stage(
            trainer.model.eval(),
            splits["queries"],
            splits["database"],
            trainer.preprocessing,
            positive_radius=2.0,
            rerank_num=5,
        )
        for n in (1, 5, 10):
            assert found[f"eval_recall@{n}"] == expected.retrieval[n]
            assert found[f"eval_reranked_recall@{n}"] == expected.reranked[n]
        assert 0 < found["eval_recall@1"] < found["eval_recall@10"]

    def test_another_set_and_prefix_may_be_given(self, make_trainer, city):
        trainer = make_trainer()
        one_sided = DatasetDict(
            {
                "database": load_places(f"{city}:day")["database"],
                "queries": load_places(f"{city}:night")["queries"],
            }
        )
        found = trainer.evaluate(one_sided, metric_key_prefix="test")
        assert 0 <= found["test_recall@1"] <= found["test_recall@5"] <= found["test_recall@10"] <= 1

    def test_without_a_local_head_re_ranked_is_what_was_retrieved(self, make_trainer, city):
        found = make_trainer(model=tiny_model(use_local_head=False), eval_places=city).evaluate()
        assert [found[f"eval_reranked_recall@{n}"] for n in (1, 5)] == [found[f"eval_recall@{n}"] for n in (1, 5)]

    def test_the_model_stays_in_the_mode_it_was_in(self, make_trainer, city):
        trainer = make_trainer(eval_places=city)
        trainer.model.train()
        trainer.evaluate()
        assert trainer.model.training

    def test_nothing_to_evaluate_on_is_an_error(self, make_trainer):
        with pytest.raises(ValueError, match="pass eval_places"):
            make_trainer().evaluate()


class TestEvaluationSchedule:
    def test_every_official_epoch_and_at_the_end(self, city, tmp_path):
        trainer = scripted_trainer(city, tmp_path, [0.1, 0.2, 0.3], num_train_epochs=5.0, save_strategy="epoch")
        trainer.train()
        evaluated = [entry["epoch"] for entry in trainer.state.log_history if "eval_reranked_recall@5" in entry]
        assert evaluated == [2, 4, 5]
        saved = sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))
        assert saved == ["checkpoint-2", "checkpoint-4", "checkpoint-5"]

    def test_a_limit_of_steps_is_an_end_too(self, city, tmp_path):
        trainer = scripted_trainer(city, tmp_path, [0.1, 0.2], max_steps=3)
        trainer.train()
        assert logged(trainer, "eval_reranked_recall@5") == [0.1, 0.2]

    def test_without_places_to_evaluate_on_nothing_is_evaluated(self, make_trainer):
        trainer = make_trainer(save_strategy="epoch")
        trainer.train()
        assert logged(trainer, "eval_recall@1") == []
        assert trainer.args.load_best_model_at_end is False

    def test_the_settings_passed_in_are_left_as_they_are(self, city, make_trainer):
        given = make_trainer(eval_places=city, save_strategy="epoch").args
        SelaTrainer(model=tiny_model(), args=given, train_places=city)
        assert given.eval_strategy == "epoch"
        assert given.load_best_model_at_end is True

    def test_patience_counts_evaluations_without_a_better_result(self, city, tmp_path):
        script = [0.5, 0.4, 0.6, 0.6, 0.5, 0.9]  # 0.6 again is no better: two in a row are reached with 0.5
        trainer = scripted_trainer(city, tmp_path, script, num_train_epochs=20.0, patience=2)
        trainer.train()
        assert trainer.script == [0.9]
        assert trainer.state.epoch == 10  # five evaluations of two rounds each

    def test_patience_zero_never_stops(self, city, tmp_path):
        trainer = scripted_trainer(city, tmp_path, [0.5] * 3, num_train_epochs=6.0, patience=0)
        trainer.train()
        assert trainer.script == []

    def test_the_best_model_is_kept_and_loaded_at_the_end(self, city, tmp_path):
        trainer = scripted_trainer(
            city, tmp_path, [0.2, 0.8, 0.5], num_train_epochs=6.0, save_strategy="epoch", save_total_limit=1
        )
        weights = []

        class Note(TrainerCallback):
            def on_epoch_end(self, args, state, control, **kwargs):
                weights.append(trained_weights(trainer.model))

        trainer.add_callback(Note())
        trainer.train()
        assert trainer.state.best_metric == 0.8
        best, last = weights[3], weights[5]  # after the second and the third evaluation
        assert_same_weights(all_weights(trainer.model, best), best, atol=0, rtol=0)
        assert any(not torch.equal(best[name], last[name]) for name in best)
        kept = {path.name for path in (tmp_path / "run").glob("checkpoint-*")}
        assert "checkpoint-4" in kept
        assert len(kept) <= 2


def all_weights(model, names):
    """The weights of these names, also where loading has made them untrainable."""
    state = dict(model.named_parameters())
    return {name: state[name].detach() for name in names}


class TestSaving:
    def test_what_is_published_holds_no_pickle(self, make_trainer, tmp_path):
        trainer = make_trainer(save_strategy="epoch")
        trainer.train()
        trainer.save_model()
        files = {path.name for path in (tmp_path / "run").iterdir() if path.is_file()}
        assert {"adapter_config.json", "adapter_model.safetensors"} <= files
        assert not [name for name in files if not name.endswith((".json", ".safetensors", ".md"))]

    def test_no_checkpoint_holds_the_pickled_settings(self, make_trainer, tmp_path):
        make_trainer(save_strategy="epoch").train()
        saved = list((tmp_path / "run").glob("checkpoint-*"))
        assert len(saved) == 2
        assert not [path for folder in saved for path in folder.iterdir() if path.name == "training_args.bin"]

    def test_a_limit_keeps_the_newest(self, make_trainer, tmp_path):
        make_trainer(save_strategy="steps", save_steps=1.0, save_total_limit=2).train()
        assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} == {"checkpoint-3", "checkpoint-4"}

    def test_the_mining_state_is_plain_json_with_the_triplets(self, make_trainer, tmp_path):
        trainer = make_trainer(save_strategy="steps", save_steps=3.0, mining="full")
        trainer.train()
        state = json.loads((tmp_path / "run" / "checkpoint-3" / "mining_state.json").read_text())
        assert state["sampler"]["round"] == 1
        assert np.shape(state["sampler"]["triplets"]) == (8, 4)
        assert len(state["negative_cache"]) >= 8


class TestWeightedQueries:
    @pytest.fixture
    def noted_city(self, city):
        """The city as MSLS would note it; the query of place 0 by day has no positive."""
        table = load_places(city)["database"]
        notes = [
            f"{name}_{'sideways' if frame < 3 else 'forward'}"
            for name, frame in zip(table["traverse"], table["frame"], strict=True)
        ]
        queries = table.add_column("note", notes)
        return DatasetDict({"database": table.select(range(1, 24)), "queries": queries})

    def test_without_weights_the_rule_of_msls_weighs_by_the_notes(self, noted_city, tmp_path):
        trainer = tiny_trainer(noted_city, tmp_path, mining="weighted")
        notes = trainer.places.queries["note"][:]
        night, sideways = (sum(word in note for note in notes) for word in ("night", "sideways"))
        for note, weight in zip(notes, trainer.mining.query_weights, strict=True):
            expected = 1 + (23 / night if "night" in note else 0) + (23 / sideways if "sideways" in note else 0)
            assert weight == pytest.approx(expected)
        assert len(trainer.mine(0)) == 8

    def test_given_weights_belong_to_all_queries_also_to_those_left_out(self, noted_city, tmp_path):
        weights = np.arange(24.0)
        trainer = tiny_trainer(noted_city, tmp_path, mining="weighted", query_weights=weights)
        dropped = set(range(24)) - set(trainer.places.query_rows.tolist())
        assert len(dropped) == 1
        assert trainer.mining.query_weights.tolist() == [row for row in range(24) if row not in dropped]

    def test_without_weights_and_notes_it_is_an_error(self, make_trainer):
        with pytest.raises(ValueError, match="needs query_weights, or queries with a column 'note'"):
            make_trainer(mining="weighted")

    def test_as_many_weights_as_queries_are_needed(self, make_trainer):
        with pytest.raises(ValueError, match="query_weights must be 24 numbers, one per query, got 23"):
            make_trainer(mining="weighted", query_weights=np.ones(23))

    def test_another_mode_takes_no_weights(self, make_trainer):
        with pytest.raises(ValueError, match="no other mode takes them"):
            make_trainer(query_weights=np.ones(24))


def bare_places(**columns):
    """A table of places whose pictures do not exist."""
    number = len(next(iter(columns.values())))
    return Dataset.from_dict({"image": [f"{row}.jpg" for row in range(number)], **columns}).cast_column(
        "image", Image()
    )


class TestBadInput:
    """One clear error each, when the trainer is made: before the first step."""

    def test_frames_need_their_radii(self, make_trainer):
        with pytest.raises(
            ValueError, match=r"positive_radius must be given for places with frame numbers.* 10 is in"
        ):
            make_trainer(positive_radius=None)
        with pytest.raises(ValueError, match=r"negative_radius must be given .* 25 is in metres"):
            make_trainer(negative_radius=None)

    def test_frames_need_the_radius_of_the_evaluation(self, make_trainer, city):
        with pytest.raises(ValueError, match="eval_positive_radius must be given for places with frame numbers"):
            make_trainer(eval_places=city, eval_positive_radius=None)

    def test_photographs_without_positions_are_nothing_to_evaluate_on(self, make_trainer, tmp_path):
        folder = tmp_path / "photographs"
        folder.mkdir()
        PIL.Image.new("RGB", (8, 6)).save(folder / "a.png")
        with pytest.raises(DatasetFormatError, match="Expected places with positions"):
            make_trainer(eval_places=folder, eval_positive_radius=1.0)

    def test_metres_take_the_official_radii(self, tmp_path):
        places = bare_places(easting_m=[0.0, 10, 25, 25.1, 60, 61, 70, 80], northing_m=[0.0] * 8)
        trainer = tiny_trainer(
            places, tmp_path, positive_radius=None, negative_radius=None, per_device_train_batch_size=1
        )
        assert trainer.places.positives[0].tolist() == [1]
        assert trainer.places.near[0].tolist() == [0, 1, 2]

    def test_no_positives_at_all(self, tmp_path):
        with pytest.raises(ValueError, match="None of the 3 training queries has a positive"):
            tiny_trainer(bare_places(frame=[0, 10, 20]), tmp_path)

    def test_fewer_database_images_than_negatives(self, make_trainer):
        with pytest.raises(ValueError, match=r"30 negatives per query were asked for, but query \S+ has \d+"):
            make_trainer(num_negatives=30)

    def test_one_query_only(self, city, tmp_path):
        places = load_places(city)
        places["queries"] = places["queries"].select([0])
        with pytest.raises(ValueError, match="A step takes 4 queries on each of 1 processes, but a round has 1"):
            tiny_trainer(places, tmp_path)

    def test_a_missing_coordinate(self, tmp_path):
        with pytest.raises(ValueError, match="1 rows without a valid position, the first in row 1"):
            tiny_trainer(bare_places(easting_m=[0.0, float("nan")], northing_m=[0.0, 1]), tmp_path)

    def test_an_image_that_stands_twice(self, tmp_path):
        places = bare_places(frame=[0, 0, 5]).add_column("key", ["a", "b", "c"])
        places = places.remove_columns("image").add_column("image", ["same.jpg", "same.jpg", "other.jpg"])
        with pytest.raises(ValueError, match="same.jpg stands twice"):
            tiny_trainer(places.cast_column("image", Image()), tmp_path)

    def test_reversed_radii(self, make_trainer):
        with pytest.raises(ValueError, match="not exceed negative_radius, got 5 and 1"):
            make_trainer(positive_radius=5.0)

    def test_an_adapter_that_was_loaded_for_inference(self, make_trainer):
        model = tiny_model()
        for parameter in model.parameters():
            parameter.requires_grad = False
        with pytest.raises(ValueError, match="no trainable parameters; load it with is_trainable=True"):
            make_trainer(model=model)

    def test_an_adapter_of_another_method(self, make_trainer):
        lora = get_peft_model(tiny_backbone(), LoraConfig(target_modules=["query", "q_proj"]))
        with pytest.raises(TypeError, match="a SelaVPR adapter, got PeftModel with LoraConfig"):
            make_trainer(model=lora)

    def test_an_unknown_way_of_mining(self, make_trainer):
        with pytest.raises(ValueError, match="mining must be one of .* got 'hardest'"):
            make_trainer(mining="hardest")


def test_the_trainer_prints_nothing_of_its_own(make_trainer, capsys, caplog):
    with caplog.at_level(logging.INFO, logger="selavpr_peft"):
        make_trainer().mine(0)
    assert capsys.readouterr().out == ""

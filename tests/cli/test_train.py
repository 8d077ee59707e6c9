"""`selavpr train`: settings from a file and from options, the dry run, resuming, and every mistake of a user."""

import json

import pytest

from selavpr_peft.cli import train as command

SETTINGS = {
    "use_cpu": "true",
    "positive_radius": "0.0",
    "negative_radius": "1.0",
    "queries_per_round": "4",
    "num_train_epochs": "2.0",
    "learning_rate": "1e-3",
    "image_size": "[112, 112]",
    "local_channels": "[8, 4]",
}
"""Two rounds of a single step."""


def as_flags(options):
    return [part for name, value in options.items() for part in (f"--{name.replace('_', '-')}", value)]


def as_settings(settings):
    given = {name: value for name, value in settings.items() if value is not None}
    return [part for name, value in given.items() for part in ("--set", f"{name}={value}")]


@pytest.fixture
def train(selavpr, walk, models, tmp_path):
    """Train for two steps, or with what is given instead; None leaves an option out."""

    def run(*arguments, settings=(), **options):
        defaults = {"data": walk, "backbone": models / "backbone", "output": tmp_path / "out"}
        given = {name: value for name, value in (defaults | options).items() if value is not None}
        return selavpr("train", *as_flags(given), *as_settings(SETTINGS | dict(settings)), *arguments)

    return run


def checkpoints(folder):
    return sorted(path.name for path in folder.glob("checkpoint-*"))


class TestDryRun:
    def test_it_prints_counts_and_leaves_no_checkpoint(self, train, tmp_path):
        run = train("--dry-run")
        assert run.code == 0, run.err
        found = dict(line.rsplit(maxsplit=1) for line in run.out.splitlines())
        assert found.pop("estimated hours")
        assert found == {
            "queries": "12",
            "queries without positive": "0",
            "database": "12",
            "rounds": "2",
            "queries per round": "4",
            "trained images per round": "16",
            "mined images per round about": "16",
            "steps per round": "1",
            "rounds per evaluation": "1250",
        }
        assert not list((tmp_path / "out").rglob("*.safetensors"))

    def test_it_writes_the_same_as_json(self, train):
        run = train("--dry-run", "--json", "-")
        assert run.code == 0, run.err
        assert run.report["queries"] == 12
        assert run.report["estimated_hours"] >= 0

    def test_queries_without_a_positive_are_counted(self, train, walk):
        (walk / "night" / "3.png").unlink()
        table = walk / "places.csv"
        table.write_text("".join(line for line in table.read_text().splitlines(True) if "night/3.png" not in line))
        assert train("--dry-run", "--json", "-").report["queries_without_positive"] == 1

    def test_frames_are_taken(self, train):
        assert train("--dry-run", "--json", "-", train_frames="10-14").report["queries"] == 10

    def test_data_that_cannot_be_trained_on_is_one_line(self, train):
        run = train("--dry-run", settings={"num_negatives": 50})
        assert run.code == 2
        assert run.err.startswith("Error: 50 negatives per query were asked for")


class TestTraining:
    def test_the_adapter_it_writes_can_be_evaluated(self, train, selavpr, walk, models, tmp_path):
        run = train("--json", tmp_path / "summary.json")
        assert run.code == 0, run.err
        assert f"adapter written to {tmp_path / 'out'}" in run.out
        summary = json.loads((tmp_path / "summary.json").read_text())
        assert (summary["steps"], summary["output"]) == (2, str(tmp_path / "out"))
        flags = as_flags(
            {
                "database": f"{walk}:day",
                "queries": f"{walk}:night",
                "positive_radius": 0,
                "backbone": models / "backbone",
                "adapter": tmp_path / "out",
                "json": "-",
            }
        )
        evaluated = selavpr("evaluate", *flags)
        assert evaluated.code == 0, evaluated.err
        assert evaluated.report["protocol"]["image_size"] == [112, 112]
        assert evaluated.report["num_queries"] == 6

    def test_the_loss_of_every_round_and_the_progress_are_shown(self, train):
        run = train()
        assert run.code == 0, run.err
        assert run.out.count("global_loss") == 2
        assert "2/2" in run.err  # steps
        assert "pin_memory" not in run.err
        assert train(settings={"logging_steps": "2.0"}).out.count("global_loss") == 1

    def test_what_is_trained_on_is_named_in_the_facts(self, train, walk, tmp_path, monkeypatch):
        monkeypatch.chdir(walk)
        run = train(data=".", train_frames="10-14", eval_data=walk, settings={"eval_positive_radius": "0.0"})
        assert run.code == 0, run.err
        assert json.loads((tmp_path / "out" / "training.json").read_text())["training_places"] == "walk, frames 10-14"
        (report,) = json.loads((tmp_path / "out" / "evaluation.json").read_text())
        assert report["protocol"]["database"] == "walk"

    def test_it_evaluates_where_asked_and_keeps_the_best(self, train, walk, tmp_path):
        run = train(
            eval_data=walk,
            eval_frames="10-12",
            settings={"eval_positive_radius": "0.0", "queries_per_epoch": "4", "rerank_num": "3"},
        )
        assert run.code == 0, run.err
        state = json.loads((tmp_path / "out" / "checkpoint-2" / "trainer_state.json").read_text())
        assert [entry["epoch"] for entry in state["log_history"] if "eval_reranked_recall@5" in entry] == [1, 2]
        assert state["best_metric"] is not None

    def test_it_goes_on_from_an_adapter(self, train, tmp_path):
        assert train(output=tmp_path / "first").code == 0
        own = dict.fromkeys(("image_size", "local_channels"))  # the adapter has its own
        run = train(output=tmp_path / "second", adapter=tmp_path / "first", settings=own)
        assert run.code == 0, run.err
        config = json.loads((tmp_path / "second" / "adapter_config.json").read_text())
        assert config["local_channels"] == [8, 4]
        weights = [(tmp_path / name / "adapter_model.safetensors").read_bytes() for name in ("first", "second")]
        assert weights[0] != weights[1]

    def test_settings_of_an_adapter_that_is_gone_on_from_are_an_error(self, train, models):
        run = train("--dry-run", adapter=models / "adapter")
        assert run.code == 2
        assert "adapter_settings belong to a fresh adapter" in run.err

    def test_it_resumes(self, train, tmp_path):
        settings = {"save_strategy": "steps", "save_steps": "1.0"}
        assert train(settings=settings | {"num_train_epochs": "1.0"}).code == 0
        assert checkpoints(tmp_path / "out") == ["checkpoint-1"]
        run = train("--resume", "--json", "-", settings=settings)
        assert run.code == 0, run.err
        assert run.report["steps"] == 2  # so nothing but JSON is on standard output
        assert checkpoints(tmp_path / "out") == ["checkpoint-1", "checkpoint-2"]

    def test_starting_anew_over_an_earlier_run_is_said(self, train, tmp_path):
        settings = {"save_strategy": "steps", "save_steps": "1.0", "num_train_epochs": "1.0"}
        assert "note:" not in train(settings=settings).err
        run = train(settings=settings)
        assert run.code == 0
        assert f"note: {tmp_path / 'out'} has checkpoints of an earlier run, the last one checkpoint-1." in run.err

    def test_there_must_be_something_to_resume(self, train):
        run = train("--resume")
        assert run.code == 2
        assert "There is no complete checkpoint in" in run.err


class TestConfigFile:
    @pytest.fixture
    def config(self, walk, models, tmp_path):
        content = {
            "data": str(walk),
            "backbone": str(models / "backbone"),
            "output": str(tmp_path / "out"),
            "train_frames": "10-14",
            "training": {"use_cpu": True, "positive_radius": 0.0, "negative_radius": 1.0, "queries_per_round": 4},
            "adapter_settings": {"image_size": [112, 112], "local_channels": [8, 4]},
        }

        def write(name="train.json", **changed):
            path = tmp_path / name
            path.write_text(json.dumps(content | changed))
            return path

        return write

    def test_json_holds_everything(self, selavpr, config):
        run = selavpr("train", "--config", config(), "--dry-run", "--json", "-")
        assert run.code == 0, run.err
        assert run.report["queries"] == 10

    def test_yaml_holds_everything(self, selavpr, walk, models, tmp_path):
        path = tmp_path / "train.yaml"
        path.write_text(
            f"data: {walk}\nbackbone: {models / 'backbone'}\noutput: {tmp_path / 'out'}\n"
            "training:\n  use_cpu: true\n  positive_radius: 0.0\n  negative_radius: 1.0\n  learning_rate: 1e-4\n"
            "  num_train_epochs: 3.0\nadapter_settings:\n  image_size: [112, 112]\n  local_channels: [8, 4]\n"
        )
        run = selavpr("train", "--config", path, "--dry-run", "--json", "-")
        assert run.code == 0, run.err
        assert run.report["rounds"] == 3

    def test_numbers_that_yaml_takes_for_text_are_numbers(self, tmp_path):
        path = tmp_path / "train.yaml"
        path.write_text("training: {learning_rate: 1e-4, seed: 3}\n")
        assert command.read_settings(path) == {"training": {"learning_rate": 1e-4, "seed": 3}}

    def test_options_go_before_the_file_and_set_before_both(self, selavpr, config):
        arguments = ("train", "--config", config(), "--dry-run", "--json", "-")
        assert selavpr(*arguments, "--train-frames", "10-15").report["queries"] == 12
        assert selavpr(*arguments, "--set", "queries_per_round=5").report["queries_per_round"] == 5

    def test_empty_sections_are_none(self, selavpr, config):
        flags = ("--dry-run", "--json", "-", *as_settings(SETTINGS))
        run = selavpr("train", "--config", config(training=None, adapter_settings=None), *flags)
        assert run.code == 0, run.err

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"datta": "walk"}, "unknown settings ['datta']; known are"),
            ({"training": {"use_cpu": True, "learning_rat": 1}}, "training has unknown fields ['learning_rat']"),
            ({"adapter_settings": {"bottleneck": 1}}, "adapter_settings has unknown fields ['bottleneck']"),
            ({"training": ["use_cpu"]}, "training in"),
            ({"train_frames": "14-10"}, "A range of frames must be of the form A-B"),
            ({"train_frames": 14}, "train_frames in"),
            ({"data": ["walk"]}, "must be text, got ['walk']; put it in quotes"),
            ({"training": {"num_train_epochs": [1]}}, "A field of training has a value of a wrong type"),
        ],
        ids=["key", "training field", "adapter field", "list", "frames", "number", "several", "type"],
    )
    def test_mistakes_in_it_are_loud(self, selavpr, config, changed, message):
        run = selavpr("train", "--config", config(**changed), "--dry-run")
        assert run.code == 2
        assert run.err.startswith("Error: ")
        assert message in run.err

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("- a\n- b\n", "must hold settings as `name: value`, got list"),
            ("a: [1", "is neither YAML nor JSON"),
            ("data: Zürich", "is neither YAML nor JSON: 'utf-8' codec can't decode"),
        ],
    )
    def test_another_kind_of_file_is_refused(self, selavpr, tmp_path, text, message):
        path = tmp_path / "train.yaml"
        path.write_text(text, encoding="latin-1")
        run = selavpr("train", "--config", path)
        assert run.code == 2
        assert message in run.err

    def test_a_file_that_is_not_there_is_named(self, selavpr, tmp_path):
        run = selavpr("train", "--config", tmp_path / "none.yaml")
        assert run.code == 2
        assert "none.yaml" in run.err


class TestSettings:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("learning_rate=1e-4", ({"learning_rate": 1e-4}, {})),
            ("num_negatives=5", ({"num_negatives": 5}, {})),
            ("bf16=true", ({"bf16": True}, {})),
            ("mining=full", ({"mining": "full"}, {})),
            ("run_name=a=b", ({"run_name": "a=b"}, {})),
            ("image_size=[56, 70]", ({}, {"image_size": [56, 70]})),
            ("image_size=(56, 70)", ({}, {"image_size": [56, 70]})),
            ("layers_to_transform=(3,)", ({}, {"layers_to_transform": [3]})),
            ("layers_to_transform=null", ({}, {"layers_to_transform": None})),
        ],
    )
    def test_values_are_read_as_yaml(self, text, expected):
        known = {"learning_rate", "num_negatives", "bf16", "mining", "run_name"}
        assert command.split_overrides([text], known, {"image_size", "layers_to_transform"}) == expected

    @pytest.mark.parametrize("text", ["learning_rate", "learning_rat=1", "=3"])
    def test_an_unknown_name_or_no_value_is_an_error(self, train, text):
        run = train("--dry-run", "--set", text)
        assert run.code == 2
        assert f"--set takes NAME=VALUE with a field of SelaTrainingArguments or SelaConfig, got '{text}'" in run.err

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("learning_rate=[", "--set learning_rate=VALUE takes a value as in YAML, got '['"),
            ("learning_rate=null", "A field of training has a value of a wrong type"),
            ("gradient_accumulation_steps=0", "gradient_accumulation_steps must be at least 1, got 0"),
        ],
    )
    def test_a_value_that_cannot_be_used_is_named(self, train, text, message):
        run = train("--dry-run", "--set", text)
        assert run.code == 2
        assert run.err.startswith(f"Error: {message}")

    def test_a_tracker_that_is_not_installed_is_named(self, train, monkeypatch):
        from transformers.integrations import integration_utils

        monkeypatch.setattr(integration_utils, "is_wandb_available", lambda: False)
        run = train("--dry-run", "--set", "report_to=wandb")
        assert run.code == 2
        assert run.err.startswith("Error: WandbCallback requires wandb to be installed")

    @pytest.mark.parametrize("name", ["data", "backbone", "output"])
    def test_what_is_needed_is_named(self, train, name):
        run = train(**{name: None})
        assert run.code == 2
        assert run.err == f"Error: --{name} is needed, as an option or in the file of --config.\n"

    def test_a_bad_value_is_one_line(self, train):
        run = train("--dry-run", settings={"num_negatives": 0})
        assert (run.code, run.err) == (2, "Error: num_negatives must be at least 1, got 0.\n")

    def test_weighted_mining_without_notes_is_one_line(self, train):
        run = train("--dry-run", settings={"mining": "weighted"})
        assert run.code == 2
        assert "needs query_weights, or queries with a column 'note'" in run.err

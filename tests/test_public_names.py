"""The names that users import are where they were promised, and documented."""

import importlib
import inspect

import pytest

NAMES = {
    "selavpr_peft": ["SelaConfig", "SelaModel", "SelaOutput", "load", "pipeline"],
    "selavpr_peft.data": ["load_places", "positions", "positives_within", "read_place_table"],
    "selavpr_peft.evaluation": ["evaluate_database", "evaluate_two_stage", "fit_calibration", "recall_at_n"],
    "selavpr_peft.hub": ["convert_official_checkpoint", "export_official_checkpoint", "load", "push_adapter"],
    "selavpr_peft.losses": ["SelaLoss"],
    "selavpr_peft.matching": ["count_mutual_matches", "fastest_local_dtype", "mutual_matches", "rerank"],
    "selavpr_peft.retrieval": ["PlaceDatabase", "PlaceRecognizer"],
    "selavpr_peft.training": ["SelaTrainer", "SelaTrainingArguments"],
}


@pytest.mark.parametrize(("module", "name"), [(module, name) for module in NAMES for name in NAMES[module]])
def test_a_promised_name_is_there_and_documented(module, name):
    assert inspect.getdoc(getattr(importlib.import_module(module), name))


@pytest.mark.parametrize("module", NAMES)
def test_what_a_module_lists_is_there(module):
    loaded = importlib.import_module(module)
    for name in getattr(loaded, "__all__", []):
        assert hasattr(loaded, name)

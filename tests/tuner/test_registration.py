"""Registration: "SELA" is one of PEFT's types, in whatever order the packages are imported, at no cost before that."""

import ast
import inspect
import json
import os
import pickle
import subprocess
import sys

import peft
import pytest
from peft import PeftConfig, PeftType
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)

from selavpr_peft import SelaConfig, SelaModel, registration

HEAVY = ("torch", "peft", "transformers", "faiss", "datasets", "matplotlib")

IMPORT_ORDERS = {
    "package first": "import selavpr_peft, peft",
    "peft first": "import peft, selavpr_peft",
    "a public name alone": "from selavpr_peft import SelaConfig; SelaConfig()",
    "a module inside alone": "from selavpr_peft.tuner.config import SelaConfig; SelaConfig()",
}

# Importing what peft needs takes seconds: it is done once, then every order runs in a process forked from that state.
TRY_EVERY_ORDER = """
import os, sys
import transformers.modeling_utils
assert not {"peft", "selavpr_peft"} & set(sys.modules)
script, folder, *orders = sys.argv[1:]
for order in orders:
    child = os.fork()
    if not child:
        exec(order)
        exec(script)
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, order
"""

REPORT = """
import json, pickle
from pathlib import Path
import peft
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_PREFIX_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING
sela = peft.PeftType("SELA")
print(json.dumps({
    "is an attribute": peft.PeftType.SELA is sela,
    "times listed": list(peft.PeftType).count(sela),
    "in the tables": [
        PEFT_TYPE_TO_CONFIG_MAPPING[sela].__name__,
        PEFT_TYPE_TO_TUNER_MAPPING[sela].__name__,
        PEFT_TYPE_TO_PREFIX_MAPPING[sela],
    ],
    "pickles to itself": pickle.loads(pickle.dumps(sela)) is sela,
    "unpickled from another process": repr(pickle.loads(Path(folder, "config.pickle").read_bytes())),
    "read from a folder": repr(peft.PeftConfig.from_pretrained(folder)),
}))
"""


def output_of(code, *arguments):
    """Run code in a fresh interpreter and give the JSON documents it prints, one a line."""
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )
    assert process.returncode == 0, process.stderr
    return [json.loads(line) for line in process.stdout.splitlines()]


@pytest.fixture(scope="module")
def saved_config(tmp_path_factory):
    """A configuration and a folder that holds it, as PEFT writes it and as a pickle."""
    folder = tmp_path_factory.mktemp("saved")
    config = SelaConfig(local_channels=(8, 4))
    config.save_pretrained(str(folder))
    (folder / "config.pickle").write_bytes(pickle.dumps(config))
    return config, folder


@pytest.fixture(scope="module")
def reports(saved_config):
    """What a process says that imported in each of the orders."""
    found = output_of(TRY_EVERY_ORDER, REPORT, saved_config[1], *IMPORT_ORDERS.values())
    return dict(zip(IMPORT_ORDERS, found, strict=True))


class TestImportingThePackage:
    def test_it_loads_no_heavy_library(self):
        (loaded,) = output_of("import json, sys, selavpr_peft; print(json.dumps(list(sys.modules)))")
        assert "selavpr_peft" in loaded
        assert not set(HEAVY) & set(loaded)

    def test_asking_for_the_version_or_the_names_loads_no_heavy_library_either(self):
        code = (
            "import json, sys, selavpr_peft;"
            "print(json.dumps([selavpr_peft.__version__, dir(selavpr_peft), list(sys.modules)]))"
        )
        ((version, names, loaded),) = output_of(code)
        assert version.count(".") == 2
        assert {"SelaConfig", "SelaModel", "SelaOutput"} <= set(names)
        assert not set(HEAVY) & set(loaded)


@pytest.mark.parametrize("order", IMPORT_ORDERS)
class TestEveryImportOrder:
    def test_makes_sela_a_member_of_the_enum_once(self, reports, order):
        assert reports[order]["is an attribute"]
        assert reports[order]["times listed"] == 1

    def test_enters_sela_in_the_tables_of_peft(self, reports, order):
        assert reports[order]["in the tables"] == ["SelaConfig", "SelaModel", "sela_"]

    def test_makes_sela_and_a_pickled_config_picklable(self, reports, order, saved_config):
        assert reports[order]["pickles to itself"]
        assert reports[order]["unpickled from another process"] == repr(saved_config[0])

    def test_lets_peft_read_a_saved_config(self, reports, order, saved_config):
        assert reports[order]["read from a folder"] == repr(saved_config[0])


class TestTheEnum:
    def test_the_other_members_keep_their_order_and_sela_comes_last(self):
        (definition,) = ast.parse(inspect.getsource(PeftType)).body
        written = [line.targets[0].id for line in definition.body if isinstance(line, ast.Assign)]
        assert len(written) > 20
        assert [member.name for member in PeftType] == [*written, "SELA"]
        assert len(PeftType) == len(written) + 1
        assert list(PeftType.__members__) == [*written, "SELA"]

    def test_the_other_members_are_still_found_by_name_and_value(self):
        for member in PeftType:
            assert PeftType(member.value) is PeftType[member.name] is getattr(PeftType, member.name) is member
        assert PeftType.LORA.value == "LORA"

    def test_sela_behaves_as_a_member_written_in_the_class(self):
        assert isinstance(PeftType.SELA, PeftType)
        assert PeftType.SELA == "SELA"
        assert (PeftType.SELA.name, PeftType.SELA.value) == ("SELA", "SELA")
        assert repr(PeftType.SELA) == "<PeftType.SELA: 'SELA'>"
        assert {PeftType.SELA: 1}["SELA"] == 1
        assert PeftType.SELA in PeftType
        assert json.dumps(PeftType.SELA) == '"SELA"'

    def test_unknown_values_are_still_refused(self):
        with pytest.raises(ValueError, match="is not a valid PeftType"):
            PeftType("SELAVPR")


class TestRegisteringAgain:
    def test_nothing_changes(self):
        before = (list(PeftType), dict(PEFT_TYPE_TO_CONFIG_MAPPING), dict(PEFT_TYPE_TO_TUNER_MAPPING))
        registration.arm()
        registration._register(peft)
        assert before == (list(PeftType), dict(PEFT_TYPE_TO_CONFIG_MAPPING), dict(PEFT_TYPE_TO_TUNER_MAPPING))

    def test_the_tables_hold_the_public_classes(self):
        assert PEFT_TYPE_TO_CONFIG_MAPPING[PeftType.SELA] is SelaConfig
        assert PEFT_TYPE_TO_TUNER_MAPPING[PeftType.SELA] is SelaModel
        assert PEFT_TYPE_TO_PREFIX_MAPPING[PeftType.SELA] == SelaModel.prefix == "sela_"
        assert issubclass(SelaConfig, PeftConfig)

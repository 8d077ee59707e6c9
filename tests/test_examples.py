"""Every example runs as it is, in a folder of its own, and prints what its docstring announces."""

import os
import re
import runpy
import subprocess
import sys
import tempfile

import pytest

from tests.conftest import REPOSITORY

ANNOUNCED = {
    "adapt_a_backbone": r"^saved and loaded: same descriptors$",
    "evaluate_places": r"^re-ranked R@1 (0\.\d\d|1\.00)  R@5",
    "train_on_your_city": r"^unseen places: retrieval R@1 \d\.\d\d before, \d\.\d\d after training$",
    "index_and_query": r"^the query was taken at day/\d{4}\.jpg$",
    "match_two_images": r"^[1-9]\d* mutual matches$",
    "visualise": r"^7 pictures drawn to pictures/$",
    "convert_official_weights": r"^there and back: every tensor the same$",
    "several_cities": r"^3 cities over one backbone, switched in \d+\.\d ms$",
    "export_hloc_pairs": r"^36 pairs written to pairs-query-selavpr\.txt$",
}

PROGRAMS = ["train_on_your_city", "visualise"]
"""Those that train: in processes, where no type checker refuses a whole number for a float. For the others, starting a
process would take most of the time.
"""


def test_every_example_is_run():
    assert {path.stem for path in (REPOSITORY / "examples").glob("*.py")} == set(ANNOUNCED)


def test_every_example_is_named_in_the_documents():
    listed = (REPOSITORY / "docs" / "examples.md").read_text()
    assert [name for name in ANNOUNCED if f"(../examples/{name}.py)" not in listed] == []


def announced(name):
    return re.compile(ANNOUNCED[name], re.MULTILINE)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_is_a_program_that_prints_what_it_announces(name, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "TMPDIR": str(tmp_path)}
    script = REPOSITORY / "examples" / f"{name}.py"
    run = subprocess.run([sys.executable, script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    assert announced(name).search(run.stdout), run.stdout


@pytest.mark.filterwarnings("default")  # shown, as to whoever runs it
@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", [name for name in ANNOUNCED if name not in PROGRAMS])
def test_an_example_prints_what_it_announces(name, tmp_path, monkeypatch, capsys):
    script = REPOSITORY / "examples" / f"{name}.py"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(script)])
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    assert announced(name).search(printed), printed

"""The Python in README and docs runs as printed, links lead somewhere, and shell commands exist."""

import importlib.util
import re
from pathlib import Path

import pytest
from transformers import AutoModel

from selavpr_peft.modeling.toy_backbone import toy_backbone
from tests.conftest import REPOSITORY

DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *sorted((REPOSITORY / "docs").glob("*.md"))]
PYTHON_BLOCK = re.compile(r"(<!-- not run[^>]*-->\n)?```python\n(.*?)```", re.DOTALL)


def _runnable(document: Path) -> list[str]:
    return [code for skipped, code in PYTHON_BLOCK.findall(document.read_text()) if not skipped]


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if _runnable(d)], ids=lambda d: d.name)
def test_the_python_in_a_document_runs_as_printed(document, tmp_path, monkeypatch):
    # The blocks of one document run after another in one folder, over a tiny backbone in place of the named one.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(AutoModel, "from_pretrained", lambda name: toy_backbone())
    for code in _runnable(document):
        exec(compile(code, document.name, "exec"), {})


def test_the_readme_has_blocks_that_are_run():
    assert len(_runnable(REPOSITORY / "README.md")) >= 3


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: d.name)
def test_every_relative_link_leads_to_a_file(document):
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text())
    missing = [t for t in targets if "://" not in t and not (document.parent / t).exists()]
    assert not missing


def test_every_make_target_that_is_mentioned_exists():
    makefile = (REPOSITORY / "Makefile").read_text()
    for document in DOCUMENTS:
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text(), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{document.name}: make {target}"


def test_tables_of_results_are_those_of_the_files():
    spec = importlib.util.spec_from_file_location("tables", REPOSITORY / "benchmarks" / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    marked = [document for document in DOCUMENTS if "<!-- table:" in document.read_text()]
    for document in marked:
        text = document.read_text()
        assert tables.with_tables(text) == text, f"run python benchmarks/tables.py for {document.name}"


@pytest.mark.parametrize("picture", sorted((REPOSITORY / "docs" / "images").glob("*.png")), ids=lambda path: path.name)
def test_pictures_are_small_and_shown(picture):
    assert picture.stat().st_size < 200_000
    assert any(f"images/{picture.name})" in document.read_text() for document in DOCUMENTS)

"""The Python in documents runs as printed, links lead somewhere, and shell commands can be given as they stand."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest
import typer
from transformers import AutoModel

from selavpr_peft.cli.app import app
from selavpr_peft.modeling.toy_backbone import toy_backbone
from tests.conftest import REPOSITORY

DOCUMENTS = [
    *sorted(REPOSITORY.glob("*.md")),
    *sorted((REPOSITORY / "docs").glob("*.md")),
    *sorted((REPOSITORY / "examples").rglob("*.md")),
]
PICTURES = [path for path in sorted((REPOSITORY / "docs" / "images").iterdir()) if path.suffix != ".py"]
PYTHON_BLOCK = re.compile(r"(<!-- not run: [^>]+-->\n)?```python\n(.*?)```", re.DOTALL)
SHELL_BLOCK = re.compile(r"```bash\n(.*?)```", re.DOTALL)
INLINE_COMMAND = re.compile(r"`(selavpr [^`]+)`")
SELAVPR = typer.main.get_command(app)


def _name(document: Path) -> str:
    return document.relative_to(REPOSITORY).as_posix()


def _runnable(document: Path) -> list[str]:
    return [code for skipped, code in PYTHON_BLOCK.findall(document.read_text()) if not skipped]


def _without_code(text: str) -> str:
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def _anchors(document: Path) -> set[str]:
    """What headings can be linked by, as GitHub and MyST name them."""
    headings = re.findall(r"^#+ (.+)$", _without_code(document.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def _selavpr_lines(shell: str) -> list[list[str]]:
    """The words of every line that gives a selavpr command; `...` stands for what was said before."""
    lines = (line.strip() for line in shell.replace("\\\n", " ").splitlines())
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("selavpr ")]


def _shell_texts() -> list[tuple[str, str]]:
    """All that is printed to be copied into a shell: blocks of documents and examples of --help."""
    groups = {
        "": SELAVPR,
        **{f"{name} ": group for name, group in SELAVPR.commands.items() if hasattr(group, "commands")},
    }
    helped = {
        f"{prefix}{name}": command for prefix, group in groups.items() for name, command in group.commands.items()
    }
    blocks = [
        (_name(document), block) for document in DOCUMENTS for block in SHELL_BLOCK.findall(document.read_text())
    ]
    return blocks + [(f"selavpr {name} --help", command.help) for name, command in helped.items()]


def _command_of(words: list[str]) -> tuple[typer.core.TyperCommand, list[str]]:
    command = SELAVPR
    while words and words[0] in getattr(command, "commands", {}):
        command, words = command.commands[words[0]], words[1:]
    return command, words


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if _runnable(d)], ids=_name)
def test_the_python_in_a_document_runs_as_printed(document, tmp_path, monkeypatch):
    # The blocks of one document run after another in one folder, over a tiny backbone in place of the named one.
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(AutoModel, "from_pretrained", lambda name: toy_backbone())
    for code in _runnable(document):
        exec(compile(code, document.name, "exec"), {})


def test_the_readme_has_blocks_that_are_run():
    assert len(_runnable(REPOSITORY / "README.md")) >= 3


def test_every_python_block_is_run_or_says_why_not():
    for document in DOCUMENTS:
        text = document.read_text()
        reasons = [reason for reason, _ in PYTHON_BLOCK.findall(text)]
        assert len(reasons) == text.count("```python"), _name(document)
        assert sum(map(bool, reasons)) == text.count("<!-- not run"), _name(document)


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_every_link_within_the_repository_leads_to_a_file_and_a_heading(document):
    text = _without_code(document.read_text())
    targets = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(r'<img src="([^"]+)"', text)
    for target in (target for target in targets if "://" not in target):
        path, _, anchor = target.partition("#")
        linked = document.parent / path if path else document
        assert linked.exists(), target
        assert not anchor or anchor in _anchors(linked), target


@pytest.mark.parametrize(("place", "text"), _shell_texts(), ids=lambda value: value if "\n" not in value else "")
def test_selavpr_understands_the_commands_that_are_printed(place, text):
    for words in _selavpr_lines(text):
        command, arguments = _command_of(words)
        if "..." not in arguments:
            command.make_context(place, arguments)  # parses and checks, runs nothing


@pytest.mark.parametrize("document", DOCUMENTS, ids=_name)
def test_options_that_are_named_exist(document):
    text = document.read_text()
    inline = [sentence.split()[1:] for sentence in INLINE_COMMAND.findall(text)]
    for words in inline + [words for block in SHELL_BLOCK.findall(text) for words in _selavpr_lines(block)]:
        command, arguments = _command_of(words)
        known = {name for parameter in command.params for name in parameter.opts} | {"--help"}
        assert {word for word in arguments if word.startswith("--")} <= known, words


def test_every_command_is_in_the_list_of_commands():
    listed = re.findall(r"^\| `selavpr (\w+)`", (REPOSITORY / "docs" / "commands.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(SELAVPR.commands)


def test_every_script_that_is_called_exists():
    for place, text in _shell_texts():
        for script in re.findall(r"(?:python|bash) (\S+)", text):
            assert (REPOSITORY / script).is_file(), f"{place}: {script}"


def test_every_make_target_that_is_mentioned_exists():
    makefile = (REPOSITORY / "Makefile").read_text()
    for document in DOCUMENTS:
        for target in re.findall(r"(?:^|`)make ([a-z-]+)", document.read_text(), re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), f"{_name(document)}: make {target}"


def test_tables_of_results_are_those_of_the_files():
    spec = importlib.util.spec_from_file_location("tables", REPOSITORY / "benchmarks" / "tables.py")
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    marked = [document for document in DOCUMENTS if "<!-- table:" in document.read_text()]
    for document in marked:
        text = document.read_text()
        assert tables.with_tables(text) == text, f"run python benchmarks/tables.py for {document.name}"


@pytest.mark.parametrize("picture", PICTURES, ids=lambda path: path.name)
def test_pictures_are_small_and_shown(picture):
    assert picture.stat().st_size < 200_000
    assert any(f"images/{picture.name})" in document.read_text() for document in DOCUMENTS)

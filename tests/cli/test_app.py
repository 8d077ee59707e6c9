"""The command as a whole: help without waiting, and mistakes answered in one line."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import selavpr_peft
from selavpr_peft.cli import options, visualize
from selavpr_peft.cli.app import app, main
from tests.conftest import REPOSITORY

COMMANDS = [command.name for command in (*app.registered_commands, *app.registered_groups)]
ACTIONS = [("visualize", action.name) for action in visualize.app.registered_commands]
WRITING = [
    *((command, "--json") for command in COMMANDS if command not in ("serve", "visualize")),
    *((*action, "--output") for action in ACTIONS),
    ("query", "--pairs"),
]
"""Options that name a file which is written last."""
HEAVY = ("torch", "transformers", "peft", "datasets", "faiss", "matplotlib", "PIL", "numpy", "scipy", "pyarrow")
RUN_AND_NAME_HEAVY_MODULES = f"""
import sys
from selavpr_peft.cli.app import main
try:
    main()
except SystemExit as stop:
    print(stop.code, sorted(set({HEAVY}) & set(sys.modules)))
"""


def run_process(*arguments, **options):
    """Start Python with these arguments, as a user without network would."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, **options
    )


def selavpr_process(*arguments, **options):
    return run_process("-m", "selavpr_peft.cli.app", *arguments, **options)


class TestHelp:
    @pytest.mark.parametrize(
        "arguments",
        [
            ["--help"],
            ["--version"],
            *([name, "--help"] for name in COMMANDS),
            *([*pair, "--help"] for pair in ACTIONS),
        ],
    )
    def test_nothing_heavy_is_imported(self, arguments):
        run = run_process("-c", RUN_AND_NAME_HEAVY_MODULES, *arguments)
        assert run.stdout.splitlines()[-1] == "0 []", run.stdout + run.stderr

    @pytest.mark.parametrize("name", COMMANDS)
    def test_every_command_has_a_summary_and_an_example(self, selavpr, name):
        run = selavpr(name, "--help")
        assert run.code == 0
        assert f"\n  Example:\n      selavpr {name} " in run.out
        assert run.out.splitlines()[2].strip(), "no summary"

    def test_every_command_is_listed(self, selavpr):
        listing = selavpr("-h").out.partition("Commands:")[2]
        assert [line.split()[0] for line in listing.strip().splitlines()] == COMMANDS

    @pytest.mark.parametrize("group", [(), ("visualize",)], ids=["selavpr", "visualize"])
    def test_no_summary_in_a_list_of_commands_is_cut_off(self, selavpr, group):
        listed = selavpr(*group, "--help").out.partition("Commands:\n")[2]
        assert listed
        assert "..." not in listed

    def test_version_needs_no_command(self, selavpr):
        assert selavpr("--version") == (0, f"selavpr {selavpr_peft.__version__}\n", "")

    def test_nothing_at_all_gives_the_help(self, selavpr):
        run = selavpr()
        assert (run.code, "Commands:" in run.out + run.err) == (2, True)


class TestMistakes:
    def test_a_process_answers_in_one_line_and_code_2(self):
        run = selavpr_process(
            *("evaluate", "--database", "a", "--queries", "b", "--positive-radius", "3", "--backbone", "c"),
            *("--dtype", "half"),
        )
        assert (run.returncode, run.stdout) == (2, "")
        assert run.stderr == "Error: --dtype must be one of float32, bfloat16, float16, got 'half'.\n"

    def test_debug_shows_where_it_happened(self):
        run = selavpr_process(
            *("--debug", "evaluate", "--database", "a", "--queries", "b", "--positive-radius", "3"),
            *("--backbone", "c", "--dtype", "half"),
        )
        assert run.returncode != 0
        assert run.stderr.startswith("Traceback (most recent call last)")
        assert run.stderr.splitlines()[-1].startswith("ValueError: --dtype must be one of")

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["eval"], "No such command 'eval'"),
            (["evaluate"], "Missing option '--database'"),
            (["convert", "x.pth", "--output", "o", "--heads", "2"], "No such option.*--heads"),
            (["demo", "--rerank-num", "0"], "Invalid value for '--rerank-num'"),
            (["demo", "--positive-radius", "-1"], "Invalid value for '--positive-radius'"),
            (["demo", "--seed", "one"], "Invalid value for '--seed'"),
        ],
    )
    def test_wrong_arguments_are_refused_before_anything_is_done(self, selavpr, arguments, message):
        run = selavpr(*arguments)
        assert (run.code, run.out) == (2, "")
        assert re.fullmatch(rf"Error: .*{message}.* \(see selavpr.* --help\)\n", run.err)

    @pytest.mark.parametrize("arguments", WRITING, ids=" ".join)
    @pytest.mark.parametrize(
        ("name", "reason"),
        [
            ("a", "is a folder; name a file in it"),
            ("a/file/b/c.png", r"cannot be written, because \S+/file takes no such file \(.+\); write it elsewhere"),
        ],
    )
    def test_a_file_that_cannot_be_written_is_refused_before_any_work(
        self, selavpr, tmp_path, arguments, name, reason
    ):
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "file").write_text("old")
        run = selavpr(*arguments, tmp_path / name)
        assert (run.code, run.out) == (2, "")
        start = f"Error: Invalid value for '{arguments[-1]}': {tmp_path / name}"
        assert re.fullmatch(rf"{start} {reason} \(see selavpr.* --help\)\n", run.err)

    @pytest.mark.parametrize("path", [None, "-", "/dev/null", Path("new/result.json")])
    def test_standard_output_devices_and_new_folders_are_written_to(self, tmp_path, monkeypatch, path):
        monkeypatch.chdir(tmp_path)
        assert options.writable_path(path) is path
        assert not list(tmp_path.iterdir())

    def test_a_token_given_in_the_wrong_place_is_not_repeated(self, selavpr):
        run = selavpr("demo", "hf_0123456789abcdefghij")
        assert (run.code, run.out) == (2, "")
        assert "hf_..." in run.err
        assert "0123456789" not in run.err

    @pytest.mark.parametrize("arguments", [[], ["visualize"]])
    def test_without_arguments_the_help_is_shown(self, selavpr, arguments):
        run = selavpr(*arguments)
        assert (run.code, run.out) == (2, "")
        assert run.err == selavpr(*arguments, "--help").out

    def test_an_error_of_several_lines_is_joined(self, selavpr, monkeypatch):
        def fail(name):
            raise OSError("first line\n  second line\n")

        monkeypatch.setattr("selavpr_peft.cli.options.check_dtype", fail)
        run = selavpr("evaluate", "--database", "a", "--queries", "b", "--positive-radius", 3, "--backbone", "c")
        assert run == (2, "", "Error: first line second line\n")

    def test_what_a_file_holds_does_not_steer_the_terminal(self, selavpr, tmp_path):
        (tmp_path / "places.csv").write_text("\x1b[2Jimage,främe\x00\n0.jpg,1\n")
        run = selavpr(
            "evaluate", "--database", tmp_path, "--queries", tmp_path, "--positive-radius", 3, "--backbone", "c"
        )
        assert run.code == 2
        assert "främe" in run.err
        assert run.err.rstrip("\n").isprintable()

    def test_a_defect_of_ours_keeps_its_traceback(self, monkeypatch):
        def fail(name):
            raise AttributeError("not the user's mistake")

        monkeypatch.setattr("selavpr_peft.cli.options.check_dtype", fail)
        line = "selavpr evaluate --database a --queries b --positive-radius 3 --backbone c"
        monkeypatch.setattr(sys, "argv", line.split())
        with pytest.raises(AttributeError, match="not the user's mistake"):
            main()

    def test_a_reader_that_has_seen_enough_is_no_error(self):
        read_end, write_end = os.pipe()
        os.close(read_end)
        environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
        run = subprocess.run(
            [sys.executable, "-m", "selavpr_peft.cli.app", "evaluate", "--help"],
            env=environment,
            stdout=write_end,
            stderr=subprocess.PIPE,
            text=True,
        )
        os.close(write_end)
        assert (run.returncode, run.stderr) == (1, "")

"""`selavpr serve`: the page is there until Ctrl+C, and what keeps it from being there is told in one line."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from selavpr_peft.retrieval import PlaceDatabase
from tests.conftest import REPOSITORY


@pytest.fixture
def arguments(indexed):
    folder, model, _ = indexed
    return ("serve", folder, *model)


def serving(*arguments):
    """Start the command in a process and wait until it says its address."""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", "selavpr_peft.cli.app", *map(str, arguments)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class TestServe:
    @pytest.mark.slow
    @pytest.mark.parametrize(("stop", "code"), [(signal.SIGINT, 0), (signal.SIGTERM, -signal.SIGTERM)])
    def test_the_page_is_served_on_loopback_until_it_is_stopped(self, arguments, stop, code):
        with serving(*arguments, "--port", 0) as process:
            line = process.stdout.readline()
            told = re.fullmatch(r".*walk\.placedb: 6 places at (http://127\.0\.0\.1:\d+) \(Ctrl\+C stops\)\n", line)
            assert told, line + process.stderr.read()
            with urllib.request.urlopen(f"{told[1]}/api/database") as answer:
                assert json.load(answer)["num_places"] == 6
            with urllib.request.urlopen(f"{told[1]}/") as answer:
                assert b"Where was this photograph taken?" in answer.read()
            process.send_signal(stop)
            rest, complaints = process.communicate(timeout=30)
        assert (process.returncode, rest) == (code, "")
        assert "Traceback" not in complaints
        assert "Warning: whoever" not in complaints

    def test_an_address_that_others_reach_is_warned_of(self, selavpr, arguments, served):
        run = selavpr(*arguments, "--host", "0.0.0.0", "--port", 0)
        assert run.code == 0
        assert run.err.startswith("Warning: whoever can reach 0.0.0.0 can use this server")
        assert served == ["0.0.0.0"]

    def test_on_loopback_nothing_is_warned_of(self, selavpr, arguments, served):
        assert selavpr(*arguments, "--host", "localhost", "--port", 0).err == ""
        assert served == ["127.0.0.1"]

    @pytest.fixture
    def served(self, monkeypatch):
        """Where the server would listen, without its doing so."""
        addresses = []

        def run(server, sockets):
            addresses.extend(listening.getsockname()[0] for listening in sockets)

        monkeypatch.setattr("uvicorn.Server.run", run)
        return addresses

    def test_a_database_on_the_hub_is_served(self, selavpr, indexed, server, served):
        folder, model, _ = indexed
        PlaceDatabase.open(folder).push_to_hub("me/walk")
        run = selavpr("serve", "me/walk", *model, "--port", 0)
        assert re.fullmatch(r"me/walk: 6 places at http://127\.0\.0\.1:\d+ \(Ctrl\+C stops\)\n", run.out), run.err
        assert served == ["127.0.0.1"]

    def test_a_port_that_is_taken_is_told_before_the_model_is_loaded(self, selavpr, tmp_path):
        with socket.create_server(("127.0.0.1", 0)) as other:
            port = other.getsockname()[1]
            run = selavpr("serve", tmp_path / "none", "--backbone", "none", "--port", port)
        assert run == (
            2,
            "",
            f"Error: Port {port} of 127.0.0.1 is taken; name another one by --port, or 0 for any.\n",
        )

    def test_a_host_that_is_not_of_this_machine_is_told(self, selavpr, tmp_path):
        run = selavpr("serve", tmp_path / "none", "--backbone", "none", "--host", "192.0.2.1")  # for documents only
        assert run.code == 2
        assert re.match(r"Error: Port 8000 of 192\.0\.2\.1 cannot be used \(.+\); name another one", run.err)

    def test_the_missing_extra_is_named(self, selavpr, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "fastapi", None)
        run = selavpr("serve", tmp_path / "none", "--backbone", "none")
        assert run.code == 2
        assert run.err == ('Error: selavpr serve needs fastapi, which is missing: pip install "selavpr_peft[serve]"\n')

    def test_another_model_is_refused(self, selavpr, indexed, models):
        run = selavpr("serve", indexed[0], "--backbone", models / "backbone", "--port", 0)
        assert run.code == 2
        assert "was built with another adapter" in run.err

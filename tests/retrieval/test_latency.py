"""What a process has held: as its system tells it, for each system in its own way."""

import sys
from types import SimpleNamespace

import psutil
import pytest

from selavpr_peft.retrieval.latency import peak_memory_bytes


class TestPeakMemory:
    def test_it_is_in_bytes_and_no_less_than_what_is_held_now(self):
        held_now = psutil.Process().memory_info().rss
        assert 0.9 * held_now < peak_memory_bytes() < 100 * held_now  # Linux counts what is held now inexactly

    @pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
    def test_units_of_unix_systems_differ(self, monkeypatch, platform, unit):
        monkeypatch.setattr(sys, "platform", platform)
        usage = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=5000))
        monkeypatch.setitem(sys.modules, "resource", usage)
        assert peak_memory_bytes() == 5000 * unit

    def test_windows_has_no_module_resource(self, monkeypatch):
        process = SimpleNamespace(memory_info=lambda: SimpleNamespace(peak_wset=7_000_000))
        monkeypatch.setattr(sys, "platform", "win32")
        monkeypatch.setattr(psutil, "Process", lambda: process)
        monkeypatch.setitem(sys.modules, "resource", None)
        assert peak_memory_bytes() == 7_000_000

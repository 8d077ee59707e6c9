"""`selavpr bench`: a row per stage, and what a place takes."""

import pytest


class TestBench:
    def test_every_stage_is_timed_and_sizes_are_told(self, selavpr, models):
        run = selavpr(
            *("bench", "--backbone", models / "backbone", "--adapter", models / "adapter"),
            *("--num-places", 50, "--rerank-num", 3, "--repeats", 2),
        )
        assert run.code == 0, run.err
        lines = run.out.splitlines()
        assert [line.split()[0] for line in lines[:4]] == ["p50", "extraction", "search", "re-ranking"]
        assert lines[1].endswith("a picture of 640x480 at 112x168")
        assert lines[2].endswith("50 places, flat")
        assert lines[3].endswith("3 candidates, float16")
        # 32 channels of 4 bytes; patches of 56 in 112x168 are 2x3, local features 5x9 of 8 channels of 2 bytes
        assert "a place takes 128 bytes for its descriptor and 720 for its local features" in lines[-1]

    @pytest.mark.parametrize(("local_dtype", "num_bytes"), [("float32", 1440), ("int8", 360), ("binary", 45)])
    def test_sizes_are_those_of_the_form(self, selavpr, models, local_dtype, num_bytes):
        report = selavpr(
            *("bench", "--backbone", models / "backbone", "--adapter", models / "adapter", "--json", "-"),
            *("--num-places", 5, "--rerank-num", 2, "--repeats", 1, "--local-dtype", local_dtype),
        ).report
        assert report["local_feature_bytes"] == num_bytes
        assert all(0 < row["p50_s"] <= row["p95_s"] for row in report["latencies"])
        assert report["peak_memory_bytes"] > 1e8

    def test_without_local_head_there_is_no_re_ranking(self, selavpr, models):
        report = selavpr(
            *("bench", "--backbone", models / "backbone", "--adapter", models / "no-local-head", "--json", "-"),
            *("--num-places", 5, "--repeats", 1),
        ).report
        assert [row["stage"] for row in report["latencies"]] == ["extraction", "search"]
        assert report["local_feature_bytes"] == 0

    def test_an_unknown_form_is_one_line(self, selavpr, models):
        run = selavpr("bench", "--backbone", models / "backbone", "--local-dtype", "int4", "--num-places", 5)
        assert (run.code, run.out) == (2, "")
        assert "dtype must be one of 'float32'" in run.err

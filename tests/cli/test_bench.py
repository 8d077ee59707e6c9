"""`selavpr bench`: one table of times, bytes, memory and recall, and the same as JSON."""

import pytest

from selavpr_peft.data.toy_city import write_toy_city


@pytest.fixture
def bench(selavpr, models):
    """Measure the tiny models, as little as possible."""

    def run(*arguments, adapter="adapter"):
        few = ("--num-places", 5, "--rerank-num", 3, "--repeats", 2)
        model = ("--backbone", models / "backbone", "--adapter", models / adapter)
        return selavpr("bench", *model, *few, *arguments)

    return run


@pytest.fixture
def city(tmp_path):
    return write_toy_city(tmp_path / "city", num_places=8, size=(56, 84))


def columns(line):
    """The cells of a row, where names are 16 characters wide and two spaces or more lie between numbers."""
    name, rest = line[:16].strip(), line[16:]
    return [name, *(cell.strip() for cell in rest.split("  ") if cell.strip())]


class TestTable:
    def test_every_stage_and_every_part_has_a_row(self, bench, models):
        run = bench("--local-dtype", "int8", "--keep-locations", 12)
        assert run.code == 0, run.err
        machine, model, blank, *table = run.out.splitlines()
        assert machine.startswith("machine   ")
        assert " 1 threads, PyTorch " in machine
        assert model == f"model     {models / 'backbone'} with {models / 'adapter'}, float32, 112x168 official"
        assert blank == ""
        assert [columns(line)[:2] for line in table] == [
            ["", "p50"],
            ["extraction", "a picture of 640x480 at 112x168"],
            ["search", "5 places, flat"],
            ["re-ranking", "3 candidates, int8"],
            ["", "bytes"],
            ["descriptor", "32 channels, float32"],
            ["local features", "2x4 of 5x9 locations, int8"],
            ["image", "in all"],
            ["peak memory", "of this process"],
        ]
        assert all(len(line) == len(table[0]) for line in table[:-1])  # so numbers stand below one another
        assert [columns(line)[2:] for line in table[5:8]] == [["128", "100.0%"], ["64", "4.4%"], ["192", "12.2%"]]

    def test_recalls_are_those_of_evaluate(self, bench, selavpr, models, city):
        places = ("--database", f"{city}:day", "--queries", f"{city}:night", "--positive-radius", 1)
        run = bench("--local-dtype", "float32", *places)
        model = ("--backbone", models / "backbone", "--adapter", models / "adapter")
        expected = selavpr("evaluate", *places, *model, "--rerank-num", 3, "--json", "-").report
        names, retrieval, reranked = map(columns, run.out.splitlines()[-3:])
        assert names[1:] == ["R@1", "R@5", "R@10"]
        assert retrieval[:2] == ["retrieval", "8 queries, 8 images"]
        assert reranked[:2] == ["re-ranked", "top 3"]
        for row, stage in ((retrieval, "retrieval"), (reranked, "reranked")):
            assert row[2:] == [f"{100 * share:.1f}" for share in expected[stage].values()]

    def test_what_could_not_be_found_is_said_below(self, bench, city):
        (city / "night" / "0002.jpg").write_bytes(b"damaged")
        (city / "day" / "0004.jpg").write_bytes(b"damaged")
        run = bench("--database", f"{city}:day", "--queries", f"{city}:night", "--positive-radius", 0)
        assert run.out.splitlines()[-2:] == [
            "1 queries have no positive and count as missed",
            "2 images could not be read",
        ]


class TestReport:
    @pytest.mark.parametrize(("local_dtype", "num_bytes"), [("float32", 1440), ("int8", 360), ("binary", 45)])
    def test_sizes_are_those_of_the_form(self, bench, local_dtype, num_bytes):
        report = bench("--json", "-", "--local-dtype", local_dtype).report
        # 32 channels of 4 bytes; patches of 56 in 112x168 are 2x3, local features 5x9 of 8 channels
        assert [(size["part"], size["num_bytes"], size["float32_bytes"]) for size in report["sizes"]] == [
            ("descriptor", 128, 128),
            ("local features", num_bytes, 1440),
            ("image", 128 + num_bytes, 1568),
        ]
        assert all(0 < row["p50_s"] <= row["p95_s"] for row in report["latencies"])
        assert report["peak_memory_bytes"] > 1e8

    def test_it_holds_everything_that_was_printed(self, bench, city, models):
        places = ("--database", f"{city}:day", "--queries", f"{city}:night", "--positive-radius", 1)
        report = bench("--json", "-", "--keep-locations", 12, *places).report
        assert list(report) == ["protocol", "latencies", "sizes", "peak_memory_bytes", "recall"]
        settings = {
            "num_places": 5,
            "rerank_num": 3,
            "local_dtype": "float16",
            "keep_locations": 12,
            "repeats": 2,
            "backbone": str(models / "backbone"),
            "adapter": str(models / "adapter"),
            "dtype": "float32",
            "image_size": [112, 168],
            "threads": 1,
        }
        assert settings.items() <= report["protocol"].items()
        assert report["recall"]["protocol"] == {
            "database": f"{city}:day",
            "queries": f"{city}:night",
            "positive_radius": 1,
            "radius_unit": "frames",
        }
        assert (report["recall"]["num_queries"], report["recall"]["retrieval"]["10"]) == (8, 1.0)

    def test_without_local_head_there_is_no_re_ranking(self, bench, city):
        places = ("--database", city, "--queries", city, "--positive-radius", 0)
        report = bench("--json", "-", *places, adapter="no-local-head").report
        assert [row["stage"] for row in report["latencies"]] == ["extraction", "search"]
        assert [size["part"] for size in report["sizes"]] == ["descriptor", "image"]
        assert (report["recall"]["num_queries"], "reranked" in report["recall"]) == (16, False)


class TestMistakes:
    @pytest.mark.parametrize(
        ("given", "missing"),
        [
            (("--database", "city"), "no --queries and no --positive-radius"),
            (("--queries", "city", "--positive-radius", 0), "no --database"),
            (("--database", "city", "--queries", "city"), "no --positive-radius"),
        ],
    )
    def test_places_by_halves_are_one_line(self, bench, given, missing):
        run = bench(*given)
        assert (run.code, run.out, len(run.err.splitlines())) == (2, "", 1)
        assert f"Recall needs --database, --queries and --positive-radius together, got {missing};" in run.err

    def test_places_that_are_not_there_are_told_before_anything_is_timed(self, bench, city):
        run = bench("--database", city, "--queries", f"{city}:dusk", "--positive-radius", 0)
        assert (run.code, run.out, len(run.err.splitlines())) == (2, "", 1)
        assert "has no traverse 'dusk'" in run.err

    @pytest.mark.parametrize("local_dtype", ["int4", "bfloat16"])
    def test_a_form_that_no_database_has_is_one_line(self, bench, local_dtype):
        run = bench("--local-dtype", local_dtype)
        assert (run.code, run.out, len(run.err.splitlines())) == (2, "", 1)
        assert "local_dtype must be one of 'float32'" in run.err

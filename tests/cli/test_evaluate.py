"""`selavpr evaluate`: its JSON, its table, and every mistake a user may make."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
from safetensors.torch import load_file

from selavpr_peft.cli.recalls import recall_table
from selavpr_peft.evaluation import evaluator
from selavpr_peft.retrieval.fingerprint import state_fingerprint
from tests.cli.test_app import selavpr_process


@pytest.fixture
def evaluate(selavpr, walk, models):
    """Evaluate night against day with the tiny backbone and adapter, or with what is given instead."""

    def run(*arguments, **options):
        defaults = {
            "database": f"{walk}:day",
            "queries": f"{walk}:night",
            "positive_radius": 1,
            "backbone": models / "backbone",
            "adapter": models / "adapter",
        }
        given = {name: value for name, value in (defaults | options).items() if value is not None}
        flags = [part for name, value in given.items() for part in (f"--{name.replace('_', '-')}", value)]
        return selavpr("evaluate", *flags, *arguments)

    return run


class TestReport:
    def test_it_holds_what_the_contract_says(self, evaluate, walk, models):
        run = evaluate("--json", "-", "--rerank-num", 3)
        assert run.code == 0, run.err
        report = run.report  # so nothing but JSON is on standard output
        assert list(report) == [
            "protocol",
            "num_queries",
            "num_database",
            "num_queries_without_positive",
            "unreadable_images",
            "retrieval",
            "reranked",
        ]
        assert report["protocol"] == {
            "database": f"{walk}:day",
            "queries": f"{walk}:night",
            "database_frames": None,
            "query_frames": None,
            "positive_radius": 1.0,
            "radius_unit": "frames",
            "rerank_num": 3,
            "backbone": str(models / "backbone"),
            "adapter": str(models / "adapter"),
            "adapter_fingerprint": state_fingerprint(load_file(models / "adapter" / "adapter_model.safetensors")),
            "seed": None,  # plays no part
            "dtype": "float32",
            "image_size": [112, 168],  # the adapter's, as is the resizing
            "resize": "official",
            "position_interpolation": "backbone",
        }
        assert (report["num_queries"], report["num_database"]) == (6, 6)
        assert (report["num_queries_without_positive"], report["unreadable_images"]) == (0, [])
        for stage in ("retrieval", "reranked"):
            assert list(report[stage]) == ["1", "5", "10"]
            assert 0 <= report[stage]["1"] <= report[stage]["5"] <= report[stage]["10"] == 1

    def test_a_process_writes_json_alone_to_standard_output(self, walk, models):
        run = selavpr_process(
            *("evaluate", "--database", f"{walk}:day", "--queries", f"{walk}:day", "--positive-radius", 0),
            *("--backbone", models / "backbone", "--adapter", models / "adapter", "--device", "cpu", "--json", "-"),
        )
        assert run.returncode == 0, run.stderr
        assert json.loads(run.stdout)["num_queries"] == 6
        assert "FutureWarning" not in run.stderr

    def test_a_file_gets_the_same_and_the_table_is_printed_too(self, evaluate, tmp_path):
        path = tmp_path / "new" / "result.json"
        run = evaluate("--json", path)
        assert json.loads(path.read_text()) == evaluate("--json", "-").report
        assert [file.name for file in path.parent.iterdir()] == ["result.json"]
        assert "re-ranked (top 100)" in run.out

    def test_a_file_is_never_half_written(self, evaluate, tmp_path, monkeypatch):
        def run_out_of_space(path, text, **options):
            path.write_bytes(text[:20].encode())
            raise OSError("No space left on device")

        path = tmp_path / "result.json"
        path.write_text("from yesterday")
        monkeypatch.setattr(Path, "write_text", run_out_of_space)
        run = evaluate("--json", path)
        assert (run.code, run.err.splitlines()[-1]) == (2, "Error: No space left on device")
        assert path.read_text() == "from yesterday"
        assert sorted(file.name for file in tmp_path.iterdir()) == ["result.json", "walk"]

    def test_an_adapter_without_local_head_is_not_re_ranked(self, evaluate, models):
        run = evaluate(adapter=models / "no-local-head")
        assert "re-ranked" not in run.out
        report = evaluate("--json", "-", adapter=models / "no-local-head").report
        assert ("reranked" in report, report["retrieval"]["10"]) == (False, 1.0)


class TestRankings:
    @pytest.mark.parametrize(("name", "read"), [("rankings.csv", pd.read_csv), ("rankings.parquet", pd.read_parquet)])
    def test_the_recalls_can_be_computed_from_them(self, evaluate, tmp_path, name, read):
        report = evaluate("--json", "-", "--rankings", tmp_path / name, rerank_num=3).report
        table = read(tmp_path / name)
        assert table.groupby("query").size().tolist() == [6] * 6
        for stage, column in (("retrieval", "retrieval_rank"), ("reranked", "rank")):
            found = table[table.is_positive & (table[column] == 1)]
            assert len(set(found["query"])) / 6 == report[stage]["1"]
        assert (table.is_positive == (table.distance <= 1)).all()

    def test_another_suffix_is_refused_before_any_work(self, evaluate, tmp_path):
        run = evaluate("--rankings", tmp_path / "rankings.txt", backbone="not/there")
        assert (run.code, run.err.splitlines()[-1].partition(",")[0]) == (
            2,
            "Error: A table of rankings must end in .csv or .parquet",
        )


class TestTable:
    def test_what_was_compared_stands_above_the_recalls(self, evaluate, walk, models):
        lines = evaluate().out.splitlines()
        assert lines[:3] == [
            f"database  {walk}:day: 6 images",
            f"queries   {walk}:night: 6 images, positives within 1 frames",
            f"model     {models / 'backbone'} with {models / 'adapter'}, float32, 112x168 official",
        ]
        assert lines[4].split() == ["R@1", "R@5", "R@10"]
        assert [line.split()[0] for line in lines[5:]] == ["retrieval", "re-ranked"]

    def test_what_could_not_be_found_is_said(self, evaluate, walk):
        (walk / "night" / "2.png").write_bytes(b"damaged")
        run = evaluate(positive_radius=0, database_frames="10-14")
        assert "1 queries have no positive and count as missed" in run.out
        assert "1 images could not be read" in run.out

    def test_recalls_are_percentages_under_their_n(self):
        table = recall_table({"retrieval": {1: 0.0625, 10: 1.0}, "re-ranked": {1: 0.5, 10: 1.0}, "skipped": None})
        assert table == ("              R@1    R@10\nretrieval     6.2   100.0\nre-ranked    50.0   100.0")


class TestOptions:
    def test_the_same_seed_gives_the_same_numbers(self, evaluate):
        first, second = (evaluate("--json", "-", adapter=None, seed=3).report for _ in range(2))
        assert first == second
        assert first["protocol"]["seed"] == 3

    def test_the_seed_of_a_fresh_adapter_matters_for_re_ranking_only(self, evaluate, monkeypatch):
        results = []
        original = evaluator.evaluate_two_stage
        monkeypatch.setattr(
            evaluator,
            "evaluate_two_stage",
            lambda *args, **kwargs: results.append(original(*args, **kwargs)) or results[-1],
        )
        for seed in (0, 1):
            assert evaluate(adapter=None, seed=seed).code == 0
        first, second = results
        assert first.retrieved.tolist() == second.retrieved.tolist()
        assert first.predictions.tolist() != second.predictions.tolist()

    def test_a_fresh_adapter_has_the_defaults_of_the_configuration(self, evaluate):
        protocol = evaluate("--json", "-", adapter=None).report["protocol"]
        assert (protocol["image_size"], protocol["resize"], protocol["adapter"]) == ([224, 224], "antialias", None)

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_half_precision_runs(self, evaluate, dtype):
        report = evaluate("--json", "-", dtype=dtype).report
        assert (report["protocol"]["dtype"], report["retrieval"]["10"]) == (dtype, 1.0)

    def test_frames_are_taken_with_both_ends(self, evaluate):
        report = evaluate("--json", "-", query_frames="11-12", database_frames="13-15").report
        assert (report["num_queries"], report["num_database"]) == (2, 3)
        assert report["num_queries_without_positive"] == 1  # frame 11 is two away from frame 13
        assert report["retrieval"] == {"1": pytest.approx(0.25, abs=0.25), "5": 0.5, "10": 0.5}
        assert (report["protocol"]["query_frames"], report["protocol"]["database_frames"]) == ("11-12", "13-15")

    def test_workers_and_batches_do_not_change_the_numbers(self, evaluate):
        expected = evaluate("--json", "-").report
        assert evaluate("--json", "-", batch_size=4, num_workers=1).report == expected

    def test_an_unreadable_image_is_named_and_counts_as_missed(self, evaluate, walk):
        (walk / "night" / "2.png").write_bytes(b"damaged")
        run = evaluate("--json", "-", positive_radius=5)
        assert (run.code, run.report["num_queries"]) == (0, 6)
        assert run.report["retrieval"]["10"] == pytest.approx(5 / 6)
        (reason,) = run.report["unreadable_images"]
        assert f"{walk}/night/2.png cannot be read" in reason


class TestLayouts:
    @pytest.fixture
    def val(self, walk, tmp_path):
        """The walk as the field keeps data sets: @utm@ names, places 10 m apart, night by day."""
        for split, traverse in {"database": "day", "queries": "night"}.items():
            (tmp_path / "val" / split).mkdir(parents=True)
            for place in range(6):
                shutil.copy(walk / traverse / f"{place}.png", tmp_path / "val" / split / f"@{10 * place}.0@5.0@.png")
        return tmp_path / "val"

    def test_folders_of_utm_names_are_evaluated_in_metres(self, evaluate, val):
        by_frames = evaluate("--json", "-").report
        run = evaluate("--json", "-", database=val / "database", queries=val / "queries", positive_radius=10)
        assert run.code == 0, run.err
        assert (run.report["protocol"]["radius_unit"], run.report["num_queries"]) == ("m", 6)
        assert [run.report[stage] for stage in ("retrieval", "reranked")] == [
            by_frames[stage] for stage in ("retrieval", "reranked")
        ]

    def test_a_folder_of_both_gives_each_side_its_own(self, evaluate, val):
        both = evaluate("--json", "-", database=val, queries=val, positive_radius=10).report
        apart = evaluate("--json", "-", database=val / "database", queries=val / "queries", positive_radius=10).report
        assert both["retrieval"] == apart["retrieval"]
        assert (both["num_queries"], both["num_database"]) == (6, 6)

    def test_photographs_without_positions_are_refused_before_anything_is_described(self, evaluate, walk):
        run = evaluate(database=walk / "day")
        assert (run.code, run.out, len(run.err.splitlines())) == (2, "", 1)
        assert re.match("Error: Expected places.csv in .*, but its photographs have no positions", run.err)


class TestMistakes:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"database": "{walk}/nowhere:day"}, r"Expected places\.csv .* in .*nowhere, but there is no folder\."),
            ({"queries": "{walk}:dusk"}, r".*places\.csv has no traverse 'dusk'; it has \['day', 'night'\]\."),
            ({"query_frames": "12"}, r"A range of frames must be of the form A-B .* got '12'\."),
            ({"database_frames": "50-60"}, r".*places\.csv has no frame in 50-60; it has 10-15\."),
            ({"dtype": "half"}, r"--dtype must be one of float32, bfloat16, float16, got 'half'\."),
            ({"device": "abacus"}, "--device abacus cannot be used: .*abacus"),
            ({"device": "meta"}, "--device meta cannot be used: .* meta"),
            ({"backbone": "{models}/nowhere"}, ".*nowhere"),
            ({"backbone": "{models}/adapter"}, "Unrecognized model in .*adapter"),
            ({"backbone": "{models}/vit"}, "SelaVPR adapts Dinov2Model, .* got ViTModel"),
            ({"backbone": "{models}/deeper"}, "The adapter was made for .* num_layers 2, .* num_layers 3; load the"),
            ({"adapter": "{models}/backbone"}, ".*backbone is no adapter .* it has no adapter_config.json"),
            ({"adapter": "{models}/nowhere"}, ".*nowhere"),
        ],
    )
    def test_a_mistake_is_one_line_and_code_2(self, evaluate, walk, models, options, message):
        run = evaluate(**{name: value.format(walk=walk, models=models) for name, value in options.items()})
        assert (run.code, run.out) == (2, "")
        assert len(run.err.splitlines()) == 1, run.err
        assert re.match(f"Error: {message}", run.err)

    def test_strict_stops_at_an_unreadable_image(self, evaluate, walk):
        (walk / "day" / "4.png").write_bytes(b"damaged")
        run = evaluate("--strict")
        assert (run.code, run.out, "Traceback" in run.err) == (2, "", False)
        assert re.match(r"Error: The image .*day/4\.png cannot be read .*; replace or remove it\.", last_line(run.err))

    @pytest.mark.usefixtures("offline")
    def test_a_backbone_that_is_nowhere_is_named_without_network(self, evaluate):
        run = evaluate(backbone="no-such-backbone", adapter=None)
        assert (run.code, run.out, "Traceback" in run.err) == (2, "", False)
        assert re.match("Error: .*no-such-backbone", last_line(run.err))


def last_line(text):
    return text.splitlines()[-1]

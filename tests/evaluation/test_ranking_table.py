"""The table of rankings says of every candidate what the evaluation found, and its recall is the evaluation's."""

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from selavpr_peft.evaluation import TwoStageResult, ranking_table, write_ranking_table
from selavpr_peft.evaluation.ranking_table import retrieval_ranks

QUERIES = Dataset.from_dict({"image": ["a", "b", "c"], "key": ["q/0", "q/1", "q/2"], "frame": [3, 5, 9]})
DATABASE = Dataset.from_dict({"image": list("wxyz"), "key": [f"d/{n}" for n in range(4)], "frame": [0, 3, 6, 9]})


def result_of(retrieved, predictions):
    return TwoStageResult.of(
        np.array(retrieved),
        None if predictions is None else np.array(predictions),
        [np.array([1]), np.array([], dtype=np.int64), np.array([2, 3])],
        (1, 2),
        num_database=4,
        radius_unit="frames",
        unreadable=[],
    )


class TestRankingTable:
    def test_every_candidate_has_a_row(self):
        result = result_of([[0, 1, 2], [1, 2, 3], [2, 0, 3]], [[1, 0, 2], [3, 1, 2], [2, 0, 3]])
        assert ranking_table(result, QUERIES, DATABASE).slice(0, 4).to_pylist() == [
            {"query": "q/0", "database": "d/1", "rank": 1, "retrieval_rank": 2, "distance": 0.0, "is_positive": True},
            {"query": "q/0", "database": "d/0", "rank": 2, "retrieval_rank": 1, "distance": 3.0, "is_positive": False},
            {"query": "q/0", "database": "d/2", "rank": 3, "retrieval_rank": 3, "distance": 3.0, "is_positive": False},
            {"query": "q/1", "database": "d/3", "rank": 1, "retrieval_rank": 3, "distance": 4.0, "is_positive": False},
        ]

    @pytest.mark.parametrize("predictions", [[[1, 0, 2], [3, 1, 2], [2, 0, 3]], None])
    def test_its_recalls_are_those_of_the_evaluation(self, predictions):
        result = result_of([[0, 1, 2], [1, 2, 3], [2, 0, 3]], predictions)
        table = ranking_table(result, QUERIES, DATABASE).to_pandas()
        for column, recalls in (("retrieval_rank", result.retrieval), ("rank", result.reranked or result.retrieval)):
            for n, recall in recalls.items():
                found = table[table.is_positive & (table[column] <= n)]["query"].nunique()
                assert found / result.num_queries == recall

    def test_a_query_that_could_not_be_read_has_no_rows(self):
        result = result_of([[0, 1, 2], [-1, -1, -1], [2, 0, 3]], None)
        table = ranking_table(result, QUERIES, DATABASE)
        assert table["query"].to_pylist() == ["q/0"] * 3 + ["q/2"] * 3
        assert table["is_positive"].to_pylist() == [False, True, False, True, False, True]

    def test_metres_are_measured_in_the_plane(self):
        places = {"image": ["a"], "key": ["a"], "easting_m": [3.0], "northing_m": [4.0]}
        here = Dataset.from_dict(places | {"easting_m": [0.0], "northing_m": [0.0]})
        result = TwoStageResult.of(
            np.array([[0]]), None, [np.array([0])], (1,), num_database=1, radius_unit="m", unreadable=[]
        )
        assert ranking_table(result, here, Dataset.from_dict(places))["distance"].to_pylist() == [5.0]


class TestRetrievalRanks:
    @given(st.permutations(range(6)), st.permutations(range(6)))
    def test_a_rank_is_the_place_among_the_retrieved(self, retrieved, predictions):
        found = retrieval_ranks(np.array([retrieved]), np.array([predictions]))
        assert found[0].tolist() == [retrieved.index(row) + 1 for row in predictions]


class TestWriteRankingTable:
    @pytest.mark.parametrize(("name", "read"), [("r.csv", pd.read_csv), ("r.PARQUET", pd.read_parquet)])
    def test_what_is_written_is_read(self, tmp_path, name, read):
        table = ranking_table(result_of([[0, 1, 2], [1, 2, 3], [2, 0, 3]], None), QUERIES, DATABASE)
        write_ranking_table(table, tmp_path / name)
        pd.testing.assert_frame_equal(read(tmp_path / name), table.to_pandas(), check_dtype=False)

    def test_another_suffix_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"must end in \.csv or \.parquet, got .*r\.txt"):
            write_ranking_table(ranking_table(result_of([[0]] * 3, None), QUERIES, DATABASE), tmp_path / "r.txt")

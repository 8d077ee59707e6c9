"""Exact search agrees with brute force."""

import numpy as np
import pytest

from selavpr_peft.retrieval.index import search_exact


def unit_vectors(count, dims, seed):
    vectors = np.random.default_rng(seed).normal(size=(count, dims)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


class TestSearchExact:
    @pytest.mark.parametrize("num_candidates", [1, 7, 40])
    def test_brute_force_finds_the_same(self, num_candidates):
        queries, database = unit_vectors(9, 16, seed=0), unit_vectors(40, 16, seed=1)
        expected = np.argsort(-(queries @ database.T), axis=1)[:, :num_candidates]
        assert search_exact(queries, database, num_candidates).tolist() == expected.tolist()

    def test_similarity_is_the_inner_product(self):
        query, database = np.array([[1, 0]], dtype=np.float32), np.array([[0.9, 0], [2, 2]], dtype=np.float32)
        assert search_exact(query, database, num_candidates=2).tolist() == [[1, 0]]  # 2 and 0.9, though 0.9 is nearer

    def test_more_candidates_than_images_gives_every_image_once(self):
        found = search_exact(unit_vectors(2, 4, seed=0), unit_vectors(3, 4, seed=1), num_candidates=100)
        assert [sorted(rows) for rows in found.tolist()] == [[0, 1, 2]] * 2

    def test_arrays_that_are_not_contiguous_are_searched_by_their_values(self):
        queries, database = unit_vectors(3, 8, seed=0), unit_vectors(20, 8, seed=1)
        found = search_exact(np.asfortranarray(queries), database[::2], num_candidates=10)
        assert found.tolist() == np.argsort(-(queries @ database[::2].T), axis=1).tolist()

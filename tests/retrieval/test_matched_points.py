"""Where matches lie in the original images, computed by hand."""

import numpy as np
import torch

from selavpr_peft.retrieval.matched_points import match_points


class TestMatchPoints:
    def test_points_lie_where_the_geometry_says(self):
        # 28 x 42 network input with patches of 14: a grid of 2 x 3 patches, 5 x 9 locations 3.5 px apart from 7 px on.
        query = torch.eye(45).view(5, 9, 45)
        database = query.flip(1)  # column c is found in column 8 - c
        points = match_points(
            query,
            database,
            query_size=(84, 28),  # twice as wide as the network's input, as high
            database_size=(42, 280),  # as wide, ten times as high
            input_size=(28, 42),
            patch_size=14,
        )
        rows, columns = np.divmod(np.arange(45), 9)
        expected_query = np.stack([2 * (7 + 3.5 * columns), 7 + 3.5 * rows], axis=1)
        expected_database = np.stack([7 + 3.5 * (8 - columns), 10 * (7 + 3.5 * rows)], axis=1)
        np.testing.assert_allclose(points.query_points_px, expected_query, rtol=1e-6)
        np.testing.assert_allclose(points.database_points_px, expected_database, rtol=1e-6)
        assert points.query_points_px[[0, -1]].tolist() == [[14.0, 7.0], [70.0, 21.0]]
        assert points.similarities.tolist() == [1.0] * 45

    def test_corner_cells_of_a_224_px_image_lie_at_7_and_217(self):
        features = torch.zeros(61, 61, 2)
        features[0, 0, 0] = features[60, 60, 1] = 1.0
        points = match_points(
            features, features, query_size=(224, 224), database_size=(448, 112), input_size=(224, 224), patch_size=14
        )
        # the two corners find each other; of the zeros between them, the first find each other
        chosen = points.similarities > 0.5
        assert points.query_points_px[chosen].tolist() == [[7.0, 7.0], [217.0, 217.0]]
        assert points.database_points_px[chosen].tolist() == [[14.0, 3.5], [434.0, 108.5]]

    def test_similarities_are_those_of_the_pairs(self):
        query = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        database = torch.tensor([[[0.6, 0.8], [0.8, -0.6]]])
        points = match_points(
            query, database, query_size=(28, 14), database_size=(28, 14), input_size=(14, 28), patch_size=14
        )
        # similarities: 0.6 0.8 | 0.8 -0.6 -> location 0 goes with 1, location 1 with 0
        np.testing.assert_allclose(points.similarities, [0.8, 0.8], rtol=1e-6)
        assert points.query_points_px[:, 0].tolist() == [7.0, 10.5]
        assert points.database_points_px[:, 0].tolist() == [10.5, 7.0]

    def test_maps_of_different_sizes_are_matched(self):
        query, database = torch.eye(6).view(1, 6, 6)[:, :5], torch.eye(6).view(6, 1, 6)[1:]
        points = match_points(
            query, database, query_size=(14, 14), database_size=(14, 14), input_size=(14, 14), patch_size=14
        )
        # query location 0 is alike to nothing; the other four stand below each other in the database image
        is_alike = points.similarities > 0.5
        np.testing.assert_allclose(points.query_points_px[is_alike], [[7 + 3.5 * i, 7] for i in range(1, 5)])
        np.testing.assert_allclose(points.database_points_px[is_alike], [[7, 7 + 3.5 * i] for i in range(4)])

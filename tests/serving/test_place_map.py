"""Places become points of a plane: metres as they are, degrees projected, frames along a line."""

import numpy as np
import pytest
from datasets import Dataset

from selavpr_peft.retrieval.place_recognizer import distances_m
from selavpr_peft.serving.place_map import plane_positions, project_degrees

METRES = {"easting_m": [1.0, 4.0], "northing_m": [2.0, 6.0]}
DEGREES = {"latitude": [60.0, 60.001], "longitude": [24.0, 24.0]}
FRAMES = {"frame": [7, 9]}


class TestPlanePositions:
    def test_metres_are_taken_as_they_are(self):
        points, unit = plane_positions(Dataset.from_dict(METRES | DEGREES))
        assert (points.tolist(), unit) == ([[1, 2], [4, 6]], "m")

    def test_degrees_are_preferred_to_frames(self):
        points, unit = plane_positions(Dataset.from_dict(FRAMES | DEGREES))
        # a thousandth of a degree of latitude: 2 pi * 6371008.8 m / 360000
        assert points.ravel().tolist() == pytest.approx([0, 0, 0, 111.195], abs=0.001)
        assert unit == "m"

    def test_frames_lie_on_a_line(self):
        points, unit = plane_positions(Dataset.from_dict(FRAMES))
        assert (points.tolist(), unit) == ([[7, 0], [9, 0]], "frames")

    def test_photographs_without_positions_have_no_points(self):
        points, _ = plane_positions(Dataset.from_dict({"key": ["a", "b"]}))
        assert np.isnan(points[:, 0]).all()


class TestProjectDegrees:
    def test_distances_in_a_city_are_those_on_the_sphere(self):
        rng = np.random.default_rng(0)
        latitudes, longitudes = 60 + rng.uniform(0, 0.05, 20), 24 + rng.uniform(0, 0.1, 20)  # 5.6 km each way
        points = project_degrees(latitudes, longitudes)
        expected = distances_m(latitudes, longitudes, (latitudes[0], longitudes[0]))
        np.testing.assert_allclose(np.hypot(*(points - points[0]).T), expected, rtol=2e-3)

    def test_east_is_right_and_north_is_up(self):
        points = project_degrees(np.array([10.0, 10.0, 11.0]), np.array([20.0, 21.0, 20.0]))
        assert points[1, 0] > 0 == points[1, 1]
        assert points[2, 1] > 0 == points[2, 0]

    def test_the_date_line_does_not_tear_the_map(self):
        points = project_degrees(np.array([0.0, 0.0]), np.array([-179.5, 179.5]))
        assert points[1, 0] == pytest.approx(-111_195, abs=1)

    def test_missing_positions_stay_missing(self):
        points = project_degrees(np.array([np.nan, 1.0, 2.0]), np.array([0.0, np.nan, 0.0]))
        assert np.isnan(points[:2]).all()
        assert points[2].tolist() == [0, 0]
        assert np.isnan(project_degrees(np.array([np.nan]), np.array([0.0]))).all()

"""Local features come back from their file bit for bit."""

import numpy as np
import pytest
import torch

from selavpr_peft.retrieval.local_feature_file import LocalFeatureFile


@pytest.fixture
def maps():
    return torch.randn(7, 3, 5, 4, generator=torch.Generator().manual_seed(0))


class TestLocalFeatureFile:
    def test_maps_come_back_exactly_in_the_order_asked_for(self, tmp_path, maps):
        file = LocalFeatureFile(tmp_path / "features")
        for batch in maps.split(3):
            file.append(batch)
        assert torch.equal(file.read(np.arange(7)), maps)
        assert torch.equal(file.read(np.array([6, 0, 3, 3])), maps[[6, 0, 3, 3]])

    def test_maps_can_be_read_before_the_last_is_written(self, tmp_path, maps):
        file = LocalFeatureFile(tmp_path / "features")
        file.append(maps[:2])
        early = file.read(np.array([1]))
        file.append(maps[2:])
        assert torch.equal(early, maps[1:2])
        assert torch.equal(file.read(np.array([6])), maps[6:])

    def test_memory_order_and_half_precision_do_not_matter(self, tmp_path, maps):
        file = LocalFeatureFile(tmp_path / "features")
        file.append(maps.permute(0, 2, 1, 3).bfloat16())
        assert torch.equal(file.read(np.arange(7)), maps.permute(0, 2, 1, 3).bfloat16().float())

    def test_what_is_read_belongs_to_the_reader(self, tmp_path, maps):
        file = LocalFeatureFile(tmp_path / "features")
        file.append(maps)
        file.read(np.array([0])).zero_()
        assert torch.equal(file.read(np.array([0])), maps[:1])

    def test_a_file_from_before_is_overwritten(self, tmp_path, maps):
        (tmp_path / "features").write_bytes(b"from another run")
        file = LocalFeatureFile(tmp_path / "features")
        file.append(maps[:1])
        assert (tmp_path / "features").stat().st_size == 3 * 5 * 4 * 4  # float32

    def test_reading_nothing_gives_nothing(self, tmp_path, maps):
        file = LocalFeatureFile(tmp_path / "features")
        file.append(maps)
        assert tuple(file.read(np.array([], dtype=int)).shape) == (0, 3, 5, 4)

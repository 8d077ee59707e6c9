"""Batches of mined triplets: their order, when they are mined, and going on within a round."""

import json

import numpy as np
import pytest

from selavpr_peft.training.images import TripletIndex
from selavpr_peft.training.sampler import MinedBatchSampler


class Mine:
    """Give triplets that tell their round, and note which rounds were asked for."""

    def __init__(self, num_triplets=7):
        self.num_triplets = num_triplets
        self.rounds = []

    def __call__(self, number):
        self.rounds.append(number)
        return np.arange(self.num_triplets * 3).reshape(-1, 3) + 1000 * number


class TestBatches:
    def test_golden_case(self):
        batches = list(MinedBatchSampler(Mine(5), 5, batch_size=2))
        assert batches == [  # the fifth triplet makes no whole batch
            [TripletIndex(0, 0, (0, 1, 2)), TripletIndex(0, 1, (3, 4, 5))],
            [TripletIndex(0, 2, (6, 7, 8)), TripletIndex(0, 3, (9, 10, 11))],
        ]

    @pytest.mark.parametrize(("num_triplets", "batch_size"), [(7, 1), (7, 3), (7, 7), (8, 4)])
    def test_there_are_as_many_as_announced_and_all_are_full(self, num_triplets, batch_size):
        sampler = MinedBatchSampler(Mine(num_triplets), num_triplets, batch_size)
        batches = list(sampler)
        assert len(batches) == len(sampler) == num_triplets // batch_size
        assert {len(batch) for batch in batches} == {batch_size}

    def test_nothing_is_mined_before_the_first_batch_is_asked_for(self):
        mine = Mine()
        batches = iter(MinedBatchSampler(mine, 7, 2))
        assert not mine.rounds
        next(batches)
        assert mine.rounds == [0]

    def test_every_round_is_mined_once(self):
        mine = Mine()
        sampler = MinedBatchSampler(mine, 7, 2)
        for number in (0, 0, 1, 2, 2):
            sampler.set_epoch(number)
            assert all(
                index.round == number and index.rows[0] >= 1000 * number for batch in sampler for index in batch
            )
        assert mine.rounds == [0, 1, 2]


class TestShortRounds:
    # Trainer derives the round from the number of steps when it resumes: all rounds must be equally long.

    def test_the_first_triplets_are_repeated_with_a_warning(self, caplog):
        sampler = MinedBatchSampler(Mine(5), 8, batch_size=4)
        positions = [(index.position, index.rows[0]) for batch in sampler for index in batch]
        assert positions == [(0, 0), (1, 3), (2, 6), (3, 9), (4, 12), (5, 0), (6, 3), (7, 6)]
        assert "3 of 8 triplets of round 0 are repeated" in caplog.text

    def test_a_full_round_repeats_nothing(self, caplog):
        rows = [index.rows for batch in MinedBatchSampler(Mine(8), 8, 4) for index in batch]
        assert len(set(rows)) == 8
        assert not caplog.text

    def test_a_round_without_any_triplet_is_an_error(self):
        with pytest.raises(ValueError, match="Round 0 has no triplet whose images can be read"):
            next(iter(MinedBatchSampler(Mine(0), 8, 4)))


class TestState:
    def test_within_a_round_the_same_triplets_go_on(self):
        sampler = MinedBatchSampler(Mine(), 7, 2)
        sampler.set_epoch(3)
        expected = list(sampler)
        state = json.loads(json.dumps(sampler.state_dict()))
        mine_anew = Mine()
        resumed = MinedBatchSampler(mine_anew, 7, 2)
        resumed.load_state_dict(state)
        assert list(resumed) == expected
        resumed.set_epoch(3)
        assert list(resumed) == expected
        assert not mine_anew.rounds

    def test_at_the_end_of_a_round_the_next_one_is_mined(self):
        sampler = MinedBatchSampler(Mine(), 7, 2)
        list(sampler)
        mine_anew = Mine()
        resumed = MinedBatchSampler(mine_anew, 7, 2)
        resumed.load_state_dict(sampler.state_dict())
        resumed.set_epoch(1)
        assert next(iter(resumed))[0].round == 1
        assert mine_anew.rounds == [1]

    def test_before_the_first_round_there_is_nothing_to_keep(self):
        mine = Mine()
        sampler = MinedBatchSampler(mine, 7, 2)
        sampler.load_state_dict(MinedBatchSampler(Mine(), 7, 2).state_dict())
        assert next(iter(sampler))[0] == TripletIndex(0, 0, (0, 1, 2))
        assert mine.rounds == [0]

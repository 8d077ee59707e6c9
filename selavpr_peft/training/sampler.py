"""Batches of mined triplets: a batch sampler that mines when a round begins.

It runs in the main process, so mining sees the current weights and workers only decode images. Its state is the
triplets of the round: a run that was interrupted within a round goes on with the same ones.

Every round has the same number of batches, because Trainer derives round and step from one another when it resumes. A
round that is short of triplets, because images could not be read, begins again with its first ones.
"""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from selavpr_peft.training.images import TripletIndex

logger = logging.getLogger(__name__)


class MinedBatchSampler(Sampler[list[TripletIndex]]):
    """Yield the triplets of a mining round in batches; the last incomplete batch is dropped."""

    drop_last = True

    def __init__(self, mine: Callable[[int], np.ndarray], triplets_per_round: int, batch_size: int) -> None:
        """Prepare the first round.

        Args:
            mine: Gives the (T, 2 + N) triplets of a round by its number, counted from 0.
            triplets_per_round: Triplets a round is expected to give.
            batch_size: Triplets per batch.
        """
        self.mine = mine
        self.triplets_per_round = triplets_per_round
        self.batch_size = batch_size
        self.round = 0
        self.sampler = self  # where accelerate looks for set_epoch behind its own wrapper, in several processes
        self._triplets: np.ndarray | None = None
        self._mined_round = -1

    def set_epoch(self, epoch: int) -> None:
        """Go to a round.

        Args:
            epoch: Number of the round, counted from 0.
        """
        self.round = epoch

    def __len__(self) -> int:
        return self.triplets_per_round // self.batch_size

    def __iter__(self) -> Iterator[list[TripletIndex]]:
        if self._triplets is None or self._mined_round != self.round:
            self._triplets = self._complete(self.mine(self.round))
            self._mined_round = self.round
        number, triplets = self._mined_round, self._triplets
        for start in range(0, len(triplets) - self.batch_size + 1, self.batch_size):
            rows = triplets[start : start + self.batch_size].tolist()
            yield [TripletIndex(number, start + offset, tuple(row)) for offset, row in enumerate(rows)]

    def _complete(self, triplets: np.ndarray) -> np.ndarray:
        missing = self.triplets_per_round - len(triplets)
        if not len(triplets):
            raise ValueError(f"Round {self.round} has no triplet whose images can be read; check the files.")
        if missing > 0:
            logger.warning("%d of %d triplets of round %d are repeated", missing, self.triplets_per_round, self.round)
            triplets = np.resize(triplets, (self.triplets_per_round, triplets.shape[1]))
        return triplets

    def state_dict(self) -> dict[str, Any]:
        """Give the triplets of the round and its number."""
        triplets = None if self._triplets is None else self._triplets.tolist()
        return {"round": self._mined_round, "triplets": triplets}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the triplets of an interrupted round.

        Args:
            state: What `state_dict` gave.
        """
        self._mined_round = state["round"]
        self.round = max(0, self._mined_round)  # Trainer names the round again, but not behind every wrapper
        self._triplets = None if state["triplets"] is None else np.array(state["triplets"], dtype=np.int64)

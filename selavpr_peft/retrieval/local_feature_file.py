"""Keep the local features of many images in one file instead of in memory (1.9 MB per image in float32)."""

from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from selavpr_peft.files import naming_full_disk


class LocalFeatureFile:
    """A scratch file of equally large local feature maps, written once in order and read by position.

    Features are kept exactly, in float32. The file is plain numbers in the machine's own order: it is for the run that
    wrote it.
    """

    def __init__(self, path: Path) -> None:
        """Start an empty file.

        Args:
            path: File to write; one already there is overwritten.
        """
        self.path = path
        self.map_shape: tuple[int, int, int] | None = None
        path.write_bytes(b"")

    def append(self, features: Float[Tensor, "B H W C"]) -> None:
        """Add maps at the end.

        Args:
            features: Maps of the size of those before.

        Raises:
            OSError: If the disk is full.
        """
        _, height, width, channels = features.shape
        self.map_shape = (height, width, channels)
        with naming_full_disk(self.path.parent), self.path.open("ab") as file:
            features.float().contiguous().numpy().tofile(file)

    def read(self, positions: np.ndarray) -> Float[Tensor, "K H W C"]:
        """Read some maps.

        Args:
            positions: Numbers of the maps in the order they were added, counted from 0.
        """
        assert self.map_shape is not None, "nothing has been appended"
        maps = np.memmap(self.path, dtype=np.float32, mode="r").reshape(-1, *self.map_shape)
        return torch.from_numpy(maps[positions])

"""What the tests of place databases share: pictures on disk with positions, and a tiny model."""

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from selavpr_peft import SelaConfig
from selavpr_peft.hub.loading import adapt_freshly
from selavpr_peft.modeling.toy_backbone import toy_backbone


@pytest.fixture
def model():
    return make_model()


def make_model(seed=0, **settings):
    settings = {"image_size": (56, 70), "local_channels": (16, 8)} | settings
    return adapt_freshly(toy_backbone(seed=0), SelaConfig(**settings), seed=seed)


@pytest.fixture
def photographs(tmp_path):
    """A folder of ten different pictures."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "photographs"
    folder.mkdir()
    for number in range(10):
        pixels = rng.integers(0, 256, size=(5, 7, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((84, 60), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def places(photographs):
    """A table of them along a street in the north of Iceland, 0.001 degrees of latitude (111 m) apart."""
    columns = {
        "image": [str(photographs / f"{number}.png") for number in range(10)],
        "key": [f"place {number}" for number in range(10)],
        "frame": list(range(10)),
        "latitude": [66.0 + number / 1000 for number in range(10)],
        "longitude": [-18.0] * 10,
        "street": ["Aðalgata"] * 10,
    }
    return Dataset.from_dict(columns)

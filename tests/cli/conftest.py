"""What the command-line tests share: a runner inside this process, a walk of a few pictures, tiny models on disk."""

import json
import sys
from typing import NamedTuple

import numpy as np
import pytest
import torch
import transformers
from peft import get_peft_model
from PIL import Image
from transformers import Dinov2Config, Dinov2Model, ViTConfig, ViTModel

from selavpr_peft import SelaConfig
from selavpr_peft.cli import app


class Run(NamedTuple):
    """What a run of the command leaves behind."""

    code: int
    out: str
    err: str

    @property
    def report(self):
        return json.loads(self.out)


@pytest.fixture
def selavpr(capsys, monkeypatch):
    """Run the command line as `selavpr ARGUMENTS` would, without starting a process for it."""

    def run(*arguments):
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["selavpr", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            app.main()
        return Run(stop.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture(autouse=True)
def _transformers_speaks_again():
    """Commands silence transformers for the whole process; bring its voice back for the tests that follow."""
    logging = transformers.utils.logging
    verbosity, has_bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    yield
    logging.set_verbosity(verbosity)
    if has_bars:
        logging.enable_progress_bar()


def draw_walk(folder, num_places=6):
    """Take random pictures by day, and by night the same ones darkened; frames from 10 on."""
    rng = np.random.default_rng(0)
    lines = ["image,traverse,frame"]
    for place in range(num_places):
        day = rng.integers(0, 256, size=(6, 8, 3), dtype=np.uint8)
        for traverse, pixels in {"day": day, "night": day // 3}.items():
            (folder / traverse).mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(pixels).resize((40, 30), Image.Resampling.NEAREST)
            picture.save(folder / traverse / f"{place}.png")
            lines.append(f"{traverse}/{place}.png,{traverse},{10 + place}")
    (folder / "places.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def walk(tmp_path):
    """A folder of six places with the traverses day and night, fit for being damaged."""
    return draw_walk(tmp_path / "walk")


def tiny_dinov2(num_layers):
    torch.manual_seed(0)
    return Dinov2Model(
        Dinov2Config(
            hidden_size=32, num_hidden_layers=num_layers, num_attention_heads=2, image_size=224, patch_size=56
        )
    )


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """A folder of saved models: `backbone` and `deeper`, `adapter` and `no-local-head` for the first, and `vit`."""
    folder = tmp_path_factory.mktemp("models")
    tiny_dinov2(2).save_pretrained(folder / "backbone")
    tiny_dinov2(3).save_pretrained(folder / "deeper")
    settings = {"adapter": {"local_channels": (16, 8)}, "no-local-head": {"use_local_head": False}}
    for name, fields in settings.items():
        config = SelaConfig(image_size=(112, 168), resize="official", **fields)
        get_peft_model(tiny_dinov2(2), config).save_pretrained(folder / name)
    vit = ViTConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32)
    ViTModel(vit).save_pretrained(folder / "vit")
    return folder


@pytest.fixture
def indexed(selavpr, walk, models, tmp_path):
    """A database of the walk by day, and what building it said."""
    folder = tmp_path / "walk.placedb"
    model = ("--backbone", models / "backbone", "--adapter", models / "adapter")
    run = selavpr("index", f"{walk}:day", *model, "--output", folder)
    assert run.code == 0, run.err
    return folder, model, run

"""`preprocessor_config.json`: a stock processor gives the very numbers of `Preprocessing`, also when it is absent."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor

from selavpr_peft.errors import CheckpointError
from selavpr_peft.hub.preprocessor_file import RESIZE_KEY, read_preprocessor, write_preprocessor
from selavpr_peft.modeling.preprocessing import Preprocessing


def picture(height, width, mode="RGB"):
    pixels = np.random.default_rng(height).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels).convert(mode)


@pytest.fixture
def folder(tmp_path):
    write_preprocessor(tmp_path, Preprocessing(image_size=(56, 84)))
    return tmp_path


def edit(folder, **changes):
    path = folder / "preprocessor_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


class TestAsStockProcessor:
    @pytest.mark.parametrize("size", [(200, 123), (56, 84), (30, 20), (57, 1000)])
    @pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P"])
    def test_gives_the_same_numbers_bit_for_bit_by_pillow(self, folder, size, mode):
        # Without torchvision transformers resizes with Pillow, as we do; with it, 8-bit results are rounded otherwise.
        processor = AutoImageProcessor.from_pretrained(folder, use_fast=False)
        if "torchvision" in str(type(processor).__mro__).lower():
            pytest.skip("torchvision's resize is not Pillow's")
        image = picture(*size, mode)
        found = processor(images=image, return_tensors="pt")["pixel_values"]
        assert torch.equal(found[0], Preprocessing(image_size=(56, 84))(image))

    def test_a_processor_saved_again_reads_as_the_same_preprocessing(self, folder, tmp_path):
        AutoImageProcessor.from_pretrained(folder, use_fast=False).save_pretrained(tmp_path / "again")
        assert read_preprocessor(tmp_path / "again") == Preprocessing(image_size=(56, 84))


class TestReadPreprocessor:
    @pytest.mark.parametrize("resize", ["antialias", "official"])
    def test_reads_what_was_written(self, tmp_path, resize):
        preprocessing = Preprocessing(image_size=(224, 308), resize=resize)
        write_preprocessor(tmp_path, preprocessing)
        assert read_preprocessor(tmp_path) == preprocessing

    def test_is_none_where_there_is_no_file(self, tmp_path):
        assert read_preprocessor(tmp_path) is None

    def test_takes_a_stock_file_without_our_key_for_antialias(self, folder):
        path = folder / "preprocessor_config.json"
        content = json.loads(path.read_text())
        del content[RESIZE_KEY]
        path.write_text(json.dumps(content))
        assert read_preprocessor(folder).resize == "antialias"

    @pytest.mark.parametrize(
        "change", [{"do_center_crop": True}, {"image_mean": [0.5, 0.5, 0.5]}, {"resample": 3}, {"do_rescale": False}]
    )
    def test_refuses_what_would_change_the_pixels(self, folder, change):
        edit(folder, **change)
        with pytest.raises(CheckpointError, match=f"{next(iter(change))}=.*Save the adapter again"):
            read_preprocessor(folder)

    @pytest.mark.parametrize("change", [{"size": {"shortest_edge": 256}}, {"size": 224}, {RESIZE_KEY: "bicubic"}])
    def test_names_the_file_that_is_of_another_kind(self, folder, change):
        edit(folder, **change)
        with pytest.raises(CheckpointError, match=r"preprocessor_config.json must be as selavpr_peft writes it"):
            read_preprocessor(folder)

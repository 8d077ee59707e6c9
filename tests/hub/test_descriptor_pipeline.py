"""The pipeline gives the descriptors that the model gives, whatever images come in and in whatever batches."""

import numpy as np
import pytest
import torch
from PIL import Image

import selavpr_peft
from selavpr_peft.errors import UnreadableImageError
from selavpr_peft.hub import DescriptorPipeline, save_adapter
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.modeling.toy_backbone import toy_backbone
from tests.hub.published import adapted


@pytest.fixture
def model():
    return adapted()


@pytest.fixture
def describe(model):
    return DescriptorPipeline(model)


def picture(seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


class TestCall:
    def test_gives_the_descriptors_of_the_model(self, model, describe):
        images = [picture(seed) for seed in range(3)]
        prepare = Preprocessing.of(model.active_peft_config)
        with torch.inference_mode():
            expected = model(pixel_values=torch.stack(list(map(prepare, images)))).global_descriptors
        torch.testing.assert_close(describe(images), expected)

    def test_one_image_gives_one_vector_of_unit_norm(self, describe):
        found = describe(picture())
        assert found.shape == (64,)
        assert found.norm().item() == pytest.approx(1)

    def test_path_picture_and_array_are_the_same(self, describe, tmp_path):
        image = picture()
        image.save(tmp_path / "photo.png")
        for form in (tmp_path / "photo.png", str(tmp_path / "photo.png"), np.array(image)):
            assert torch.equal(describe(form), describe(image))

    def test_a_grey_array_is_taken_as_grey(self, describe):
        grey = picture().convert("L")
        assert torch.equal(describe(np.array(grey)), describe(grey))

    @pytest.mark.parametrize("batch_size", [1, 2, 5, 16])
    def test_batches_do_not_change_the_numbers(self, describe, batch_size):
        images = [picture(seed) for seed in range(5)]
        torch.testing.assert_close(describe(images, batch_size=batch_size), describe(images))

    def test_an_iterable_is_read_batch_by_batch(self, model):
        describe, opened = DescriptorPipeline(model, batch_size=2), []

        def images():
            for seed in range(3):
                opened.append(seed)
                yield picture(seed)

        assert describe(images()).shape == (3, 64)
        assert opened == [0, 1, 2]

    def test_no_images_give_no_descriptors(self, describe):
        assert describe([]).shape == (0, 64)

    def test_a_file_that_cannot_be_read_is_named(self, describe, tmp_path):
        with pytest.raises(UnreadableImageError, match=r"nothing.png"):
            describe([tmp_path / "nothing.png"])

    @pytest.mark.parametrize("array", [np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros(3, np.uint8)])
    def test_an_array_that_is_no_image_is_refused(self, describe, array):
        with pytest.raises(ValueError, match=r"must be an 8-bit image \(H, W\) or \(H, W, 3\), got"):
            describe(array)

    def test_its_name_tells_what_comes_out(self, describe):
        assert repr(describe) == (
            "DescriptorPipeline(adapter 'default', 64 channels,"
            " Preprocessing(image_size=(56, 84), resize='antialias'), batch_size=16)"
        )

    def test_it_leaves_the_local_features_of_the_model_on(self, model, describe):
        describe(picture())
        assert model(pixel_values=torch.zeros(1, 3, 56, 84)).local_features is not None


class TestPipeline:
    def test_loads_an_adapter_by_its_folder(self, model, describe, tmp_path):
        save_adapter(model, tmp_path / "city")
        loaded = selavpr_peft.pipeline(tmp_path / "city", backbone=toy_backbone(num_layers=2), device=-1)
        assert torch.equal(loaded(picture()), describe(picture()))

    def test_the_type_of_the_backbone_can_be_named(self, model, describe, tmp_path):
        toy_backbone(num_layers=2).save_pretrained(tmp_path / "backbone")
        save_adapter(model, tmp_path / "city")
        loaded = selavpr_peft.pipeline(tmp_path / "city", backbone=tmp_path / "backbone", dtype="bfloat16")
        found = loaded(picture())
        assert found.dtype == torch.float32
        assert not torch.equal(found, describe(picture()))
        assert torch.dot(found, describe(picture())) > 0.99

    @pytest.mark.parametrize("dtype", ["half a float", "int8", torch.int8])
    def test_a_type_that_is_none_is_refused(self, dtype, tmp_path):
        with pytest.raises(ValueError, match="dtype must be a floating-point type"):
            selavpr_peft.pipeline(tmp_path, dtype=dtype)

    def test_a_batch_has_at_least_one_image(self, model):
        with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
            selavpr_peft.pipeline(model, batch_size=0)

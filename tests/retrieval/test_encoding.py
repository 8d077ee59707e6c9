"""Encoding a table of places: its order, its batches, and images that cannot be read."""

import logging

import numpy as np
import pytest
import torch
from datasets import Dataset
from datasets import Image as ImageColumn
from peft import get_peft_model
from PIL import Image

from selavpr_peft import SelaConfig
from selavpr_peft.errors import UnreadableImageError
from selavpr_peft.modeling.preprocessing import Preprocessing
from selavpr_peft.retrieval.encoding import encode_places

PREPROCESSING = Preprocessing(image_size=(28, 42))


def photograph(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, size=(30, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def places_of(images, **columns):
    """A table of image files (paths) or their content (bytes)."""
    entries = [
        {"bytes": None, "path": str(i)} if not isinstance(i, bytes) else {"bytes": i, "path": None} for i in images
    ]
    keys = [f"place-{number}" for number in range(len(images))]
    return Dataset.from_dict({"image": entries, "key": keys} | columns).cast_column("image", ImageColumn())


@pytest.fixture
def model(tiny_backbone):
    return get_peft_model(tiny_backbone, SelaConfig(local_channels=(8, 4))).eval()


@pytest.fixture
def files(tmp_path):
    """Seven different photographs."""
    paths = [tmp_path / f"{number}.png" for number in range(7)]
    for number, path in enumerate(paths):
        photograph(number).save(path)
    return paths


def encode_all(model, places, **options):
    """Collect (rows, descriptors, local features, unreadable) of all batches."""
    batches = list(encode_places(model, places, PREPROCESSING, **options))
    filled = [batch for batch in batches if batch.rows]
    return (
        [row for batch in batches for row in batch.rows],
        torch.cat([batch.global_descriptors for batch in filled]),
        torch.cat([batch.local_features for batch in filled]),
        {row: reason for batch in batches for row, reason in batch.unreadable.items()},
    )


class TestEncodePlaces:
    def test_images_are_described_in_the_order_of_the_table(self, model, files):
        rows, descriptors, features, unreadable = encode_all(model, places_of(files[::-1]), batch_size=3)
        assert (rows, unreadable) == (list(range(7)), {})
        with torch.inference_mode():
            alone = [model(pixel_values=PREPROCESSING(photograph(seed))[None]) for seed in reversed(range(7))]
        torch.testing.assert_close(descriptors, torch.cat([o.global_descriptors for o in alone]), rtol=0, atol=1e-6)
        torch.testing.assert_close(features, torch.cat([o.local_features for o in alone]), rtol=0, atol=1e-6)

    @pytest.mark.parametrize("batch_size", [1, 2, 16])
    def test_the_batch_size_does_not_matter(self, model, files, batch_size):
        rows, descriptors, features, _ = encode_all(model, places_of(files), batch_size=batch_size)
        expected = encode_all(model, places_of(files), batch_size=7)
        assert rows == expected[0]
        torch.testing.assert_close(descriptors, expected[1], rtol=0, atol=1e-6)
        torch.testing.assert_close(features, expected[2], rtol=0, atol=1e-6)

    def test_workers_give_the_same_in_the_same_order(self, model, files):
        files[3].write_bytes(b"damaged")
        expected = encode_all(model, places_of(files), batch_size=2)
        found = encode_all(model, places_of(files), batch_size=2, num_workers=2)
        assert (found[0], found[3]) == (expected[0], expected[3])
        assert torch.equal(found[1], expected[1])
        assert torch.equal(found[2], expected[2])

    def test_images_inside_the_table_are_read_like_files(self, model, files):
        inside = places_of([path.read_bytes() for path in files])
        assert torch.equal(encode_all(model, inside)[1], encode_all(model, places_of(files))[1])

    def test_decoded_images_of_a_table_made_in_memory_are_read(self, model, files):
        images = [photograph(seed) for seed in range(7)]
        made = Dataset.from_dict({"image": images}).cast_column("image", ImageColumn())
        assert torch.equal(encode_all(model, made)[1], encode_all(model, places_of(files))[1])

    def test_a_model_without_local_head_gives_descriptors_only(self, tiny_backbone, files):
        model = get_peft_model(tiny_backbone, SelaConfig(use_local_head=False)).eval()
        (batch,) = encode_places(model, places_of(files), PREPROCESSING)
        assert (tuple(batch.global_descriptors.shape), batch.local_features) == ((7, 32), None)

    def test_no_gradient_is_kept(self, model, files):
        model.train()
        (batch,) = encode_places(model, places_of(files), PREPROCESSING)
        assert not batch.global_descriptors.requires_grad
        assert not batch.local_features.requires_grad

    def test_pictures_of_16_bits_are_read_alike_in_files_and_inside_the_table(self, model, tmp_path):
        ramp = np.linspace(0, 65535, 30 * 40).reshape(30, 40).astype(np.uint16)
        Image.fromarray(ramp).save(tmp_path / "deep.png")
        Image.fromarray((ramp // 256).astype(np.uint8)).save(tmp_path / "shallow.png")
        deep, shallow = tmp_path / "deep.png", tmp_path / "shallow.png"
        _, descriptors, _, _ = encode_all(model, places_of([shallow, deep, deep.read_bytes()]))
        assert torch.equal(descriptors[[0, 0]], descriptors[1:])

    def test_photographs_are_turned_upright_in_files_and_inside_the_table(self, model, tmp_path):
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 90 degrees
        photograph(0).save(tmp_path / "turned.png", exif=exif)
        photograph(0).rotate(-90, expand=True).save(tmp_path / "upright.png")
        turned, upright = tmp_path / "turned.png", tmp_path / "upright.png"
        _, descriptors, _, _ = encode_all(model, places_of([upright, turned, turned.read_bytes()]))
        assert torch.equal(descriptors[[0, 0]], descriptors[1:3])

    def test_an_empty_table_gives_no_batches(self, model):
        places = Dataset.from_dict({"image": [], "key": []}).cast_column("image", ImageColumn())
        assert list(encode_places(model, places, PREPROCESSING)) == []


class TestUnreadableImages:
    def test_they_are_named_and_skipped(self, model, files, caplog):
        files[1].write_bytes(files[1].read_bytes()[:100])
        files[4].unlink()
        expected = encode_all(model, places_of([files[row] for row in (0, 2, 3, 5, 6)]))
        with caplog.at_level(logging.WARNING, logger="selavpr_peft"):
            rows, descriptors, features, unreadable = encode_all(model, places_of(files), batch_size=3)
        assert rows == [0, 2, 3, 5, 6]
        torch.testing.assert_close(descriptors, expected[1], rtol=0, atol=1e-6)
        torch.testing.assert_close(features, expected[2], rtol=0, atol=1e-6)
        assert sorted(unreadable) == [1, 4]
        for row in (1, 4):
            assert str(files[row]) in unreadable[row]
            assert unreadable[row] in caplog.text

    def test_an_image_inside_the_table_is_named_by_its_key(self, model, files):
        places = places_of([files[0].read_bytes(), b"damaged"])
        assert encode_all(model, places)[3][1].startswith("The image place-1 cannot be read (UnidentifiedImageError")

    def test_without_keys_the_row_is_named(self, model, files):
        places = places_of([files[0].read_bytes(), b"damaged"]).remove_columns("key")
        assert "The image row 1 cannot be read" in encode_all(model, places)[3][1]

    def test_an_entry_without_an_image_is_named(self, model, files):
        image = {"bytes": None, "path": str(files[0])}
        places = Dataset.from_dict({"image": [image, None], "key": ["a", "b"]}).cast_column("image", ImageColumn())
        assert encode_all(model, places)[3] == {
            1: "The image b cannot be read (the table has none); add or remove it."
        }

    def test_a_batch_of_nothing_else_is_reported_too(self, model, files):
        for path in files[2:4]:
            path.write_bytes(b"damaged")
        batches = list(encode_places(model, places_of(files), PREPROCESSING, batch_size=2))
        assert [batch.rows for batch in batches] == [[0, 1], [], [4, 5], [6]]
        assert sorted(batches[1].unreadable) == [2, 3]
        assert (len(batches[1].global_descriptors), batches[1].local_features) == (0, None)

    @pytest.mark.parametrize("num_workers", [0, 1])
    def test_strict_mode_stops_at_the_first(self, model, files, num_workers):
        files[3].write_bytes(b"damaged")
        batches = encode_places(
            model, places_of(files), PREPROCESSING, batch_size=2, num_workers=num_workers, is_strict=True
        )
        assert next(batches).rows == [0, 1]
        with pytest.raises(UnreadableImageError, match=r"The image .*3\.png cannot be read .*; replace or remove it"):
            next(batches)


class TestNumbersThatAreNone:
    @pytest.mark.parametrize("name", ["sela_gem_p", "sela_upconv2"])  # descriptors only, local features only
    def test_the_image_is_named(self, model, files, name):
        for parameter_name, parameter in model.named_parameters():
            if name in parameter_name:
                parameter.data.fill_(torch.nan)
        with pytest.raises(
            ValueError, match="gives NaN, infinity or only zeros for place-0; check the adapter's weights"
        ):
            list(encode_places(model, places_of(files), PREPROCESSING))

    def test_the_right_image_is_named(self, model, files):
        files[0].write_bytes(b"damaged")
        places = places_of(files).remove_columns("key")
        spoiling = SpoilLast(model)
        with pytest.raises(ValueError, match="gives NaN, infinity or only zeros for row 2;"):
            list(encode_places(spoiling, places, PREPROCESSING, batch_size=3))


class SpoilLast(torch.nn.Module):
    """A model whose last descriptor of every batch is no number."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        output = self.model(pixel_values=pixel_values)
        output.global_descriptors[-1, 0] = torch.inf
        return output

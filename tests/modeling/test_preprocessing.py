"""From an image file to network input, in both ways, whatever the file holds."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from selavpr_peft.errors import UnreadableImageError
from selavpr_peft.modeling.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Preprocessing,
    normalise,
    read_image,
    resize_antialiased,
    resize_official,
)

UPRIGHT = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3) * 14
"""2 rows, 3 columns, all values different."""

SIZES = [(7, 5), (5, 16), (20, 9), (40, 50), (13, 17)]


def picture(height=13, width=17, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def standardised(pixels):
    """Plain ImageNet normalisation of values in 0 ... 255, (H, W, 3) -> (3, H, W)."""
    return ((pixels / 255 - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD)).transpose(2, 0, 1)


def bilinear(image, height, width):
    """Sample the four nearest pixels at every target's centre, borders repeated: no antialias."""
    rows, columns = image.shape[:2]
    out = np.zeros((height, width, 3))
    for y in range(height):
        for x in range(width):
            v = max((y + 0.5) * rows / height - 0.5, 0)
            u = max((x + 0.5) * columns / width - 0.5, 0)
            top, left = math.floor(v), math.floor(u)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            above = image[top, left] * (1 - u + left) + image[top, right] * (u - left)
            below = image[bottom, left] * (1 - u + left) + image[bottom, right] * (u - left)
            out[y, x] = above * (1 - v + top) + below * (v - top)
    return out


def triangle_filtered(image, height, width):
    """Weight every pixel by a triangle as wide as a target pixel (at least one pixel): antialiased."""
    return np.einsum("hy,wx,yxc->hwc", triangles(len(image), height), triangles(image.shape[1], width), image)


def triangles(size_in, size_out):
    scale = max(size_in / size_out, 1)
    weights = np.zeros((size_out, size_in))
    for out in range(size_out):
        centre = (out + 0.5) * size_in / size_out
        for pixel in range(size_in):
            weights[out, pixel] = max(0, 1 - abs(pixel + 0.5 - centre) / scale)
    return weights / weights.sum(axis=1, keepdims=True)


class TestResizing:
    @pytest.mark.parametrize("size", SIZES)
    def test_official_is_normalising_and_then_plain_bilinear_sampling(self, size):
        image = picture()
        found = Preprocessing(image_size=size, resize="official")(image)
        pixels = standardised(np.asarray(image)).transpose(1, 2, 0)
        np.testing.assert_allclose(found.numpy(), bilinear(pixels, *size).transpose(2, 0, 1), atol=1e-5)

    @pytest.mark.parametrize("size", SIZES)
    def test_antialias_is_a_triangle_filter_and_then_normalising(self, size):
        image = picture()
        found = Preprocessing(image_size=size, resize="antialias")(image)
        expected = standardised(triangle_filtered(np.asarray(image).astype(float), *size))
        half_a_step_each_way = 1.01 / 255 / min(IMAGENET_STD)  # Pillow rounds to 8 bits after each axis
        np.testing.assert_allclose(found.numpy(), expected, atol=half_a_step_each_way)

    def test_official_may_miss_what_antialias_averages(self):
        stripes = np.zeros((9, 9, 3), dtype=np.uint8)
        stripes[:, 1::2] = 255  # thirds: centres at columns 1, 4, 7, which are white, black, white
        image = Image.fromarray(stripes)
        black, white = ((value - np.array(IMAGENET_MEAN)) / np.array(IMAGENET_STD) for value in (0, 1))
        official = resize_official(image, (3, 3)).numpy()
        for column, expected in enumerate((white, black, white)):
            np.testing.assert_allclose(official[:, :, column], np.repeat(expected[:, None], 3, axis=1), atol=1e-5)
        antialiased = resize_antialiased(image, (3, 3)).numpy() * np.array(IMAGENET_STD)[:, None, None]
        grey = antialiased + np.array(IMAGENET_MEAN)[:, None, None]
        assert 0.35 < grey.min() < grey.max() < 0.65

    def test_both_agree_within_rounding_where_nothing_is_shrunk(self):
        image = picture()
        difference = resize_official(image, (26, 51)) - resize_antialiased(image, (26, 51))
        assert difference.abs().max() < 1.5 / 255 / min(IMAGENET_STD)

    @pytest.mark.parametrize("resize", ["official", "antialias"])
    def test_to_the_size_a_picture_has_is_normalising_alone(self, resize):
        image = picture(14, 28)
        assert torch.equal(Preprocessing(image_size=(14, 28), resize=resize)(image), normalise(image))

    @pytest.mark.parametrize("resize", ["official", "antialias"])
    def test_takes_the_height_first_and_ignores_the_aspect_ratio(self, resize):
        pixels = np.zeros((40, 40, 3), dtype=np.uint8)
        pixels[:20] = 255  # the upper half is white
        found = Preprocessing(image_size=(28, 70), resize=resize)(Image.fromarray(pixels))
        assert found.shape == (3, 28, 70)
        assert found.dtype == torch.float32
        assert (found[:, :13] > 0).all()
        assert (found[:, 15:] < 0).all()

    def test_is_to_224_with_antialias_unless_asked_otherwise(self):
        image = picture()
        assert torch.equal(Preprocessing()(image), resize_antialiased(image, (224, 224)))

    @pytest.mark.parametrize("resize", ["bicubic", "", "Official"])
    def test_in_an_unknown_way_is_refused(self, resize):
        with pytest.raises(ValueError, match=f"resize must be one of 'antialias', 'official', got '{resize}'"):
            Preprocessing(resize=resize)


class TestNormalise:
    def test_by_hand(self):
        image = Image.new("RGB", (1, 1), (255, 0, 51))
        # (1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (0.2 - 0.406) / 0.225
        torch.testing.assert_close(normalise(image).flatten(), torch.tensor([2.248908, -2.035714, -0.915556]))


class TestModes:
    """Pictures that are not 8-bit RGB are brought to it before anything else."""

    def prepared(self, image):
        return Preprocessing(image_size=(image.height, image.width))(image)

    def grey(self, *values):
        return normalise(Image.fromarray(np.repeat(np.array([values], dtype=np.uint8)[..., None], 3, axis=2)))

    def test_greyscale_becomes_three_equal_channels(self):
        image = Image.fromarray(np.array([[0, 100, 255]], dtype=np.uint8))
        assert torch.equal(self.prepared(image), self.grey(0, 100, 255))

    def test_transparency_is_dropped(self):
        image = Image.new("RGBA", (2, 2), (10, 20, 30, 0))
        assert torch.equal(self.prepared(image), normalise(Image.new("RGB", (2, 2), (10, 20, 30))))
        assert torch.equal(self.prepared(Image.new("LA", (3, 1), (7, 128))), self.grey(7, 7, 7))

    def test_palettes_are_looked_up(self):
        colours = Image.new("RGB", (2, 1), (200, 0, 0))
        colours.putpixel((1, 0), (0, 0, 200))
        assert torch.equal(self.prepared(colours.quantize(2)), normalise(colours))

    def test_one_bit_is_black_and_white(self):
        image = Image.new("1", (2, 1))
        image.putpixel((1, 0), 1)
        assert torch.equal(self.prepared(image), self.grey(0, 255))

    @pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
    def test_sixteen_bits_are_scaled_and_not_clipped(self, tmp_path, suffix):
        values = np.array([[0, 255, 256, 32768, 65535]], dtype=np.uint16)
        path = tmp_path / f"a.{suffix}"
        if suffix == "pgm":
            path.write_bytes(b"P5 5 1 65535\n" + values.astype(">u2").tobytes())
        else:
            Image.fromarray(values).save(path)
        expected = self.grey(0, 0, 1, 128, 255)
        with Image.open(path) as image:
            assert image.mode in ("I;16", "I")
            assert torch.equal(self.prepared(image), expected)
        assert torch.equal(normalise(read_image(path)), expected)

    def test_sixteen_bits_in_the_other_byte_order_are_scaled_too(self):
        image = Image.frombytes("I;16B", (2, 1), np.array([512, 65535], dtype=">u2").tobytes())
        assert torch.equal(self.prepared(image), self.grey(2, 255))

    def test_floating_point_numbers_are_refused(self, tmp_path):
        image = Image.fromarray(np.array([[0.0, 0.5, 300.0]], dtype=np.float32))
        with pytest.raises(ValueError, match="floating-point numbers has no known range"):
            self.prepared(image)
        image.save(tmp_path / "a.tif")
        with pytest.raises(UnreadableImageError, match=r"a\.tif.*no known range"):
            read_image(tmp_path / "a.tif")


class TestReadImage:
    @pytest.mark.parametrize("suffix", ["png", "bmp", "webp", "tif"])
    def test_gives_the_pixels_as_rgb(self, tmp_path, suffix):
        options = {"lossless": True} if suffix == "webp" else {}
        picture().save(tmp_path / f"a.{suffix}", **options)
        for path in (tmp_path / f"a.{suffix}", str(tmp_path / f"a.{suffix}")):
            image = read_image(path)
            assert image.mode == "RGB"
            assert np.array_equal(np.asarray(image), np.asarray(picture()))

    def test_reads_bytes_that_were_opened(self, tmp_path):
        content = io.BytesIO()
        picture().save(content, "png")
        assert np.array_equal(np.asarray(read_image(io.BytesIO(content.getvalue()))), np.asarray(picture()))

    @pytest.mark.parametrize(
        ("orientation", "stored"),
        [
            (1, UPRIGHT),
            (2, UPRIGHT[:, ::-1]),  # mirrored left to right
            (3, UPRIGHT[::-1, ::-1]),  # upside down
            (4, UPRIGHT[::-1]),
            (5, UPRIGHT.transpose(1, 0, 2)),  # the first row shows the left side
            (6, np.rot90(UPRIGHT, 1)),  # the first row shows the right side: turn clockwise
            (7, UPRIGHT[::-1, ::-1].transpose(1, 0, 2)),
            (8, np.rot90(UPRIGHT, -1)),
        ],
    )
    def test_turns_a_picture_upright(self, tmp_path, orientation, stored):
        exif = Image.Exif()
        exif[0x0112] = orientation
        Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / "a.png", exif=exif)
        assert np.array_equal(np.asarray(read_image(tmp_path / "a.png")), UPRIGHT)

    @pytest.mark.parametrize("suffix", ["png", "jpg"])
    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
    def test_names_a_file_that_is_cut_off(self, tmp_path, suffix, share):
        path = tmp_path / f"a.{suffix}"
        picture(200, 200).save(path)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        assert self.refusal(path).startswith(f"The image {path} cannot be read (")

    @pytest.mark.parametrize("content", [b"", b"no picture at all", b"\x89PNG\r\n\x1a\n", b"P5 2"])
    def test_names_a_file_that_is_no_picture(self, tmp_path, content):
        path = tmp_path / "a.png"
        path.write_bytes(content)
        assert self.refusal(path).startswith(f"The image {path} cannot be read (")

    def test_names_a_file_that_is_missing(self, tmp_path):
        assert "FileNotFoundError" in self.refusal(tmp_path / "a.png")

    def test_names_a_folder(self, tmp_path):
        assert "IsADirectoryError" in self.refusal(tmp_path)

    def test_names_a_picture_too_large_to_be_one(self, tmp_path, monkeypatch):
        picture().save(tmp_path / "a.png")
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)  # 13 x 17 pixels are more than twice as many
        assert "DecompressionBombError" in self.refusal(tmp_path / "a.png")

    def refusal(self, path):
        with pytest.raises(UnreadableImageError) as caught:
            read_image(path)
        assert isinstance(caught.value, OSError)
        assert str(path) in str(caught.value)
        assert str(caught.value).endswith("replace or remove it.")
        return str(caught.value)

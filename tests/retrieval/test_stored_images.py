"""The pictures of a table, one by one: none is read before it is asked for, and one that cannot be is named."""

import pytest
from datasets import Dataset, Image
from PIL import Image as Pillow

from selavpr_peft.errors import UnreadableImageError
from selavpr_peft.retrieval.stored_images import StoredImages


@pytest.fixture
def places(tmp_path):
    """A file, the same picture inside the table, something damaged, and nothing."""
    Pillow.new("RGB", (4, 3), (10, 20, 30)).save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    entries = [
        {"path": str(tmp_path / "a.png"), "bytes": None},
        {"path": None, "bytes": content},
        {"path": None, "bytes": b"damaged"},
        None,
    ]
    return Dataset.from_dict({"image": entries, "key": list("abcd"), "frame": range(4)}).cast_column("image", Image())


class TestStoredImages:
    def test_files_and_pictures_inside_the_table_are_the_same(self, places):
        images = StoredImages(places)
        assert len(images) == 4
        assert [(images[row].size, images[row].getpixel((0, 0))) for row in (0, 1)] == 2 * [((4, 3), (10, 20, 30))]

    @pytest.mark.parametrize(("row", "message"), [(2, r"image c cannot be read \("), (3, r"image d .* has none\)")])
    def test_only_the_picture_that_is_asked_for_can_be_missed_by_its_name(self, places, row, message):
        with pytest.raises(UnreadableImageError, match=message):
            StoredImages(places)[row]

    def test_without_keys_it_is_called_by_its_row(self, places):
        with pytest.raises(UnreadableImageError, match="image row 3 cannot be read"):
            StoredImages(places.remove_columns("key"))[3]

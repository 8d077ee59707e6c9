"""Panels inside axes, and pictures written to disk."""

import pytest
from matplotlib.figure import Figure
from PIL import Image

from selavpr_peft.visualization import save_figure
from selavpr_peft.visualization.figures import row_height, split_axes
from tests.visualization.drawings import blank, rendered


class TestSplitAxes:
    def test_panels_share_the_width_and_leave_gaps_and_a_bottom(self):
        ax = Figure().add_axes((0, 0, 1, 1))
        panels = split_axes(ax, 2, bottom=0.5)
        rendered(ax.figure)
        boxes = [panel.get_position().bounds for panel in panels]  # left, bottom, width, height
        assert boxes[0] == pytest.approx((0, 0.5, 0.49, 0.5))
        assert boxes[1] == pytest.approx((0.51, 0.5, 0.49, 0.5))
        assert not ax.axison


class TestRowHeight:
    def test_the_picture_that_is_highest_for_its_width_counts(self):
        assert row_height([blank(40, 10), blank(10, 20)], 6.0) == pytest.approx(
            2 * 0.49 * 6.0
        )  # twice as high as wide


class TestSaveFigure:
    def test_a_png_of_the_figure_is_written_and_nothing_else(self, tmp_path):
        save_figure(Figure(figsize=(2, 1)), tmp_path / "new" / "figure.png")
        assert [path.name for path in (tmp_path / "new").iterdir()] == ["figure.png"]
        with Image.open(tmp_path / "new" / "figure.png") as image:
            assert (image.format, image.size) == ("PNG", (300, 150))  # 150 dots per inch

    def test_an_old_file_is_replaced(self, tmp_path):
        path = tmp_path / "figure.png"
        path.write_bytes(b"old")
        save_figure(Figure(figsize=(1, 1)), path)
        assert path.read_bytes().startswith(b"\x89PNG")

    def test_a_failure_keeps_the_old_file_and_leaves_no_temporary_one(self, tmp_path, monkeypatch):
        path = tmp_path / "figure.png"
        path.write_bytes(b"old")

        def fail_half_way(self, file, **kwargs):
            file.write_bytes(b"\x89PNG and no more")
            raise OSError("disk full")

        monkeypatch.setattr(Figure, "savefig", fail_half_way)
        with pytest.raises(OSError, match="disk full"):
            save_figure(Figure(), path)
        assert path.read_bytes() == b"old"
        assert [file.name for file in tmp_path.iterdir()] == ["figure.png"]

    def test_another_format_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match=r"must end in \.png, got .*figure\.pdf"):
            save_figure(Figure(), tmp_path / "figure.pdf")

    def test_the_resolution_can_be_chosen(self, tmp_path):
        save_figure(Figure(figsize=(2, 1)), tmp_path / "figure.png", dots_per_inch=60)
        with Image.open(tmp_path / "figure.png") as image:
            assert image.size == (120, 60)

"""What the tests of pictures share: one-coloured images, points, and what can be read off a finished drawing."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image


def blank(width, height, colour=(0, 0, 0)):
    return Image.new("RGB", (width, height), colour)


def points(*rows):
    return np.array(rows, dtype=float).reshape(-1, 2)


def rendered(figure):
    """Render a figure to an array (height, width, 3), rows from the top."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3]


def all_axes(figure):
    """Give the axes of a figure, panels inside others included."""
    found = []
    waiting = list(figure.axes)
    while waiting:
        ax = waiting.pop(0)
        found.append(ax)
        waiting += ax.child_axes
    return found


def is_inside(figure, ax):
    """Tell whether some axes with their labels lie within their figure, once it is drawn."""
    rendered(figure)
    box, page = ax.get_tightbbox(figure.canvas.get_renderer()), figure.bbox
    return box.x0 >= page.x0 - 1 and box.y0 >= page.y0 - 1 and box.x1 <= page.x1 + 1 and box.y1 <= page.y1 + 1

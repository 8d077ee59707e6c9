"""What stands along a street of the synthetic city: houses and gardens, trees and lamp posts."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from selavpr_peft.data.toy_scene import (
    KERB,
    LEFT,
    RIGHT,
    STREET_LEVEL,
    VIEW_WIDTH,
    Colour,
    Pen,
    Scene,
    blend,
    one_of,
    vary,
)

_FACADES = (
    (178, 92, 74),
    (201, 126, 92),
    (222, 196, 152),
    (236, 224, 198),
    (165, 178, 160),
    (140, 160, 178),
    (206, 172, 166),
    (226, 190, 112),
    (150, 138, 128),
    (188, 190, 188),
    (126, 104, 96),
    (112, 138, 140),
)
_ROOFS = ((122, 62, 52), (92, 84, 88), (74, 82, 96), (150, 84, 60), (98, 112, 104))
_TRIMS = ((244, 238, 226), (224, 214, 196), (96, 84, 78), (72, 78, 84))
_SHUTTERS = ((58, 98, 84), (52, 78, 118), (126, 48, 48), (98, 88, 70))
_SIGNS = ((176, 42, 48), (28, 92, 124), (34, 104, 74), (222, 160, 38), (92, 52, 112), (44, 46, 52))
_WORDS = ("CAFE", "HOTEL", "BOOKS", "BAKERY", "BAR", "MARKET", "OPTIK", "RADIO", "TEA", "MUSIC", "FLORA", "KINO")
_LAMPLIGHT = ((255, 206, 120), (255, 224, 164), (255, 186, 92), (226, 232, 255))
_GLASS = (92, 112, 132)
_METAL = (66, 70, 74)


def draw_houses(scene: Scene) -> None:
    """Line the street with three to six houses in the view; now and then a garden takes a house's place.

    Args:
        scene: What is drawn on.
    """
    rng = scene.place
    widths = rng.uniform(0.6, 1.5, size=rng.integers(4, 8))
    edges = LEFT + (RIGHT - LEFT) * np.concatenate([[0], np.cumsum(widths) / widths.sum()])
    for left, right in pairwise(edges.tolist()):
        if rng.random() < 0.1:
            _draw_garden(scene, left, right)
        else:
            _draw_house(scene, left, right)


def _draw_garden(scene: Scene, left: float, right: float) -> None:
    """Draw a wall with trees behind it."""
    for x in scene.place.uniform(left + 6, right - 6, size=3):
        _draw_tree(scene, x, STREET_LEVEL - 2)
    wall = vary(one_of(_FACADES, scene.place), scene.place)
    scene.pen.box(left, STREET_LEVEL - 16, right, STREET_LEVEL, wall)
    scene.pen.box(left, STREET_LEVEL - 18, right, STREET_LEVEL - 15.5, one_of(_TRIMS, scene.place))


def _draw_house(scene: Scene, left: float, right: float) -> None:
    """Draw one house: roof, wall, rows of windows, and a shop or a front door at street level."""
    pen, rng = scene.pen, scene.place
    facade = vary(one_of(_FACADES, rng), rng)
    trim = one_of(_TRIMS, rng)
    top = STREET_LEVEL - rng.uniform(52, 106)
    ground_floor = STREET_LEVEL - rng.uniform(19, 25)
    one_of(_ROOF_SHAPES, rng)(pen, left, right, top, vary(one_of(_ROOFS, rng), rng), facade)
    pen.box(left, top, right, STREET_LEVEL, facade)
    if rng.random() < 0.4:  # courses of stone
        for y in np.arange(top + 3, STREET_LEVEL, rng.uniform(3, 6)):
            pen.box(left, y, right, y + 0.5, blend(facade, (0, 0, 0), 0.1))
    pen.box(left, top, left + 1.5, STREET_LEVEL, blend(facade, (255, 255, 255), 0.2))
    pen.box(right - 1.5, top, right, STREET_LEVEL, blend(facade, (0, 0, 0), 0.28))
    _draw_windows(scene, (left + 2, top + 4, right - 2, ground_floor - 2), trim)
    pen.box(left, ground_floor - 1.5, right, ground_floor, trim)
    if rng.random() < 0.6:
        _draw_shop(scene, left, right, ground_floor)
    else:
        _draw_entrance(scene, left, right, ground_floor, trim)


def _flat_roof(pen: Pen, left: float, right: float, top: float, colour: Colour, facade: Colour) -> None:
    """Draw a cornice and a hut on a flat roof."""
    pen.box(left + 0.2 * (right - left), top - 8, left + 0.5 * (right - left), top, blend(facade, (0, 0, 0), 0.3))
    pen.box(left - 1, top - 3, right + 1, top, colour)


def _gable_roof(pen: Pen, left: float, right: float, top: float, colour: Colour, facade: Colour) -> None:
    """Draw a gable facing the street, with a round window."""
    middle, rise = (left + right) / 2, 0.42 * (right - left)
    pen.polygon([(left - 2, top), (middle, top - rise - 2), (right + 2, top)], colour)
    pen.polygon([(left + 2, top + 1), (middle, top - rise + 2.5), (right - 2, top + 1)], facade)
    pen.disc(middle, top - 0.35 * rise, 2.6, _GLASS)


def _hipped_roof(pen: Pen, left: float, right: float, top: float, colour: Colour, facade: Colour) -> None:
    """Draw a tiled roof seen from its long side, with a chimney."""
    inset, rise = 0.22 * (right - left), 15
    pen.box(right - inset - 8, top - rise - 6, right - inset - 3, top, blend(facade, (60, 40, 40), 0.5))
    pen.polygon([(left - 1, top), (left + inset, top - rise), (right - inset, top - rise), (right + 1, top)], colour)
    for y in (4, 8, 12):
        pen.box(
            left + inset * y / rise, top - y, right - inset * y / rise, top - y + 0.5, blend(colour, (0, 0, 0), 0.2)
        )


def _stepped_roof(pen: Pen, left: float, right: float, top: float, colour: Colour, facade: Colour) -> None:
    """Draw a stepped gable, as in the Low Countries."""
    step = (right - left) / 9
    for level in range(4):
        y = top - 5 * level
        pen.box(left + level * step, y - 5, right - level * step, y + 0.5, facade)
        pen.box(left + level * step - 0.5, y - 6, left + (level + 1) * step, y - 4.5, colour)
        pen.box(right - (level + 1) * step, y - 6, right - level * step + 0.5, y - 4.5, colour)


def _mansard_roof(pen: Pen, left: float, right: float, top: float, colour: Colour, facade: Colour) -> None:
    """Draw a steep slate roof with two dormers."""
    pen.polygon([(left, top), (left + 5, top - 17), (right - 5, top - 17), (right, top)], colour)
    for share in (0.3, 0.7):
        x = left + share * (right - left)
        pen.box(x - 4, top - 12, x + 4, top - 1, facade)
        pen.box(x - 2.5, top - 10, x + 2.5, top - 2, _GLASS)
        pen.polygon([(x - 5, top - 11.5), (x, top - 16), (x + 5, top - 11.5)], facade)


def _pent_roof(pen: Pen, left: float, right: float, top: float, colour: Colour, facade: Colour) -> None:
    """Draw a modern roof rising to one side, with an aerial."""
    pen.box(left + 6, top - 18, left + 6.8, top, _METAL)
    pen.box(left + 3, top - 15, left + 10, top - 14.2, _METAL)
    pen.polygon([(left, top + 0.5), (left, top - 3), (right, top - 16), (right, top + 0.5)], facade)
    pen.polygon([(left - 1, top - 2), (left - 1, top - 5), (right + 1, top - 18), (right + 1, top - 15)], colour)


_ROOF_SHAPES: tuple[Callable[[Pen, float, float, float, Colour, Colour], None], ...] = (
    _flat_roof,
    _gable_roof,
    _hipped_roof,
    _stepped_roof,
    _mansard_roof,
    _pent_roof,
)


def _draw_windows(scene: Scene, wall: tuple[float, float, float, float], trim: Colour) -> None:
    """Fill a wall (left, top, right, bottom) with a grid of windows of one style; the visit says which are lit."""
    rng = scene.place
    left, top, right, bottom = wall
    columns = max(1, round((right - left) / rng.uniform(9, 18)))
    rows = max(1, round((bottom - top) / rng.uniform(12, 20)))
    pitch_x, pitch_y = (right - left) / columns, (bottom - top) / rows
    width, height = pitch_x * rng.uniform(0.36, 0.66), pitch_y * rng.uniform(0.5, 0.7)
    draw_window = one_of(_WINDOW_STYLES, rng)
    accent = one_of(_SHUTTERS, rng)
    lit = scene.visit.random((rows, columns)) < scene.conditions.lit_share
    for row, column in np.ndindex(rows, columns):
        x = left + (column + 0.5) * pitch_x
        y = top + (row + 0.5) * pitch_y
        pane = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        draw_window(scene.pen, pane, trim, accent)
        _draw_pane(scene, pane, lit=bool(lit[row, column]))


def _draw_pane(scene: Scene, pane: tuple[float, float, float, float], *, lit: bool) -> None:
    """Draw a window's glass, lit from inside or mirroring the sky, and its crossbars."""
    left, top, right, bottom = pane
    pen = scene.pen
    if lit:
        pen.shine(
            left, top, right, bottom, blend(one_of(_LAMPLIGHT, scene.visit), (90, 60, 40), scene.visit.random() / 2)
        )
    else:
        pen.box(left, top, right, bottom, _GLASS)
        pen.box(left, top, right, top + 0.3 * (bottom - top), (128, 150, 168))
    middle = (left + right) / 2
    pen.box(middle - 0.3, top, middle + 0.3, bottom, (214, 208, 198))


def _framed_window(pen: Pen, pane: tuple[float, float, float, float], trim: Colour, accent: Colour) -> None:
    """Draw a frame and a sill."""
    left, top, right, bottom = pane
    pen.box(left - 1, top - 1, right + 1, bottom + 1, trim)
    pen.box(left - 1.8, bottom + 0.6, right + 1.8, bottom + 1.8, blend(trim, (0, 0, 0), 0.25))


def _shuttered_window(pen: Pen, pane: tuple[float, float, float, float], trim: Colour, accent: Colour) -> None:
    """Draw a pair of open shutters."""
    left, top, right, bottom = pane
    leaf = 0.38 * (right - left)
    pen.box(left - leaf, top - 0.4, right + leaf, bottom + 0.4, accent)
    pen.box(left - 0.6, top - 0.6, right + 0.6, bottom + 1, trim)


def _arched_window(pen: Pen, pane: tuple[float, float, float, float], trim: Colour, accent: Colour) -> None:
    """Draw a round arch over the window."""
    left, top, right, bottom = pane
    pen.disc((left + right) / 2, top, (right - left) / 2 + 1, trim)
    pen.disc((left + right) / 2, top, (right - left) / 2, accent)
    pen.box(left - 1, top, right + 1, bottom + 1, trim)


def _balcony_window(pen: Pen, pane: tuple[float, float, float, float], trim: Colour, accent: Colour) -> None:
    """Draw a balcony's slab and railing."""
    left, top, right, bottom = pane
    pen.box(left - 0.6, top - 0.6, right + 0.6, bottom + 1, trim)
    pen.box(left - 2, bottom + 0.8, right + 2, bottom + 3.6, _METAL)


def _ribbon_window(pen: Pen, pane: tuple[float, float, float, float], trim: Colour, accent: Colour) -> None:
    """Draw the dark band that joins a row of windows on a modern house."""
    left, top, right, bottom = pane
    reach = 0.8 * (right - left)
    pen.box(left - reach, top - 0.8, right + reach, bottom + 0.8, blend(trim, accent, 0.6))


_WINDOW_STYLES: tuple[Callable[[Pen, tuple[float, float, float, float], Colour, Colour], None], ...] = (
    _framed_window,
    _shuttered_window,
    _arched_window,
    _balcony_window,
    _ribbon_window,
)


def _draw_shop(scene: Scene, left: float, right: float, top: float) -> None:
    """Draw a shop window under a lettered board, some with a striped awning; it is lit in the dark."""
    pen, rng = scene.pen, scene.place
    board = one_of(_SIGNS, rng)
    word = one_of(_WORDS, rng)
    has_awning = rng.random() < 0.45
    pen.box(left + 2, top + 1, right - 2, STREET_LEVEL, blend(board, (30, 26, 26), 0.5))
    for x0, x1 in ((left + 4, left + 0.62 * (right - left)), (left + 0.66 * (right - left), right - 4)):
        if scene.is_dark:
            pen.shine(x0, top + 9, x1, STREET_LEVEL - 2, blend(_LAMPLIGHT[1], (120, 84, 60), scene.visit.random()))
        else:
            pen.box(x0, top + 9, x1, STREET_LEVEL - 2, (96, 118, 128))
    if has_awning:
        _draw_awning(pen, left + 2, right - 2, top + 7, board)
    pen.box(left + 2, top, right - 2, top + 8, board)
    height = min(7.0, 1.4 * (right - left - 6) / len(word))
    pen.write((left + right) / 2, top + 4, word, height, (250, 240, 212), shaded=not scene.is_dark)


def _draw_awning(pen: Pen, left: float, right: float, top: float, colour: Colour) -> None:
    """Draw a striped awning."""
    stripes = max(3, round((right - left) / 5)) | 1  # odd: the same colour at both ends
    width = (right - left) / stripes
    for stripe in range(stripes):
        x = left + stripe * width
        fill = colour if stripe % 2 == 0 else (240, 234, 222)
        pen.polygon([(x, top), (x + width, top), (x + width, top + 6), (x + width / 2, top + 7.5), (x, top + 6)], fill)


def _draw_entrance(scene: Scene, left: float, right: float, top: float, trim: Colour) -> None:
    """Draw a front door with steps, and windows on the ground floor."""
    pen, rng = scene.pen, scene.place
    x = left + rng.uniform(0.25, 0.75) * (right - left)
    _draw_windows(scene, (left + 2, top + 2, right - 2, STREET_LEVEL - 4), trim)
    pen.box(x - 6, top + 2, x + 6, STREET_LEVEL, trim)
    pen.box(x - 4, top + 6, x + 4, STREET_LEVEL, one_of(_SHUTTERS, rng))
    pen.box(x - 4, top + 4, x + 4, top + 7, _GLASS)
    pen.box(x - 8, STREET_LEVEL - 1.5, x + 8, STREET_LEVEL, (170, 166, 160))


def draw_street_furniture(scene: Scene) -> None:
    """Plant the place's trees and lamp posts on the pavement.

    Args:
        scene: What is drawn on.
    """
    rng = scene.place
    for x in rng.uniform(0, VIEW_WIDTH, size=rng.integers(0, 4)):
        _draw_tree(scene, x, KERB - 3)
    for x in np.arange(LEFT + rng.uniform(10, 80), RIGHT, rng.uniform(70, 110)):
        _draw_lamp_post(scene, x)


def _draw_tree(scene: Scene, x: float, foot: float) -> None:
    """Draw a tree: a round one, or a poplar."""
    pen, rng = scene.pen, scene.place
    height, is_poplar = rng.uniform(26, 50), rng.random() < 0.35
    leaves = vary(one_of(((84, 124, 66), (108, 138, 70), (64, 104, 74), (150, 120, 60)), rng), rng)
    pen.box(x - 1.2, foot - 0.6 * height, x + 1.2, foot, (88, 66, 52))
    if is_poplar:
        pen.disc(x, foot - 0.62 * height, 0.52 * height, blend(leaves, (0, 0, 0), 0.15), aspect=2.8)
        pen.disc(x - 1.5, foot - 0.68 * height, 0.4 * height, leaves, aspect=3.2)
        return
    for dx, dy, size in rng.uniform((-0.24, 0.5, 0.16), (0.24, 0.9, 0.26), size=(6, 3)):
        pen.disc(x + dx * height, foot - dy * height + 1.5, size * height, blend(leaves, (0, 0, 0), 0.18))
        pen.disc(x + dx * height - 1, foot - dy * height, 0.85 * size * height, leaves)


def _draw_lamp_post(scene: Scene, x: float) -> None:
    """Draw a street lamp, shining in the dark."""
    pen, top = scene.pen, KERB - 46
    pen.box(x - 0.8, top, x + 0.8, KERB - 2, _METAL)
    pen.box(x - 1.8, KERB - 6, x + 1.8, KERB - 2, _METAL)
    if scene.is_dark:
        pen.lamp(x, top - 2, 2.4, (255, 226, 168))
    else:
        pen.disc(x, top - 2, 2.4, (232, 232, 224))
    pen.box(x - 2.6, top - 5, x + 2.6, top - 4, _METAL)

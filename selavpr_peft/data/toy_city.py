"""Draw a synthetic city in memory: street views of numbered places, each seen in several traverses.

It stands in for a real data set in examples, tests and training runs of a minute. What belongs to a place (skyline,
houses, windows, roofs, signs, trees) follows from the seed and the place's number alone; what belongs to a traverse
(light, sky, lit windows, camera, cars, people, noise) from its name too. The places follow one another along a drive,
as frames do. Needs numpy and Pillow only.

Lengths inside this file are in units of a 224 x 168 view, y pointing down; a larger size shows the same scene finer.
"""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TypeVar
from zlib import crc32

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont

from selavpr_peft.files import write_atomically

_Number = int | float  # the tests' type checker, unlike mypy, takes no int for a float
_Colour = tuple[_Number, _Number, _Number]
_Point = tuple[_Number, _Number]
_T = TypeVar("_T")

_JPEG_QUALITY = 90
_BLOCK_LENGTH, _BLOCK_WIDTH = 14, 5  # of the blocks the drive turns through, in places
_STEP_DEGREES = 12 / 111_195.0  # 12 m on the equator

_VIEW_WIDTH, _VIEW_HEIGHT = 224.0, 168.0
_MARGIN_X, _MARGIN_Y = 26.0, 18.0  # drawn beyond the view, so that the camera may shift and zoom out
_LEFT, _RIGHT = -_MARGIN_X, _VIEW_WIDTH + _MARGIN_X
_TOP, _BOTTOM = -_MARGIN_Y, _VIEW_HEIGHT + _MARGIN_Y
_STREET_LEVEL, _KERB = 133.0, 145.0
_MAX_SHIFT_X, _MAX_SHIFT_Y, _MAX_ZOOM = 8.0, 4.0, 1.05
_OVERSAMPLING = 2.0  # drawn twice as fine and shrunk: smooth edges
_HALO_SHRINK = 4  # the halo of lamps is blurred at a quarter of the view's resolution

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
_CARS = ((188, 44, 44), (44, 84, 148), (232, 232, 228), (52, 56, 62), (214, 174, 62), (120, 140, 128))
_CLOTHES = ((70, 80, 120), (160, 60, 60), (70, 110, 80), (200, 170, 110), (90, 70, 90), (50, 50, 56))
_LAMPLIGHT = ((255, 206, 120), (255, 224, 164), (255, 186, 92), (226, 232, 255))
_GLASS = (92, 112, 132)
_METAL = (66, 70, 74)


def draw_view(place: int, traverse: str, *, seed: int = 0, size: tuple[int, int] = (168, 224)) -> Image.Image:
    """Draw the street view of one place as seen in one traverse.

    Args:
        place: Number of the place, from 0; there is no last one.
        traverse: "day", "night", or any other name, which then stands for a light and weather of its own.
        seed: Number of the city, from 0.
        size: Height and width in pixels. Another aspect ratio than 3:4 shows the same scene stretched.

    Returns:
        An RGB image; equal arguments give equal pixels.

    Raises:
        ValueError: If the place or the seed is negative or the size below one pixel.

    Example:
        >>> draw_view(7, "day").size  # Pillow's order: width, height
        (224, 168)
    """
    if min(place, seed) < 0:
        raise ValueError(f"place and seed must be 0 or greater, got place={place} and seed={seed}; count both from 0.")
    if min(size) < 1:
        raise ValueError(f"size must be (height, width) of at least one pixel, got {size}; the default is (168, 224).")
    scene = _set_out(place, traverse, seed, size)
    for draw in (_draw_sky, _draw_skyline, _draw_houses, _draw_street, _draw_street_furniture, _draw_traffic):
        draw(scene)
    return _photograph(scene, size)


def street_position(place: int) -> tuple[float, float]:
    """Give the latitude and longitude of a place, in degrees: the drive turns through blocks near 0° N 0° E, at sea.

    Args:
        place: Number of the place; two that follow one another are 12 m apart.

    Example:
        >>> street_position(0), street_position(_BLOCK_LENGTH)[0]
        ((0.0, 0.0), 0.0)
    """
    row, step = divmod(place, _BLOCK_LENGTH + _BLOCK_WIDTH)
    along, across = min(step, _BLOCK_LENGTH), max(0, step - _BLOCK_LENGTH)
    east = along if row % 2 == 0 else _BLOCK_LENGTH - along
    north = row * _BLOCK_WIDTH + across
    return north * _STEP_DEGREES, east * _STEP_DEGREES


def write_toy_city(
    folder: str | Path,
    *,
    num_places: int = 40,
    traverses: Sequence[str] = ("day", "night"),
    seed: int = 0,
    size: tuple[int, int] = (168, 224),
) -> Path:
    """Write every place of a city, in every traverse, as JPEG files with a table that `load_places` reads.

    Args:
        folder: Made if missing; receives `<traverse>/<frame>.jpg`, frames in four digits, and `places.csv` with the
            columns image (path within the folder), traverse, frame (the place's number), latitude and longitude.
        num_places: Number of places, at least one.
        traverses: Names of the traverses, each a folder name; none twice.
        seed: Number of the city, from 0.
        size: Height and width in pixels.

    Returns:
        The folder. The table is written last: a folder without it was not finished.

    Raises:
        ValueError: If there is no place, or no traverse, or a traverse is named twice or not fit for a folder name.
    """
    if num_places < 1:
        raise ValueError(f"num_places must be at least 1, got {num_places}.")
    _check_traverses(traverses)
    folder = Path(folder)
    (folder / "places.csv").unlink(missing_ok=True)  # a table left from before would call this half-written city whole
    rows = []
    for traverse in traverses:
        (folder / traverse).mkdir(parents=True, exist_ok=True)
        for place in range(num_places):
            image = f"{traverse}/{place:04d}.jpg"
            draw_view(place, traverse, seed=seed, size=size).save(folder / image, quality=_JPEG_QUALITY)
            rows.append((image, traverse, place))
    write_atomically(folder / "places.csv", lambda path: _write_table(path, rows))
    return folder


def _check_traverses(traverses: Sequence[str]) -> None:
    """Refuse names that would not give one folder each."""
    if isinstance(traverses, str) or not traverses or len(set(traverses)) < len(traverses):
        raise ValueError(f"traverses must be a sequence of different names, got {traverses!r}; e.g. ('day', 'night').")
    unfit = [name for name in traverses if not name or name.startswith(".") or set(name) & set('/\\:*?"<>|')]
    if unfit:
        raise ValueError(
            f"traverses must be fit for folder names, got {unfit[0]!r}; use letters, digits, '_' and '-'."
        )


def _write_table(path: Path, rows: Sequence[tuple[str, str, int]]) -> None:
    """Write the rows of places.csv under their header."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("image", "traverse", "frame", "latitude", "longitude"))
        writer.writerows((*row, *(f"{degrees:.6f}" for degrees in street_position(row[2]))) for row in rows)


@dataclass(frozen=True, kw_only=True)
class _Conditions:
    """Light and weather of a traverse."""

    sky_top: _Colour
    sky_bottom: _Colour
    light: _Colour  # gain per channel on whatever does not shine itself
    lit_share: float  # of the windows
    clouds: float  # mean number
    brightness: float  # mean grey level that the camera exposes for
    noise: float  # range in grey levels
    blur_px: float  # at most, for a view 224 pixels wide


_DAY = _Conditions(
    sky_top=(96, 156, 214),
    sky_bottom=(206, 226, 238),
    light=(1.0, 0.985, 0.95),
    lit_share=0.02,
    clouds=4.0,
    brightness=136.0,
    noise=7.0,
    blur_px=0.3,
)
_NIGHT = _Conditions(
    sky_top=(46, 58, 112),
    sky_bottom=(170, 136, 140),
    light=(0.42, 0.41, 0.52),
    lit_share=0.32,
    clouds=0.0,
    brightness=92.0,
    noise=20.0,
    blur_px=0.7,
)


@cache
def _conditions(traverse: str) -> _Conditions:
    """Look up the light of day and night; give any other name a light of its own, between the two and tinted."""
    if traverse in ("day", "night"):
        return _DAY if traverse == "day" else _NIGHT
    rng = np.random.default_rng(crc32(traverse.encode()))
    darkness = rng.uniform(0.1, 0.8)
    warmth = rng.uniform(-0.18, 0.18)
    tint = (1 + warmth, 1.0, 1 - warmth)
    return replace(
        _NIGHT,
        sky_top=_blend(_DAY.sky_top, _NIGHT.sky_top, darkness, tint),
        sky_bottom=_blend(_DAY.sky_bottom, _NIGHT.sky_bottom, darkness, tint[::-1]),
        light=_blend(_DAY.light, _NIGHT.light, darkness, tint),
        lit_share=rng.uniform(0.0, 0.6) * darkness,
        clouds=rng.uniform(0.0, 9.0),
        brightness=_DAY.brightness + darkness * (_NIGHT.brightness - _DAY.brightness),
        noise=7.0 + 13.0 * darkness,
    )


def _blend(first: _Colour, second: _Colour, share: float, tint: Sequence[float] = (1, 1, 1)) -> _Colour:
    """Mix two colours, `share` being the second one's part, and multiply by a tint."""
    red, green, blue = (a + share * (b - a) for a, b in zip(first, second, strict=True))
    return (red * tint[0], green * tint[1], blue * tint[2])


class _Pen:
    """Draws shapes given in view units: what reflects is dimmed by the light, what shines also leaves a halo.

    The canvas is wide enough for every camera position of a view of `size` (height, width).
    """

    def __init__(self, size: tuple[int, int], light: _Colour) -> None:
        height, width = size
        self.scale_x = _OVERSAMPLING * width / _VIEW_WIDTH
        self.scale_y = _OVERSAMPLING * height / _VIEW_HEIGHT
        self.light = light
        width_px = max(1, round((_RIGHT - _LEFT) * self.scale_x))
        height_px = max(1, round((_BOTTOM - _TOP) * self.scale_y))
        self.image = Image.new("RGB", (width_px, height_px))
        self.halo = Image.new("RGB", self.image.size)
        self._draw = ImageDraw.Draw(self.image)
        self._draw_halo = ImageDraw.Draw(self.halo)

    def lit(self, colour: _Colour) -> tuple[int, int, int]:
        """Tell how a surface of this colour looks in the present light."""
        (red, green, blue), gain = colour, self.light
        return (min(255, int(red * gain[0])), min(255, int(green * gain[1])), min(255, int(blue * gain[2])))

    def at(self, x: float, y: float) -> _Point:
        """Convert view units to pixels of the canvas."""
        return ((x - _LEFT) * self.scale_x, (y - _TOP) * self.scale_y)

    def box(self, left: float, top: float, right: float, bottom: float, colour: _Colour, shaded: bool = True) -> None:
        """Fill a rectangle; nothing if it holds no pixel centre."""
        corners = self._pixels(left, top, right, bottom)
        if corners[0] <= corners[2] and corners[1] <= corners[3]:
            self._draw.rectangle(corners, fill=self.lit(colour) if shaded else _whole(colour))

    def disc(
        self, x: float, y: float, radius: float, colour: _Colour, aspect: float = 1.0, shaded: bool = True
    ) -> None:
        """Fill an ellipse `aspect` times as high as wide, `radius` being half its longer side."""
        half_width, half_height = radius * min(1, 1 / aspect), radius * min(1, aspect)
        corners = (self.at(x - half_width, y - half_height), self.at(x + half_width, y + half_height))
        self._draw.ellipse(corners, fill=self.lit(colour) if shaded else _whole(colour))

    def polygon(self, points: Sequence[_Point], colour: _Colour, shaded: bool = True) -> None:
        """Fill a polygon."""
        self._draw.polygon([self.at(*p) for p in points], fill=self.lit(colour) if shaded else _whole(colour))

    def shine(self, left: float, top: float, right: float, bottom: float, colour: _Colour) -> None:
        """Fill a rectangle that shines by itself; nothing if it holds no pixel centre."""
        corners = self._pixels(left, top, right, bottom)
        if corners[0] <= corners[2] and corners[1] <= corners[3]:
            self._draw.rectangle(corners, fill=_whole(colour))
            self._draw_halo.rectangle(corners, fill=_whole(colour))

    def lamp(self, x: float, y: float, radius: float, colour: _Colour) -> None:
        """Fill a circle that shines, as lamps do, far around it."""
        corners = (self.at(x - radius, y - radius), self.at(x + radius, y + radius))
        wide = (self.at(x - 3 * radius, y - 3 * radius), self.at(x + 3 * radius, y + 3 * radius))
        self._draw.ellipse(corners, fill=_whole(colour))
        self._draw_halo.ellipse(wide, fill=_whole(colour))

    def write(self, x: float, y: float, text: str, height: float, colour: _Colour, shaded: bool = True) -> None:
        """Write a word centred on a point."""
        font = _font(max(1, round(height * self.scale_y)))
        self._draw.text(
            self.at(x, y), text, font=font, fill=self.lit(colour) if shaded else _whole(colour), anchor="mm"
        )

    def _pixels(self, left: float, top: float, right: float, bottom: float) -> tuple[int, int, int, int]:
        """Find the first and last pixel columns and rows (Pillow fills both) whose centres lie in a rectangle."""
        (x0, y0), (x1, y1) = self.at(left, top), self.at(right, bottom)
        return (round(x0), round(y0), round(x1) - 1, round(y1) - 1)


def _whole(colour: _Colour) -> tuple[int, int, int]:
    """Round a colour to what Pillow takes."""
    return (int(colour[0]), int(colour[1]), int(colour[2]))


@cache
def _font(height_px: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Load Pillow's own font once per size."""
    return ImageFont.load_default(height_px)


@dataclass(frozen=True, kw_only=True)
class _Camera:
    """Where this visit's photograph was taken, against the standard one."""

    shift_x: float
    shift_y: float
    zoom: float


@dataclass(frozen=True, kw_only=True)
class _Scene:
    """What the drawing functions share; whatever may differ between traverses comes from `visit`, the rest never."""

    pen: _Pen
    place: np.random.Generator
    visit: np.random.Generator
    conditions: _Conditions
    camera: _Camera

    @property
    def is_dark(self) -> bool:
        """Tell whether lamps are on."""
        return sum(self.conditions.light) < 2.0


def _set_out(place: int, traverse: str, seed: int, size: tuple[int, int]) -> _Scene:
    """Set out for a place: one generator for what is always there, one for this visit."""
    conditions = _conditions(traverse)
    visit = np.random.default_rng([seed, place, crc32(traverse.encode())])
    camera = _Camera(
        shift_x=visit.uniform(-_MAX_SHIFT_X, _MAX_SHIFT_X),
        shift_y=visit.uniform(-_MAX_SHIFT_Y, _MAX_SHIFT_Y),
        zoom=visit.uniform(1 / _MAX_ZOOM, _MAX_ZOOM),
    )
    pen = _Pen(size, conditions.light)
    return _Scene(
        pen=pen, place=np.random.default_rng([seed, place]), visit=visit, conditions=conditions, camera=camera
    )


def _one_of(options: Sequence[_T], rng: np.random.Generator) -> _T:
    """Choose one of several (much faster than `rng.choice`)."""
    return options[int(rng.integers(len(options)))]


def _draw_sky(scene: _Scene) -> None:
    """Fill the canvas with a gradient and put clouds or, in the dark, a moon and stars on it."""
    pen, visit, conditions = scene.pen, scene.visit, scene.conditions
    share = np.linspace(0, 1.7, pen.image.height)[:, None, None].clip(0, 1)
    column = (1 - share) * np.array(conditions.sky_top) + share * np.array(conditions.sky_bottom)
    pen.image.paste(
        Image.fromarray(column.clip(0, 255).astype(np.uint8)).resize(pen.image.size, Image.Resampling.NEAREST)
    )
    for _ in range(visit.poisson(conditions.clouds)):
        _draw_cloud(scene)
    if scene.is_dark:
        for x, y in visit.uniform((_LEFT, _TOP), (_RIGHT, 70), size=(24, 2)):
            pen.shine(x, y, x + 0.7, y + 0.7, (170, 174, 190))
        if visit.random() < 0.5:
            pen.lamp(visit.uniform(10, 214), visit.uniform(6, 30), 5.0, (236, 234, 214))


def _draw_cloud(scene: _Scene) -> None:
    """Draw a cloud anywhere in the sky: a flat heap of discs, a little lighter than the sky."""
    visit = scene.visit
    x, y, width = visit.uniform(_LEFT, _RIGHT), visit.uniform(_TOP, 60), visit.uniform(14, 36)
    colour = _blend(scene.conditions.sky_bottom, (255, 255, 255), 0.45)
    for part in np.linspace(-1, 1, 6):
        radius = width * visit.uniform(0.25, 0.42) * (1.25 - abs(part))
        scene.pen.disc(x + part * width, y - 0.25 * radius, radius, colour, aspect=0.55, shaded=False)


def _draw_skyline(scene: _Scene) -> None:
    """Draw two hazy rows of distant towers and a landmark; being far off, they follow the camera half-way."""
    pen, rng = scene.pen, scene.place
    horizon = _blend(scene.conditions.sky_top, scene.conditions.sky_bottom, 0.6)
    for haze, low, high in ((0.72, 56, 108), (0.5, 42, 84)):
        colour = _blend(pen.lit((92, 102, 120)), horizon, haze)
        drift = 0.5 * scene.camera.shift_x
        if haze > 0.6:
            _draw_landmark(pen, rng, drift, colour)
        left = _LEFT - 20
        while left < _RIGHT + 10:
            width, height = rng.uniform(9, 30), rng.uniform(low, high)
            top = _STREET_LEVEL - height
            pen.box(left + drift, top, left + drift + width, _STREET_LEVEL, colour, shaded=False)
            left += width + max(0, rng.uniform(-30, 14))


def _draw_landmark(pen: _Pen, rng: np.random.Generator, drift: float, colour: _Colour) -> None:
    """Draw one tall silhouette behind the town: a spire, a dome, a television tower or a hill."""
    kind, height = rng.integers(4), rng.uniform(112, 138)
    x, top = drift + rng.uniform(20, 204), _STREET_LEVEL - height
    if kind == 0:
        pen.box(x - 6, top + 34, x + 6, _STREET_LEVEL, colour, shaded=False)
        pen.polygon([(x - 8, top + 36), (x, top), (x + 8, top + 36)], colour, shaded=False)
    elif kind == 1:
        pen.disc(x, top + 32, 20.0, colour, shaded=False)
        pen.box(x - 24, top + 32, x + 24, _STREET_LEVEL, colour, shaded=False)
        pen.box(x - 1.5, top, x + 1.5, top + 16, colour, shaded=False)
    elif kind == 2:
        pen.box(x - 2, top + 8, x + 2, _STREET_LEVEL, colour, shaded=False)
        pen.box(x - 0.6, top - 12, x + 0.6, top + 10, colour, shaded=False)
        pen.disc(x, top + 22, 8.0, colour, aspect=0.6, shaded=False)
    else:
        pen.disc(x, _STREET_LEVEL, 0.9 * height, colour, aspect=0.9, shaded=False)


def _draw_houses(scene: _Scene) -> None:
    """Line the street with three to six houses in the view; now and then a garden takes a house's place."""
    rng = scene.place
    widths = rng.uniform(0.6, 1.5, size=rng.integers(4, 8))
    edges = _LEFT + (_RIGHT - _LEFT) * np.concatenate([[0], np.cumsum(widths) / widths.sum()])
    for left, right in pairwise(edges.tolist()):
        if rng.random() < 0.1:
            _draw_garden(scene, left, right)
        else:
            _draw_house(scene, left, right)


def _draw_garden(scene: _Scene, left: float, right: float) -> None:
    """Draw a wall with trees behind it."""
    for x in scene.place.uniform(left + 6, right - 6, size=3):
        _draw_tree(scene, x, _STREET_LEVEL - 2)
    wall = _vary(_one_of(_FACADES, scene.place), scene.place)
    scene.pen.box(left, _STREET_LEVEL - 16, right, _STREET_LEVEL, wall)
    scene.pen.box(left, _STREET_LEVEL - 18, right, _STREET_LEVEL - 15.5, _one_of(_TRIMS, scene.place))


def _draw_house(scene: _Scene, left: float, right: float) -> None:
    """Draw one house: roof, wall, rows of windows, and a shop or a front door at street level."""
    pen, rng = scene.pen, scene.place
    facade = _vary(_one_of(_FACADES, rng), rng)
    trim = _one_of(_TRIMS, rng)
    top = _STREET_LEVEL - rng.uniform(52, 106)
    ground_floor = _STREET_LEVEL - rng.uniform(19, 25)
    _one_of(_ROOF_SHAPES, rng)(pen, left, right, top, _vary(_one_of(_ROOFS, rng), rng), facade)
    pen.box(left, top, right, _STREET_LEVEL, facade)
    if rng.random() < 0.4:  # courses of stone
        for y in np.arange(top + 3, _STREET_LEVEL, rng.uniform(3, 6)):
            pen.box(left, y, right, y + 0.5, _blend(facade, (0, 0, 0), 0.1))
    pen.box(left, top, left + 1.5, _STREET_LEVEL, _blend(facade, (255, 255, 255), 0.2))
    pen.box(right - 1.5, top, right, _STREET_LEVEL, _blend(facade, (0, 0, 0), 0.28))
    _draw_windows(scene, (left + 2, top + 4, right - 2, ground_floor - 2), trim)
    pen.box(left, ground_floor - 1.5, right, ground_floor, trim)
    if rng.random() < 0.6:
        _draw_shop(scene, left, right, ground_floor)
    else:
        _draw_entrance(scene, left, right, ground_floor, trim)


def _vary(colour: _Colour, rng: np.random.Generator) -> _Colour:
    """Make a palette's colour a little lighter or darker, warmer or colder."""
    red, green, blue = (np.array(colour) * rng.uniform(0.86, 1.1) + rng.uniform(-8, 8, size=3)).clip(0, 255).tolist()
    return (red, green, blue)


def _flat_roof(pen: _Pen, left: float, right: float, top: float, colour: _Colour, facade: _Colour) -> None:
    """Draw a cornice and a hut on a flat roof."""
    pen.box(left + 0.2 * (right - left), top - 8, left + 0.5 * (right - left), top, _blend(facade, (0, 0, 0), 0.3))
    pen.box(left - 1, top - 3, right + 1, top, colour)


def _gable_roof(pen: _Pen, left: float, right: float, top: float, colour: _Colour, facade: _Colour) -> None:
    """Draw a gable facing the street, with a round window."""
    middle, rise = (left + right) / 2, 0.42 * (right - left)
    pen.polygon([(left - 2, top), (middle, top - rise - 2), (right + 2, top)], colour)
    pen.polygon([(left + 2, top + 1), (middle, top - rise + 2.5), (right - 2, top + 1)], facade)
    pen.disc(middle, top - 0.35 * rise, 2.6, _GLASS)


def _hipped_roof(pen: _Pen, left: float, right: float, top: float, colour: _Colour, facade: _Colour) -> None:
    """Draw a tiled roof seen from its long side, with a chimney."""
    inset, rise = 0.22 * (right - left), 15
    pen.box(right - inset - 8, top - rise - 6, right - inset - 3, top, _blend(facade, (60, 40, 40), 0.5))
    pen.polygon([(left - 1, top), (left + inset, top - rise), (right - inset, top - rise), (right + 1, top)], colour)
    for y in (4, 8, 12):
        pen.box(
            left + inset * y / rise, top - y, right - inset * y / rise, top - y + 0.5, _blend(colour, (0, 0, 0), 0.2)
        )


def _stepped_roof(pen: _Pen, left: float, right: float, top: float, colour: _Colour, facade: _Colour) -> None:
    """Draw a stepped gable, as in the Low Countries."""
    step = (right - left) / 9
    for level in range(4):
        y = top - 5 * level
        pen.box(left + level * step, y - 5, right - level * step, y + 0.5, facade)
        pen.box(left + level * step - 0.5, y - 6, left + (level + 1) * step, y - 4.5, colour)
        pen.box(right - (level + 1) * step, y - 6, right - level * step + 0.5, y - 4.5, colour)


def _mansard_roof(pen: _Pen, left: float, right: float, top: float, colour: _Colour, facade: _Colour) -> None:
    """Draw a steep slate roof with two dormers."""
    pen.polygon([(left, top), (left + 5, top - 17), (right - 5, top - 17), (right, top)], colour)
    for share in (0.3, 0.7):
        x = left + share * (right - left)
        pen.box(x - 4, top - 12, x + 4, top - 1, facade)
        pen.box(x - 2.5, top - 10, x + 2.5, top - 2, _GLASS)
        pen.polygon([(x - 5, top - 11.5), (x, top - 16), (x + 5, top - 11.5)], facade)


def _pent_roof(pen: _Pen, left: float, right: float, top: float, colour: _Colour, facade: _Colour) -> None:
    """Draw a modern roof rising to one side, with an aerial."""
    pen.box(left + 6, top - 18, left + 6.8, top, _METAL)
    pen.box(left + 3, top - 15, left + 10, top - 14.2, _METAL)
    pen.polygon([(left, top + 0.5), (left, top - 3), (right, top - 16), (right, top + 0.5)], facade)
    pen.polygon([(left - 1, top - 2), (left - 1, top - 5), (right + 1, top - 18), (right + 1, top - 15)], colour)


_ROOF_SHAPES: tuple[Callable[[_Pen, float, float, float, _Colour, _Colour], None], ...] = (
    _flat_roof,
    _gable_roof,
    _hipped_roof,
    _stepped_roof,
    _mansard_roof,
    _pent_roof,
)


def _draw_windows(scene: _Scene, wall: tuple[float, float, float, float], trim: _Colour) -> None:
    """Fill a wall (left, top, right, bottom) with a grid of windows of one style; the visit says which are lit."""
    rng = scene.place
    left, top, right, bottom = wall
    columns = max(1, round((right - left) / rng.uniform(9, 18)))
    rows = max(1, round((bottom - top) / rng.uniform(12, 20)))
    pitch_x, pitch_y = (right - left) / columns, (bottom - top) / rows
    width, height = pitch_x * rng.uniform(0.36, 0.66), pitch_y * rng.uniform(0.5, 0.7)
    draw_window = _one_of(_WINDOW_STYLES, rng)
    accent = _one_of(_SHUTTERS, rng)
    lit = scene.visit.random((rows, columns)) < scene.conditions.lit_share
    for row, column in np.ndindex(rows, columns):
        x = left + (column + 0.5) * pitch_x
        y = top + (row + 0.5) * pitch_y
        pane = (x - width / 2, y - height / 2, x + width / 2, y + height / 2)
        draw_window(scene.pen, pane, trim, accent)
        _draw_pane(scene, pane, lit=bool(lit[row, column]))


def _draw_pane(scene: _Scene, pane: tuple[float, float, float, float], *, lit: bool) -> None:
    """Draw a window's glass, lit from inside or mirroring the sky, and its crossbars."""
    left, top, right, bottom = pane
    pen = scene.pen
    if lit:
        pen.shine(
            left, top, right, bottom, _blend(_one_of(_LAMPLIGHT, scene.visit), (90, 60, 40), scene.visit.random() / 2)
        )
    else:
        pen.box(left, top, right, bottom, _GLASS)
        pen.box(left, top, right, top + 0.3 * (bottom - top), (128, 150, 168))
    middle = (left + right) / 2
    pen.box(middle - 0.3, top, middle + 0.3, bottom, (214, 208, 198))


def _framed_window(pen: _Pen, pane: tuple[float, float, float, float], trim: _Colour, accent: _Colour) -> None:
    """Draw a frame and a sill."""
    left, top, right, bottom = pane
    pen.box(left - 1, top - 1, right + 1, bottom + 1, trim)
    pen.box(left - 1.8, bottom + 0.6, right + 1.8, bottom + 1.8, _blend(trim, (0, 0, 0), 0.25))


def _shuttered_window(pen: _Pen, pane: tuple[float, float, float, float], trim: _Colour, accent: _Colour) -> None:
    """Draw a pair of open shutters."""
    left, top, right, bottom = pane
    leaf = 0.38 * (right - left)
    pen.box(left - leaf, top - 0.4, right + leaf, bottom + 0.4, accent)
    pen.box(left - 0.6, top - 0.6, right + 0.6, bottom + 1, trim)


def _arched_window(pen: _Pen, pane: tuple[float, float, float, float], trim: _Colour, accent: _Colour) -> None:
    """Draw a round arch over the window."""
    left, top, right, bottom = pane
    pen.disc((left + right) / 2, top, (right - left) / 2 + 1, trim)
    pen.disc((left + right) / 2, top, (right - left) / 2, accent)
    pen.box(left - 1, top, right + 1, bottom + 1, trim)


def _balcony_window(pen: _Pen, pane: tuple[float, float, float, float], trim: _Colour, accent: _Colour) -> None:
    """Draw a balcony's slab and railing."""
    left, top, right, bottom = pane
    pen.box(left - 0.6, top - 0.6, right + 0.6, bottom + 1, trim)
    pen.box(left - 2, bottom + 0.8, right + 2, bottom + 3.6, _METAL)


def _ribbon_window(pen: _Pen, pane: tuple[float, float, float, float], trim: _Colour, accent: _Colour) -> None:
    """Draw the dark band that joins a row of windows on a modern house."""
    left, top, right, bottom = pane
    reach = 0.8 * (right - left)
    pen.box(left - reach, top - 0.8, right + reach, bottom + 0.8, _blend(trim, accent, 0.6))


_WINDOW_STYLES: tuple[Callable[[_Pen, tuple[float, float, float, float], _Colour, _Colour], None], ...] = (
    _framed_window,
    _shuttered_window,
    _arched_window,
    _balcony_window,
    _ribbon_window,
)


def _draw_shop(scene: _Scene, left: float, right: float, top: float) -> None:
    """Draw a shop window under a lettered board, some with a striped awning; it is lit in the dark."""
    pen, rng = scene.pen, scene.place
    board = _one_of(_SIGNS, rng)
    word = _one_of(_WORDS, rng)
    has_awning = rng.random() < 0.45
    pen.box(left + 2, top + 1, right - 2, _STREET_LEVEL, _blend(board, (30, 26, 26), 0.5))
    for x0, x1 in ((left + 4, left + 0.62 * (right - left)), (left + 0.66 * (right - left), right - 4)):
        if scene.is_dark:
            pen.shine(x0, top + 9, x1, _STREET_LEVEL - 2, _blend(_LAMPLIGHT[1], (120, 84, 60), scene.visit.random()))
        else:
            pen.box(x0, top + 9, x1, _STREET_LEVEL - 2, (96, 118, 128))
    if has_awning:
        _draw_awning(pen, left + 2, right - 2, top + 7, board)
    pen.box(left + 2, top, right - 2, top + 8, board)
    height = min(7.0, 1.4 * (right - left - 6) / len(word))
    pen.write((left + right) / 2, top + 4, word, height, (250, 240, 212), shaded=not scene.is_dark)


def _draw_awning(pen: _Pen, left: float, right: float, top: float, colour: _Colour) -> None:
    """Draw a striped awning."""
    stripes = max(3, round((right - left) / 5)) | 1  # odd: the same colour at both ends
    width = (right - left) / stripes
    for stripe in range(stripes):
        x = left + stripe * width
        fill = colour if stripe % 2 == 0 else (240, 234, 222)
        pen.polygon([(x, top), (x + width, top), (x + width, top + 6), (x + width / 2, top + 7.5), (x, top + 6)], fill)


def _draw_entrance(scene: _Scene, left: float, right: float, top: float, trim: _Colour) -> None:
    """Draw a front door with steps, and windows on the ground floor."""
    pen, rng = scene.pen, scene.place
    x = left + rng.uniform(0.25, 0.75) * (right - left)
    _draw_windows(scene, (left + 2, top + 2, right - 2, _STREET_LEVEL - 4), trim)
    pen.box(x - 6, top + 2, x + 6, _STREET_LEVEL, trim)
    pen.box(x - 4, top + 6, x + 4, _STREET_LEVEL, _one_of(_SHUTTERS, rng))
    pen.box(x - 4, top + 4, x + 4, top + 7, _GLASS)
    pen.box(x - 8, _STREET_LEVEL - 1.5, x + 8, _STREET_LEVEL, (170, 166, 160))


def _draw_street(scene: _Scene) -> None:
    """Draw pavement, kerb and carriageway with the place's markings."""
    pen, rng = scene.pen, scene.place
    pen.box(_LEFT, _STREET_LEVEL, _RIGHT, _KERB, (176, 172, 166))
    for x in np.arange(_LEFT + rng.uniform(0, 9), _RIGHT, 9):
        pen.box(x, _STREET_LEVEL, x + 0.5, _KERB, (154, 150, 146))
    pen.box(_LEFT, _KERB - 1.5, _RIGHT, _KERB, (206, 202, 196))
    pen.box(_LEFT, _KERB, _RIGHT, _BOTTOM, (96, 98, 104))
    if rng.random() < 0.35:
        _draw_crossing(pen, rng.uniform(20, 190))
    elif rng.random() < 0.5:
        for y in (_KERB + 9, _KERB + 15):
            pen.box(_LEFT, y, _RIGHT, y + 1, (66, 66, 72))
    for x in np.arange(_LEFT + rng.uniform(0, 30), _RIGHT, 30):
        pen.box(x, _KERB + 20, x + 15, _KERB + 21.5, (226, 224, 214))


def _draw_crossing(pen: _Pen, x: float) -> None:
    """Draw a zebra crossing whose stripes widen towards the viewer."""
    for stripe in range(-3, 3):
        top, bottom = x + 8 * stripe, x + 10 * stripe
        pen.polygon(
            [(top, _KERB + 2), (top + 4, _KERB + 2), (bottom + 5, _BOTTOM), (bottom, _BOTTOM)], (222, 220, 212)
        )


def _draw_street_furniture(scene: _Scene) -> None:
    """Plant the place's trees and lamp posts on the pavement."""
    rng = scene.place
    for x in rng.uniform(0, _VIEW_WIDTH, size=rng.integers(0, 4)):
        _draw_tree(scene, x, _KERB - 3)
    for x in np.arange(_LEFT + rng.uniform(10, 80), _RIGHT, rng.uniform(70, 110)):
        _draw_lamp_post(scene, x)


def _draw_tree(scene: _Scene, x: float, foot: float) -> None:
    """Draw a tree: a round one, or a poplar."""
    pen, rng = scene.pen, scene.place
    height, is_poplar = rng.uniform(26, 50), rng.random() < 0.35
    leaves = _vary(_one_of(((84, 124, 66), (108, 138, 70), (64, 104, 74), (150, 120, 60)), rng), rng)
    pen.box(x - 1.2, foot - 0.6 * height, x + 1.2, foot, (88, 66, 52))
    if is_poplar:
        pen.disc(x, foot - 0.62 * height, 0.52 * height, _blend(leaves, (0, 0, 0), 0.15), aspect=2.8)
        pen.disc(x - 1.5, foot - 0.68 * height, 0.4 * height, leaves, aspect=3.2)
        return
    for dx, dy, size in rng.uniform((-0.24, 0.5, 0.16), (0.24, 0.9, 0.26), size=(6, 3)):
        pen.disc(x + dx * height, foot - dy * height + 1.5, size * height, _blend(leaves, (0, 0, 0), 0.18))
        pen.disc(x + dx * height - 1, foot - dy * height, 0.85 * size * height, leaves)


def _draw_lamp_post(scene: _Scene, x: float) -> None:
    """Draw a street lamp, shining in the dark."""
    pen, top = scene.pen, _KERB - 46
    pen.box(x - 0.8, top, x + 0.8, _KERB - 2, _METAL)
    pen.box(x - 1.8, _KERB - 6, x + 1.8, _KERB - 2, _METAL)
    if scene.is_dark:
        pen.lamp(x, top - 2, 2.4, (255, 226, 168))
    else:
        pen.disc(x, top - 2, 2.4, (232, 232, 224))
    pen.box(x - 2.6, top - 5, x + 2.6, top - 4, _METAL)


def _draw_traffic(scene: _Scene) -> None:
    """Let people pass on the pavement and cars on the carriageway: nothing of it recurs on another visit."""
    visit = scene.visit
    for _ in range(visit.integers(0, 5)):
        _draw_person(scene, visit.uniform(4, 220))
    for _ in range(visit.integers(0, 3)):
        _draw_car(scene, visit.uniform(-10, 190), _KERB + visit.uniform(10, 22), heading=_one_of((-1, 1), visit))


def _draw_person(scene: _Scene, x: float) -> None:
    """Draw somebody on the pavement."""
    pen, visit = scene.pen, scene.visit
    foot, height = _KERB - visit.uniform(1, 6), visit.uniform(12, 16)
    pen.box(x - 1.5, foot - 0.45 * height, x - 0.2, foot, (52, 54, 66))
    pen.box(x + 0.3, foot - 0.45 * height, x + 1.6, foot, (52, 54, 66))
    pen.box(x - 2.2, foot - 0.82 * height, x + 2.2, foot - 0.4 * height, _one_of(_CLOTHES, visit))
    pen.disc(x, foot - 0.92 * height, 1.7, _one_of(((224, 186, 156), (150, 104, 78), (92, 66, 52)), visit))


def _draw_car(scene: _Scene, x: float, foot: float, heading: int) -> None:
    """Draw a car whose left end is at x, its lights on in the dark; heading 1 is to the right, -1 to the left."""
    pen, visit = scene.pen, scene.visit
    colour, length = _vary(_one_of(_CARS, visit), visit), visit.uniform(38, 50)
    pen.disc(x + length / 2, foot, 0.54 * length, (58, 60, 64), aspect=0.08)
    cabin = [(0.14, -9.5), (0.28, -16.5), (0.68, -16.5), (0.86, -9.5)]
    pen.polygon([(x + share * length, foot + y) for share, y in cabin], colour)
    for pane in (
        ((0.2, -9.5), (0.31, -15), (0.47, -15), (0.47, -9.5)),
        ((0.5, -9.5), (0.5, -15), (0.66, -15), (0.8, -9.5)),
    ):
        pen.polygon([(x + share * length, foot + y) for share, y in pane], (74, 88, 102))
    pen.box(x, foot - 10, x + length, foot - 2.5, colour)
    pen.box(x, foot - 4, x + length, foot - 2.5, _blend(colour, (0, 0, 0), 0.3))
    for share in (0.2, 0.8):
        pen.disc(x + share * length, foot - 2.5, 3.8, (34, 34, 38))
        pen.disc(x + share * length, foot - 2.5, 1.7, (150, 152, 156))
    if scene.is_dark:
        front, back = (x + length, x) if heading > 0 else (x, x + length)
        pen.lamp(front, foot - 7, 1.6, (255, 246, 214))
        pen.lamp(back, foot - 7, 1.2, (220, 40, 30))


def _photograph(scene: _Scene, size: tuple[int, int]) -> Image.Image:
    """Take the picture: crop to what the camera sees, let lamps glow, blur, light it unevenly, add noise."""
    height, width = size
    visit, conditions = scene.visit, scene.conditions
    frame = _frame(scene)
    image = scene.pen.image.resize((width, height), Image.Resampling.BILINEAR, box=frame)
    if scene.is_dark:
        small = (max(1, width // _HALO_SHRINK), max(1, height // _HALO_SHRINK))
        halo = scene.pen.halo.resize(small, Image.Resampling.BOX, box=frame)
        halo = halo.filter(ImageFilter.GaussianBlur(small[0] / 28)).resize((width, height), Image.Resampling.BILINEAR)
        image = ImageChops.screen(image, halo.point(lambda value: 0.55 * value))
    image = image.filter(ImageFilter.BoxBlur(visit.uniform(0, conditions.blur_px) * width / _VIEW_WIDTH))
    pixels = np.asarray(image, dtype=np.float32)
    slope = visit.uniform(-0.06, 0.06) * np.linspace(-1, 1, width, dtype=np.float32)
    exposure = conditions.brightness * visit.uniform(0.97, 1.03) / max(1.0, float(pixels.mean()))
    pixels = pixels * (exposure * (1 + slope[:, None]))
    pixels += np.float32(conditions.noise) * (visit.random(pixels.shape, dtype=np.float32) - np.float32(0.5))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _frame(scene: _Scene) -> tuple[float, float, float, float]:
    """Find the part of the canvas (left, top, right, bottom, in its pixels) that the camera sees."""
    camera = scene.camera
    x, y = _VIEW_WIDTH / 2 + camera.shift_x, _VIEW_HEIGHT / 2 + camera.shift_y
    half_width, half_height = _VIEW_WIDTH / 2 / camera.zoom, _VIEW_HEIGHT / 2 / camera.zoom
    left, top = scene.pen.at(x - half_width, y - half_height)
    right, bottom = scene.pen.at(x + half_width, y + half_height)
    width, height = scene.pen.image.size
    return (max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom))

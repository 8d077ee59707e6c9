"""What a street view of the synthetic city is drawn with: its units, its light, a pen, and chance.

What belongs to a place follows from the seed and the place's number alone; what belongs to a visit, from the name of
the traverse too. Lengths are in units of a 224 x 168 view, y pointing down; a larger size shows the same scene finer.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar
from zlib import crc32

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_Number = int | float  # the tests' type checker, unlike mypy, takes no int for a float
Colour = tuple[_Number, _Number, _Number]
Point = tuple[_Number, _Number]
_T = TypeVar("_T")

VIEW_WIDTH, VIEW_HEIGHT = 224.0, 168.0
_MARGIN_X, _MARGIN_Y = 26.0, 18.0  # drawn beyond the view, so that the camera may shift and zoom out
LEFT, RIGHT = -_MARGIN_X, VIEW_WIDTH + _MARGIN_X
TOP, BOTTOM = -_MARGIN_Y, VIEW_HEIGHT + _MARGIN_Y
STREET_LEVEL, KERB = 133.0, 145.0  # the feet of the houses, and the edge of the carriageway
_MAX_SHIFT_X, _MAX_SHIFT_Y, _MAX_ZOOM = 8.0, 4.0, 1.05
_OVERSAMPLING = 2.0  # drawn twice as fine and shrunk: smooth edges


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Light and weather of a traverse."""

    sky_top: Colour
    sky_bottom: Colour
    light: Colour  # gain per channel on whatever does not shine itself
    lit_share: float  # of the windows
    clouds: float  # mean number
    brightness: float  # mean grey level that the camera exposes for
    noise: float  # range in grey levels
    blur_px: float  # at most, for a view 224 pixels wide


_DAY = Conditions(
    sky_top=(96, 156, 214),
    sky_bottom=(206, 226, 238),
    light=(1.0, 0.985, 0.95),
    lit_share=0.02,
    clouds=4.0,
    brightness=136.0,
    noise=7.0,
    blur_px=0.3,
)
_NIGHT = Conditions(
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
def _conditions(traverse: str) -> Conditions:
    """Look up the light of day and night; give any other name a light of its own, between the two and tinted."""
    if traverse in ("day", "night"):
        return _DAY if traverse == "day" else _NIGHT
    rng = np.random.default_rng(crc32(traverse.encode()))
    darkness = rng.uniform(0.1, 0.8)
    warmth = rng.uniform(-0.18, 0.18)
    tint = (1 + warmth, 1.0, 1 - warmth)
    return replace(
        _NIGHT,
        sky_top=blend(_DAY.sky_top, _NIGHT.sky_top, darkness, tint),
        sky_bottom=blend(_DAY.sky_bottom, _NIGHT.sky_bottom, darkness, tint[::-1]),
        light=blend(_DAY.light, _NIGHT.light, darkness, tint),
        lit_share=rng.uniform(0.0, 0.6) * darkness,
        clouds=rng.uniform(0.0, 9.0),
        brightness=_DAY.brightness + darkness * (_NIGHT.brightness - _DAY.brightness),
        noise=7.0 + 13.0 * darkness,
    )


def blend(first: Colour, second: Colour, share: float, tint: Sequence[float] = (1, 1, 1)) -> Colour:
    """Mix two colours.

    Args:
        first: One of them.
        second: The other.
        share: Part of the second.
        tint: What the channels of the mixture are multiplied by.
    """
    red, green, blue = (a + share * (b - a) for a, b in zip(first, second, strict=True))
    return (red * tint[0], green * tint[1], blue * tint[2])


class Pen:
    """Draws shapes given in view units: what reflects is dimmed by the light, what shines also leaves a halo.

    The canvas is wide enough for every camera position.

    Args:
        size: Height and width of the view in pixels.
        light: Gain per channel on what reflects.
    """

    def __init__(self, size: tuple[int, int], light: Colour) -> None:
        """Make a black canvas."""
        height, width = size
        self.scale_x = _OVERSAMPLING * width / VIEW_WIDTH
        self.scale_y = _OVERSAMPLING * height / VIEW_HEIGHT
        self.light = light
        width_px = max(1, round((RIGHT - LEFT) * self.scale_x))
        height_px = max(1, round((BOTTOM - TOP) * self.scale_y))
        self.image = Image.new("RGB", (width_px, height_px))
        self.halo = Image.new("RGB", self.image.size)
        self._draw = ImageDraw.Draw(self.image)
        self._draw_halo = ImageDraw.Draw(self.halo)

    def lit(self, colour: Colour) -> tuple[int, int, int]:
        """Tell how a surface of this colour looks in the present light."""
        (red, green, blue), gain = colour, self.light
        return (min(255, int(red * gain[0])), min(255, int(green * gain[1])), min(255, int(blue * gain[2])))

    def at(self, x: float, y: float) -> Point:
        """Convert view units to pixels of the canvas."""
        return ((x - LEFT) * self.scale_x, (y - TOP) * self.scale_y)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour, shaded: bool = True) -> None:
        """Fill a rectangle; nothing if it holds no pixel centre."""
        corners = self._pixels(left, top, right, bottom)
        if corners[0] <= corners[2] and corners[1] <= corners[3]:
            self._draw.rectangle(corners, fill=self.lit(colour) if shaded else _whole(colour))

    def disc(
        self, x: float, y: float, radius: float, colour: Colour, aspect: float = 1.0, shaded: bool = True
    ) -> None:
        """Fill an ellipse `aspect` times as high as wide, `radius` being half its longer side."""
        half_width, half_height = radius * min(1, 1 / aspect), radius * min(1, aspect)
        corners = (self.at(x - half_width, y - half_height), self.at(x + half_width, y + half_height))
        self._draw.ellipse(corners, fill=self.lit(colour) if shaded else _whole(colour))

    def polygon(self, points: Sequence[Point], colour: Colour, shaded: bool = True) -> None:
        """Fill a polygon."""
        self._draw.polygon([self.at(*p) for p in points], fill=self.lit(colour) if shaded else _whole(colour))

    def shine(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fill a rectangle that shines by itself; nothing if it holds no pixel centre."""
        corners = self._pixels(left, top, right, bottom)
        if corners[0] <= corners[2] and corners[1] <= corners[3]:
            self._draw.rectangle(corners, fill=_whole(colour))
            self._draw_halo.rectangle(corners, fill=_whole(colour))

    def lamp(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """Fill a circle that shines, as lamps do, far around it."""
        corners = (self.at(x - radius, y - radius), self.at(x + radius, y + radius))
        wide = (self.at(x - 3 * radius, y - 3 * radius), self.at(x + 3 * radius, y + 3 * radius))
        self._draw.ellipse(corners, fill=_whole(colour))
        self._draw_halo.ellipse(wide, fill=_whole(colour))

    def write(self, x: float, y: float, text: str, height: float, colour: Colour, shaded: bool = True) -> None:
        """Write a word centred on a point."""
        font = _font(max(1, round(height * self.scale_y)))
        self._draw.text(
            self.at(x, y), text, font=font, fill=self.lit(colour) if shaded else _whole(colour), anchor="mm"
        )

    def _pixels(self, left: float, top: float, right: float, bottom: float) -> tuple[int, int, int, int]:
        """Find the first and last pixel columns and rows (Pillow fills both) whose centres lie in a rectangle."""
        (x0, y0), (x1, y1) = self.at(left, top), self.at(right, bottom)
        return (round(x0), round(y0), round(x1) - 1, round(y1) - 1)


def _whole(colour: Colour) -> tuple[int, int, int]:
    """Round a colour to what Pillow takes."""
    return (int(colour[0]), int(colour[1]), int(colour[2]))


@cache
def _font(height_px: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """Load Pillow's own font once per size."""
    return ImageFont.load_default(height_px)


@dataclass(frozen=True, kw_only=True)
class Camera:
    """Where this visit's photograph was taken, against the standard one."""

    shift_x: float
    shift_y: float
    zoom: float


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the drawing functions share; whatever may differ between traverses comes from `visit`, the rest never."""

    pen: Pen
    place: np.random.Generator
    visit: np.random.Generator
    conditions: Conditions
    camera: Camera

    @property
    def is_dark(self) -> bool:
        """Tell whether lamps are on."""
        return sum(self.conditions.light) < 2.0


def set_out(place: int, traverse: str, seed: int, size: tuple[int, int]) -> Scene:
    """Set out for a place: one generator for what is always there, one for this visit.

    Args:
        place: Number of the place.
        traverse: Name of the traverse, from which light and weather follow.
        seed: Number of the city.
        size: Height and width of the view in pixels.
    """
    conditions = _conditions(traverse)
    visit = np.random.default_rng([seed, place, crc32(traverse.encode())])
    camera = Camera(
        shift_x=visit.uniform(-_MAX_SHIFT_X, _MAX_SHIFT_X),
        shift_y=visit.uniform(-_MAX_SHIFT_Y, _MAX_SHIFT_Y),
        zoom=visit.uniform(1 / _MAX_ZOOM, _MAX_ZOOM),
    )
    pen = Pen(size, conditions.light)
    return Scene(
        pen=pen, place=np.random.default_rng([seed, place]), visit=visit, conditions=conditions, camera=camera
    )


def one_of(options: Sequence[_T], rng: np.random.Generator) -> _T:
    """Choose one of several (much faster than `rng.choice`).

    Args:
        options: What to choose from.
        rng: Chooses.
    """
    return options[int(rng.integers(len(options)))]


def vary(colour: Colour, rng: np.random.Generator) -> Colour:
    """Make a palette's colour a little lighter or darker, warmer or colder.

    Args:
        colour: The colour.
        rng: Says how.
    """
    red, green, blue = (np.array(colour) * rng.uniform(0.86, 1.1) + rng.uniform(-8, 8, size=3)).clip(0, 255).tolist()
    return (red, green, blue)

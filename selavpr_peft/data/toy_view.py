"""Draw street views of a synthetic city in memory: numbered places, each seen in several traverses.

What belongs to a place (skyline, houses, windows, roofs, signs, trees) follows from the seed and the place's number
alone; what belongs to a traverse (light, sky, lit windows, camera, cars, people, noise) from its name too. Needs numpy
and Pillow only.
"""

import numpy as np
from PIL import Image, ImageChops, ImageFilter

from selavpr_peft.data.toy_houses import draw_houses, draw_street_furniture
from selavpr_peft.data.toy_scene import (
    BOTTOM,
    KERB,
    LEFT,
    RIGHT,
    STREET_LEVEL,
    TOP,
    VIEW_HEIGHT,
    VIEW_WIDTH,
    Colour,
    Pen,
    Scene,
    blend,
    one_of,
    set_out,
    vary,
)

_HALO_SHRINK = 4  # the halo of lamps is blurred at a quarter of the view's resolution
_CARS = ((188, 44, 44), (44, 84, 148), (232, 232, 228), (52, 56, 62), (214, 174, 62), (120, 140, 128))
_CLOTHES = ((70, 80, 120), (160, 60, 60), (70, 110, 80), (200, 170, 110), (90, 70, 90), (50, 50, 56))


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
    scene = set_out(place, traverse, seed, size)
    for draw in (_draw_sky, _draw_skyline, draw_houses, _draw_street, draw_street_furniture, _draw_traffic):
        draw(scene)
    return _photograph(scene, size)


def _draw_sky(scene: Scene) -> None:
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
        for x, y in visit.uniform((LEFT, TOP), (RIGHT, 70), size=(24, 2)):
            pen.shine(x, y, x + 0.7, y + 0.7, (170, 174, 190))
        if visit.random() < 0.5:
            pen.lamp(visit.uniform(10, 214), visit.uniform(6, 30), 5.0, (236, 234, 214))


def _draw_cloud(scene: Scene) -> None:
    """Draw a cloud anywhere in the sky: a flat heap of discs, a little lighter than the sky."""
    visit = scene.visit
    x, y, width = visit.uniform(LEFT, RIGHT), visit.uniform(TOP, 60), visit.uniform(14, 36)
    colour = blend(scene.conditions.sky_bottom, (255, 255, 255), 0.45)
    for part in np.linspace(-1, 1, 6):
        radius = width * visit.uniform(0.25, 0.42) * (1.25 - abs(part))
        scene.pen.disc(x + part * width, y - 0.25 * radius, radius, colour, aspect=0.55, shaded=False)


def _draw_skyline(scene: Scene) -> None:
    """Draw two hazy rows of distant towers and a landmark; being far off, they follow the camera half-way."""
    pen, rng = scene.pen, scene.place
    horizon = blend(scene.conditions.sky_top, scene.conditions.sky_bottom, 0.6)
    for haze, low, high in ((0.72, 56, 108), (0.5, 42, 84)):
        colour = blend(pen.lit((92, 102, 120)), horizon, haze)
        drift = 0.5 * scene.camera.shift_x
        if haze > 0.6:
            _draw_landmark(pen, rng, drift, colour)
        left = LEFT - 20
        while left < RIGHT + 10:
            width, height = rng.uniform(9, 30), rng.uniform(low, high)
            top = STREET_LEVEL - height
            pen.box(left + drift, top, left + drift + width, STREET_LEVEL, colour, shaded=False)
            left += width + max(0, rng.uniform(-30, 14))


def _draw_landmark(pen: Pen, rng: np.random.Generator, drift: float, colour: Colour) -> None:
    """Draw one tall silhouette behind the town: a spire, a dome, a television tower or a hill."""
    kind, height = rng.integers(4), rng.uniform(112, 138)
    x, top = drift + rng.uniform(20, 204), STREET_LEVEL - height
    if kind == 0:
        pen.box(x - 6, top + 34, x + 6, STREET_LEVEL, colour, shaded=False)
        pen.polygon([(x - 8, top + 36), (x, top), (x + 8, top + 36)], colour, shaded=False)
    elif kind == 1:
        pen.disc(x, top + 32, 20.0, colour, shaded=False)
        pen.box(x - 24, top + 32, x + 24, STREET_LEVEL, colour, shaded=False)
        pen.box(x - 1.5, top, x + 1.5, top + 16, colour, shaded=False)
    elif kind == 2:
        pen.box(x - 2, top + 8, x + 2, STREET_LEVEL, colour, shaded=False)
        pen.box(x - 0.6, top - 12, x + 0.6, top + 10, colour, shaded=False)
        pen.disc(x, top + 22, 8.0, colour, aspect=0.6, shaded=False)
    else:
        pen.disc(x, STREET_LEVEL, 0.9 * height, colour, aspect=0.9, shaded=False)


def _draw_street(scene: Scene) -> None:
    """Draw pavement, kerb and carriageway with the place's markings."""
    pen, rng = scene.pen, scene.place
    pen.box(LEFT, STREET_LEVEL, RIGHT, KERB, (176, 172, 166))
    for x in np.arange(LEFT + rng.uniform(0, 9), RIGHT, 9):
        pen.box(x, STREET_LEVEL, x + 0.5, KERB, (154, 150, 146))
    pen.box(LEFT, KERB - 1.5, RIGHT, KERB, (206, 202, 196))
    pen.box(LEFT, KERB, RIGHT, BOTTOM, (96, 98, 104))
    if rng.random() < 0.35:
        _draw_crossing(pen, rng.uniform(20, 190))
    elif rng.random() < 0.5:
        for y in (KERB + 9, KERB + 15):
            pen.box(LEFT, y, RIGHT, y + 1, (66, 66, 72))
    for x in np.arange(LEFT + rng.uniform(0, 30), RIGHT, 30):
        pen.box(x, KERB + 20, x + 15, KERB + 21.5, (226, 224, 214))


def _draw_crossing(pen: Pen, x: float) -> None:
    """Draw a zebra crossing whose stripes widen towards the viewer."""
    for stripe in range(-3, 3):
        top, bottom = x + 8 * stripe, x + 10 * stripe
        pen.polygon([(top, KERB + 2), (top + 4, KERB + 2), (bottom + 5, BOTTOM), (bottom, BOTTOM)], (222, 220, 212))


def _draw_traffic(scene: Scene) -> None:
    """Let people pass on the pavement and cars on the carriageway: nothing of it recurs on another visit."""
    visit = scene.visit
    for _ in range(visit.integers(0, 5)):
        _draw_person(scene, visit.uniform(4, 220))
    for _ in range(visit.integers(0, 3)):
        _draw_car(scene, visit.uniform(-10, 190), KERB + visit.uniform(10, 22), heading=one_of((-1, 1), visit))


def _draw_person(scene: Scene, x: float) -> None:
    """Draw somebody on the pavement."""
    pen, visit = scene.pen, scene.visit
    foot, height = KERB - visit.uniform(1, 6), visit.uniform(12, 16)
    pen.box(x - 1.5, foot - 0.45 * height, x - 0.2, foot, (52, 54, 66))
    pen.box(x + 0.3, foot - 0.45 * height, x + 1.6, foot, (52, 54, 66))
    pen.box(x - 2.2, foot - 0.82 * height, x + 2.2, foot - 0.4 * height, one_of(_CLOTHES, visit))
    pen.disc(x, foot - 0.92 * height, 1.7, one_of(((224, 186, 156), (150, 104, 78), (92, 66, 52)), visit))


def _draw_car(scene: Scene, x: float, foot: float, heading: int) -> None:
    """Draw a car whose left end is at x, its lights on in the dark; heading 1 is to the right, -1 to the left."""
    pen, visit = scene.pen, scene.visit
    colour, length = vary(one_of(_CARS, visit), visit), visit.uniform(38, 50)
    pen.disc(x + length / 2, foot, 0.54 * length, (58, 60, 64), aspect=0.08)
    cabin = [(0.14, -9.5), (0.28, -16.5), (0.68, -16.5), (0.86, -9.5)]
    pen.polygon([(x + share * length, foot + y) for share, y in cabin], colour)
    for pane in (
        ((0.2, -9.5), (0.31, -15), (0.47, -15), (0.47, -9.5)),
        ((0.5, -9.5), (0.5, -15), (0.66, -15), (0.8, -9.5)),
    ):
        pen.polygon([(x + share * length, foot + y) for share, y in pane], (74, 88, 102))
    pen.box(x, foot - 10, x + length, foot - 2.5, colour)
    pen.box(x, foot - 4, x + length, foot - 2.5, blend(colour, (0, 0, 0), 0.3))
    for share in (0.2, 0.8):
        pen.disc(x + share * length, foot - 2.5, 3.8, (34, 34, 38))
        pen.disc(x + share * length, foot - 2.5, 1.7, (150, 152, 156))
    if scene.is_dark:
        front, back = (x + length, x) if heading > 0 else (x, x + length)
        pen.lamp(front, foot - 7, 1.6, (255, 246, 214))
        pen.lamp(back, foot - 7, 1.2, (220, 40, 30))


def _photograph(scene: Scene, size: tuple[int, int]) -> Image.Image:
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
    image = image.filter(ImageFilter.BoxBlur(visit.uniform(0, conditions.blur_px) * width / VIEW_WIDTH))
    pixels = np.asarray(image, dtype=np.float32)
    slope = visit.uniform(-0.06, 0.06) * np.linspace(-1, 1, width, dtype=np.float32)
    exposure = conditions.brightness * visit.uniform(0.97, 1.03) / max(1.0, float(pixels.mean()))
    pixels = pixels * (exposure * (1 + slope[:, None]))
    pixels += np.float32(conditions.noise) * (visit.random(pixels.shape, dtype=np.float32) - np.float32(0.5))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _frame(scene: Scene) -> tuple[float, float, float, float]:
    """Find the part of the canvas (left, top, right, bottom, in its pixels) that the camera sees."""
    camera = scene.camera
    x, y = VIEW_WIDTH / 2 + camera.shift_x, VIEW_HEIGHT / 2 + camera.shift_y
    half_width, half_height = VIEW_WIDTH / 2 / camera.zoom, VIEW_HEIGHT / 2 / camera.zoom
    left, top = scene.pen.at(x - half_width, y - half_height)
    right, bottom = scene.pen.at(x + half_width, y + half_height)
    width, height = scene.pen.image.size
    return (max(0.0, left), max(0.0, top), min(float(width), right), min(float(height), bottom))

"""Rendered pictures with known content: shapes, counts, textures, printed glyphs, woven cloth with defects.

Every function takes a `random.Random`, so a seed fixes every pixel. Pictures are square RGB, side in pixels;
places are the nine fields of a 3 x 3 grid.
"""

from __future__ import annotations

import math
from random import Random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

COLOURS = {
    "red": (214, 40, 40),
    "green": (46, 150, 62),
    "blue": (40, 84, 200),
    "yellow": (244, 211, 44),
    "purple": (130, 52, 160),
    "orange": (243, 128, 26),
    "white": (244, 244, 244),
    "black": (18, 18, 18),
}
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
TEXTURES = ("plain", "stripes", "checks", "dots", "grid", "waves")
PLACES = (
    "top left", "top", "top right",
    "left", "middle", "right",
    "bottom left", "bottom", "bottom right",
)  # fmt: skip
DEFECTS = ("hole", "stain", "misprint", "loose thread")
Colour = tuple[int, int, int]


def jitter(colour: Colour, random: Random, spread: int = 22) -> Colour:
    """Return the colour with each channel moved by at most ``spread`` of 255."""
    red, green, blue = (max(0, min(255, c + random.randint(-spread, spread))) for c in colour)
    return red, green, blue


def centre(place: str, side: int, random: Random, slack: float = 0.2) -> tuple[float, float]:
    """Return a point in the given field of the grid, at most ``slack`` fields from its middle each way."""
    row, column = divmod(PLACES.index(place), 3)
    field, low, high = side / 3, 0.5 - slack, 0.5 + slack
    return (column + random.uniform(low, high)) * field, (row + random.uniform(low, high)) * field


def draw_shape(
    draw: ImageDraw.ImageDraw,
    shape: str,
    x: float,
    y: float,
    r: float,
    fill: Colour,
    turn: float,
) -> None:
    """Draw a shape of radius ``r`` pixels around (x, y), turned by ``turn`` radians where that shows."""

    def polygon(points: list[tuple[float, float]]) -> None:
        draw.polygon(
            [(x + d * r * math.cos(a + turn), y + d * r * math.sin(a + turn)) for d, a in points],
            fill,
        )

    if shape == "circle":
        draw.ellipse((x - r, y - r, x + r, y + r), fill)
    elif shape == "ring":
        draw.ellipse((x - r, y - r, x + r, y + r), outline=fill, width=max(2, round(r * 0.36)))
    elif shape == "square":
        polygon([(1.2, math.pi / 4 + k * math.pi / 2) for k in range(4)])
    elif shape == "triangle":
        polygon([(1.2, -math.pi / 2 + k * 2 * math.pi / 3) for k in range(3)])
    elif shape == "star":
        polygon([(1.25 if k % 2 == 0 else 0.5, -math.pi / 2 + k * math.pi / 5) for k in range(10)])
    else:
        corners = [
            (1, 0.34),
            (0.34, 0.34),
            (0.34, 1),
            (-0.34, 1),
            (-0.34, 0.34),
            (-1, 0.34),
        ]
        corners += [(-a, -b) for a, b in corners]
        polygon([(1.1 * math.hypot(a, b), math.atan2(b, a)) for a, b in corners])


def grain(picture: Image.Image, random: Random, strength: float) -> Image.Image:
    """Add pixel noise of the given standard deviation (0 to 255), as a camera does."""
    noise = np.random.default_rng(random.getrandbits(32)).normal(0, strength, (*picture.size[::-1], 3))
    return Image.fromarray(np.clip(np.asarray(picture, np.float32) + noise, 0, 255).astype(np.uint8))


def two_colours(random: Random) -> tuple[str, str]:
    """Return the names of two colours that can be told apart."""
    first, second = random.sample(sorted(COLOURS), 2)
    return first, second


def scene(random: Random, side: int = 64) -> tuple[Image.Image, dict[str, str]]:
    """Return a picture of one shape and its facts: shape, colour, background, place."""
    colour, background = two_colours(random)
    shape, place = random.choice(SHAPES), random.choice(PLACES)
    picture = Image.new("RGB", (side, side), jitter(COLOURS[background], random))
    x, y = centre(place, side, random, 0.12)
    radius = side * random.uniform(0.12, 0.18)  # smaller ones fall between patches of 8 x 8 pixels
    turn = random.uniform(-0.25, 0.25)
    draw_shape(
        ImageDraw.Draw(picture),
        shape,
        x,
        y,
        radius,
        jitter(COLOURS[colour], random),
        turn,
    )
    facts = {"shape": shape, "colour": colour, "background": background, "place": place}
    return grain(picture, random, random.uniform(0, 8)), facts


def group(random: Random, side: int = 64) -> tuple[Image.Image, dict[str, str]]:
    """Return a picture of one to six equal shapes and its facts: shape, colour, count (in figures)."""
    colour, background = two_colours(random)
    shape, count = random.choice(SHAPES), random.randint(1, 6)
    picture = Image.new("RGB", (side, side), jitter(COLOURS[background], random))
    draw = ImageDraw.Draw(picture)
    for place in random.sample(PLACES, count):
        x, y = centre(place, side, random, 0.12)
        radius = side * random.uniform(0.11, 0.14)
        draw_shape(
            draw,
            shape,
            x,
            y,
            radius,
            jitter(COLOURS[colour], random),
            random.uniform(-0.2, 0.2),
        )
    return grain(picture, random, random.uniform(0, 6)), {
        "shape": shape,
        "colour": colour,
        "count": str(count),
    }


def texture(kind: str, front: Colour, back: Colour, random: Random, side: int = 64) -> Image.Image:
    """Return a patterned surface of two colours; angle, pitch and phase are random."""
    y, x = np.mgrid[0:side, 0:side].astype(np.float32)
    angle = random.uniform(0, math.pi) if kind == "stripes" else random.uniform(-0.3, 0.3)
    u = x * math.cos(angle) + y * math.sin(angle) + random.uniform(0, 20)
    v = -x * math.sin(angle) + y * math.cos(angle) + random.uniform(0, 20)
    pitch = random.uniform(6, 14)
    a, b = (u / pitch) % 1, (v / pitch) % 1
    mask = {
        "plain": np.zeros_like(u, bool),
        "stripes": a < 0.5,
        "checks": (a < 0.5) ^ (b < 0.5),
        "dots": (a - 0.5) ** 2 + (b - 0.5) ** 2 < 0.08,
        "grid": (a < 0.22) | (b < 0.22),
        "waves": ((v + 3 * np.sin(u / 4)) / pitch) % 1 < 0.5,
    }[kind]
    pixels = np.where(mask[..., None], np.array(front), np.array(back)).astype(np.uint8)
    return Image.fromarray(pixels)


def surface(random: Random, side: int = 64) -> tuple[Image.Image, dict[str, str]]:
    """Return a textured picture and its facts: texture, colour, background (equal when plain)."""
    kind = random.choice(TEXTURES)
    front, back = two_colours(random)
    made = texture(
        kind,
        jitter(COLOURS[front], random),
        jitter(COLOURS[back], random),
        random,
        side,
    )
    facts = {
        "texture": kind,
        "colour": back if kind == "plain" else front,
        "background": back,
    }
    return grain(made, random, random.uniform(0, 8)), facts


def spot(random: Random, side: int = 64) -> tuple[Image.Image, dict[str, str]]:
    """Return a textured picture with one small odd spot and its facts: place, texture."""
    kind, place = random.choice(TEXTURES), random.choice(PLACES)
    front, back = two_colours(random)
    third = random.choice([c for c in COLOURS if c not in (front, back)])
    made = texture(
        kind,
        jitter(COLOURS[front], random),
        jitter(COLOURS[back], random),
        random,
        side,
    )
    x, y = centre(place, side, random)
    radius = side * random.uniform(0.05, 0.1)
    draw_shape(
        ImageDraw.Draw(made),
        random.choice(SHAPES),
        x,
        y,
        radius,
        jitter(COLOURS[third], random),
        0.0,
    )
    return grain(made, random, random.uniform(0, 8)), {"place": place, "texture": kind}


def glyph(letter: str, random: Random, side: int = 64) -> Image.Image:
    """Return a printed letter or figure, sheared, turned, scaled and blurred a little."""
    light, dark = random.randint(190, 255), random.randint(0, 80)
    ink, paper = (dark, light) if random.random() < 0.5 else (light, dark)
    picture = Image.new("L", (side, side), paper)
    font = ImageFont.load_default(size=random.uniform(0.6, 0.95) * side)
    at = (side / 2 + random.uniform(-4, 4), side / 2 + random.uniform(-4, 4))
    draw = ImageDraw.Draw(picture)
    draw.text(
        at,
        letter,
        fill=ink,
        font=font,
        anchor="mm",
        stroke_width=random.choice((0, 0, 1, 2)),
        stroke_fill=ink,
    )
    shear = random.uniform(-0.3, 0.3)
    picture = picture.transform(
        picture.size,
        Image.Transform.AFFINE,
        (1, shear, -shear * side / 2, 0, 1, 0),
        fillcolor=paper,
        resample=Image.Resampling.BILINEAR,
    ).rotate(random.uniform(-14, 14), fillcolor=paper, resample=Image.Resampling.BILINEAR)
    if random.random() < 0.6:
        picture = picture.filter(ImageFilter.GaussianBlur(random.uniform(0.5, 2)))
    return grain(picture.convert("RGB"), random, random.uniform(0, 10))


def cloth(
    defect: str | None, place: str, random: Random, side: int = 64, colour: Colour | None = None
) -> Image.Image:
    """Return woven cloth or carpet, with a defect in the given field unless ``defect`` is None.

    With ``colour`` it is of that colour, and all else is what ``random`` makes it without one. A hole shows
    the dark ground with a frayed rim, a stain tints the weave below it rust brown, a misprint shifts and
    recolours a square of the pattern, a loose thread is a thin bright curve.
    """
    front = tuple(random.randint(40, 215) for _ in range(3))
    shifts = [random.choice((-1, 1)) * random.randint(30, 70) for _ in range(3)]
    front = colour or front
    back = tuple(max(0, min(255, c + shift)) for c, shift in zip(front, shifts, strict=True))
    kind = random.choice(("stripes", "checks", "grid", "waves", "dots", "plain"))
    fresh = np.random.default_rng(random.getrandbits(32))
    pixels = np.asarray(texture(kind, front, back, random, side), np.float32)  # type: ignore[arg-type]
    y, x = np.mgrid[0:side, 0:side]
    weave = (
        9 * ((x + y) % 2)
        + 7 * np.sin(x * random.uniform(1.2, 2.2))
        + 7 * np.sin(y * random.uniform(1.2, 2.2))
    )
    pixels = pixels + weave[..., None] + fresh.normal(0, 6, pixels.shape)
    at_x, at_y = centre(place, side, random, 0.14)
    radius = side * random.uniform(0.08, 0.125)
    rough = 1 + 0.25 * np.sin(np.arctan2(y - at_y, x - at_x) * random.randint(3, 6) + random.uniform(0, 6))
    distance = np.hypot(x - at_x, y - at_y) / rough / radius
    if defect == "hole":
        rim = np.exp(-((distance - 1.1) ** 2) / 0.05)[..., None]
        pixels = np.where(
            (distance < 1)[..., None],
            14 + fresh.normal(0, 5, pixels.shape),
            pixels + 70 * rim,
        )
    elif defect == "stain":
        depth = np.clip(1.5 - distance, 0, 1)[..., None] * random.uniform(0.65, 0.85)
        pixels = pixels * (1 - depth) + depth * np.array([172, 116, 40])
    elif defect == "misprint":
        half = radius * 1.1
        inside = (np.abs(x - at_x) < half) & (np.abs(y - at_y) < half)
        pixels = np.where(inside[..., None], 255 - np.roll(pixels, 3, axis=(0, 1)), pixels)
    picture = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if defect == "loose thread":
        bend, turn = random.uniform(-1, 1), random.uniform(0, math.pi)
        steps = [k / 10 - 1 for k in range(21)]
        length = radius * 1.5
        line = [(length * t, bend * length * 0.7 * math.cos(t * 2.4)) for t in steps]
        points = [
            (
                at_x + a * math.cos(turn) - b * math.sin(turn),
                at_y + a * math.sin(turn) + b * math.cos(turn),
            )
            for a, b in line
        ]
        ink = (250, 250, 240) if sum(front) < 450 else (250, 235, 90)
        ImageDraw.Draw(picture).line(points, ink, width=2, joint="curve")
    return picture

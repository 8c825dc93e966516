"""Rendered scenes whose true captions are known, so tests can check meaning.

A scene is one object: a shape with a colour, a size, a place and a background.
``(seed, index)`` determines everything: the attributes, the drawing and the
captions. The number of scenes has no influence, nor has ``PYTHONHASHSEED``
(``random.Random`` hashes a string seed with SHA-512).

Short captions (7-8 words) name some of the attributes, as pretrained BLIP
does; long captions (17-18 words on average) name all of them.
"""

import colorsys
import itertools
import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from PIL import Image, ImageDraw, ImageFilter

ATTRIBUTES = ("shape", "colour", "size", "place", "background")  # fields of Scene
_SUPERSAMPLING = 3  # masks are drawn this many times larger, then averaged down
_PNG_EVERY = 5  # every fifth file is a PNG, so that both formats occur

Shape = Literal["circle", "square", "triangle", "star", "cross", "ring"]
Colour = Literal["red", "orange", "yellow", "green", "blue", "purple", "pink"]
Size = Literal["small", "medium", "large"]
Place = Literal["top left", "top right", "bottom left", "bottom right", "middle"]
Background = Literal["plain", "striped", "dotted", "checkered"]

SHAPES: tuple[Shape, ...] = get_args(Shape)
COLOURS: tuple[Colour, ...] = get_args(Colour)
SIZES: tuple[Size, ...] = get_args(Size)
PLACES: tuple[Place, ...] = get_args(Place)
BACKGROUNDS: tuple[Background, ...] = get_args(Background)
_VALUES: tuple[tuple[str, ...], ...] = (SHAPES, COLOURS, SIZES, PLACES, BACKGROUNDS)

Draw = ImageDraw.ImageDraw
Box = tuple[int, int]  # width and height in pixels
Pose = tuple[tuple[float, float], float, float]  # centre, radius in pixels, turn in radians


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One scene; ``seed`` and ``index`` also determine how it is drawn."""

    seed: int
    index: int
    shape: Shape
    colour: Colour
    size: Size
    place: Place
    background: Background


# Hue and its jitter in degrees, lowest saturation, lowest value.
_HUES: dict[Colour, tuple[float, float, float, float]] = {
    "red": (0, 5, 0.80, 0.75),
    "orange": (27, 4, 0.85, 0.90),
    "yellow": (54, 4, 0.80, 0.90),
    "green": (122, 16, 0.70, 0.55),
    "blue": (220, 12, 0.75, 0.75),
    "purple": (277, 8, 0.70, 0.60),
    "pink": (332, 8, 0.42, 0.93),
}
# Corners as (radius, degrees clockwise from the top) of the polygonal shapes.
_POLYGONS: dict[Shape, list[tuple[float, float]]] = {
    "square": [(1.18, 45 + 90 * k) for k in range(4)],
    "triangle": [(1.12, 120 * k) for k in range(3)],
    "star": [(1.12 if k % 2 == 0 else 0.44, 36 * k) for k in range(10)],
    "cross": [(r, 90 * k + a) for k in range(4) for r, a in ((1.08, -16), (1.08, 16), (0.42, 45))],
}
# The object's extent as a share of the picture's (geometric mean) side.
_EXTENTS = {"small": (0.25, 0.29), "medium": (0.37, 0.41), "large": (0.52, 0.57)}
# The attribute and value of each phrase: "red" -> ("colour", "red").
_NAMED: dict[str, tuple[str, str]] = {
    value: (name, value) for name, of in zip(ATTRIBUTES, _VALUES, strict=True) for value in of
}


def scene(seed: int, index: int) -> Scene:
    """Draw the attributes of scene ``index`` of the collection ``seed``."""
    rng = random.Random(f"{seed}/{index}/attributes")
    return Scene(
        seed=seed,
        index=index,
        shape=rng.choice(SHAPES),
        colour=rng.choice(COLOURS),
        size=rng.choice(SIZES),
        place=rng.choice(PLACES),
        # Plain ones twice as often: mostly their captions name the place.
        background=rng.choice(("plain", *BACKGROUNDS)),
    )


def _short_forms(scene: Scene) -> dict[str, int]:
    """Return every true short caption with its weight.

    All name the shape and at least one more attribute. A pattern behind the
    object is named more often than a plain background, as people would.
    """
    shape, colour, size, background = scene.shape, scene.colour, scene.size, scene.background
    article = "an" if colour[0] in "aeiou" else "a"
    where, near = _where(scene.place)
    striking = 1 if background == "plain" else 3
    return {
        f"a {shape} {where}": 1,
        f"{article} {colour} {shape} {where}": 1,
        f"a {size} {shape} {where}": 1,
        f"a {size} {colour} {shape} {near}": 2,
        f"a picture of a {size} {colour} {shape}": 1,
        f"{article} {colour} {shape} on a {background} background": striking,
        f"a {size} {shape} on a {background} background": striking,
        f"a {size} {colour} {shape} on a {background} background": striking,
    }


def _where(place: Place) -> tuple[str, str]:
    """Return a place in five words, and in three or four."""
    if place == "middle":
        return "right in the very middle", "in the middle"
    return f"in the {place} corner", f"at the {place}"


def short_captions(scene: Scene) -> list[str]:
    """Return every short caption that is true of the scene."""
    return list(_short_forms(scene))


def short_caption(scene: Scene, draw: int = 0) -> str:
    """Return one true caption of 7 or 8 words.

    Which attributes it names is drawn per scene and ``draw``.
    """
    forms = _short_forms(scene)
    rng = random.Random(f"{scene.seed}/{scene.index}/caption/{draw}")
    return rng.choices(list(forms), weights=list(forms.values()))[0]


def long_captions(scene: Scene) -> list[str]:
    """Return five paraphrases, 16 to 19 words, each naming every attribute."""
    thing = f"a {scene.size} {scene.colour} {scene.shape}"
    behind = f"on a {scene.background} background"
    where = _where(scene.place)[0]
    return [
        f"{thing} sits {where} of the picture {behind}",
        f"there is {thing} {where} of the picture and the background is {scene.background}",
        f"{where} of the picture there is {thing} {behind}",
        f"the picture shows {thing} {behind} {where}",
        f"{behind} somebody has drawn {thing} placed {where}",
    ]


def named_attributes(caption: str) -> set[tuple[str, str]]:
    """Return the (attribute, value) pairs a caption names, true or not."""
    words = re.findall(r"[a-z]+", caption.lower())
    phrases = [*words, *(f"{first} {second}" for first, second in itertools.pairwise(words))]
    return {_NAMED[phrase] for phrase in phrases if phrase in _NAMED}


def attributes_right(caption: str, scene: Scene) -> tuple[int, int]:
    """Return how many of the named attributes are true, and how many are named."""
    named = named_attributes(caption)
    return sum(getattr(scene, name) == value for name, value in named), len(named)


def is_exactly_right(caption: str, scene: Scene) -> bool:
    """Whether the caption is one of the scene's true short captions."""
    return caption in _short_forms(scene)


def render(scene: Scene, side_px: int | None = None) -> Image.Image:
    """Draw the scene as RGB; the longer side is 128 to 320 pixels if not given."""
    rng = random.Random(f"{scene.seed}/{scene.index}/drawing")
    own_px = rng.randrange(128, 321)  # always drawn, so that `side_px` changes nothing else
    width, height = rng.choice([(1.0, 1.0), (1.0, 0.75), (0.75, 1.0)])
    box = (round((side_px or own_px) * width), round((side_px or own_px) * height))
    image = _draw_background(scene.background, box, rng)
    _draw_object(image, scene, rng)
    grain = Image.frombytes("L", box, rng.randbytes(box[0] * box[1]))
    return Image.blend(image, grain.convert("RGB"), rng.uniform(0.0, 0.06))


def write_scenes(folder: Path, num: int, seed: int) -> list[tuple[str, Scene]]:
    """Write ``num`` JPEG and PNG files; return their sorted names, each with its scene."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for index in range(num):
        drawn = scene(seed, index)
        suffix = "png" if index % _PNG_EVERY == _PNG_EVERY - 1 else "jpg"
        name = f"scene-{index:06d}.{suffix}"
        render(drawn).save(folder / name, quality=92)
        written.append((name, drawn))
    return written


def _rgb(hue_degrees: float, saturation: float, value: float) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(hue_degrees % 360 / 360, saturation, value)
    return round(red * 255), round(green * 255), round(blue * 255)


def _mask(box: Box, paint: Callable[[Draw, int], None]) -> Image.Image:
    """Paint an antialiased mask; ``paint`` gets the drawing and its scale."""
    canvas = Image.new("L", (box[0] * _SUPERSAMPLING, box[1] * _SUPERSAMPLING))
    paint(ImageDraw.Draw(canvas), _SUPERSAMPLING)
    return canvas.reduce(_SUPERSAMPLING)


def _draw_background(background: Background, box: Box, rng: random.Random) -> Image.Image:
    """Draw a pale or dark gradient, with a pattern of another tone over it."""
    hue, saturation = rng.uniform(0, 360), rng.uniform(0.03, 0.16)
    is_dark = rng.random() < 0.3
    value = rng.uniform(0.14, 0.24) if is_dark else rng.uniform(0.88, 0.98)
    inward = 1 if is_dark else -1
    shaded = value + inward * rng.uniform(0.0, 0.08)
    ramp = Image.linear_gradient("L").rotate(rng.choice([0, 90, 180, 270])).resize(box)
    image = Image.new("RGB", box, _rgb(hue, saturation, shaded))
    image.paste(_rgb(hue, saturation, value), mask=ramp)
    tone = _rgb(hue, saturation, value + inward * rng.uniform(0.20, 0.28))
    period = math.sqrt(box[0] * box[1]) * rng.uniform(0.13, 0.19)
    is_upright = rng.random() < 0.5

    def paint(canvas: Draw, scale: int) -> None:
        _paint_pattern(canvas, background, period * scale, is_upright)

    image.paste(tone, mask=_mask(box, paint))
    return image


def _paint_pattern(canvas: Draw, background: Background, period: float, is_upright: bool) -> None:
    """Paint stripes, dots or checks of a period in pixels over the canvas."""
    width, height = canvas.im.size
    columns, rows = math.ceil(width / period), math.ceil(height / period)
    half = period / 2
    if background == "striped":
        for step in range(columns if is_upright else rows):
            near, far = step * period, step * period + half
            canvas.rectangle((near, 0, far, height) if is_upright else (0, near, width, far), 255)
        return
    for x, y in ((c * period, r * period) for c in range(columns) for r in range(rows)):
        if background == "dotted":
            canvas.ellipse((x + half * 0.4, y + half * 0.4, x + half * 1.6, y + half * 1.6), 255)
        elif background == "checkered":
            canvas.rectangle((x, y, x + half, y + half), 255)
            canvas.rectangle((x + half, y + half, x + period, y + period), 255)


def _draw_object(image: Image.Image, scene: Scene, rng: random.Random) -> None:
    """Draw the object, sometimes outlined, sometimes with a shadow."""
    radius = math.sqrt(image.width * image.height) * rng.uniform(*_EXTENTS[scene.size]) / 2
    centre = _centre(scene.place, radius, image.size, rng)
    turn = math.radians(rng.uniform(-14, 14))
    hue, jitter, saturation, value = _HUES[scene.colour]
    hue += rng.uniform(-jitter, jitter)
    saturation = rng.uniform(saturation, min(1.0, saturation + 0.2))
    value = rng.uniform(value, min(1.0, value + 0.2))

    def silhouette(growth: float) -> Image.Image:
        def paint(canvas: Draw, scale: int) -> None:
            pose = ((centre[0] * scale, centre[1] * scale), radius * scale, turn)
            _paint_shape(canvas, scene.shape, pose, growth)

        return _mask(image.size, paint)

    if rng.random() < 0.4:
        shadow = silhouette(1.0).filter(ImageFilter.GaussianBlur(radius * 0.1))
        shadow = shadow.point(lambda level: level // 2)
        image.paste((30, 30, 30), (round(radius * 0.12), round(radius * 0.12)), mask=shadow)
    if rng.random() < 0.4:
        image.paste(_rgb(hue, saturation, value * 0.5), mask=silhouette(1.12))
    image.paste(_rgb(hue, saturation, value), mask=silhouette(1.0))


def _centre(place: Place, radius: float, box: Box, rng: random.Random) -> tuple[float, float]:
    """Return the object's centre in pixels, jittered but clear of the edges."""
    width, height = box
    if place == "middle":
        return width * rng.uniform(0.46, 0.54), height * rng.uniform(0.46, 0.54)
    x = radius + width * rng.uniform(0.02, 0.06)
    y = radius + height * rng.uniform(0.02, 0.06)
    return width - x if "right" in place else x, height - y if "bottom" in place else y


def _paint_shape(canvas: Draw, shape: Shape, pose: Pose, growth: float) -> None:
    """Paint a shape, its outermost points ``growth`` radii from its centre."""
    (x, y), radius, turn = pose
    outer = radius * growth
    if shape in _POLYGONS:
        points = [(outer * r, math.radians(a) + turn) for r, a in _POLYGONS[shape]]
        canvas.polygon([(x + r * math.sin(a), y - r * math.cos(a)) for r, a in points], 255)
        return
    canvas.ellipse((x - outer, y - outer, x + outer, y + outer), 255)
    if shape == "ring":
        inner = radius * (0.56 - (growth - 1))  # an outline goes round the hole too
        canvas.ellipse((x - inner, y - inner, x + inner, y + inner), 0)

"""Toybox: small rendered scenes with exact masks, for the demo, the selftest and the training.

A scene shows 1 to 5 things on one or two textured grounds. A thing is a colour, a surface and a
shape ("red striped ring"); a ground is one word ("grass"). The seed determines everything. Some
pairs of colour and surface, and of colour and shape, are held out: `render` draws them only with
`held_out`, so that the naming of new pairs can be measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from wordmask.errors import WordmaskError, unknown

# The first name of each is the canonical one, the others are synonyms.
COLOURS: dict[str, tuple[str, ...]] = {
    "red": ("red", "crimson"),
    "orange": ("orange", "tangerine"),
    "yellow": ("yellow", "lemon"),
    "green": ("green", "emerald"),
    "turquoise": ("turquoise", "teal"),
    "blue": ("blue", "azure"),
    "purple": ("purple", "violet"),
    "pink": ("pink", "magenta"),
}
SURFACES: dict[str, tuple[str, ...]] = {
    "plain": ("plain", "solid"),
    "striped": ("striped", "banded"),
    "dotted": ("dotted", "spotted"),
    "checked": ("checked", "chequered"),
    "waved": ("waved", "wavy"),
    "speckled": ("speckled", "grainy"),
}
SHAPES: dict[str, tuple[str, ...]] = {
    "disc": ("disc", "circle"),
    "square": ("square", "box"),
    "triangle": ("triangle", "wedge"),
    "ring": ("ring", "hoop"),
    "cross": ("cross", "plus"),
    "star": ("star",),
    "heart": ("heart",),
    "moon": ("moon", "crescent"),
}
GROUNDS: dict[str, tuple[str, ...]] = {
    "grass": ("grass", "lawn"),
    "sand": ("sand", "beach"),
    "water": ("water", "sea"),
    "brick": ("brick", "bricks"),
    "snow": ("snow",),
    "wood": ("wood", "planks"),
    "gravel": ("gravel", "pebbles"),
    "soil": ("soil", "earth"),
}
RGB: dict[str, tuple[int, int, int]] = {
    "red": (222, 28, 36),
    "orange": (255, 138, 12),
    "yellow": (252, 226, 30),
    "green": (22, 176, 58),
    "turquoise": (20, 208, 196),
    "blue": (34, 72, 224),
    "purple": (132, 44, 190),
    "pink": (255, 92, 176),
}
# One surface and one shape of each colour are never shown in training.
HELD_OUT_LOOKS = frozenset(
    zip(COLOURS, ("checked", "waved", "striped", "speckled", "dotted", "plain", "checked", "waved"),
        strict=True)
)  # fmt: skip
HELD_OUT_SHAPES = frozenset(
    zip(COLOURS, ("star", "ring", "heart", "disc", "triangle", "moon", "cross", "square"),
        strict=True)
)  # fmt: skip

_COLOURS, _SURFACES, _SHAPES, _GROUNDS = map(tuple, (COLOURS, SURFACES, SHAPES, GROUNDS))
SIZE = 96  # side of a fresh scene in pixels: what the networks were trained on, 12 x 12 patches
MOST_SCENES = 100_000
_TEXTURE = 256  # side of a ground texture, pixels


@dataclass(frozen=True)
class Thing:
    """One thing of a scene; `box` is (left, top, right, bottom) of what is visible, in pixels."""

    colour: str
    surface: str
    shape: str
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Scene:
    """A rendered scene.

    Attributes:
        image: (H, W, 3) uint8 RGB.
        parts: (H, W) uint8; k < len(grounds) is grounds[k], any other is things[k - len(grounds)].
        grounds: one or two ground names.
        things: the things with at least one visible pixel, from back to front.
    """

    image: np.ndarray
    parts: np.ndarray
    grounds: tuple[str, ...]
    things: tuple[Thing, ...]


def render(
    seed: int,
    size: int = 96,
    *,
    things: tuple[int, int] = (1, 5),
    held_out: bool | Literal["only"] = False,
) -> Scene:
    """Render the scene of a seed.

    Args:
        seed: any integer >= 0; the same seed and arguments give the same scene.
        size: side of the square scene in pixels, at least 32.
        things: least and most things drawn, inclusive; the networks were trained on 1 to 5.
        held_out: False never shows a held-out pair, True draws from all, "only" gives every
            thing a held-out colour-surface pair and a held-out colour-shape pair.

    Raises:
        WordmaskError: a size under 32, or an empty range of things.
    """
    if size < 32:
        raise WordmaskError(f"size is {size}; a toybox scene needs at least 32 pixels")
    least, most = things
    if not 0 <= least <= most:
        raise WordmaskError(f"things is {things}; give (least, most) with 0 <= least <= most")
    rng = np.random.default_rng(seed)
    image, parts, grounds = _ground(rng, size)
    noise, marks = _noise()
    kept: list[tuple[str, str, str]] = []
    pairs = _pairs(held_out)
    for index in range(int(rng.integers(least, most + 1))):
        colour, surface, shape = pairs[int(rng.integers(len(pairs)))]
        _draw(rng, image, parts, len(grounds) + index, colour, surface, shape, marks)
        kept.append((colour, surface, shape))

    # Light falls from one side; then the noise of the sensor.
    along = np.linspace(-1, 1, size, dtype=np.float32)
    slope = rng.uniform(-0.08, 0.08, 2).astype(np.float32)
    light = 1 + slope[0] * along[:, None] + slope[1] * along[None, :]
    image *= (light * np.float32(rng.uniform(0.92, 1.05)))[..., None]
    y, x = rng.integers(0, _TEXTURE, 2)
    rows, columns = (np.arange(size) + y) % len(noise), (np.arange(size) + x) % len(noise)
    image += np.float32(rng.uniform(1, 6)) * noise[rows[:, None], columns]
    np.clip(image, 0, 255, out=image)

    # Things covered completely by later ones are not part of the scene.
    visible = np.bincount(parts.reshape(-1), minlength=len(grounds) + len(kept))
    remap = np.cumsum(visible > 0) - 1
    parts = remap.astype(np.uint8)[parts]
    grounds = tuple(g for k, g in enumerate(grounds) if visible[k])
    shown: list[Thing] = []
    for index, (colour, surface, shape) in enumerate(kept):
        if visible[index + len(visible) - len(kept)]:
            shown.append(Thing(colour, surface, shape, _box(parts == len(grounds) + len(shown))))
    return Scene(image.astype(np.uint8), parts, grounds, tuple(shown))


def fresh_scenes(
    count: int, seed: int = 0, held_out: Literal[False, "only"] = False
) -> list[Scene]:
    """Render scenes that neither the training nor its own measurements used.

    Raises:
        WordmaskError: a count outside 1 to 100,000, or a negative seed.
    """
    if not 1 <= count <= MOST_SCENES:
        raise WordmaskError(f"got {count} scenes; give 1 to {MOST_SCENES}")
    if seed < 0:
        raise WordmaskError(f"got the seed {seed}; give a whole number from 0 on")
    first = 2 * 10**9 + 2 * MOST_SCENES * seed + (MOST_SCENES if held_out else 0)
    return [render(first + i, SIZE, held_out=held_out) for i in range(count)]


def label_map(scene: Scene, words: Sequence[str | Sequence[str]]) -> np.ndarray:
    """Label the pixels of a scene with a list of words.

    Args:
        scene: the scene.
        words: each one word, or one list of synonyms, such as "grass", "red striped", "ring",
            "violet", "blue dotted box"; articles and "thing" are skipped. If several fit a
            pixel, the first is taken.

    Returns:
        (H, W) uint8; 0 if no word fits, i for words[i - 1].

    Raises:
        WordmaskError: a word that is not in the toybox.
    """
    table = np.zeros(len(scene.grounds) + len(scene.things), np.uint8)
    for index, names in reversed(list(enumerate(words, 1))):
        for name in [names] if isinstance(names, str) else names:
            meaning = parse(name)
            for part, facts in enumerate(_facts(scene)):
                if meaning and all(facts.get(kind) == value for kind, value in meaning.items()):
                    table[part] = index
    return table[scene.parts]


def parse(name: str) -> dict[str, str]:
    """Read a name: "a violet box" is {"colour": "purple", "shape": "square"}.

    Raises:
        WordmaskError: a word that is not in the toybox.
    """
    meaning = {}
    for word in name.lower().split():
        if word in ("a", "an", "the", "thing", "something"):
            continue
        if word not in _meanings():
            raise unknown("toybox word", word, _meanings())
        kind, value = _meanings()[word]
        meaning[kind] = value
    return meaning


def looks(held_out: bool | Literal["only"] = False) -> list[str]:
    """Return the names of all looks, "red plain" and so on; see `render` for held_out."""
    names = []
    for colour in COLOURS:
        for surface in SURFACES:
            out = (colour, surface) in HELD_OUT_LOOKS
            if held_out is True or out == (held_out == "only"):
                names.append(f"{colour} {surface}")
    return names


NAMES = (*GROUNDS, *looks(True))
"""All words of fresh scenes: grounds, then looks (a colour and a surface)."""


def choices(scene: Scene, count: int = 20, seed: int = 0) -> list[str]:
    """Return words to choose from: all grounds, the scene's looks and, drawn by seed, other looks.

    The order does not reveal the scene's looks. All grounds and looks of the scene are included,
    even if they are more than `count`.
    """
    rng = np.random.default_rng(seed)
    shown = sorted({f"{thing.colour} {thing.surface}" for thing in scene.things})
    others = [name for name in looks(True) if name not in shown]
    more = max(0, count - len(GROUNDS) - len(shown))
    drawn = [others[i] for i in rng.permutation(len(others))[:more]]
    return [*GROUNDS, *sorted(shown + drawn)]


def captions(scene: Scene, rng: np.random.Generator, count: int = 3) -> list[str]:
    """Draw captions that are true of the scene, in several phrasings and with synonyms."""
    sentences = []
    for _ in range(count):
        ground = _say(rng, GROUNDS, scene.grounds[int(rng.integers(len(scene.grounds)))])
        phrases = []
        for index in rng.permutation(len(scene.things))[: int(rng.integers(1, 4))]:
            phrases.append(phrase(scene.things[int(index)], rng))
        listed = ", ".join(phrases[:-1]) + " and " * (len(phrases) > 1) + "".join(phrases[-1:])
        if not listed:
            forms = [f"{ground}", f"nothing but {ground}", f"a picture of {ground}"]
        else:
            forms = [
                listed,
                f"{listed} on {ground}",
                f"a picture of {listed}",
                f"a photo of {listed} on {ground}",
                f"on {ground} there is {listed}",
                f"{ground} with {listed}",
                f"{listed} lying on the {ground}",
            ]
        sentences.append(forms[int(rng.integers(len(forms)))])
    return sentences


def phrase(thing: Thing, rng: np.random.Generator) -> str:
    """Name one thing: all of it, or its look, or its colour and shape."""
    colour = _say(rng, COLOURS, thing.colour)
    surface = _say(rng, SURFACES, thing.surface)
    shape = _say(rng, SHAPES, thing.shape)
    forms = [
        f"{colour} {surface} {shape}",
        f"{surface} {colour} {shape}",
        f"{colour} {surface} thing",
        f"{colour} {shape}",
        f"{surface} {shape}",
        f"{shape} that is {colour} and {surface}",
    ]
    form = forms[int(rng.integers(len(forms)))]
    return ("an " if form[0] in "aeiou" else "a ") + form


def _say(rng: np.random.Generator, names: dict[str, tuple[str, ...]], name: str) -> str:
    words = names[name]
    return words[0] if rng.random() < 0.5 else words[int(rng.integers(len(words)))]


@lru_cache(1)
def _meanings() -> dict[str, tuple[str, str]]:
    kinds = {"colour": COLOURS, "surface": SURFACES, "shape": SHAPES, "ground": GROUNDS}
    return {
        synonym: (kind, name)
        for kind, names in kinds.items()
        for name, synonyms in names.items()
        for synonym in synonyms
    }


def _facts(scene: Scene) -> list[dict[str, str]]:
    grounds = [{"ground": ground} for ground in scene.grounds]
    return grounds + [
        {"colour": thing.colour, "surface": thing.surface, "shape": thing.shape}
        for thing in scene.things
    ]


@lru_cache(3)
def _pairs(held_out: bool | Literal["only"]) -> tuple[tuple[str, str, str], ...]:
    """All (colour, surface, shape) that may be drawn."""
    allowed = []
    for colour in COLOURS:
        for surface in SURFACES:
            for shape in SHAPES:
                out = ((colour, surface) in HELD_OUT_LOOKS, (colour, shape) in HELD_OUT_SHAPES)
                if held_out is True or (all(out) if held_out == "only" else not any(out)):
                    allowed.append((colour, surface, shape))
    return tuple(allowed)


def _box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def _soft(value: np.ndarray, sharpness: float) -> np.ndarray:
    """Turn a signed value into cover 0 ... 1 with an edge about one pixel wide."""
    return np.clip(value * sharpness + 0.5, 0, 1)


def _draw(
    rng: np.random.Generator,
    image: np.ndarray,
    parts: np.ndarray,
    index: int,
    colour: str,
    surface: str,
    shape: str,
    marks: np.ndarray,
) -> None:
    """Paint one thing over image (H, W, 3) float32 and write its index into parts, in place."""
    size = len(image)
    draw = rng.random(16).astype(np.float32)
    radius = size * (0.13 + 0.14 * float(draw[0]))
    cx, cy = (float(d) * size * 0.84 + 0.08 * size for d in draw[1:3])
    left, right = max(0, int(cx - radius)), min(size, int(cx + radius) + 2)
    top, bottom = max(0, int(cy - radius)), min(size, int(cy + radius) + 2)
    x = np.arange(left, right, dtype=np.float32)[None, :] - np.float32(cx)
    y = np.arange(top, bottom, dtype=np.float32)[:, None] - np.float32(cy)
    turn = float(draw[3]) * 2 * np.pi
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    u, v = cos * x + sin * y, cos * y - sin * x  # pixels, in the thing's own frame
    cover = _soft(_inside(shape, u / np.float32(radius), v / np.float32(radius)), radius)
    pattern = _pattern(surface, u, v, draw[4:8], marks)[..., None]

    base = np.array(RGB[colour], np.float32) * (0.9 + 0.15 * draw[8])
    base = base + 14 * (draw[9:12] - 0.5)
    second = base * 0.16 if draw[12] < 0.5 else 248 - (248 - base) * 0.08
    paint = base + pattern * (second - base)
    shade = 1 + (draw[13] - 0.5) * 0.36 * (x / radius) + (draw[14] - 0.5) * 0.36 * (y / radius)
    paint *= shade[..., None]

    # A shadow down to the right; it darkens what lies below and belongs to it.
    fall = 1 + int(draw[15] * 3)
    height, width = min(bottom + fall, size) - top - fall, min(right + fall, size) - left - fall
    if height > 0 and width > 0:
        below = image[top + fall : top + fall + height, left + fall : left + fall + width]
        below *= 1 - 0.35 * cover[:height, :width, None]
    region = image[top:bottom, left:right]
    region += cover[..., None] * (paint - region)
    parts[top:bottom, left:right][cover >= 0.5] = index


def _inside(shape: str, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Give about the distance to the edge, positive inside; u, v in units of the thing's radius."""
    if shape == "disc":
        return 0.88 - np.hypot(u, v)
    if shape == "square":
        return 0.7 - np.maximum(np.abs(u), np.abs(v))
    if shape == "triangle":
        return 0.46 - np.maximum(v, np.maximum(0.866 * u, -0.866 * u) - 0.5 * v)
    if shape == "ring":
        return 0.24 - np.abs(np.hypot(u, v) - 0.7)
    if shape == "cross":
        a, b = np.abs(u), np.abs(v)
        return np.maximum(np.minimum(0.92 - a, 0.3 - b), np.minimum(0.92 - b, 0.3 - a))
    if shape == "star":
        angle = np.mod(np.arctan2(u, v) + np.pi, 2 * np.pi / 5) - np.pi / 5
        return 0.5 - np.hypot(u, v) * np.cos(np.abs(angle) - 0.98) * 0.94 + 0.02
    if shape == "heart":
        a, b = np.abs(u), 0.16 - v
        corner = (0.64 - a - np.abs(b)) * 0.7071
        return np.maximum(corner, 0.4525 - np.hypot(a - 0.32, b - 0.32))
    return np.minimum(0.9 - np.hypot(u, v), np.hypot(u - 0.5, v) - 0.62)  # moon


def _pattern(
    surface: str, u: np.ndarray, v: np.ndarray, draw: np.ndarray, marks: np.ndarray
) -> np.ndarray:
    """Give the share, 0 ... 1, of the second tone at u, v (pixels in the thing's frame)."""
    scale = np.float32(0.92 + 0.3 * draw[0])
    u, v = u + 9 * draw[1], v + 9 * draw[2]
    turn = np.float32(2 * np.pi)
    if surface == "plain":
        return np.zeros(np.broadcast_shapes(u.shape, v.shape), np.float32)
    if surface == "striped":
        return _soft(np.sin(u * (turn / (5.2 * scale))), 1.2)
    if surface == "waved":
        bent = u + 2.4 * scale * np.sin(v * (turn / (9.5 * scale)))
        return _soft(np.sin(bent * (turn / (6.4 * scale))), 1.3)
    if surface == "dotted":
        step = 6.0 * scale
        du, dv = np.mod(u, step) - step / 2, np.mod(v, step) - step / 2
        return _soft(1.7 * scale - np.hypot(du, dv), 1.0)
    if surface == "checked":
        step = turn / (7.6 * scale)
        return _soft(np.sin(u * step) * np.sin(v * step), 2.2)
    start = int(draw[3] * (_TEXTURE - 1))  # speckled
    height, width = u.shape
    rows, columns = np.arange(height) + start, np.arange(width) + 2 * start
    return marks[np.ix_(rows % _TEXTURE, columns % _TEXTURE)]


@lru_cache(1)
def _noise() -> tuple[np.ndarray, np.ndarray]:
    """Give sensor noise (2T, 2T, 3) of unit variance and speckle marks (T, T) of 0 and 1."""
    rng = np.random.default_rng(20)
    noise = rng.standard_normal((2 * _TEXTURE, 2 * _TEXTURE, 3), dtype=np.float32)
    marks = (rng.random((_TEXTURE, _TEXTURE), dtype=np.float32) < 0.3).astype(np.float32)
    return noise, marks


def _ground(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Give image (size, size, 3) float32, parts (size, size) uint8 and the ground names."""
    first, second = (int(i) for i in rng.permutation(len(_GROUNDS))[:2])
    image = _patch_of(rng, first, size)
    parts = np.zeros((size, size), np.uint8)
    if rng.random() < 0.6:
        return image, parts, (_GROUNDS[first],)
    turn, offset, wave = rng.uniform(0, 2 * np.pi), rng.uniform(-0.25, 0.25) * size, rng.random(2)
    x = np.arange(size, dtype=np.float32)[None, :] - size / 2
    y = np.arange(size, dtype=np.float32)[:, None] - size / 2
    across = np.cos(turn) * x + np.sin(turn) * y
    along = np.cos(turn) * y - np.sin(turn) * x
    shore = 0.03 * size * np.sin(along * (2 * np.pi / size) * (1 + wave[0]) + 6 * wave[1])
    cover = _soft((across - offset - shore).astype(np.float32), 0.7)
    image += cover[..., None] * (_patch_of(rng, second, size) - image)
    parts[cover >= 0.5] = 1
    return image, parts, (_GROUNDS[first], _GROUNDS[second])


def _patch_of(rng: np.random.Generator, ground: int, size: int) -> np.ndarray:
    """Cut a random piece (size, size, 3) float32 from a ground's texture, tiled if too small."""
    texture = _textures()[ground]
    y, x = (int(i) for i in rng.integers(0, _TEXTURE, 2))
    if size > _TEXTURE:
        texture = np.tile(texture, (-(-size // _TEXTURE), -(-size // _TEXTURE), 1))
    piece = texture[y : y + size, x : x + size]
    if rng.random() < 0.5:
        piece = piece[:, ::-1]
    tint = (rng.random(3) - 0.5) * 12 + rng.uniform(-10, 10)
    return piece * np.float32(rng.uniform(0.9, 1.08)) + tint.astype(np.float32)


def _smooth(rng: np.random.Generator, sigma_y: float, sigma_x: float) -> np.ndarray:
    """Give periodic noise (T, T) of unit variance, blurred along y and x (sigmas in pixels)."""
    spectrum = np.fft.rfft2(rng.standard_normal((_TEXTURE, _TEXTURE)))
    fy, fx = np.fft.fftfreq(_TEXTURE)[:, None], np.fft.rfftfreq(_TEXTURE)[None, :]
    blur = np.exp(-2 * np.pi**2 * ((fy * sigma_y) ** 2 + (fx * sigma_x) ** 2))
    field = np.fft.irfft2(spectrum * blur, (_TEXTURE, _TEXTURE))
    return field / field.std()


@lru_cache(1)
def _textures() -> list[np.ndarray]:
    """Paint the grounds once: a list of (2T, 2T, 3) float32, each periodic with period T."""
    rng = np.random.default_rng(10)
    y, x = np.mgrid[:_TEXTURE, :_TEXTURE].astype(np.float64)
    turn = 2 * np.pi / _TEXTURE

    def mix(dark: Sequence[int], light: Sequence[int], share: np.ndarray) -> np.ndarray:
        share = np.clip(share, 0, 1)[..., None]
        return np.asarray(dark) * (1 - share) + np.asarray(light) * share

    blades = 0.5 + 0.3 * _smooth(rng, 2.6, 0.5) + 0.12 * _smooth(rng, 9, 9)
    grass = mix((38, 72, 22), (128, 152, 62), blades)
    ripples = 0.5 * np.sin(20 * turn * y + 1.6 * _smooth(rng, 9, 14))
    sand = mix(
        (196, 168, 116), (236, 214, 168), 0.5 + 0.5 * ripples + 0.12 * _smooth(rng, 0.5, 0.5)
    )
    waves = np.sin(26 * turn * y + 2.2 * np.sin(8 * turn * x) + 1.5 * _smooth(rng, 4, 8))
    water = mix((28, 74, 104), (140, 182, 202), 0.32 + 0.34 * waves**3 + 0.14 * _smooth(rng, 1, 3))
    row = y // 8
    joint = (y % 8 < 1.5) | ((x + 8 * (row % 2)) % 16 < 1.5)
    tones = rng.random((32, 16))
    tone = tones[row.astype(int), ((x + 8 * (row % 2)) // 16).astype(int) % 16]
    brick = mix((118, 52, 40), (168, 88, 66), tone + 0.15 * _smooth(rng, 0.7, 0.7))
    brick[joint] = (186, 178, 168)
    snow = mix((206, 216, 232), (250, 252, 255), 0.6 + 0.22 * _smooth(rng, 4, 5))
    grain = np.sin(16 * turn * x + 1.8 * _smooth(rng, 24, 5)) * 0.28
    wood = mix((112, 74, 40), (178, 130, 80), 0.5 + grain + 0.16 * _smooth(rng, 10, 0.5))
    wood[(x % 32) < 1.2] = (66, 42, 22)
    stones = _smooth(rng, 1.7, 1.7)
    gravel = mix((70, 70, 72), (190, 188, 184), 0.5 + 0.34 * stones + 0.06 * _smooth(rng, 0.4, 0.4))
    clods = 0.45 + 0.2 * _smooth(rng, 1.1, 1.1) + 0.14 * _smooth(rng, 5, 5)
    soil = mix((38, 26, 20), (92, 66, 50), clods)
    painted = (grass, sand, water, brick, snow, wood, gravel, soil)  # as GROUNDS
    return [np.tile(texture, (2, 2, 1)).astype(np.float32) for texture in painted]

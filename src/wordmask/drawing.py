"""Pictures of results: colours, overlays with a legend, heat maps, strips. Pillow and numpy only.

Every function takes pictures as uint8 (H, W, 3) RGB arrays or as PIL images, and returns a new PIL
image in RGB; what it was given stays as it was.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import cast

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageFont

from wordmask.errors import ImageError, WordmaskError

UNLABELLED = "unlabelled"

WHITE = (255, 255, 255)
INK = (28, 28, 30)
PALE_INK = (96, 96, 104)

BAND = 2**21  # pixels that are drawn or counted at a time

# -------------------------------------------------------------------------------------------------
# Colours

# The first classes get colours chosen by hand in OKLab: 0.10 at least from each other, from black,
# white and grey; the first ten are 0.05 apart under protanopia and deuteranopia too.
FIRST_COLOURS = (
    "1a75f0 f0820f 14b07c d8284f 7420c8 fbe41a 40e4ee ff86dd 7c2a10 a4d41c 08609e a68cff "
    "0a4d38 dcc4ee 940a70 e9f0b4 1c1cb0 947c06 da1cdc 1e7a10 a47c8c 46105c 30b4ff ffc480"
)
GOLDEN_ANGLE = 180 * (3 - math.sqrt(5))

# Lightness, chroma and hue of the heat map from low to high: dark violet to pale yellow, with
# lightness rising evenly, so that it also reads in grey.
HEAT_ANCHORS = (
    (0.16, 0.05, 285.0),
    (0.32, 0.17, 292.0),
    (0.48, 0.20, 345.0),
    (0.64, 0.21, 390.0),
    (0.80, 0.17, 430.0),
    (0.96, 0.09, 465.0),
)


def palette(n: int) -> np.ndarray:
    """Colours for ``n`` classes: (n + 1, 3) uint8, row 0 black for "none of the words".

    Row i does not depend on ``n``: a class keeps its colour when classes are added. From the 25th
    class on the hue advances by the golden angle while lightness and chroma alternate.
    """
    colours = np.zeros((n + 1, 3), dtype=np.uint8)
    first = np.array([list(bytes.fromhex(colour)) for colour in FIRST_COLOURS.split()], np.uint8)
    colours[1 : len(first) + 1] = first[:n]
    if n > len(first):
        index = np.arange(len(first) + 1, n + 1)
        lightness = np.array([0.72, 0.52, 0.83, 0.62, 0.42])[index % 5]
        chroma = np.array([0.19, 0.11, 0.15])[index // 5 % 3]
        colours[len(first) + 1 :] = _oklch_to_rgb(lightness, chroma, GOLDEN_ANGLE * index)
    return colours


def _oklch_to_rgb(lightness: np.ndarray, chroma: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """OKLCH (hue in degrees) to uint8 sRGB; chroma is reduced for colours outside sRGB.

    The matrices are those of B. Ottosson, "A perceptual color space for image processing" (2020).
    """
    to_cone = np.array(
        [
            [1.0, 0.3963377774, 0.2158037573],
            [1.0, -0.1055613458, -0.0638541728],
            [1.0, -0.0894841775, -1.2914855480],
        ]
    )
    to_linear = np.array(
        [
            [4.0767416621, -3.3077115913, 0.2309699292],
            [-1.2684380046, 2.6097574011, -0.3413193965],
            [-0.0041960863, -0.7034186147, 1.7076147010],
        ]
    )
    angle = np.deg2rad(hue)

    def linear(chroma: np.ndarray) -> np.ndarray:
        lab = np.stack([lightness, chroma * np.cos(angle), chroma * np.sin(angle)], axis=-1)
        return (lab @ to_cone.T) ** 3 @ to_linear.T

    low, high = np.zeros_like(chroma), chroma.astype(float)
    low = np.where(_in_gamut(linear(high)), high, low)
    for _ in range(12):
        middle = (low + high) / 2
        fits = _in_gamut(linear(middle))
        low, high = np.where(fits, middle, low), np.where(fits, high, middle)
    rgb = linear(low).clip(0, 1)
    rgb = np.where(rgb <= 0.0031308, 12.92 * rgb, 1.055 * rgb ** (1 / 2.4) - 0.055)
    return np.rint(255 * rgb).astype(np.uint8)


def _in_gamut(linear: np.ndarray) -> np.ndarray:
    return np.all((linear > -1e-4) & (linear < 1 + 1e-4), axis=-1)


@lru_cache(maxsize=1)
def _heat_colours() -> np.ndarray:
    """The 256 colours of the heat map, (256, 3) uint8."""
    anchors = np.array(HEAT_ANCHORS)
    at = np.linspace(0, len(anchors) - 1, 256)
    lightness, chroma, hue = (
        np.interp(at, np.arange(len(anchors)), column) for column in anchors.T
    )
    return _oklch_to_rgb(lightness, chroma, hue)


# -------------------------------------------------------------------------------------------------
# Pictures


def overlay(
    image: np.ndarray | Image.Image | None,
    labels: np.ndarray,
    names: Sequence[str],
    alpha: float = 0.55,
    legend: bool = True,
) -> Image.Image:
    """Draw the colours of the classes over a picture, with thin contours and a legend.

    Args:
        image: the picture, of the height and width of ``labels``; None draws flat colours on black.
        labels: (H, W) integers, 0 = none of the words, i = ``names[i - 1]``.
        names: the names of the classes; class i has the colour ``palette(n)[i]``.
        alpha: opacity of the colours, 0 to 1. Unlabelled pixels show the picture paler and darker.
        legend: add a legend of the classes that occur, most pixels first, with their share of the
            picture; below it, or beside a tall picture. It never covers the picture.

    Raises:
        WordmaskError: the shapes do not agree, a label has no name, or alpha is out of range.
    """
    check_labels(labels, names)
    if not 0 <= alpha <= 1:
        raise WordmaskError(f"alpha must be between 0 and 1, got {alpha}")
    height, width = labels.shape
    if image is not None:
        _check_picture(image)
        size = image.size if isinstance(image, Image.Image) else (image.shape[1], image.shape[0])
        if size != (width, height):
            raise ImageError(
                f"the picture is {size[0]}x{size[1]} but the labels are "
                f"{width}x{height}; give the picture that was segmented"
            )
    page = _page(labels, names) if legend else Image.new("RGB", (width, height))
    colours, reach = palette(len(names)), round(math.sqrt(labels.size) / 900)
    around = 2 * reach + 8  # rows that change the contours of a band: their width and their blur
    rows = max(BAND // width, 2 * around)
    for top in range(0, height, rows):
        first, last = max(top - around, 0), min(top + rows + around, height)
        own = labels[first:last]
        painted = flat = Image.fromarray(colours[own])
        if image is not None:
            photo = _rows(image, first, last)
            dimmed = ImageEnhance.Brightness(ImageEnhance.Color(photo).enhance(0.35)).enhance(0.8)
            painted = Image.composite(
                Image.blend(photo, flat, alpha), dimmed, Image.fromarray(own > 0)
            )
        painted = _contoured(painted, own, reach)
        page.paste(painted.crop((0, top - first, width, min(top + rows, last) - first)), (0, top))
    return page


def heat_map(
    values: np.ndarray,
    size: tuple[int, int],
    low: float,
    high: float,
    image: np.ndarray | Image.Image | None = None,
    alpha: float = 0.6,
) -> Image.Image:
    """Draw a heat map, from dark violet (``low`` and less) to pale yellow (``high`` and more).

    Args:
        values: (h, w) real numbers, for example one class on the patch grid.
        size: height and width of the result; the values are resized to it bilinearly.
        low: the value of the darkest colour. It is never derived from ``values``, so that several
            maps can share one range and be compared.
        high: the value of the brightest colour; if it equals ``low``, the map is dark.
        image: a picture, resized to ``size``, that shines through in grey.
        alpha: opacity of the colours over the picture, 0 to 1.

    Raises:
        WordmaskError: values that are not a finite (h, w) array, or ``high`` below ``low``.
    """
    values = np.asarray(values)
    if values.ndim != 2 or values.size == 0 or not np.isrealobj(values):
        raise WordmaskError(f"a heat map needs (h, w) real values, got shape {values.shape}")
    if not np.isfinite(values).all():
        raise WordmaskError("a heat map needs finite values, got NaN or infinity")
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise WordmaskError(f"a heat map needs low <= high, both finite, got {low} and {high}")
    if not 0 <= alpha <= 1:
        raise WordmaskError(f"alpha must be between 0 and 1, got {alpha}")
    height, width = size
    scaled = (values.astype(np.float64) - low) / (high - low or 1.0)
    small = Image.fromarray(scaled.clip(0, 1).astype(np.float32))
    scaled = np.asarray(small.resize((width, height), Image.Resampling.BILINEAR)).clip(0, 1)
    heat = Image.fromarray(_heat_colours()[np.rint(255 * scaled).astype(np.uint8)])
    if image is None:
        return heat
    photo = _photo(image).resize((width, height), Image.Resampling.LANCZOS)
    return Image.blend(photo.convert("L").convert("RGB"), heat, alpha)


def strip(
    images: Sequence[np.ndarray | Image.Image],
    titles: Sequence[str],
    columns: int | None = None,
    height: int | None = None,
) -> Image.Image:
    """Arrange pictures of equal height in a grid on white, each under its title.

    Args:
        images: one picture or more; their shapes may differ. One more than four times as wide as
            high is fitted to that width instead.
        titles: as many texts; a long one takes two lines and then ends in an ellipsis.
        columns: pictures in a row; at most four by default.
        height: of each picture in pixels; by default that of the highest one.

    Raises:
        WordmaskError: no picture, another number of titles, or a number below 1.
    """
    photos = [_photo(image) for image in images]
    if not photos or len(photos) != len(titles):
        raise WordmaskError(
            f"a strip needs one picture or more and a title for each, "
            f"got {len(photos)} pictures and {len(titles)} titles"
        )
    columns = min(len(photos), 4) if columns is None else columns
    height = max(photo.height for photo in photos) if height is None else height
    if columns < 1 or height < 1:
        raise WordmaskError(f"columns and height must be at least 1, got {columns} and {height}")
    photos = [_scaled(photo, height, 4 * height) for photo in photos]
    text_size = max(12, round(0.055 * height))
    gap = text_size
    widths = [
        max([8 * text_size] + [photo.width for photo in photos[column::columns]])
        for column in range(min(columns, len(photos)))
    ]
    wrapped = [
        _wrapped(title, text_size, widths[i % columns], lines=2) for i, title in enumerate(titles)
    ]
    line = round(1.3 * text_size)
    starts = range(0, len(photos), columns)
    title_heights = [line * max(map(len, wrapped[start : start + columns])) for start in starts]
    page = Image.new(
        "RGB",
        (
            sum(widths) + gap * (len(widths) + 1),
            sum(title_heights) + len(title_heights) * (height + gap + gap // 2) + gap // 2,
        ),
        WHITE,
    )
    draw = ImageDraw.Draw(page)
    top = gap // 2
    for start, title_height in zip(starts, title_heights, strict=True):
        left = gap
        row = zip(photos[start : start + columns], wrapped[start : start + columns], strict=True)
        for (photo, lines), width in zip(row, widths, strict=False):
            baseline = top + title_height - line * (len(lines) - 1) - round(0.3 * line)
            for number, text in enumerate(lines):
                font, text = _font(text, text_size)
                at = (left + width / 2, baseline + line * number)
                draw.text(at, text, INK, font, anchor="ms")
            corner = (left + (width - photo.width) // 2, top + title_height + gap // 4)
            page.paste(photo, (corner[0], corner[1] + (height - photo.height) // 2))
            left += width + gap
        top += title_height + height + gap + gap // 2
    return page


def mark_point(image: np.ndarray | Image.Image, x: int, y: int) -> Image.Image:
    """Mark the pixel in column ``x`` and row ``y`` with a ring that shows on any background.

    Raises:
        WordmaskError: the point lies outside the picture.
    """
    photo = _photo(image)
    if not (0 <= x < photo.width and 0 <= y < photo.height):
        raise WordmaskError(
            f"the point ({x}, {y}) is outside the picture of {photo.width}x{photo.height} pixels"
        )
    radius = max(4, round(0.022 * math.sqrt(photo.width * photo.height)))
    side = 4 * radius + 1
    mark = Image.new("RGBA", (4 * side, 4 * side))  # made smaller below: smooth edges
    draw = ImageDraw.Draw(mark)
    centre = (4 * side - 1) / 2
    for share, colour in ((1.0, INK), (0.88, WHITE), (0.58, INK), (0.46, (235, 30, 60))):
        low, high = centre - share * 4 * radius, centre + share * 4 * radius
        draw.ellipse((low, low, high, high), fill=colour)
    mark = mark.reduce(4)
    photo.paste(mark, (x - 2 * radius, y - 2 * radius), mark)
    return photo


def check_labels(labels: np.ndarray, names: Sequence[str]) -> None:
    """Refuse labels that are not (H, W) integers from 0 to the number of names."""
    if not isinstance(labels, np.ndarray) or labels.ndim != 2 or labels.size == 0:
        received = (
            f"shape {labels.shape}" if isinstance(labels, np.ndarray) else type(labels).__name__
        )
        raise WordmaskError(f"labels must be an array (H, W) with pixels in it, got {received}")
    if labels.dtype.kind not in "iu":
        raise WordmaskError(f"labels must be integers, got {labels.dtype}")
    if labels.min() < 0 or labels.max() > len(names):
        raise WordmaskError(
            f"labels must be 0 to {len(names)}, the number of names, "
            f"got {labels.min()} to {labels.max()}"
        )


def count_labels(labels: np.ndarray, classes: int) -> np.ndarray:
    """Pixels of each label, (classes + 1,) integers."""
    counts = np.zeros(classes + 1, np.int64)
    rows = max(BAND // labels.shape[1], 1)
    for top in range(0, len(labels), rows):  # bincount makes 8 bytes of each label
        band = labels[top : top + rows].ravel().astype(np.intp)
        counts += np.bincount(band, minlength=classes + 1)
    return counts


def percent(share: float) -> str:
    """Format a share from 0 to 1 in whole percent; only 0 reads "0 %" and only 1 "100 %"."""
    if 0 < share < 0.01:
        return "<1 %"
    if 0.99 < share < 1:
        return ">99 %"
    return f"{round(100 * share)} %"


def _photo(image: np.ndarray | Image.Image) -> Image.Image:
    """Return a new RGB image of a picture."""
    _check_picture(image)
    if isinstance(image, Image.Image):
        return image.convert("RGB") if image.mode != "RGB" else image.copy()
    return Image.fromarray(image)


def _rows(image: np.ndarray | Image.Image, top: int, bottom: int) -> Image.Image:
    """Rows of a picture as a new RGB image."""
    if isinstance(image, Image.Image):
        return image.crop((0, top, image.width, bottom)).convert("RGB")
    return Image.fromarray(image[top:bottom])


def _check_picture(image: np.ndarray | Image.Image) -> None:
    if isinstance(image, Image.Image):
        return
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8:
        kind = image.dtype if isinstance(image, np.ndarray) else type(image).__name__
        raise ImageError(f"a picture must be a PIL image or a uint8 array (H, W, 3), got {kind}")
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ImageError(f"a picture must have the shape (H, W, 3), got {image.shape}")


def _scaled(photo: Image.Image, height: int, most_width: int) -> Image.Image:
    """Resize to the height, or to the largest width if that would be exceeded."""
    factor = min(height / photo.height, most_width / photo.width)
    size = (max(1, round(factor * photo.width)), max(1, round(factor * photo.height)))
    return photo if size == photo.size else photo.resize(size, Image.Resampling.LANCZOS)


def _contoured(painted: Image.Image, labels: np.ndarray, reach: int) -> Image.Image:
    """Draw a white line, `reach` pixels to each side, with a dark rim between regions."""
    edge = np.zeros(labels.shape, dtype=bool)
    edge[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    edge[1:] |= labels[1:] != labels[:-1]
    line = _widened(edge, reach)
    rim = _widened(line, 1 + reach // 2)
    for mask, colour, opacity in ((rim, INK, 140), (line, WHITE, 255)):
        cover = Image.fromarray(np.where(mask, np.uint8(opacity), np.uint8(0)))
        cover = cover.filter(ImageFilter.GaussianBlur(0.6))  # smooths the stairs of the pixels
        painted = Image.composite(Image.new("RGB", painted.size, colour), painted, cover)
    return painted


def _widened(mask: np.ndarray, reach: int) -> np.ndarray:
    """Widen a mask by `reach` pixels on its four sides."""
    for _ in range(reach):
        wider = mask.copy()
        wider[1:] |= mask[:-1]
        wider[:-1] |= mask[1:]
        wider[:, 1:] |= mask[:, :-1]
        wider[:, :-1] |= mask[:, 1:]
        mask = wider
    return mask


# -------------------------------------------------------------------------------------------------
# Legend and text

MOST_ENTRIES = 60  # the rest is summed in one entry


def _entries(
    labels: np.ndarray, names: Sequence[str]
) -> list[tuple[tuple[int, ...] | None, str, float]]:
    """Colour, name and share of the entries of the legend, most pixels first, unlabelled last."""
    counts = count_labels(labels, len(names))
    colours = palette(len(names)).tolist()
    order = [i for i in (np.argsort(-counts[1:], kind="stable") + 1).tolist() if counts[i]]
    shares = (counts / labels.size).tolist()
    entries: list[tuple[tuple[int, ...] | None, str, float]] = [
        (tuple(colours[i]), names[i - 1], shares[i]) for i in order[:MOST_ENTRIES]
    ]
    rest = order[MOST_ENTRIES:]
    if rest:
        entries.append((None, f"{len(rest)} more", sum(shares[i] for i in rest)))
    if counts[0]:
        entries.append((None, UNLABELLED, shares[0]))
    return entries


def _page(labels: np.ndarray, names: Sequence[str]) -> Image.Image:
    """A page with the legend below the place of the picture, or to the right of a tall one."""
    height, width = labels.shape
    entries = _entries(labels, names)
    many = len(entries) > 20
    text_size = max(12, round((0.028 if many else 0.034) * math.sqrt(labels.size)))
    most_width = (15 if len(entries) <= 6 else 10) * text_size
    row, margin, gap = round(1.6 * text_size), round(0.8 * text_size), round(1.1 * text_size)
    chip = round(0.95 * text_size)
    texts = []
    for _, name, share in entries:
        font, shown = _font(_cut(name, text_size, most_width), text_size)
        texts.append((shown, font, math.ceil(font.getlength(shown)), percent(share)))
    plain, _ = _font("0", text_size)
    space = round(0.45 * text_size)
    cell = max(
        chip + 2 * space + long + math.ceil(plain.getlength(share)) for _, _, long, share in texts
    )

    beside = height > 1.2 * width and height >= 6 * row
    if beside:
        rows = max(1, (height - 2 * margin) // row)
        columns = math.ceil(len(entries) / rows)
        rows = math.ceil(len(entries) / columns)
        corner = (width + margin, margin)
        size = (width + columns * (cell + gap) - gap + 2 * margin, height)
    else:
        room = max(width, cell + 2 * margin)
        columns = min(len(entries), max(1, (room - 2 * margin + gap) // (cell + gap)))
        rows = math.ceil(len(entries) / columns)
        corner = (margin, height + margin)
        size = (room, height + rows * row + 2 * margin)

    page = Image.new("RGB", size, WHITE)
    draw = ImageDraw.Draw(page)
    for i, (shown, font, long, share_text) in enumerate(texts):
        across, down = (i // rows, i % rows) if beside else (i % columns, i // columns)
        x, y = corner[0] + across * (cell + gap), corner[1] + down * row
        baseline = y + round(0.5 * row + 0.36 * text_size)
        box = (x, y + (row - chip) // 2, x + chip - 1, y + (row - chip) // 2 + chip - 1)
        _chip(draw, box, entries[i][0])
        draw.text((x + chip + space, baseline), shown, INK, font, anchor="ls")
        at = (x + chip + 2 * space + long, baseline)
        draw.text(at, share_text, PALE_INK, plain, anchor="ls")
    return page


def _chip(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colour: tuple[int, ...] | None
) -> None:
    """Draw the colour of a class; without a colour, an empty box with a stroke through it."""
    line = max(1, (box[2] - box[0]) // 14)
    if colour is None:
        draw.line((box[0], box[3], box[2], box[1]), PALE_INK, line)
        draw.rectangle(box, outline=PALE_INK, width=line)
    else:
        rim = tuple(round(0.7 * value) for value in colour)
        draw.rectangle(box, fill=colour, outline=rim, width=line)


# The font inside Pillow holds basic Latin only. Other scripts need a font of the system; these are
# the usual ones of Linux, macOS and Windows.
SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "wqy-zenhei.ttc",
    "Arial Unicode.ttf",
    "PingFang.ttc",
    "Hiragino Sans GB.ttc",
    "arial.ttf",
    "msyh.ttc",
    "YuGothM.ttc",
    "malgun.ttf",
    "Nirmala.ttf",
    "leelawui.ttf",
    "seguisym.ttf",
)


@lru_cache(maxsize=1)
def _system_fonts() -> tuple[str, ...]:
    paths = []
    for name in SYSTEM_FONTS:
        try:
            paths.append(str(ImageFont.truetype(name, 12).path))
        except OSError:
            continue
    return tuple(paths)


@lru_cache(maxsize=64)
def _load(path: str | None, size: int) -> ImageFont.FreeTypeFont:
    if path is None:
        return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))
    return ImageFont.truetype(path, size)


@lru_cache(maxsize=4096)
def _draws(path: str | None, character: str) -> bool:
    """Whether a font has a glyph of its own for a character."""
    font = _load(path, 16)
    glyph, none = font.getmask(character), font.getmask("\uffff")  # U+FFFF is in no font
    return character.isspace() or (glyph.size, bytes(glyph)) != (none.size, bytes(none))


def _font(text: str, size: int) -> tuple[ImageFont.FreeTypeFont, str]:
    """Choose the font that can draw a text, and the text as it can be drawn.

    A letter that no installed font has loses its accents (é to e); what is still missing is drawn
    as the empty box of the font.
    """
    text = "".join("\ufffd" if unicodedata.category(c) in ("Cc", "Cs") else c for c in text)
    path: str | None = None
    if not all(_draws(None, character) for character in text):
        missing = {
            path: sum(not _draws(path, character) for character in text)
            for path in (None, *_system_fonts())
        }
        path = min(missing, key=lambda path: missing[path])
    return _load(path, size), "".join(c if _draws(path, c) else _unaccented(c) for c in text)


def _unaccented(character: str) -> str:
    return unicodedata.normalize("NFKD", character)[0]


def _cut(text: str, size: int, width: int) -> str:
    """Shorten a text to a width in pixels, with an ellipsis for what is left out."""
    text = " ".join(text.split())
    font, shown = _font(text[:300], size)
    if len(text) <= 300 and font.getlength(shown) <= width:
        return text
    fits, too_long = 0, min(len(text), 300)
    while too_long - fits > 1:
        middle = (fits + too_long) // 2
        if font.getlength(shown[:middle].rstrip() + "…") <= width:
            fits = middle
        else:
            too_long = middle
    return text[:fits].rstrip() + "…"


def _wrapped(text: str, size: int, width: int, lines: int) -> list[str]:
    """Break a text into at most `lines` lines of a width in pixels; the last one is cut."""
    words = text.split()
    done: list[str] = []
    while len(done) < lines - 1 and words:
        taken = 1
        while taken < len(words):
            font, shown = _font(" ".join(words[: taken + 1]), size)
            if font.getlength(shown) > width:
                break
            taken += 1
        done.append(_cut(" ".join(words[:taken]), size, width))
        words = words[taken:]
    if words:
        done.append(_cut(" ".join(words), size, width))
    return done or [""]


# -------------------------------------------------------------------------------------------------
# Parts of pages


def colour_bar(low: float, high: float, width: int, text_size: int = 14) -> Image.Image:
    """The colours of `heat_map` from ``low`` to ``high``, ``width`` pixels wide, with numbers."""
    height = round(0.7 * text_size)
    page = Image.new("RGB", (width, height + round(1.4 * text_size)), WHITE)
    ramp = Image.fromarray(_heat_colours()[None])
    page.paste(ramp.resize((width, height), Image.Resampling.BILINEAR), (0, 0))
    draw = ImageDraw.Draw(page)
    font, _ = _font("0", text_size)
    for text, x, anchor in ((_number(low, high), 0, "ls"), (_number(high, low), width, "rs")):
        draw.text((x, height + round(1.15 * text_size)), text, INK, font, anchor=anchor)
    return page


def _number(value: float, other: float) -> str:
    """A number with as many digits as tell it from another."""
    step = abs(value - other)
    if abs(value) < step / 100:
        return "0"
    digits = 0 if step >= 100 or not step else min(max(1 - math.floor(math.log10(step)), 0), 8)
    return f"{value:.{digits}f}" if digits < 5 else f"{value:.1e}"


def headline(heading: str, sentence: str, width: int) -> Image.Image:
    """A heading and a sentence below it, wrapped at ``width`` pixels, on white."""
    large, small, margin = 22, 16, 16
    lines = [(text, large, INK) for text in _wrapped(heading, large, width - 2 * margin, 2)]
    lines += [(text, small, PALE_INK) for text in _wrapped(sentence, small, width - 2 * margin, 9)]
    page = Image.new("RGB", (width, margin + sum(round(1.4 * size) for _, size, _ in lines)), WHITE)
    draw, top = ImageDraw.Draw(page), margin
    for text, size, colour in lines:
        font, shown = _font(text, size)
        draw.text((margin, top + size), shown, colour, font, anchor="ls")
        top += round(1.4 * size)
    return page


def legend(
    entries: Sequence[tuple[str, tuple[int, ...] | None]], width: int, text_size: int = 16
) -> Image.Image:
    """Names beside their colours (None: unlabelled) in lines of ``width`` pixels, on white."""
    chip, gap, row = round(0.95 * text_size), round(1.2 * text_size), round(1.7 * text_size)
    placed, x, y = [], gap, gap // 2
    for name, colour in entries:
        font, shown = _font(_cut(name, text_size, 20 * text_size), text_size)
        wide = chip + text_size // 2 + math.ceil(font.getlength(shown)) + gap
        if x > gap and x + wide > width:
            x, y = gap, y + row
        placed.append((x, y, shown, font, colour))
        x += wide
    page = Image.new("RGB", (width, y + row + gap // 2), WHITE)
    draw = ImageDraw.Draw(page)
    for x, y, shown, font, colour in placed:
        _chip(draw, (x, y, x + chip - 1, y + chip - 1), colour)
        draw.text((x + chip + text_size // 2, y + chip - 2), shown, INK, font, anchor="ls")
    return page

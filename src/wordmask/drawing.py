"""Pictures of results: colours, overlays with a legend, heat maps, strips. Pillow and numpy only.

Every function takes pictures as uint8 (H, W, 3) RGB arrays or as PIL images, and returns a new PIL
image in RGB; what it was given stays as it was.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from wordmask.colours import heat_colours, palette, rgb_to_oklab, tones
from wordmask.errors import ImageError, WordmaskError
from wordmask.lettering import cut, line, wrapped

UNLABELLED = "unlabelled"
FEW = 10  # classes that are told apart by their colours alone
CLOSE = 0.12  # distance in OKLab below which two colours are not; the first 24 are beyond it

WHITE = (255, 255, 255)
INK = (28, 28, 30)
PALE_INK = (96, 96, 104)

BAND = 2**21  # pixels that are drawn or counted at a time

# -------------------------------------------------------------------------------------------------
# Pictures


def overlay(
    image: np.ndarray | Image.Image | None,
    labels: np.ndarray,
    names: Sequence[str],
    alpha: float = 0.55,
    legend: bool = True,
    numbers: bool | None = None,
) -> Image.Image:
    """Draw the colours of the classes over a picture, with thin contours and a legend.

    The picture keeps its lights and darks and gives up its colours, so that a class has the colour
    of the legend on any ground; pixels of no class are grey.

    Args:
        image: the picture, of the height and width of ``labels``; None draws flat colours on black.
        labels: (H, W) integers, 0 = none of the words, i = ``names[i - 1]``.
        names: the names of the classes; class i has the colour ``palette(n)[i]``.
        alpha: opacity of the colours, 0 to 1: 0 is the picture, 1 flat colours. Below 0.5 the
            picture's own colours shine through.
        legend: add a legend of the classes that occur, most pixels first, with their share of the
            picture; below it, or beside a tall picture. It never covers the picture.
        numbers: write the label of each class into its regions and into the legend; by default
            where there is a legend and colours alone may not do, see `need_numbers`.

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
    counts = count_labels(labels, len(names))
    if numbers is None:
        numbers = legend and need_numbers(np.flatnonzero(counts))
    page = _page(counts, names, width, height, numbers) if legend else None
    page = page or Image.new("RGB", (width, height))
    colours, reach = palette(len(names)), round(math.sqrt(labels.size) / 900)
    found = np.flatnonzero(counts)
    place = np.zeros(len(names) + 1, np.int32)  # of a label among those that occur
    place[found] = np.arange(len(found))
    if image is not None:
        greys = np.zeros((len(found), 256), np.int64)
        for top in range(0, height, max(BAND // width, 1)):
            rows = slice(top, top + max(BAND // width, 1))
            pairs = 256 * place[labels[rows]] + _grey(_rows(image, top, min(rows.stop, height)))
            greys += np.bincount(pairs.ravel(), minlength=greys.size).reshape(greys.shape)
        table = tones(colours[found], greys, 1 - alpha)
    around = 2 * reach + 8  # rows that change the contours of a band: their width and their blur
    step = max(BAND // width, 2 * around)
    for top in range(0, height, step):
        first, last = max(top - around, 0), min(top + step + around, height)
        own = labels[first:last]
        if image is None:
            painted = Image.fromarray(colours[own])
        else:
            photo = _rows(image, first, last)
            painted = Image.fromarray(table[place[own], _grey(photo)])
            if alpha < 0.5:
                painted = Image.blend(photo, painted, 2 * alpha)
        painted = _contoured(painted, own, reach)
        page.paste(painted.crop((0, top - first, width, min(top + step, last) - first)), (0, top))
    if numbers:
        draw = ImageDraw.Draw(page)
        for label, centre, text_size in _places(labels):
            _number(draw, str(label), centre, text_size)
    return page


def need_numbers(found: Sequence[int] | np.ndarray) -> bool:
    """Whether the colours of some labels alone do not tell them apart.

    So it is if there are more than ten, or two with similar colours, as may be from the 25th on.
    """
    found = np.asarray([label for label in found if label], int)
    if len(found) > FEW:
        return True
    lab = rgb_to_oklab(palette(int(found.max(initial=0)))[found])
    distances = np.linalg.norm(lab[:, None] - lab[None], axis=-1)
    return bool((distances[np.triu_indices(len(found), 1)] < CLOSE).any())


def heat_map(
    values: np.ndarray,
    size: tuple[int, int],
    low: float,
    high: float,
    image: np.ndarray | Image.Image | None = None,
    alpha: float = 0.6,
    bar: bool = False,
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
        bar: add a colour bar with the numbers ``low`` and ``high`` below the map.

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
    heat = Image.fromarray(heat_colours()[np.rint(255 * scaled).astype(np.uint8)])
    if image is not None:
        photo = _photo(image).resize((width, height), Image.Resampling.LANCZOS)
        heat = Image.blend(photo.convert("L").convert("RGB"), heat, alpha)
    if not bar:
        return heat
    text_size = max(12, round(0.04 * math.sqrt(width * height)))
    space = Image.new("RGB", (width, round(0.4 * text_size)), WHITE)
    return stack([heat, space, colour_bar(low, high, width, text_size)])


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
    broken = [
        wrapped(title, text_size, widths[i % columns], lines=2) for i, title in enumerate(titles)
    ]
    spacing = round(1.3 * text_size)
    starts = range(0, len(photos), columns)
    title_heights = [spacing * max(map(len, broken[start : start + columns])) for start in starts]
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
        row = zip(photos[start : start + columns], broken[start : start + columns], strict=True)
        for (photo, lines), width in zip(row, widths, strict=False):
            baseline = top + title_height - spacing * (len(lines) - 1) - round(0.3 * spacing)
            for number, text in enumerate(lines):
                at = (left + width / 2, baseline + spacing * number)
                line(text, text_size).draw(draw, at, INK, "middle")
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


def _grey(photo: Image.Image) -> np.ndarray:
    return np.asarray(photo.convert("L"))


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
    ridge = _widened(edge, reach)
    rim = _widened(ridge, 1 + reach // 2)
    for mask, colour, opacity in ((rim, INK, 140), (ridge, WHITE, 255)):
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


def _places(labels: np.ndarray) -> Iterator[tuple[int, tuple[float, float], int]]:
    """Label, centre and text size of a number for each region that has room for one.

    The centre is as far from the outline of the region as can be, in steps along rows and
    columns, on a grid of at most 256 cells a side.
    """
    step = math.ceil(max(labels.shape) / 256)
    grid = labels[step // 2 :: step, step // 2 :: step]
    same = np.pad(grid > 0, 1)
    own = np.pad(grid.astype(np.int64), 1)
    for axis, by in ((0, 1), (0, -1), (1, 1), (1, -1)):
        same &= own == np.roll(own, by, axis)
    depth, alive = np.pad(grid > 0, 1).astype(int), same
    while alive.any():
        depth += alive
        alive = ~_widened(~alive, 1)
    size = max(12, round(0.032 * math.sqrt(labels.size)))
    while depth.max() > 0:
        row, column = np.unravel_index(depth.argmax(), depth.shape)
        label, room = int(own[row, column]), step * int(depth[row, column])
        text_size = min(size, int(room / (0.3 * len(str(label)) + 0.4)))
        if text_size < 9:
            return
        yield label, ((column - 0.5) * step, (row - 0.5) * step), text_size
        region, before = np.zeros(own.shape, bool), 0
        region[row, column] = True
        while before != (before := int(region.sum())):
            region = _widened(region, 1) & (own == label)
        depth[region] = 0


def _number(draw: ImageDraw.ImageDraw, text: str, centre: tuple[float, float], size: int) -> None:
    """White digits with a dark rim, legible on any ground."""
    font = ImageFont.load_default(size)
    rim = max(1, round(size / 9))
    draw.text(centre, text, WHITE, font, anchor="mm", stroke_width=rim, stroke_fill=INK)


# -------------------------------------------------------------------------------------------------
# Legend

MOST_ENTRIES = 60  # the rest is summed in one entry


def _entries(counts: np.ndarray, names: Sequence[str]) -> list[tuple[int, str, float]]:
    """Label (0: none), name and share of the entries of the legend, most pixels first."""
    order = [i for i in (np.argsort(-counts[1:], kind="stable") + 1).tolist() if counts[i]]
    shares = (counts / counts.sum()).tolist()
    entries = [(i, names[i - 1], shares[i]) for i in order[:MOST_ENTRIES]]
    rest = order[MOST_ENTRIES:]
    if rest:
        entries.append((0, f"{len(rest)} more", sum(shares[i] for i in rest)))
    if counts[0]:
        entries.append((0, UNLABELLED, shares[0]))
    return entries


def _page(
    counts: np.ndarray, names: Sequence[str], width: int, height: int, numbers: bool
) -> Image.Image:
    """A page with the legend below the place of the picture, or to the right of a tall one."""
    entries, colours = _entries(counts, names), palette(len(names)).tolist()
    many = len(entries) > 20
    text_size = max(12, round((0.028 if many else 0.034) * math.sqrt(width * height)))
    most_width = (15 if len(entries) <= 6 else 10) * text_size
    row, margin, gap = round(1.6 * text_size), round(0.8 * text_size), round(1.1 * text_size)
    chip = round(0.95 * text_size)
    wide = _chip_width(chip, [label for label, _, _ in entries] if numbers else ())
    texts = [
        (line(cut(name, text_size, most_width), text_size), line(percent(share), text_size))
        for _, name, share in entries
    ]
    space = round(0.45 * text_size)
    cell = max(
        wide + 2 * space + math.ceil(name.width) + math.ceil(share.width) for name, share in texts
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
    for i, ((label, _, _), (name, share)) in enumerate(zip(entries, texts, strict=True)):
        across, down = (i // rows, i % rows) if beside else (i % columns, i // columns)
        x, y = corner[0] + across * (cell + gap), corner[1] + down * row
        baseline = y + round(0.5 * row + 0.36 * text_size)
        top = y + (row - chip) // 2
        box = (x, top, x + wide - 1, top + chip - 1)
        _chip(draw, box, colours[label] if label else None, label if numbers else 0)
        name.draw(draw, (x + wide + space, baseline), INK)
        share.draw(draw, (x + wide + 2 * space + math.ceil(name.width), baseline), PALE_INK)
    return page


def _chip_width(height: int, numbers: Sequence[int]) -> int:
    """Of a chip with room for each of some numbers; none: a square."""
    digits = len(str(max(numbers, default=0)))
    return round(height * (0.6 * digits + 0.7)) if any(numbers) else height


def _chip(
    draw: ImageDraw.ImageDraw,
    box: tuple[int, int, int, int],
    colour: Sequence[int] | None,
    number: int = 0,
) -> None:
    """Draw the colour of a class; without a colour, an empty box with a stroke through it."""
    stroke = max(1, (box[3] - box[1]) // 14)
    if colour is None:
        draw.line((box[0], box[3], box[2], box[1]), PALE_INK, stroke)
        draw.rectangle(box, outline=PALE_INK, width=stroke)
    else:
        rim = tuple(round(0.7 * value) for value in colour)
        draw.rectangle(box, fill=tuple(colour), outline=rim, width=stroke)
    if number:
        centre = ((box[0] + box[2] + 1) / 2, (box[1] + box[3] + 1) / 2)
        _number(draw, str(number), centre, max(9, round(0.85 * (box[3] - box[1]))))


# -------------------------------------------------------------------------------------------------
# Parts of pages


def colour_bar(low: float, high: float, width: int, text_size: int = 14) -> Image.Image:
    """The colours of `heat_map` from ``low`` to ``high``, ``width`` pixels wide, with numbers."""
    height = round(0.7 * text_size)
    page = Image.new("RGB", (width, height + round(1.4 * text_size)), WHITE)
    ramp = Image.fromarray(heat_colours()[None])
    page.paste(ramp.resize((width, height), Image.Resampling.BILINEAR), (0, 0))
    draw = ImageDraw.Draw(page)
    for text, x, align in ((_digits(low, high), 0, "left"), (_digits(high, low), width, "right")):
        at = (x, height + round(1.15 * text_size))
        line(text, text_size).draw(draw, at, INK, align)
    return page


def _digits(value: float, other: float) -> str:
    """A number with as many digits as tell it from another."""
    step = abs(value - other)
    if abs(value) < step / 100:
        return "0"
    digits = 0 if step >= 100 or not step else min(max(1 - math.floor(math.log10(step)), 0), 8)
    return f"{value:.{digits}f}" if digits < 5 else f"{value:.1e}"


def headline(heading: str, sentence: str, width: int) -> Image.Image:
    """A heading and a sentence below it, wrapped at ``width`` pixels, on white."""
    large, small, margin = 22, 16, 16
    lines = [(text, large, INK) for text in wrapped(heading, large, width - 2 * margin, 2)]
    lines += [(text, small, PALE_INK) for text in wrapped(sentence, small, width - 2 * margin, 9)]
    page = Image.new("RGB", (width, margin + sum(round(1.4 * size) for _, size, _ in lines)), WHITE)
    draw, top = ImageDraw.Draw(page), margin
    for text, size, colour in lines:
        line(text, size).draw(draw, (margin, top + size), colour)
        top += round(1.4 * size)
    return page


def legend(
    entries: Sequence[tuple[str, tuple[int, ...] | None]],
    width: int,
    text_size: int = 16,
    numbers: Sequence[int] = (),
) -> Image.Image:
    """Names beside their colours (None: unlabelled) in lines of ``width`` pixels, on white.

    numbers: one for each entry, written into its colour; 0: none.
    """
    chip, gap, row = round(0.95 * text_size), round(1.2 * text_size), round(1.7 * text_size)
    wide = _chip_width(chip, numbers)
    placed, x, y = [], gap, gap // 2
    for name, _ in entries:
        shown = line(cut(name, text_size, 20 * text_size), text_size)
        needed = wide + text_size // 2 + math.ceil(shown.width) + gap
        if x > gap and x + needed > width:
            x, y = gap, y + row
        placed.append((x, y, shown))
        x += needed
    page = Image.new("RGB", (width, y + row + gap // 2), WHITE)
    draw = ImageDraw.Draw(page)
    for i, ((x, y, shown), (_, colour)) in enumerate(zip(placed, entries, strict=True)):
        box = (x, y, x + wide - 1, y + chip - 1)
        _chip(draw, box, colour, numbers[i] if numbers else 0)
        shown.draw(draw, (x + wide + text_size // 2, y + chip - 2), INK)
    return page


def stack(parts: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other, flush left, on white."""
    size = max(part.width for part in parts), sum(part.height for part in parts)
    page, top = Image.new("RGB", size, WHITE), 0
    for part in parts:
        page.paste(part, (0, top))
        top += part.height
    return page

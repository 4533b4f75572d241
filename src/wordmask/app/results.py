"""What the page shows of an outcome: pictures, a table in HTML, files. No gradio here."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Sequence
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from wordmask import batch, drawing
from wordmask.app.engine import Outcome
from wordmask.drawing import UNLABELLED, percent
from wordmask.errors import WordmaskError
from wordmask.formats import (
    FORMATS,
    Item,
    Results,
    check_formats,
    check_names,
    label_kind,
    split_formats,
    write_folder_formats,
)
from wordmask.scoring import Scored
from wordmask.segmentation import Segmentation
from wordmask.vocabulary import Vocabulary

LARGEST, SMALLEST = 1280, 560  # long sides between which pictures are shown
HOVER = 512  # long side of the labels that the browser gets to name classes
THUMBNAIL = 400


def shown_size(height: int, width: int) -> tuple[int, int]:
    """The size (H, W) at which a picture is shown: large ones smaller, tiny ones several times."""
    long = max(height, width)
    if long > LARGEST:
        return max(height * LARGEST // long, 1), max(width * LARGEST // long, 1)
    times = max(-(-SMALLEST // long), 1) if long < SMALLEST else 1
    return height * times, width * times


def _nearest(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    index = [np.arange(n) * m // n for n, m in zip(size, values.shape[:2], strict=True)]
    return values[index[0]][:, index[1]]


def _photo(picture: np.ndarray, size: tuple[int, int]) -> Image.Image:
    if size[0] >= picture.shape[0]:
        return Image.fromarray(_nearest(picture, size))
    return Image.fromarray(picture).resize(size[::-1], Image.Resampling.LANCZOS)


def numbered(result: Segmentation) -> bool:
    """Whether there are so many classes that each needs its number besides its colour."""
    return drawing.need_numbers([result.names.index(name) + 1 for name in result.found])


def overlay(result: Segmentation, alpha: float, numbers: bool | None = None) -> Image.Image:
    """The colours of the classes over the picture as it is shown, without a legend.

    numbers: of the classes too; by default if the legend has them.
    """
    assert result.image is not None
    size = shown_size(*result.labels.shape)
    photo, labels = _photo(result.image, size), _nearest(result.labels, size)
    numbers = numbered(result) if numbers is None else numbers
    return drawing.overlay(photo, labels, result.names, alpha, legend=False, numbers=numbers)


def thumbnail(result: Segmentation, alpha: float) -> Image.Image:
    """A small overlay."""
    picture = overlay(result, alpha, numbers=False)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    return picture


def in_words(result: Segmentation) -> str:
    """`cup 12 %, table 40 %`, the classes found, most pixels first."""
    shares = result.shares()
    return ", ".join(f"{x} {percent(shares[x])}" for x in result.found[:6]) or "none of the words"


def legend(outcome: Outcome) -> str:
    """The classes in the overlay's colours with shares and image-level scores, most pixels first.

    HTML; every row has the name of its class in `data-name`.
    """
    result = outcome.result
    shares, scores = result.shares(), outcome.scored.image_scores().tolist()
    colours = drawing.palette(len(result.names)).tolist()
    order = sorted(range(len(result.names)), key=lambda i: -shares[result.names[i]])
    numbers = numbered(result)
    rows = [
        _row(name, colours[i + 1], shares[name], f"{scores[i]:.2f}", str(i + 1) if numbers else "")
        for i, name in ((i, result.names[i]) for i in order)
    ]
    if shares[UNLABELLED] and UNLABELLED not in result.names:
        rows.append(_row(UNLABELLED, None, shares[UNLABELLED], ""))
    head = (
        "<thead><tr><th></th><th>class</th><th colspan=2>share of the picture</th>"
        '<th title="how much the word seems to be in the picture at all">score</th></tr></thead>'
    )
    return f'<table class="wm-table">{head}<tbody>{"".join(rows)}</tbody></table>'


def _paint(colour: Sequence[int] | None) -> str:
    return "" if colour is None else f' style="background:rgb({",".join(map(str, colour))})"'


def _row(name: str, colour: Sequence[int] | None, share: float, last: str, number: str = "") -> str:
    paint = _paint(colour)
    bar = "" if colour is None else f'<i{paint[:-1]};width:{100 * share:.1f}%"></i>'
    kind = ' class="wm-none"' if not share or colour is None else ""
    return (
        f'<tr{kind} data-name="{escape(name)}"><td><b class="wm-chip"{paint}>{number}</b></td>'
        f'<td class="wm-name">{escape(name)}</td><td class="wm-bar">{bar}</td>'
        f"<td>{percent(share)}</td><td>{last}</td></tr>"
    )


def hover(result: Segmentation) -> dict[str, Any]:
    """What the browser needs to name the class under the pointer: small labels, names, colours.

    The labels are a PNG as a data URL: red + 256 * green is the label.
    """
    height, width = result.labels.shape
    factor = min(HOVER / max(height, width), 1)
    size = max(round(factor * height), 1), max(round(factor * width), 1)
    labels = _nearest(result.labels, size).astype(np.uint16)
    pixels = np.stack([labels & 255, labels >> 8, 0 * labels], axis=-1).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {
        "labels": "data:image/png;base64," + base64.b64encode(file.getvalue()).decode(),
        "names": [UNLABELLED, *result.names],
        "colours": [f"rgb({r},{g},{b})" for r, g, b in drawing.palette(len(result.names)).tolist()],
    }


def at_pixel(result: Segmentation, x: float, y: float) -> tuple[int, int]:
    """The pixel (x, y) of the picture under a pixel of it as it is shown."""
    (height, width), size = result.labels.shape, shown_size(*result.labels.shape)
    at = int(x * width / size[1]), int(y * height / size[0])
    return min(max(at[0], 0), width - 1), min(max(at[1], 0), height - 1)


@torch.inference_mode()
def scores_at(scored: Scored, x: int, y: int) -> list[tuple[str, float]]:
    """The classes with their scores at a pixel, the highest first; the background if it is named.

    Probabilities, or the values of class maps for methods that give these.
    """
    rows = scored.maps.rows(y, y + 1, scored.size)[:, 0, x : x + 1]  # (R, 1)
    values = scored.rule.image_maps(rows, scored.texts)[:, 0].float().tolist()
    names = [*scored.texts.names, *["background"][: len(values) - scored.texts.classes]]
    return sorted(zip(names, values, strict=True), key=lambda one: -one[1])


def place(outcome: Outcome, x: int, y: int, most: int = 12) -> str:
    """The scores at a pixel as a table in HTML."""
    result, found = outcome.result, scores_at(outcome.scored, x, y)
    label = int(result.labels[y, x])
    colours = dict(zip(result.names, drawing.palette(len(result.names)).tolist()[1:], strict=True))
    top = max(abs(value) for _, value in found) or 1.0
    rows = []
    for name, value in found[:most]:
        colour = colours.get(name)
        paint = _paint(colour)
        fill = f"width:{100 * max(value, 0) / top:.1f}%"
        bar = f'<i style="{fill}"></i>' if colour is None else f'<i{paint[:-1]};{fill}"></i>'
        rows.append(
            f'<tr><td><b class="wm-chip"{paint}></b></td><td class="wm-name">{escape(name)}</td>'
            f'<td class="wm-bar">{bar}</td><td>{value:.3f}</td></tr>'
        )
    name = result.names[label - 1] if label else UNLABELLED
    head = f"At {x}, {y} the label is <strong>{escape(name)}</strong>."
    return f'<p>{head}</p><table class="wm-table"><tbody>{"".join(rows)}</tbody></table>'


def heat_map(result: Segmentation, name: str) -> Image.Image:
    """The scores of a class over the picture, with a colour bar on one scale for all classes."""
    size = shown_size(*result.labels.shape)
    assert result.scores is not None
    assert result.image is not None
    low, high = float(result.scores.min()), float(result.scores.max())
    values = result.scores[result.names.index(name)]
    return drawing.heat_map(values, size, low, high, _photo(result.image, size), bar=True)


def cut_out(result: Segmentation, name: str) -> Image.Image:
    """The pixels of a class at full size, on transparent ground."""
    assert result.image is not None
    return Image.fromarray(np.dstack([result.image, 255 * result.mask(name).astype(np.uint8)]))


def formats() -> dict[str, str]:
    """The formats of files that results can be written in here: name and a sentence."""
    found = {}
    for name, one in FORMATS.items():
        with suppress(WordmaskError):  # a package is missing
            one.check()
            found[name] = one.help
    return found


def write(
    result: Segmentation,
    words: Vocabulary,
    picture: batch.Picture,
    chosen: Sequence[str],
    folder: Path,
) -> None:
    """Write a result in the formats of single pictures among `chosen` into a folder."""
    chosen = check_formats(chosen)
    path, kind = str(picture.path), label_kind(chosen)
    item = Item(picture.name, path, result, words.classes, kind)
    for one in split_formats(chosen)[0]:
        one.write(folder, item)


def write_whole(
    words: Vocabulary, pictures: Sequence[batch.Picture], chosen: Sequence[str], folder: Path
) -> None:
    """Write the formats of whole folders among `chosen`, from the labels that `write` wrote."""
    chosen = check_formats(chosen)
    named = [(one.name, str(one.path)) for one in pictures]
    check_names(chosen, [one.name for one in pictures])
    write_folder_formats(folder, chosen, Results(folder, words.classes, named))


def packed(folder: Path) -> list[str]:
    """The files of a folder, and its folders as ZIP files."""
    for one in [one for one in folder.iterdir() if one.is_dir()]:
        shutil.make_archive(str(one), "zip", one)
        shutil.rmtree(one)
    return [str(one) for one in sorted(folder.iterdir())]

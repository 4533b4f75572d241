"""Pages of pictures: panels with colour bars, in rows, under a heading and a sentence."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from PIL import Image

from wordmask import drawing
from wordmask.errors import WordmaskError

PAGE = 2000  # width of a page of pictures in pixels, about


class NotDrawableError(WordmaskError):
    """A view that this method, model, installation or set of options does not have."""


class Panel(NamedTuple):
    """A picture under its title, with the range of its colours if it is a heat map."""

    picture: Image.Image
    title: str
    scale: tuple[float, float] | None = None


def rows(panels: Sequence[Panel], columns: int | None = None) -> Image.Image:
    """Panels side by side; by default in rows about equally full, not much wider than a page."""
    width = max(panel.picture.width for panel in panels)
    height = max(panel.picture.height for panel in panels)
    text_size = max(12, round(0.05 * height))
    bar = round(2.6 * text_size) if any(panel.scale for panel in panels) else 0
    pictures = []
    for panel in panels:
        picture = panel.picture
        if bar:
            picture = Image.new("RGB", (picture.width, height + bar), drawing.WHITE)
            picture.paste(panel.picture, (0, 0))
            if panel.scale:
                drawn = drawing.colour_bar(*panel.scale, panel.picture.width, text_size)
                picture.paste(drawn, (0, panel.picture.height + round(0.4 * text_size)))
        pictures.append(picture)
    if columns is None:
        across = min(max(PAGE // width, 2), 9)
        columns = math.ceil(len(panels) / math.ceil(len(panels) / across))
    return drawing.strip(pictures, [panel.title for panel in panels], columns=columns)


def page(heading: str, sentence: str, parts: Sequence[Image.Image]) -> Image.Image:
    """Parts below each other on white, under a heading and a sentence."""
    width = max([700, *(part.width for part in parts)])
    return drawing.stack([drawing.headline(heading, sentence, width), *parts])


def chart(paint: Callable[[Any], None], width: int, height: int) -> Image.Image:
    """What `paint` draws on a matplotlib figure, as a picture of this size or 240 pixels a side.

    Raises:
        NotDrawableError: matplotlib is not installed.
    """
    try:
        import matplotlib
    except ImportError:
        raise NotDrawableError(
            'this picture needs matplotlib; install it with pip install "wordmask[evaluate]"'
        ) from None
    from matplotlib.figure import Figure

    style: dict[str, Any] = {
        "font.size": 10,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
    with matplotlib.rc_context(style):
        size = max(width, 240) / 100, max(height, 240) / 100
        figure = Figure(figsize=size, dpi=100, layout="constrained")
        paint(figure)
        file = io.BytesIO()
        figure.savefig(file, format="png")
    return Image.open(file).convert("RGB")

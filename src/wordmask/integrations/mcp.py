"""A server of the Model Context Protocol: an assistant segments pictures of this machine."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from wordmask import explain
from wordmask.errors import WordmaskError, unknown
from wordmask.extras import need
from wordmask.files import write_atomically
from wordmask.methods import METHODS
from wordmask.refiners import REFINERS
from wordmask.segmenter import Segmenter
from wordmask.version import __version__
from wordmask.vocabulary import Background, Vocabulary

LONGEST_SIDE = 1024  # of a picture in an answer, in pixels
INSTRUCTIONS = """\
wordmask labels every pixel of a picture by any words, with a frozen CLIP and no training.
Words: ";" between classes, "," between synonyms of one class: "cat; sofa, couch".
Give one word for everything that may be seen, or leave the background at "auto".
"""


def server(segmenter: Segmenter, root: Path | None = None) -> Any:
    """The server, an `mcp.server.MCPServer` with the tools segment, explain and list_methods.

    Args:
        segmenter: the networks, and the method that is used where none is asked for.
        root: pictures are read and written in this folder only; None: the current folder.

    Raises:
        WordmaskError: the package mcp is not installed.
    """
    package = need("mcp.server", "mcp", "a server for assistants")
    types = need("mcp.server.mcpserver", "mcp", "a server for assistants")
    errors = need("mcp.server.mcpserver.exceptions", "mcp", "a server for assistants")
    place = (root or Path()).resolve()
    lock = threading.Lock()  # one picture at a time, whatever the number of calls
    made = package.MCPServer(
        "wordmask", instructions=INSTRUCTIONS, version=__version__, log_level="ERROR"
    )

    def inside(path: str) -> Path:
        found = (place / path).resolve()
        if not found.is_relative_to(place):
            raise WordmaskError(f"got {path}, which is outside of {place}; start with --root DIR")
        return found

    def answer(work: Callable[[], Any]) -> Any:
        with lock:
            try:
                return work()
            except (WordmaskError, OSError) as error:
                raise errors.ToolError(str(error)) from None

    def using(method: str | None, refine: str | None) -> Segmenter:
        if method is None and refine is None:
            return segmenter
        for kind, name, known in (("method", method, METHODS), ("refiner", refine, REFINERS)):
            for one in name.split(",") if name else ():  # by name: an own one would be a file
                if one.partition(":")[0].strip() not in known:
                    raise unknown(kind, one, known)
        return segmenter.with_method(method or segmenter.method.name, refine=refine)

    def shown(picture: Image.Image) -> Any:
        picture.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
        file = io.BytesIO()
        picture.save(file, "PNG")
        return types.Image(data=file.getvalue(), format="png")

    @made.tool(title="Segment a picture by words", structured_output=False)
    def segment(
        image: str,
        words: str,
        background: str = "auto",
        method: str | None = None,
        refine: str | None = None,
        save_labels: str | None = None,
    ) -> list[Any]:
        """Label every pixel of a picture with one of the words, or none of them.

        Args:
            image: the path of a picture file.
            words: ";" between classes, "," between synonyms of one class: "cat; sofa, couch".
            background: how pixels of none of the words are found: "auto", "none" (every pixel gets
                a word), "names:sky;wall", "threshold:0.5".
            method: one of list_methods; by default the server's.
            refine: refiners in order, such as "pamr".
            save_labels: write the labels as PNG to this path; pixel values are the labels.

        Returns:
            The share and the box of each word, and the picture with coloured masks.
        """

        def work() -> list[Any]:
            ground = Background.parse(background)
            vocabulary = Vocabulary.parse(words)
            ground.check(vocabulary)
            target = inside(save_labels) if save_labels else None
            if target is not None and target.suffix.lower() != ".png":
                raise WordmaskError(f"labels are saved as PNG, got {save_labels}")
            result = using(method, refine)(inside(image), vocabulary, ground)
            if target is not None:
                result.save(target)
            shares = result.shares()
            boxes = {one.name: list(one.box) for one in result.regions()}
            lines = [
                f"{name}: label {result.names.index(name) + 1}, {100 * shares[name]:.1f} % of the "
                f"picture, box x0 y0 x1 y1 {boxes[name]}"
                for name in result.found
            ]
            missing = [name for name in result.names if name not in result.found]
            lines += [f"not found: {', '.join(missing)}"] if missing else []
            lines += [f"none of the words: {100 * shares['unlabelled']:.1f} %"]
            lines += [f"labels written to {target}"] if target else []
            height, width = result.labels.shape
            text = "\n".join([f"{width} x {height} pixels", *lines])
            return [text, shown(result.overlay())]

        return answer(work)

    views = ", ".join(f"{name} ({view.title})" for name, view in sorted(explain.VIEWS.items()))

    @made.tool(
        title="Show what a method does with a picture",
        description="Draw what a method does with a picture, such as the attention of one patch. "
        f"Views: {views}. Views of classes need words; x, y: a pixel whose patch is shown.",
        structured_output=False,
    )
    def explain_picture(
        image: str,
        view: str = "attention",
        words: str | None = None,
        x: int | None = None,
        y: int | None = None,
        method: str | None = None,
        save: str | None = None,
    ) -> list[Any]:
        """Draw what a method does with a picture, such as the attention of one patch.

        Args:
            image: the path of a picture file.
            view: one of the views.
            words: as for segment; needed by views of classes.
            x: the column of a pixel, whose patch is shown; by default the centre.
            y: its row.
            method: one of list_methods; by default the server's.
            save: write the drawing as PNG to this path.
        """

        def work() -> list[Any]:
            points = [] if x is None or y is None else [(x, y)]
            vocabulary = Vocabulary.parse(words) if words else None
            target = inside(save) if save else None
            found = explain.find_view(view)
            drawn = explain.draw(
                using(method, None), inside(image), view, vocabulary, points=points
            )
            if target is not None:
                write_atomically(target, lambda file: drawn.save(file, "PNG"))
            return [f"{found.title}. {found.see}", shown(drawn)]

        return answer(work)

    @made.tool(title="List the methods", structured_output=False)
    def list_methods() -> str:
        """List the methods with their years and variants; the first variant is the default."""
        return "\n".join(
            f"{name}: {one.title} ({one.year}); variants {', '.join(one.variants)}"
            for name, one in sorted(METHODS.items())
        )

    return made

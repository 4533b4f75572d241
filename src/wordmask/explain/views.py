"""The pictures that `wordmask explain` can draw, by name: each a function and a sentence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image

from wordmask.errors import unknown
from wordmask.explain.canvas import NotDrawableError as NotDrawableError
from wordmask.explain.canvas import page
from wordmask.explain.subject import Subject


@dataclass(frozen=True)
class View:
    """A picture of what a method does.

    Attributes:
        name: on the command line.
        title: what it is and, if a paper has such a figure, which.
        see: one sentence that says what to look for.
        parts: draws the parts of the page, from top to bottom.
        words: whether it needs classes.
        networks: the kinds of auxiliary models that it uses besides those of method and refiners.
    """

    name: str
    title: str
    see: str
    parts: Callable[[Subject], Sequence[Image.Image]]
    words: bool = False
    networks: tuple[str, ...] = ()

    def draw(self, subject: Subject) -> Image.Image:
        """The whole page: title, sentence, parts.

        Raises:
            NotDrawableError: the view does not fit the subject; the message says why.
        """
        if self.words and subject.words is None:
            raise NotDrawableError(f"the picture {self.name!r} needs classes; give --classes")
        return page(self.title, self.see, self.parts(subject))


VIEWS: dict[str, View] = {}


def view(
    name: str, title: str, see: str, *, words: bool = False, networks: tuple[str, ...] = ()
) -> Callable[[Callable[[Subject], Sequence[Image.Image]]], View]:
    """Register a function as the view `name`, see `View`."""

    def register(parts: Callable[[Subject], Sequence[Image.Image]]) -> View:
        VIEWS[name] = View(name, title, see, parts, words, networks)
        return VIEWS[name]

    return register


def find_view(name: str) -> View:
    """The view of a name.

    Raises:
        WordmaskError: there is none.
    """
    if name not in VIEWS:
        raise unknown("view", name, VIEWS)
    return VIEWS[name]

"""Pictures of what a method does with a picture: `draw`, and the views that it knows.

A view is a function and a sentence, registered by its name. Views of every method are in
`general`; those of one paper in the module of its name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image

from wordmask.explain import clearclip as _clearclip  # noqa: F401  (registers its views)
from wordmask.explain import cliptrase as _cliptrase  # noqa: F401
from wordmask.explain.cliper import similarity_to_last as similarity_to_last
from wordmask.explain.general import PatchAttention as PatchAttention
from wordmask.explain.general import attention_of_patch as attention_of_patch
from wordmask.explain.general import similarity_by_layer as similarity_by_layer
from wordmask.explain.subject import PatchGrid as PatchGrid
from wordmask.explain.subject import Point as Point
from wordmask.explain.subject import Subject as Subject
from wordmask.explain.subject import check_point as check_point
from wordmask.explain.views import VIEWS as VIEWS
from wordmask.explain.views import NotDrawableError as NotDrawableError
from wordmask.explain.views import View as View
from wordmask.explain.views import find_view as find_view
from wordmask.explain.views import view as view
from wordmask.segmenter import Segmenter

DEFAULT = ("attention", "layers", "classes")


def draw(
    segmenter: Segmenter,
    image: Any,
    name: str,
    words: Any = None,
    background: Any = None,
    points: Sequence[Point] = (),
) -> Image.Image:
    """Draw one view of a picture.

    Args:
        segmenter: the method with its refiners, and the networks.
        image: a path, a PIL image or a uint8 array (H, W, 3). It is taken whole, without windows.
        name: of the view, see `VIEWS`.
        words: as for `Segmenter.encode_text`; needed by views of classes.
        background: as for `Segmenter.encode_text`.
        points: (x, y) in pixels, of which patches are shown; none: the centre.

    Raises:
        WordmaskError: an unknown view, or one that does not fit; a picture that cannot be read; a
            point outside it.
    """
    return find_view(name).draw(Subject(segmenter, image, words, background, points))

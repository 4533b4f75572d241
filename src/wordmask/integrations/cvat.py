"""An auto-annotation function of CVAT: words become masks or polygons of a task.

    cvat-cli --server-host URL task auto-annotate TASK \\
        --function-module wordmask.integrations.cvat -p 'words=str:cat; sofa, couch'

The labels of the task must have the names of the words.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from wordmask.extras import need
from wordmask.objects import Labeller, outlines, simplify

if TYPE_CHECKING:
    from PIL import Image


class Function:
    """CVAT's detection function: `spec` names the labels, `detect` gives the shapes of a picture.

    Args:
        labeller: the segmenter with its words.
        tolerance: how far polygons may stray from the mask, in pixels.

    Raises:
        WordmaskError: cvat-sdk is not installed.
    """

    def __init__(self, labeller: Labeller, tolerance: float = 1.0):
        self.label, self.tolerance = labeller, tolerance
        self._cvat = need("cvat_sdk.auto_annotation", "cvat", "CVAT's function")
        self._masks = need("cvat_sdk.masks", "cvat", "CVAT's function")
        labels = [
            self._cvat.label_spec(name, i, type="any") for i, name in enumerate(labeller.names, 1)
        ]
        self.spec = self._cvat.DetectionFunctionSpec(labels=labels)

    def detect(self, context: Any, image: Image.Image) -> list[Any]:
        """The connected parts of each class: masks, or polygons if CVAT asks for these.

        context: CVAT's own; `conf_threshold` leaves out parts of less confidence, which is the mean
            probability of the class over the part.
        """
        shapes = []
        for region, confidence in self.label(image)[1]:
            if confidence < (context.conf_threshold or 0):
                continue
            if context.conv_mask_to_poly:
                for outline in outlines(region):
                    few = simplify(outline, self.tolerance, "cvat")
                    points = few.astype(float).ravel().tolist()
                    shapes.append(self._cvat.polygon(region.label, points))
                continue
            runs = self._masks.encode_mask(np.ascontiguousarray(region.pixels))
            x0, y0, x1, y1 = region.box
            place = [x0, y0, x1 - 1, y1 - 1]
            shapes.append(self._cvat.mask(region.label, [*runs[:-4], *place]))
        return shapes


def create(words: str, tolerance: float = 1.0, **options: Any) -> Function:
    """What cvat-cli calls with its `-p NAME=TYPE:VALUE`.

    Args:
        words: as for `Labeller`: `"cat; sofa, couch"` or the path of a file.
        tolerance: as for `Function`.
        options: model, method, background, refine, device, min_area, as for `Labeller`.
    """
    return Function(Labeller(words, **options), tolerance)

"""A model of FiftyOne, for `dataset.apply_model`."""

from __future__ import annotations

from typing import Any

from wordmask.extras import need
from wordmask.objects import Labeller

fo: Any = need("fiftyone", "fiftyone", "a model of FiftyOne")
models: Any = need("fiftyone.core.models", "fiftyone", "a model of FiftyOne")


class WordmaskModel(models.Model):
    """Labels every pixel, or finds the connected parts of each class.

        dataset.apply_model(WordmaskModel("cat; sofa, couch"), label_field="words")

    For the colours and names of masks, give the data set `model.mask_targets`:
    `dataset.default_mask_targets = model.mask_targets`.

    Args:
        words: as for `Labeller`: `"cat; sofa, couch"`, a file, or a list.
        detections: give `fiftyone.Detections` with a mask, a box and a confidence for each part,
            and not `fiftyone.Segmentation`.
        options: model, method, background, refine, device, min_area, as for `Labeller`.
    """

    def __init__(self, words: Any, *, detections: bool = False, **options: Any):
        self.label = Labeller(words, **options)
        self.detections = detections

    @property
    def mask_targets(self) -> dict[int, str]:
        """The names of labels."""
        return dict(enumerate(self.label.names, start=1))

    @property
    def media_type(self) -> str:
        """Pictures."""
        return "image"

    @property
    def ragged_batches(self) -> bool:
        """Pictures of any size; one is taken at a time."""
        return True

    @property
    def transforms(self) -> None:
        """FiftyOne prepares nothing."""
        return

    @property
    def preprocess(self) -> bool:
        """FiftyOne prepares nothing."""
        return False

    @preprocess.setter
    def preprocess(self, value: bool) -> None:
        """FiftyOne sets it; there is nothing to prepare."""

    def predict(self, arg: Any) -> Any:
        """Label one picture, a uint8 array (H, W, 3)."""
        result, found = self.label(arg)
        if not self.detections:
            return fo.Segmentation(mask=result.labels)
        height, width = result.labels.shape
        return fo.Detections(
            detections=[
                fo.Detection(
                    label=region.name,
                    bounding_box=[
                        one / side
                        for one, side in zip(
                            region.xywh, (width, height, width, height), strict=True
                        )
                    ],
                    mask=region.pixels,
                    confidence=confidence,
                )
                for region, confidence in found
            ]
        )

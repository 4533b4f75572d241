"""Metrics of segmentation, all computed from integer counts."""

from wordmask.metrics.bootstrap import PerPicture
from wordmask.metrics.boundary import Boundary
from wordmask.metrics.calibration import Calibration
from wordmask.metrics.collection import Counted, Metrics
from wordmask.metrics.confusion import Confusion, Pairs
from wordmask.metrics.image_level import ImageLevel
from wordmask.metrics.seams import Seams

__all__ = [
    "Boundary",
    "Calibration",
    "Confusion",
    "Counted",
    "ImageLevel",
    "Metrics",
    "Pairs",
    "PerPicture",
    "Seams",
]

"""The benchmarks, one per file. Importing this package registers them all and loads no torch."""

from wordmask.datasets import (
    ade20k,
    camvid,
    cityscapes,
    coco27,
    coco_object,
    coco_stuff,
    context,
    folder,
    toyscenes,
    voc,
)
from wordmask.datasets.base import (
    BENCHMARKS,
    SOURCES,
    Benchmark,
    Listing,
    Sample,
    Samples,
    benchmark,
    register,
)
from wordmask.datasets.reading import VOID
from wordmask.datasets.verify import Report, verify

__all__ = [
    "BENCHMARKS",
    "SOURCES",
    "VOID",
    "Benchmark",
    "Listing",
    "Report",
    "Sample",
    "Samples",
    "ade20k",
    "benchmark",
    "camvid",
    "cityscapes",
    "coco27",
    "coco_object",
    "coco_stuff",
    "context",
    "folder",
    "register",
    "toyscenes",
    "verify",
    "voc",
]

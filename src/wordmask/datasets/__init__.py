"""The benchmarks, one a file. Importing this package registers them all and loads no torch."""

from wordmask.datasets.base import (
    BENCHMARKS,
    SOURCES,
    VOID,
    Benchmark,
    Sample,
    Samples,
    benchmark,
    present,
    register,
)

__all__ = [
    "BENCHMARKS",
    "SOURCES",
    "VOID",
    "Benchmark",
    "Sample",
    "Samples",
    "benchmark",
    "present",
    "register",
]

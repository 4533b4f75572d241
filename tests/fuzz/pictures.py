"""Broken pictures without end, led by the coverage of the reader; run by hand.

    pip install atheris
    python tests/fuzz/pictures.py -max_total_time=300 [-rss_limit_mb=4096 -timeout=20]

Anything but a picture or an `ImageError` of one line stops it and leaves the file as `crash-...`.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1]))
with atheris.instrument_imports(include=["PIL", "wordmask.images"]):
    from wordmask.errors import ImageError
    from wordmask.images import read_image

SHARED_MEMORY = Path("/dev/shm")
FILE = Path(tempfile.mkdtemp(dir=SHARED_MEMORY if SHARED_MEMORY.is_dir() else None)) / "picture"


def one(data: bytes) -> None:
    FILE.write_bytes(data)
    try:
        picture = read_image(FILE, max_pixels=1_000_000)
    except ImageError as error:
        if len(str(error).splitlines()) != 1:
            raise RuntimeError(f"not one line: {error}") from error
    else:
        assert picture.dtype == "uint8"
        assert picture.ndim == 3


def main() -> None:
    from test_fuzz import seeds

    corpus = tempfile.mkdtemp()
    for i, data in enumerate(seeds()):
        Path(corpus, str(i)).write_bytes(data)
    atheris.Setup([*sys.argv, corpus], one)
    try:
        atheris.Fuzz()
    finally:
        FILE.unlink(missing_ok=True)
        os.rmdir(FILE.parent)


if __name__ == "__main__":
    main()

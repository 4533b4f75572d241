"""Broken pictures of every format that is read: a picture or one line, and nothing is printed.

Hypothesis makes them; all are read in one child process with limits on memory and CPU time.
`tests/fuzz/pictures.py` goes on by hand, led by coverage.
"""

from __future__ import annotations

import io
import json
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from commands import process

CHILD = """
import json, os, resource, sys
from pathlib import Path
from wordmask.errors import ImageError
from wordmask.images import read_image
resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
resource.setrlimit(resource.RLIMIT_AS, (12 * 2**30,) * 2)
counts = {"read": 0, "refused": 0}
for file in sorted(Path(sys.argv[1]).iterdir()):
    try:
        picture = read_image(file, max_pixels=4_000_000)
        assert picture.dtype == "uint8" and picture.ndim == 3 and picture.size, file
        counts["read"] += 1
    except ImageError as error:
        assert len(str(error).splitlines()) == 1 and str(file) in str(error), (file, str(error))
        counts["refused"] += 1
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
if (status := Path("/proc/self/status")).exists():  # on Linux that is also of what started it
    peak = next(int(x.split()[1]) for x in status.read_text().splitlines() if "VmHWM" in x)
counts["MiB"] = peak // 1024
print(json.dumps(counts))
"""


EXIF = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06" + bytes(7)  # turned


def seeds() -> list[bytes]:
    """A small picture in every format, mode and compression that is common."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 8, 4), dtype=np.uint8)
    image = Image.fromarray(noise.repeat(3, axis=0).repeat(3, axis=1))
    kinds = [
        ("JPEG", "RGB", {}), ("JPEG", "RGB", {"progressive": True}), ("JPEG", "CMYK", {}),
        ("JPEG", "L", {"exif": EXIF}),
        ("PNG", "RGBA", {}), ("PNG", "P", {}), ("PNG", "1", {}), ("WEBP", "RGB", {}),
        ("WEBP", "RGBA", {"lossless": True}), ("BMP", "RGB", {}), ("GIF", "P", {}),
        ("TIFF", "RGB", {}), ("TIFF", "RGB", {"compression": "tiff_lzw"}),
        ("TIFF", "L", {"compression": "tiff_adobe_deflate"}),
        ("TIFF", "1", {"compression": "group4"}),
        ("TIFF", "RGB", {"compression": "jpeg"}), ("TIFF", "RGB", {"compression": "packbits"}),
        ("PPM", "RGB", {}), ("MPO", "RGB", {}), ("JPEG2000", "RGB", {}), ("AVIF", "RGB", {}),
    ]  # fmt: skip
    made = []
    for kind, mode, options in kinds:
        buffer = io.BytesIO()
        try:
            image.convert(mode).save(buffer, kind, **options)
        except (KeyError, OSError):  # this Pillow was built without it
            continue
        made.append(buffer.getvalue())
    with suppress(ImportError):
        import pillow_heif

        buffer = io.BytesIO()
        pillow_heif.from_pillow(image.convert("RGB")).save(buffer, exif=EXIF)
        made += [buffer.getvalue()] * 2
    return made


def broken(data: bytes) -> st.SearchStrategy[bytes]:
    """A file that is cut, or of which bits, numbers or pieces are changed; mostly in its header."""
    at = st.one_of(st.integers(0, min(len(data), 64) - 1), st.integers(0, len(data) - 1))
    number = st.sampled_from(
        [b"\0", b"\xff", b"\0\0\0\0", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff"]
    )
    cut = at.map(lambda i: data[:i])
    flip = st.tuples(at, st.integers(0, 7)).map(
        lambda t: data[: t[0]] + bytes([data[t[0]] ^ 1 << t[1]]) + data[t[0] + 1 :]
    )
    edit = st.tuples(at, number).map(lambda t: data[: t[0]] + t[1] + data[t[0] + len(t[1]) :])
    move = st.tuples(at, at).map(lambda t: data[: t[0]] + data[t[1] :])
    return st.one_of(cut, flip, edit, move)


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no limits of processes")
def test_broken_pictures_are_read_or_refused_in_one_line(tmp_path: Path) -> None:
    made: list[bytes] = []

    @settings(max_examples=1000, derandomize=True, database=None, deadline=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(st.sampled_from(seeds()).flatmap(broken))
    def collect(data: bytes) -> None:
        made.append(data)

    collect()
    for i, data in enumerate(made):
        (tmp_path / f"{i:05}.jpg").write_bytes(data)
    done = process("-W", "always", "-c", CHILD, str(tmp_path))
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == ""
    counts = json.loads(done.stdout)
    assert counts["read"] + counts["refused"] == len(made)
    assert min(counts["read"], counts["refused"]) > 100
    assert counts["MiB"] < 1500, counts

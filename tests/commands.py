"""What tests of commands share: pictures to run them on, and what they leave behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = "photo; cat, do"
FAST = ["--method", "naclip", "--short-side", "56", "--background", "none"]


def picture(path: str | Path, size: tuple[int, int] = (40, 60), seed: int = 0) -> np.ndarray:
    """Write a picture of coarse noise, and return its pixels."""
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (-(-size[0] // 8), -(-size[1] // 8), 3), dtype=np.uint8)
    pixels = pixels.repeat(8, axis=0).repeat(8, axis=1)[: size[0], : size[1]]
    Image.fromarray(pixels).save(path)
    return pixels


def files(folder: str | Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file())


def results(folder: str | Path) -> list[str]:
    """All files but the journal and its lock."""
    names = [name for name in files(folder) if not Path(name).name.startswith("wordmask")]
    return [name for name in names if not name.endswith(".lock")]


def times(folder: str) -> dict[str, int]:
    """When the results in a folder were written."""
    return {name: (Path(folder) / name).stat().st_mtime_ns for name in results(folder)}


def one_line_error(capsys) -> str:
    """The only line on stderr but the classes that were understood, which must be an error."""
    out, err = capsys.readouterr()
    err = without_words(err)
    assert err.startswith("wordmask: error: "), err
    assert err.count("\n") == 1, err
    assert out == ""
    return err


def without_words(err: str) -> str:
    """What is on stderr, without the line that says which classes were understood."""
    return re.sub(r"\Awordmask: [\d,]+ class(es)?: .*\n", "", err)


def process(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )

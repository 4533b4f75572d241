"""Reading masks: index files to labels by a lookup table, with a clear error for wrong files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, UnidentifiedImageError
from PIL.ExifTags import Base

from wordmask.errors import WordmaskError

Target = npt.NDArray[np.uint16]  # (H, W) labels
Table = npt.NDArray[np.uint16]  # from a value of a mask file to its label
Values = npt.NDArray[np.integer[Any]]

VOID = 65535
"""Label of pixels that are left out of the score."""

INVALID = 65534  # label of unknown values; never leaves this module

_INDEX_MODES = ("P", "L", "1", "I", "I;16", "I;16B", "I;16L")
# Grey values of few bits are spread over 0..255 when they are decoded; divisors to undo it.
_SPREAD = {"1": 255, "L;2": 85, "L;4": 17}
# Rotations that turn a stored picture upright and swap its sides, by EXIF orientation.
_QUARTER_TURNS: dict[int, Callable[[Target], Target]] = {
    5: np.transpose,
    6: lambda labels: np.rot90(labels, 3),
    7: lambda labels: np.rot90(labels.T, 2),
    8: np.rot90,
}


def table(labels: Mapping[int, int], void: Iterable[int] = (), size: int = 256) -> Table:
    """A lookup table from values of a mask file to labels.

    Args:
        labels: label of each known value.
        void: values that are left out of the score.
        size: number of values: 256 for 8 bits, 65536 for 16.
    """
    found = np.full(size, INVALID, np.uint16)
    for value, label in labels.items():
        found[value] = label
    for value in void:
        found[value] = VOID
    found.setflags(write=False)
    return found


@dataclass(frozen=True, eq=False)
class IndexMask:
    """A file with one index per pixel, and the labels of its values; call it to read the labels."""

    path: Path
    table: Table
    hint: str = ""

    def __call__(self) -> Target:
        """The labels, (H, W) uint16."""
        return look_up(read_index(self.path), self.table, str(self.path), self.hint)


def read_index(path: Path) -> Values:
    """Read a mask of one index per pixel: (H, W) of uint8, uint16 or int32.

    Raises:
        WordmaskError: the file is missing, damaged, coded in colours, or was saved as JPEG.
    """
    with open_mask(path) as image:
        if image.format == "JPEG":
            raise WordmaskError(
                f"the mask {path} is a JPEG, which changes the values; get the original PNG"
            )
        if image.mode not in _INDEX_MODES:
            raise WordmaskError(
                f"the mask {path} is coded in colours ({image.mode}); one index per pixel is "
                "expected (PNG of mode P or L): get the original, or convert it by its colour table"
            )
        steps = _SPREAD.get(str(image.tile[0][3]) if image.tile else "", 1)
        values = decode(image.convert("L") if image.mode == "1" else image, path)
        return values // steps if steps > 1 else values


def read_colours(path: Path) -> Values:
    """Read a mask that is coded in colours: (H, W, 3) uint8.

    Raises:
        WordmaskError: the file is missing, damaged, or not coded in colours.
    """
    with open_mask(path) as image:
        if image.mode not in ("RGB", "RGBA"):
            raise WordmaskError(
                f"the mask {path} has one value per pixel ({image.mode}); colours are expected"
            )
        return decode(image, path)[..., :3]


def open_mask(path: Path) -> ImageFile.ImageFile:
    """Open the file of a mask, without decoding it."""
    try:
        return Image.open(path)
    except FileNotFoundError:
        raise WordmaskError(f"there is no mask {path}") from None
    except UnidentifiedImageError:
        raise WordmaskError(f"the mask {path} is damaged or no picture") from None
    except OSError as error:
        raise WordmaskError(f"cannot read the mask {path}: {error.strerror or error}") from None


def decode(image: Image.Image, path: Path) -> Values:
    """The pixels of an opened mask."""
    try:
        return np.asarray(image)
    except Exception as error:  # decoders raise nearly every kind of error on damaged files
        raise WordmaskError(f"the mask {path} is damaged: {' '.join(str(error).split())}") from None


def look_up(values: Values, meaning: Table, shown: str, hint: str = "") -> Target:
    """Turn the values (H, W) of a mask into labels by a table.

    Raises:
        WordmaskError: not (H, W), or a value that is not in the table; `shown` names the mask and
            `hint` gives a possible cause.
    """
    if values.ndim != 2 or values.dtype.kind not in "ui":
        raise WordmaskError(
            f"the mask {shown} is {values.dtype} of shape {values.shape}; whole numbers (H, W) are "
            "expected"
        )
    limits = np.iinfo(values.dtype)
    if limits.min < 0 or limits.max >= len(meaning):
        out = (values < 0) | (values >= len(meaning))
        if out.any():
            raise _wrong_values(values, out, meaning, shown, hint)
    target = meaning[values]
    out = target == INVALID
    if out.any():
        raise _wrong_values(values, out, meaning, shown, hint)
    return target


def _wrong_values(
    values: Values, out: npt.NDArray[np.bool_], meaning: Table, shown: str, hint: str
) -> WordmaskError:
    wrong = [int(value) for value in np.unique(values[out])]
    listed = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
    several = "s" if len(wrong) > 1 else ""
    return WordmaskError(
        f"the mask {shown} holds the value{several} {listed} (at {int(out.sum()):,} pixels); known "
        f"are {spans(np.flatnonzero(meaning != INVALID).tolist())}" + (f"; {hint}" if hint else "")
    )


def spans(values: list[int]) -> str:
    """Format increasing numbers as ranges: "0 to 20, 255"."""
    parts: list[list[int]] = []
    for value in values:
        if parts and parts[-1][-1] == value - 1:
            parts[-1] = [parts[-1][0], value]
        else:
            parts.append([value])
    return ", ".join(" to ".join(map(str, part)) for part in parts)


def picture_size(path: Path) -> tuple[tuple[int, int], int]:
    """((height, width) as stored, EXIF orientation) from the header of a picture.

    Raises:
        WordmaskError: the file is missing or no picture.
    """
    try:
        with Image.open(path) as image:
            # Reading the EXIF of a PNG without one would decode the whole picture.
            has_exif = image.format != "PNG" or "exif" in image.info
            orientation = image.getexif().get(Base.Orientation, 1) if has_exif else 1
            return (image.height, image.width), int(orientation)
    except FileNotFoundError:
        raise WordmaskError(f"there is no picture {path}") from None
    except Exception as error:  # header readers raise nearly every kind of error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise WordmaskError(f"cannot read the picture {path}: {reason}") from None


def match_picture(target: Target, path: Path, name: str) -> Target:
    """Check that labels have the size of their picture, as `read_image` turns it upright.

    Labels drawn on the picture as stored, before its EXIF orientation, are turned with it if the
    sizes show this.

    Raises:
        WordmaskError: the sizes differ.
    """
    (height, width), orientation = picture_size(path)
    quarter = _QUARTER_TURNS.get(orientation)
    upright = (width, height) if quarter else (height, width)
    if target.shape == upright:
        return target
    if quarter and target.shape == (height, width):
        return np.ascontiguousarray(quarter(target))
    raise WordmaskError(
        f"{name}: the mask is {target.shape[1]} x {target.shape[0]} pixels and the picture "
        f"{upright[1]} x {upright[0]}; they must have one size (a resized or cropped copy?)"
    )

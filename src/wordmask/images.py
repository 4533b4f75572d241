"""Pictures: finding files, reading any of them as upright RGB, and preparing them for a tower."""

from __future__ import annotations

import errno
import glob
import io
import math
import os
import re
import stat
import struct
import threading
import warnings
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image
from PIL.ExifTags import Base

from wordmask.errors import ImageError, TooLargeImage, UnknownFormat, WordmaskError, unknown
from wordmask.memory import free_memory

RGB = npt.NDArray[np.uint8]

DEFAULT_MAX_PIXELS = 128_000_000
"""Largest picture that is decoded by default: 384 MB as RGB, above a 108 MP phone."""

# fmt: off
IMAGE_SUFFIXES = frozenset({
    ".avif", ".bmp", ".gif", ".heic", ".heif", ".hif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg",
    ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp",
})
# fmt: on
"""The suffixes, in lower case, by which `find_images` recognises a picture in a folder."""

RESAMPLES = ("pil-bicubic", "pil-bilinear", "cv2-bilinear")
"""The resampling modes of `prepare`."""

# The transpose that turns a stored picture upright, by the value of its EXIF orientation.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Formats that begin with bytes of their own and hold photographs. PIL's other decoders are not
# called: few pictures need them, some take any bytes at all, and EPS starts Ghostscript.
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "GIF", "BMP", "PPM", "AVIF", "JPEG2000", "HEIF")
"""PIL's names of the formats that are read; HEIF (HEIC of phones) with the extra `heif`."""

_VIDEOS = (b"\x1aE\xdf\xa3", b"\0\0\1\xba", b"OggS")  # Matroska, MPEG, Ogg
_VIDEO_BRANDS = (b"iso", b"mp4", b"avc1", b"M4V", b"qt  ", b"3g", b"MSNV", b"dash", b"f4v", b"XAVC")
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}

MOST_SCANS = 100  # of a JPEG: programs write up to about 12, and each goes over all pixels again
_BAND = 2**22  # pixels that are converted at a time
_URL = re.compile(r"[A-Za-z][\w+.-]+:/|data:")  # two letters at least: C:/ is a Windows drive
_GIVE = "give a path, a PIL image, or a uint8 array (H, W, 3) in RGB, channels last"


def read_image(
    source: str | os.PathLike[str] | Image.Image | npt.NDArray[np.uint8],
    *,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> RGB:
    """Read a picture as upright 8-bit RGB.

    The EXIF orientation is undone. Transparent pixels are blended with white. Of an animation or a
    file with several pages the first is read; a PIL image is taken at its current frame. Grey
    pictures of 16 bits are divided by 257. PIL's modes I and F do not state their range, so it is
    the smallest that holds the values: 0..255 or 0..65535 for I (always 0..65535 when read from PNG
    or PPM), 0..1, 0..255 or 0..65535 for F. Values that resampling left a little outside of 0..1
    (up to 0.05) are clipped; other negative values are refused. Colour profiles are not applied.

    Args:
        source: path of a local file, PIL image, or uint8 array (H, W, 3) RGB, (H, W, 4) RGBA or
            (H, W) grey.
        max_pixels: files and PIL images of more pixels are refused before they are decoded; None
            for no limit. Independent of `PIL.Image.MAX_IMAGE_PIXELS`, which is not changed (a few
            of PIL's decoders, GIF and tiled TIFF among them, hold to twice that as well).

    Returns:
        uint8 (H, W, 3) RGB, C-contiguous, in memory of its own.

    Raises:
        ImageError: the source cannot be read as a picture; the message says why.
    """
    if max_pixels is not None and max_pixels < 1:
        raise WordmaskError(f"max_pixels must be at least 1, or None; got {max_pixels}")
    if isinstance(source, np.ndarray):
        return _read_array(source)
    if isinstance(source, Image.Image):
        with _quiet_warnings():
            return _decode(source, f"the PIL image (mode {source.mode})", max_pixels)
    if isinstance(source, (str, os.PathLike)):
        return _read_file(os.fsdecode(source), max_pixels)
    shape = f" of shape {tuple(source.shape)}" if hasattr(source, "shape") else ""
    raise ImageError(
        f"cannot read a picture from {type(source).__name__}{shape}; {_GIVE}"
        " (bytes: PIL.Image.open(io.BytesIO(data)))"
    )


def _read_array(array: npt.NDArray[np.uint8]) -> RGB:
    grey = array.ndim == 2
    if array.dtype != np.uint8 or not (grey or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ImageError(f"cannot read an array of {array.dtype} and shape {array.shape}; {_GIVE}")
    if array.size == 0:
        raise ImageError(f"the array of shape {array.shape} has no pixels; {_GIVE}")
    if grey:
        return np.repeat(array[:, :, None], 3, axis=2)
    if array.shape[2] == 4:
        return _over_white(Image.fromarray(np.ascontiguousarray(array)))
    return np.array(array, order="C")  # a copy: cameras fill the same buffer again


def read_bytes(path: str | os.PathLike[str]) -> bytes:
    """The content of a picture's file, to be given to `decode_image`.

    Raises:
        ImageError: there is no such file, or it cannot be read.
    """
    path = os.fsdecode(path)
    with _errors(path), _open_file(path) as stream:
        return stream.read()


def decode_image(data: bytes, name: str, *, max_pixels: int | None = DEFAULT_MAX_PIXELS) -> RGB:
    """Read a picture from the content of its file, as `read_image` does from its path.

    name: the picture's, for messages.

    Raises:
        ImageError: as `read_image`.
    """
    with _errors(name), io.BytesIO(data) as stream, _quiet_warnings():
        return _decode(_open(stream, _shown(name)), _shown(name), max_pixels, stream)


def decode_reduced(
    data: bytes,
    name: str,
    least: Callable[[int, int], tuple[int, int]],
    *,
    max_pixels: int | None = DEFAULT_MAX_PIXELS,
) -> tuple[RGB, tuple[int, int]]:
    """Read a picture as `decode_image` does, but a JPEG at 1/2, 1/4 or 1/8 of its size if enough.

    JPEG stores blocks of 8 x 8 frequencies; its decoder makes smaller blocks of the low ones.

    Args:
        least: takes height and width, and returns those that the picture must have at least.

    Returns:
        The picture, (H', W', 3), and the height and width that it has in full.

    Raises:
        ImageError: as `read_image`.
    """
    with _errors(name), io.BytesIO(data) as stream, _quiet_warnings():
        image = _open(stream, _shown(name))
        width, height = image.size
        _check_pixels(width, height, _shown(name), max_pixels)
        if image.format in ("JPEG", "MPO"):
            image.draft(image.mode, least(height, width)[::-1])
        picture = _decode(image, _shown(name), max_pixels, stream)
        turned = (_orientation(image) or 1) >= 5  # by a quarter
        return picture, (width, height) if turned else (height, width)


def _read_file(path: str, max_pixels: int | None) -> RGB:
    with _errors(path), _open_file(path) as stream, _quiet_warnings():
        return _decode(_open(stream, _shown(path)), _shown(path), max_pixels, stream)


def _open_file(path: str) -> BinaryIO:
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise ImageError(
            f"cannot read {_shown(path)}: it is a folder; give the path of one picture"
        )
    if not stat.S_ISREG(mode):  # a pipe would block, a device may never end
        raise ImageError(f"cannot read {_shown(path)}: it is not a regular file")
    return open(path, "rb")


@contextmanager
def _errors(path: str) -> Iterator[None]:
    """Turn errors of files and decoders into an ImageError with the path."""
    try:
        yield
    except ImageError:
        raise
    except Exception as error:  # decoders raise nearly every kind of error on damaged files
        if _URL.match(path):
            raise ImageError(
                f"cannot read {_shown(path)}: wordmask reads local files only; download the "
                "picture first"
            ) from None
        missing = isinstance(error, OSError) and error.errno in (errno.ENOENT, errno.ENOTDIR)
        reason = "there is no such file" if missing else _reason(error)
        raise ImageError(f"cannot read {_shown(path)}: {reason}") from error


def _open(stream: BinaryIO, shown: str) -> Image.Image:
    """Identify the picture and read its header.

    `Image.open` would warn or raise at the limit of the process, a global that every thread
    shares; calling the registered decoders directly leaves the limit to the caller.
    """
    prefix = stream.read(16)
    if not prefix:
        raise ImageError(f"cannot read {shown}: the file is empty")
    if _is_heic(prefix + stream.read(240)):
        return _open_heic(stream, shown)
    reasons: list[str] = []
    damaged = False
    tried: set[str] = set()
    for load_decoders in (Image.preinit, Image.init):  # the common formats first, then all
        load_decoders()
        for name in [name for name in Image.ID if name not in tried]:
            tried.add(name)
            factory, accept = Image.OPEN[name]
            accepted: bool | str = False
            try:
                accepted = accept(prefix) if accept else False
                if isinstance(accepted, str):  # recognised, but this PIL was built without it
                    reasons.append(accepted)
                elif accepted and name not in FORMATS:
                    reasons.append(
                        f"it begins as {name}, which is not read; save it as PNG or JPEG"
                    )
                elif accepted:
                    stream.seek(0)
                    return factory(stream, "")
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                if "unknown pixel mode" in str(error):  # bands or types that PIL has no mode for
                    reasons.append(f"{name} of this pixel type is not read; save it as 8-bit RGB")
                elif accepted:  # it begins as this format does
                    damaged = True
                    reasons.append(f"damaged {name} file ({_reason(error)})")
    why = "; ".join(reasons) or "it is not a picture in a known format"
    if not reasons and _is_video(prefix):
        why = "it is a video; make pictures of it first: ffmpeg -i VIDEO -r 1 frame%05d.jpg"
    raise (ImageError if damaged else UnknownFormat)(f"cannot read {shown}: {why}")


def _is_video(start: bytes) -> bool:
    """Whether a file that is no picture begins as MP4, AVI, Matroska, MPEG or Ogg.

    Pictures begin with the same box as MP4, with brands of their own, of which there are many.
    """
    mp4 = start[4:8] == b"ftyp" and start[8:].startswith(_VIDEO_BRANDS)
    return mp4 or start[8:12] == b"AVI " or start.startswith(_VIDEOS)


def _is_heic(start: bytes) -> bool:
    """Whether a file begins as HEIF with HEVC inside: a box `ftyp` that lists one of its brands.

    ISO/IEC 23008-12 (HEIF), annex B; ISO/IEC 14496-12, 4.3: the file type box.
    """
    box = start[: int.from_bytes(start[:4], "big")]
    brands = {box[8:12], *(box[i : i + 4] for i in range(16, len(box), 4))}
    return box[4:8] == b"ftyp" and not brands.isdisjoint(_HEIC_BRANDS)


def _open_heic(stream: BinaryIO, shown: str) -> Image.Image:
    """Read the header of a HEIC file by pillow-heif, which turns pictures upright itself."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        raise ImageError(
            f"cannot read {shown}: HEIC needs a part of wordmask that is not installed; run: "
            'pip install "wordmask[heif]"'
        ) from None
    stream.seek(0)
    try:
        return HeifImageFile(stream, "")
    except SyntaxError as error:
        raise ImageError(f"cannot read {shown}: damaged HEIC file ({_reason(error)})") from error


def _decode(
    image: Image.Image, shown: str, max_pixels: int | None, stream: BinaryIO | None = None
) -> RGB:
    width, height = image.size
    _check_pixels(width, height, shown, max_pixels)
    # PIL holds 4 bytes a pixel (twice where it turns the picture), the array 3
    needed, free = 11 * width * height, free_memory("cpu")
    if free is not None and needed > free:
        raise TooLargeImage(
            f"cannot read {shown}: {width} x {height} pixels need about {needed / 2**30:.1f} GiB,"
            f" but {max(free, 0) / 2**30:.1f} GiB are free; `wordmask large` takes it in tiles"
        )
    try:
        if stream is not None:
            _CHECKS.get(image.format or "", lambda stream: None)(stream)
        with ExitStack() as stack:
            if image.format == "TIFF":
                stack.enter_context(_quiet_stderr())
            image.load()
        return _to_rgb(image, shown)
    except ImageError:
        raise
    except Exception as error:
        raise ImageError(f"cannot read {shown}: {_reason(error)}") from error


def _check_pixels(width: int, height: int, shown: str, max_pixels: int | None) -> None:
    if width < 1 or height < 1:
        raise ImageError(f"cannot read {shown}: it has no pixels ({width} x {height})")
    if max_pixels is not None and width * height > max_pixels:
        raise TooLargeImage(
            f"cannot read {shown}: {width} x {height} is {width * height} pixels, the limit is"
            f" {max_pixels}; `wordmask large` takes pictures of any size in tiles; else make it"
            " smaller, or raise max_pixels"
        )


def _to_rgb(image: Image.Image, shown: str) -> RGB:
    """A loaded picture as an upright array: PIL turns TIFF upright while loading."""
    from_16_bits = image.mode.startswith("I;16") or (
        image.mode == "I" and image.format in ("PNG", "PPM")
    )
    orientation = _orientation(image)
    # Not ImageOps.exif_transpose: it rewrites the whole EXIF block and fails on odd tags.
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    width, height = image.size
    rgb = np.empty((height, width, 3), np.uint8)
    rows = max(_BAND // width, 1)
    if image.mode in ("I", "F") or from_16_bits:
        values = np.asarray(image)
        top = _value_range(values, image.mode, from_16_bits, shown)
        clear = image.info.get("transparency")
        for y in range(0, height, rows):
            band = values[y : y + rows]
            scaled = band.astype(np.float32) * np.float32(255 / top)
            grey = np.floor(scaled.clip(0, 255) + np.float32(0.5)).astype(np.uint8)
            if isinstance(clear, int):
                grey[band == clear] = 255
            rgb[y : y + rows] = grey[:, :, None]
        return rgb
    convert = _over_white if image.has_transparency_data else _plain
    for y in range(0, height, rows):
        # PIL's `crop` holds to PIL's own limit, however small the part
        part = image if rows >= height else image.crop((0, y, width, min(y + rows, height)))
        rgb[y : y + rows] = convert(part)
    return rgb


def _orientation(image: Image.Image) -> int | None:
    try:
        return image.getexif().get(Base.Orientation)
    except Exception:  # the pixels may be fine although the EXIF block is damaged
        return None


def _value_range(values: npt.NDArray[np.generic], mode: str, from_16_bits: bool, shown: str) -> int:
    """The top of the first range 0..top that holds the grey values."""
    tops = (65535,) if from_16_bits else (1, 255, 65535) if mode == "F" else (255, 65535)
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ImageError(f"cannot read {shown}: it has NaN or infinite pixels; replace them first")
    for top in tops:
        slack = 0.05 if top == 1 else 0.0
        if -slack <= low and high <= top + slack:
            return top
    raise ImageError(
        f"cannot read {shown}: its values (PIL mode {mode}) run from {low:g} to {high:g};"
        " scale them to 0..255 first"
    )


def _plain(image: Image.Image) -> RGB:
    return np.asarray(image.convert("RGB"))


def _over_white(image: Image.Image) -> RGB:
    if image.mode == "La":  # PIL would drop the alpha when converting directly to RGBA
        image = image.convert("LA")
    white = Image.new("RGBA", image.size, "white")
    return np.array(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))


# What decoders do not check -------------------------------------------------------------------


def _check_png(stream: BinaryIO) -> None:
    """Refuse pixel data that are damaged or end early; PIL leaves the missing rows black.

    PNG specification (third edition): 5.3 chunks and their CRC, 8.1 interlacing, 10 zlib.
    """
    stream.seek(8)
    inflate, expected, found = zlib.decompressobj(), 0, 0
    while len(head := stream.read(8)) == 8:
        (length, kind), crc = struct.unpack(">I4s", head), zlib.crc32(head[4:])
        if kind == b"IHDR":
            data = stream.read(length)
            crc = zlib.crc32(data, crc)
            expected = _png_bytes(*struct.unpack(">IIBBBBB", data))
        elif kind == b"IDAT":
            while length and (data := stream.read(min(length, 2**16))):
                length -= len(data)
                crc = zlib.crc32(data, crc)
                while data and found < expected and not inflate.eof:
                    found += len(inflate.decompress(data, 2**20))
                    data = inflate.unconsumed_tail
        elif found:
            break
        else:
            stream.seek(length + 4, os.SEEK_CUR)
            continue
        sum_in_file = stream.read(4)
        if len(sum_in_file) < 4:  # the file ends here
            break
        if sum_in_file != struct.pack(">I", crc):
            raise OSError("damaged PNG file (wrong checksum)")
    if found < expected:
        raise OSError(f"image file is truncated ({found} bytes of pixels, not {expected})")
    stream.seek(0)


def _png_bytes(
    width: int, height: int, depth: int, colour: int, _: int, __: int, interlaced: int
) -> int:
    """Bytes of the pixels of a PNG, with the filter byte of each row."""
    bits = depth * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    passes = [(0, 0, 1, 1)]  # first column and row, and the steps to the next
    if interlaced:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)]
        passes += [(0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    return sum((1 + (w * bits + 7) // 8) * h for w, h in sizes if w > 0 and h > 0)


def _check_jpeg(stream: BinaryIO) -> None:
    """Refuse thousands of scans, which make a small file take minutes."""
    stream.seek(0)
    scans, last = 0, b""
    while data := stream.read(2**20):
        scans += (last + data).count(b"\xff\xda")  # in the pixel data 0xff is followed by 0
        last = data[-1:]
    if scans > MOST_SCANS:
        raise OSError(f"it has {scans} scans, more than {MOST_SCANS}; save it again as JPEG")
    stream.seek(0)


_CHECKS: dict[str, Callable[[BinaryIO], None]] = {
    "PNG": _check_png,
    "JPEG": _check_jpeg,
    "MPO": _check_jpeg,
}


class _Shared:
    """A context that threads share: entered with the first of them, left with the last."""

    def __init__(self, make: Callable[[], AbstractContextManager[None]]):
        self.make, self.lock, self.inside = make, threading.Lock(), 0
        self.stack = ExitStack()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self.lock:
            if not self.inside:
                self.stack.enter_context(self.make())
            self.inside += 1
        try:
            yield
        finally:
            with self.lock:
                self.inside -= 1
                if not self.inside:
                    self.stack.close()


@_Shared
@contextmanager
def _quiet_warnings() -> Iterator[None]:
    """Hide warnings of decoders about metadata and sizes."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@_Shared
@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """Hide what libtiff prints from C on damaged files; the error itself is raised."""
    try:
        kept = os.dup(2)
    except OSError:  # stderr is closed
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _shown(path: str) -> str:
    """Return the path for an error message: on one line and of bounded length."""
    text = path if path and path.isprintable() else repr(path)
    return text if len(text) <= 300 else f"{text[:297]}..."


def _reason(error: BaseException) -> str:
    if isinstance(error, MemoryError):
        return "there is not enough memory to decode it"
    if isinstance(error, Image.DecompressionBombError):
        return f"{error} PIL's decoder set this limit: PIL.Image.MAX_IMAGE_PIXELS"
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def target_size(
    height: int,
    width: int,
    *,
    short_side: int | None,
    long_side: int,
    multiple: int = 1,
    minimum_side: int = 1,
) -> tuple[int, int]:
    """Return the size in pixels to which a picture is resized, keeping its aspect ratio.

    Both sides are scaled by min(long_side / long, short_side / short). The size is then rounded
    to the nearest pixel (multiple 1, the harness of SCLIP) or to the nearest multiple of
    `multiple` (CLIPer, by its patch), which may exceed `long_side` by half a multiple.

    Args:
        height: of the picture, in pixels.
        width: of the picture, in pixels.
        short_side: target length of the short side; None keeps the size of the picture unless it
            exceeds `long_side`.
        long_side: largest length of the long side.
        multiple: both sides are divisible by it.
        minimum_side: smallest length of both sides, so that thin pictures still fill one patch.

    Returns:
        (height, width), each at least `multiple` and at least `minimum_side`.

    Raises:
        WordmaskError: a number is below 1.
    """
    numbers = {"height": height, "width": width, "short_side": short_side, "long_side": long_side}
    numbers |= {"multiple": multiple, "minimum_side": minimum_side}
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise WordmaskError(f"{name} must be at least 1 pixel; got {number}")
    wanted = 1.0 if short_side is None else short_side / min(height, width)
    factor = min(long_side / max(height, width), wanted)
    least = max(math.ceil(minimum_side / multiple), 1) * multiple

    def rounded(side: int) -> int:
        return max(int(side * factor / multiple + 0.5) * multiple, least)

    return rounded(height), rounded(width)


def prepare(
    image: RGB,
    *,
    short_side: int | None,
    long_side: int,
    resample: str,
    multiple: int = 1,
    mean: Sequence[float],
    std: Sequence[float],
    minimum_side: int = 1,
) -> npt.NDArray[np.float32]:
    """Resize and normalise a picture for a vision tower.

    Args:
        image: uint8 (H, W, 3) RGB, as `read_image` returns it.
        short_side: see `target_size`, like the next two and `minimum_side`.
        long_side: see `target_size`.
        multiple: see `target_size`.
        resample: "pil-bicubic" or "pil-bilinear" (antialiased: the filter widens when a picture
            shrinks), or "cv2-bilinear", which reads the four nearest pixels at any scale (OpenCV's
            INTER_LINEAR, which mmcv uses). All round to 8 bits.
        mean: one number per channel, for values in 0..1.
        std: one number per channel, for values in 0..1.
        minimum_side: see `target_size`.

    Returns:
        float32 (3, H', W'), (value / 255 - mean) / std.

    Raises:
        ImageError: the array is not uint8 (H, W, 3).
        WordmaskError: unknown resampling, or numbers that cannot be used.
    """
    if resample not in RESAMPLES:
        raise unknown("resampling", resample, RESAMPLES)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ImageError(
            f"cannot prepare an array of {image.dtype} and shape {tuple(image.shape)};"
            " give uint8 (H, W, 3), as read_image returns it"
        )
    if len(mean) != 3 or len(std) != 3 or not all(value > 0 for value in std):
        raise WordmaskError(f"mean and std need 3 numbers each, std above 0; got {mean} and {std}")
    height, width = target_size(
        *image.shape[:2],
        short_side=short_side,
        long_side=long_side,
        multiple=multiple,
        minimum_side=minimum_side,
    )
    pixels = _resize(image, height, width, resample)  # (3, H', W'), whole numbers in 0..255
    pixels /= 255
    pixels -= np.array(mean, np.float32)[:, None, None]
    pixels /= np.array(std, np.float32)[:, None, None]
    return pixels


def _resize(image: RGB, height: int, width: int, resample: str) -> npt.NDArray[np.float32]:
    unchanged = image.shape[:2] == (height, width)
    if not unchanged and resample != "cv2-bilinear":
        mode = Image.Resampling[resample.removeprefix("pil-").upper()]
        image = np.array(Image.fromarray(image).resize((width, height), mode))
    if unchanged or resample != "cv2-bilinear":
        return np.ascontiguousarray(image.transpose(2, 0, 1), np.float32)
    upper, lower, down = _neighbours(image.shape[0], height)
    left, right, across = _neighbours(image.shape[1], width)
    pixels = np.zeros((3, height, width), np.float32)
    for channel, out in enumerate(pixels):
        plane = image[..., channel]
        for rows, weight in ((upper, 1 - down), (lower, down)):
            near = plane[rows].astype(np.float32)
            out += weight[:, None] * (near[:, left] * (1 - across) + near[:, right] * across)
    pixels += 0.5
    return np.floor(pixels, out=pixels)


def _neighbours(source: int, target: int) -> tuple[npt.NDArray[np.generic], ...]:
    """For each of `target` places the two nearest of `source`, and the weight of the second."""
    scale = np.float32(source) / np.float32(target)
    at = (np.arange(target, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    at = at.clip(0)
    low = np.minimum(at.astype(np.int64), source - 1)
    return low, np.minimum(low + 1, source - 1), at - low.astype(np.float32)


def find_images(inputs: Sequence[str | os.PathLike[str]]) -> list[Path]:
    """List the pictures that the arguments of a command stand for.

    A file stands for itself, whatever its suffix. A folder stands for the files with an image
    suffix (`IMAGE_SUFFIXES`) in it and in the folders below it, sorted by path; names that begin
    with a dot are skipped and links to folders not followed. A pattern (`*`, `?`, `[...]`, `**`
    for folders at any depth) stands for the files with an image suffix and the folders that it
    matches, sorted; an existing file or folder of that very name goes first.

    Args:
        inputs: paths and patterns; a single one need not be in a list.

    Returns:
        The paths in the order of the arguments, each once.

    Raises:
        ImageError: an argument stands for no picture, or a folder cannot be read.
    """
    if isinstance(inputs, (str, os.PathLike)):
        inputs = [inputs]
    found: dict[str, Path] = {}
    for given in inputs:
        for path in _expand(os.fsdecode(given)):
            found.setdefault(os.path.normcase(os.path.abspath(path)), path)
    if not found:
        raise ImageError("no picture given; name files, folders or patterns such as photos/*.jpg")
    return list(found.values())


def _expand(given: str) -> list[Path]:
    shown = _shown(given)
    if os.path.isdir(given):
        paths = list(_walk(given))
        if not paths:
            raise ImageError(f"no picture found in the folder {shown} ({_suffixes()})")
        return paths
    if os.path.lexists(given):
        return [Path(given)]
    if _URL.match(given):
        raise ImageError(f"no picture at {shown}: wordmask reads local files only; download it")
    if not glob.has_magic(given):
        raise ImageError(f"no picture found: there is no file or folder {shown}")
    paths = []
    for match in sorted(glob.glob(given, recursive=True)):
        if os.path.isdir(match):
            paths += _walk(match)
        elif _is_image(match):
            paths.append(Path(match))
    if not paths:
        raise ImageError(f"no picture matches the pattern {shown} ({_suffixes()})")
    return paths


def _walk(folder: str) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise ImageError(f"cannot read the folder {_shown(error.filename)}: {_reason(error)}")

    found = []
    for parent, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        paths = [Path(parent, name) for name in files if not name.startswith(".")]
        found += [path for path in paths if _is_image(path)]
    return iter(sorted(found))


def _is_image(path: str | Path) -> bool:
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES and os.path.isfile(path)


def _suffixes() -> str:
    return f"suffixes looked for: {' '.join(sorted(IMAGE_SUFFIXES))}"

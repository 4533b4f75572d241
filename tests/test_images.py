from __future__ import annotations

import io
import math
import os
import struct
import sys
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from wordmask import images, toybox
from wordmask.errors import ImageError, WordmaskError
from wordmask.images import (
    RESAMPLES,
    decode_image,
    decode_reduced,
    find_images,
    prepare,
    read_image,
    target_size,
)

# Upright, asymmetric under every flip and rotation: 48 x 32 pixels of 16 x 16 blocks.
BLOCKS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[0, 0, 0], [90, 90, 90], [255] * 3]])
UPRIGHT = BLOCKS.astype(np.uint8).repeat(16, axis=0).repeat(16, axis=1)
RAMP = np.arange(256, dtype=np.uint8).reshape(8, 32)

# EXIF 2.3, tag 0x0112: where the stored row 0 and the stored column 0 lie in the upright picture.
STORED = {
    1: lambda upright: upright,  # top, left
    2: lambda upright: upright[:, ::-1],  # top, right
    3: lambda upright: upright[::-1, ::-1],  # bottom, right
    4: lambda upright: upright[::-1],  # bottom, left
    5: lambda upright: upright.swapaxes(0, 1),  # left, top
    6: lambda upright: upright.swapaxes(0, 1)[::-1],  # right, top
    7: lambda upright: upright.swapaxes(0, 1)[::-1, ::-1],  # right, bottom
    8: lambda upright: upright.swapaxes(0, 1)[:, ::-1],  # left, bottom
}


def store(array: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(array))


def grey_rgb(grey: np.ndarray) -> np.ndarray:
    return np.stack([grey] * 3, axis=-1)


def one_line(error: pytest.ExceptionInfo[WordmaskError], *parts: object) -> None:
    message = str(error.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message


# EXIF orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tiff", "webp", "jpg"])
def test_every_orientation_comes_out_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"picture.{suffix}"
    options = {"webp": {"lossless": True}, "jpg": {"quality": 100, "subsampling": 0}}
    store(STORED[orientation](UPRIGHT)).save(path, exif=exif, **options.get(suffix, {}))
    read = read_image(path)
    assert read.shape == UPRIGHT.shape
    np.testing.assert_allclose(read.astype(int), UPRIGHT, atol=3 if suffix == "jpg" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_16_bit_grey(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    store(STORED[orientation](RAMP.astype(np.uint16) * 257)).save(tmp_path / "p.png", exif=exif)
    np.testing.assert_array_equal(read_image(tmp_path / "p.png"), grey_rgb(RAMP))


def test_a_pil_image_is_turned_and_left_as_it_was(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6
    store(STORED[6](UPRIGHT)).save(tmp_path / "p.png", exif=exif)
    with Image.open(tmp_path / "p.png") as image:
        np.testing.assert_array_equal(read_image(image), UPRIGHT)
        assert image.size == (32, 48)
        assert image.getexif()[274] == 6


@pytest.mark.parametrize(
    ("entries", "upright"),
    [
        ([(256, 9, -1), (274, 3, 6)], True),  # a negative width: EXIF that PIL cannot write again
        ([(274, 3, 9)], False),  # no such orientation
        (None, False),
    ],
)
def test_damaged_exif_does_not_spoil_the_picture(
    tmp_path: Path, entries: list[tuple[int, int, int]] | None, upright: bool
) -> None:
    stored = STORED[6](UPRIGHT)
    exif = b"Exif\0\0 this is no EXIF"
    if entries:
        exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(entries))
        exif += b"".join(struct.pack("<HHIi", tag, kind, 1, value) for tag, kind, value in entries)
        exif += b"\0\0\0\0"
    store(stored).save(tmp_path / "p.jpg", exif=exif, quality=100, subsampling=0)
    expected = UPRIGHT if upright else stored
    np.testing.assert_allclose(read_image(tmp_path / "p.jpg").astype(int), expected, atol=3)


# HEIC of phones


def heic(array: np.ndarray, **options: object) -> bytes:
    """A HEIC file without loss but that of its colours' conversion; 16 bits become 10."""
    pillow_heif = pytest.importorskip("pillow_heif")
    mode = {2: "L", 3: "RGB", 4: "RGBA"}[array.shape[2] if array.ndim == 3 else 2]
    mode += ";16" if array.dtype == np.uint16 else ""
    buffer = io.BytesIO()
    size = array.shape[1], array.shape[0]
    data = np.ascontiguousarray(array).tobytes()
    pillow_heif.encode(mode, size, data, buffer, quality=-1, chroma=444, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_heic_comes_out_upright(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    stored = STORED[orientation](UPRIGHT)
    path = tmp_path / "IMG_0001.HEIC"
    path.write_bytes(heic(stored, exif=exif.tobytes()))
    np.testing.assert_allclose(read_image(path).astype(int), UPRIGHT, atol=3)


def test_heic_of_10_bits_grey_and_with_alpha(tmp_path: Path) -> None:
    path, clear = tmp_path / "p.heic", np.dstack([UPRIGHT, np.zeros_like(UPRIGHT[..., :1])])
    for stored, upright in [
        (UPRIGHT.astype(np.uint16) * 257, UPRIGHT),
        (UPRIGHT[..., 0], grey_rgb(UPRIGHT[..., 0])),
        (clear, np.full_like(UPRIGHT, 255)),
    ]:
        path.write_bytes(heic(stored))
        np.testing.assert_allclose(read_image(path).astype(int), upright, atol=3)


def test_heic_that_is_cut_or_too_large_is_one_line(tmp_path: Path) -> None:
    path, data = tmp_path / "p.heic", heic(UPRIGHT)
    for length in np.linspace(13, len(data) - 1, 40).astype(int):
        path.write_bytes(data[:length])
        with pytest.raises(ImageError) as error:
            read_image(path)
        one_line(error, path)
    path.write_bytes(data)
    with pytest.raises(ImageError, match="max_pixels"):
        read_image(path, max_pixels=UPRIGHT.size // 3 - 1)


def test_heic_without_its_part_names_what_to_install(tmp_path: Path, monkeypatch) -> None:
    data = b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"  # phones also put the brand second
    (tmp_path / "a.heic").write_bytes(data)
    (tmp_path / "b.hif").write_bytes(data)
    (tmp_path / "c.avif").write_bytes(encoded("AVIF"))
    assert [path.name for path in find_images(tmp_path)] == ["a.heic", "b.hif", "c.avif"]
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for name in ("a.heic", "b.hif"):
        with pytest.raises(ImageError) as error:
            read_image(tmp_path / name)
        one_line(error, tmp_path / name, 'pip install "wordmask[heif]"')
    assert read_image(tmp_path / "c.avif").shape == (32, 32, 3)  # no HEIC, and read by Pillow


# Modes


def palette(transparency: int | bytes | None) -> Image.Image:
    image = Image.new("P", (3, 1))
    image.putpalette([10, 20, 30, 200, 100, 50, 0, 0, 255])
    image.putdata([0, 1, 2])
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def pixels(mode: str, *values: object) -> Image.Image:
    image = Image.new(mode, (len(values), 1))
    for x, value in enumerate(values):
        image.putpixel((x, 0), value)
    return image


MODES = {
    "1": (pixels("1", 0, 255), [[0] * 3, [255] * 3]),
    "L": (pixels("L", 0, 77, 255), [[0] * 3, [77] * 3, [255] * 3]),
    # 77 * a + 255 * (1 - a) for a = 0, 1 and 51 / 255
    "LA": (pixels("LA", (77, 0), (77, 255), (75, 51)), [[255] * 3, [77] * 3, [219] * 3]),
    "La": (pixels("LA", (77, 0), (77, 255)).convert("La"), [[255] * 3, [77] * 3]),
    "P": (palette(None), [[10, 20, 30], [200, 100, 50], [0, 0, 255]]),
    "P, one clear colour": (palette(1), [[10, 20, 30], [255] * 3, [0, 0, 255]]),
    "P, alphas": (palette(b"\x00\xff\x33"), [[255] * 3, [200, 100, 50], [204, 204, 255]]),
    "RGB": (pixels("RGB", (1, 2, 3), (250, 0, 9)), [[1, 2, 3], [250, 0, 9]]),
    "RGBA": (pixels("RGBA", (1, 2, 3, 255), (0, 255, 0, 51)), [[1, 2, 3], [204, 255, 204]]),
    "CMYK": (pixels("CMYK", (0, 0, 0, 0), (255, 0, 0, 0)), [[255] * 3, [0, 255, 255]]),
    "I;16": (pixels("I;16", 0, 257 * 9, 65535), [[0] * 3, [9] * 3, [255] * 3]),
    "I, 8 bits": (pixels("I", 0, 128, 255), [[0] * 3, [128] * 3, [255] * 3]),
    "I, 16 bits": (pixels("I", 0, 257 * 128, 65535), [[0] * 3, [128] * 3, [255] * 3]),
    "F, 0..1": (pixels("F", 0.0, 0.2, 1.0), [[0] * 3, [51] * 3, [255] * 3]),
    "F, 0..255": (pixels("F", 0.0, 9.6, 255.0), [[0] * 3, [10] * 3, [255] * 3]),
    "F, 0..65535": (pixels("F", 0.0, 257.0, 65535.0), [[0] * 3, [1] * 3, [255] * 3]),
    "F, overshoot": (pixels("F", -0.03, 0.2, 1.04), [[0] * 3, [51] * 3, [255] * 3]),
}


@pytest.mark.parametrize("name", MODES)
def test_modes_in_memory(name: str) -> None:
    image, expected = MODES[name]
    read = read_image(image)
    assert read.dtype == np.uint8
    assert read.flags.c_contiguous
    assert read.flags.writeable
    np.testing.assert_array_equal(read, np.array([expected]))


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        *[(name, "png") for name in ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"]],
        *[(name, "tiff") for name in ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16"]],
        *[(name, "tiff") for name in ["I, 8 bits", "I, 16 bits", "F, 0..1", "F, 0..255"]],
        *[(name, "png") for name in ["P, one clear colour", "P, alphas"]],
    ],
)
def test_modes_from_files(tmp_path: Path, name: str, suffix: str) -> None:
    image, expected = MODES[name]
    path = tmp_path / f"picture.{suffix}"
    image.save(path)
    np.testing.assert_array_equal(read_image(path), np.array([expected]))


def test_16_bits_round_to_the_nearest_grey() -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    expected = ((values.astype(int) + 128) // 257).astype(np.uint8)
    np.testing.assert_array_equal(read_image(Image.fromarray(values)), grey_rgb(expected))


@pytest.mark.parametrize("suffix", ["png", "pgm", "tiff"])
def test_a_dark_16_bit_file_stays_dark(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"dark.{suffix}"
    if suffix == "pgm":
        path.write_bytes(b"P5 2 2 65535\n" + struct.pack(">4H", 200, 200, 200, 200))
    else:
        Image.fromarray(np.full((2, 2), 200, np.uint16)).save(path)
    assert (read_image(path) == 1).all()  # 200 / 257, not 200


def test_a_clear_grey_of_16_bits_becomes_white(tmp_path: Path) -> None:
    image = Image.fromarray(np.array([[0, 5000, 65535]], np.uint16))
    image.save(tmp_path / "p.png", transparency=5000)
    np.testing.assert_array_equal(read_image(tmp_path / "p.png")[0, :, 0], [0, 255, 255])


@pytest.mark.parametrize(
    "image",
    [
        pixels("F", 0.0, math.nan),
        pixels("F", 0.0, math.inf),
        pixels("F", -1.0, 1.0),  # normalised pictures, as networks take them
        pixels("F", -2.1, 2.6),
        pixels("F", 0.0, 1e6),
        pixels("I", -1, 3),
        pixels("I", 0, 70000),
    ],
)
def test_values_out_of_every_range_are_refused(image: Image.Image) -> None:
    with pytest.raises(ImageError) as error:
        read_image(image)
    one_line(error, image.mode, "run from" if np.isfinite(np.asarray(image)).all() else "NaN")


def test_the_first_frame_is_read(tmp_path: Path) -> None:
    frames = [store(np.full((4, 6, 3), value, np.uint8)) for value in (10, 200)]
    for suffix, options in [("gif", {}), ("tiff", {}), ("webp", {"lossless": True}), ("png", {})]:
        path = tmp_path / f"frames.{suffix}"
        frames[0].save(path, save_all=True, append_images=frames[1:], **options)
        assert read_image(path).shape == (4, 6, 3)
        assert (read_image(path) == 10).all()


# Arrays


def test_an_array_comes_back_in_memory_of_its_own() -> None:
    array = UPRIGHT.copy()
    read = read_image(array)
    array[:] = 0
    np.testing.assert_array_equal(read, UPRIGHT)
    flipped = read_image(UPRIGHT[:, ::-1])
    assert flipped.flags.c_contiguous
    np.testing.assert_array_equal(flipped, UPRIGHT[:, ::-1])


def test_grey_and_rgba_arrays() -> None:
    np.testing.assert_array_equal(read_image(RAMP), grey_rgb(RAMP))
    rgba = np.array([[[9, 8, 7, 255], [9, 8, 7, 0], [0, 255, 0, 51]]], np.uint8)
    expected = [[[9, 8, 7], [255, 255, 255], [204, 255, 204]]]
    np.testing.assert_array_equal(read_image(rgba), expected)


@pytest.mark.parametrize(
    "source",
    [
        np.zeros((4, 4, 3), np.float32),
        np.zeros((4, 4, 3), bool),
        np.zeros((4, 4), np.uint16),
        np.zeros((3, 4, 6), np.uint8),
        np.zeros((1, 4, 4, 3), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
        np.zeros(4, np.uint8),
    ],
)
def test_other_arrays_are_refused(source: np.ndarray) -> None:
    with pytest.raises(ImageError) as error:
        read_image(source)
    one_line(error, source.dtype, source.shape, "uint8 array (H, W, 3)")


@pytest.mark.parametrize("shape", [(0, 4, 3), (4, 0, 3), (0, 0), (0, 4, 4)])
def test_empty_arrays_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ImageError, match="no pixels") as error:
        read_image(np.zeros(shape, np.uint8))
    one_line(error, shape)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        (torch.zeros(3, 4, 6), ("Tensor", (3, 4, 6))),
        (b"\x89PNG", ("bytes", "BytesIO")),
        (io.BytesIO(), ("BytesIO",)),
        (None, ("NoneType",)),
        ([[0]], ("list",)),
    ],
)
def test_other_objects_are_refused(source: object, named: tuple[object, ...]) -> None:
    with pytest.raises(ImageError) as error:
        read_image(source)  # type: ignore[arg-type]
    one_line(error, "give a path", *named)


# Bad files


def encoded(kind: str) -> bytes:
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, kind)
    return buffer.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png_of_size(width: int, height: int) -> bytes:
    """Return a PNG whose header claims a size and whose data holds nearly nothing."""

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 99))
        + chunk(b"IEND", b"")
    )


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[io.BufferedReader]:
    """Collect the files that wordmask.images opens."""
    streams: list[io.BufferedReader] = []

    def spy(*args: object) -> io.BufferedReader:
        streams.append(open(*args))  # type: ignore[call-overload]  # noqa: SIM115
        return streams[-1]

    monkeypatch.setattr(images, "open", spy, raising=False)
    return streams


BAD_FILES = {
    "empty.jpg": (b"", "empty"),
    "text.png": (b"this is not a picture at all\n" * 9, "not a picture"),
    "two-bytes.jpg": (b"\xff\xd8", "cannot read"),
    "zeros.png": (b"\0" * 500, "cannot read"),
    "bomb.png": (png_of_size(100_000, 100_000), "max_pixels"),
    "large.png": (png_of_size(12_000, 12_000), "max_pixels"),  # PIL itself would only warn
    "short-data.png": (png_of_size(500, 500), "truncated"),
    "drawing.eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n", "EPS"),
    "film.mp4": (b"\0\0\0\x20ftypisom\0\0\2\0isomavc1mp41" + b"\0" * 99, "it is a video"),
    "film.mov": (b"\0\0\0\x14ftypqt  \0\0\2\0qt  " + b"\0" * 99, "it is a video"),
    "raw.cr3": (b"\0\0\0\x18ftypcrx \0\0\0\1crx isom" + b"\0" * 99, "not a picture in a known"),
    "stack.heif": (b"\0\0\0\x18ftypjpeg\0\0\0\0mif1jpeg" + b"\0" * 99, "not a picture in"),
    "film.avi": (b"RIFF\0\1\0\0AVI LIST" + b"\0" * 99, "it is a video"),
    "photo.heic": (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
}
for kind in ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM"]:
    data = encoded(kind)
    BAD_FILES[f"half.{kind.lower()}"] = (data[: len(data) // 2], "cannot read")
    BAD_FILES[f"header.{kind.lower()}"] = (data[:14], "cannot read")


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_files_get_one_line_with_their_path(
    tmp_path: Path, name: str, opened: list[io.BufferedReader]
) -> None:
    data, reason = BAD_FILES[name]
    path = tmp_path / name
    path.write_bytes(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ImageError) as error:
            read_image(path)
    one_line(error, path, reason)
    assert [stream.closed for stream in opened] == [True]


ADAM7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)]
ADAM7 += [(0, 1, 1, 2)]  # PNG specification, 8.1: first column and row, and the steps


def written_png(array: np.ndarray, interlaced: bool, missing: int = 0) -> bytes:
    """A PNG of RGB pixels without some of its last bytes, in which all checksums are right."""
    passes = [array[y::dy, x::dx] for x, y, dx, dy in ADAM7] if interlaced else [array]
    raw = b"".join(b"\0" + row.tobytes() for one in passes if one.size for row in one)
    height, width = array.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlaced)
    pixels = zlib.compress(raw[: len(raw) - missing])
    half = 0 if missing else len(pixels) // 2  # in one piece, or in two
    parts = [(b"IHDR", header), (b"IDAT", pixels[:half]), (b"IDAT", pixels[half:]), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in parts)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (3, 9), (32, 48), (50, 4)])
def test_png_with_too_little_pixel_data_is_refused(
    tmp_path: Path, size: tuple[int, int], interlaced: bool
) -> None:
    path = tmp_path / "p.png"
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    path.write_bytes(written_png(noise, interlaced))
    np.testing.assert_array_equal(read_image(path), noise)
    array = np.full((*size, 3), 200, np.uint8)  # few bytes: PIL has seen all when it notices
    for missing in (1, array.nbytes // 2):
        path.write_bytes(written_png(array, interlaced, missing))
        with pytest.raises(ImageError, match="truncated") as error:
            read_image(path)
        one_line(error, path)


def test_png_with_damaged_pixel_data_is_refused(tmp_path: Path) -> None:
    whole = encoded("PNG")
    start, stop = whole.index(b"IDAT") + 4, whole.rindex(b"IEND") - 8
    for at in np.linspace(start + 2, stop - 1, 40).astype(int):
        damaged = bytearray(whole)
        damaged[at] ^= 16
        (tmp_path / "p.png").write_bytes(damaged)
        with pytest.raises(ImageError, match="cannot read") as error:
            read_image(tmp_path / "p.png")
        one_line(error)


@pytest.mark.parametrize("kind", ["ICO", "PCX", "SGI", "TGA", "DDS", "FITS"])
def test_other_formats_are_refused_whatever_the_name(tmp_path: Path, kind: str) -> None:
    cards = ["SIMPLE  =  T", "BITPIX  =  8", "NAXIS   =  2", "NAXIS1  =  4", "NAXIS2  =  4", "END"]
    data = "".join(card.ljust(80) for card in cards).ljust(2880).encode() + b"\x99" * 2880
    path = tmp_path / "photo.jpg"
    path.write_bytes(data if kind == "FITS" else encoded(kind))
    with pytest.raises(ImageError) as error:
        read_image(path)
    one_line(error, path, "not read" if kind != "TGA" else "")


def test_allowed_formats_are_read() -> None:
    Image.init()
    assert set(images.FORMATS) - {"MPO", "HEIF"} <= set(Image.OPEN)  # MPO begins as JPEG


def test_a_jpeg_of_thousands_of_scans_is_refused(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    store(UPRIGHT).save(buffer, "JPEG", progressive=True)
    data = buffer.getvalue()
    last = data[data.rindex(b"\xff\xda") : -2]  # it refines what is there, and may be repeated
    path = tmp_path / "p.jpg"
    for times in (50, 3000):
        path.write_bytes(data[:-2] + last * times + data[-2:])
        if times == 50:
            assert read_image(path).shape == UPRIGHT.shape
    with pytest.raises(ImageError, match="scans") as error:
        read_image(path)
    one_line(error, path)


def damaged_tiffs() -> dict[str, bytes]:
    """TIFF files about which libtiff prints, and about which PIL warns."""
    buffer = io.BytesIO()
    store(UPRIGHT).save(buffer, "TIFF", compression="tiff_lzw")
    data = bytearray(buffer.getvalue())
    data[8:40] = b"\xff" * 32
    exif = b"Exif\0\0II*\0" + struct.pack("<IH", 8, 7) + b"\x12\x01\x03\x00"
    buffer = io.BytesIO()
    store(UPRIGHT).save(buffer, "JPEG", exif=exif)
    return {"codes.tif": bytes(data), "exif.jpg": buffer.getvalue()}


def test_libraries_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for name, data in damaged_tiffs().items():
        path = tmp_path / name
        path.write_bytes(data)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if name == "exif.jpg":
                assert read_image(path).shape == UPRIGHT.shape
            else:
                with pytest.raises(ImageError, match="cannot read"):
                    read_image(path)
        assert not caught
        assert capfd.readouterr().err == ""
        with warnings.catch_warnings(record=True) as caught, suppress(OSError):
            warnings.simplefilter("always")
            Image.open(path).load()  # to show that there is something to hide
        assert caught or capfd.readouterr().err != ""
    os.write(2, b"stderr is back")
    assert capfd.readouterr().err == "stderr is back"


def test_warnings_are_as_before_when_threads_overlap(tmp_path: Path) -> None:
    store(UPRIGHT).save(tmp_path / "p.tiff", compression="tiff_lzw")
    before, stderr = list(warnings.filters), os.fstat(2)
    with ThreadPoolExecutor(8) as pool:
        for read in pool.map(read_image, [tmp_path / "p.tiff"] * 200):
            np.testing.assert_array_equal(read, UPRIGHT)
    assert list(warnings.filters) == before
    assert os.path.samestat(os.fstat(2), stderr)


def test_a_picture_that_does_not_fit_into_memory_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "large.png").write_bytes(png_of_size(20_000, 20_000))
    monkeypatch.setattr(images, "free_memory", lambda device: 2**30)
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("it was decoded"))
    with pytest.raises(ImageError, match=r"need about 4\.1 GiB, but 1\.0 GiB are free") as error:
        read_image(tmp_path / "large.png", max_pixels=None)
    one_line(error, "20000 x 20000", "wordmask large")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "I;16", "F"])
def test_bands_of_rows_make_no_difference(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (37, 23, 4), dtype=np.uint8)
    if mode == "I;16":
        image = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    elif mode == "F":
        image = Image.fromarray(noise[..., 0] / np.float32(255))
    else:
        image = Image.fromarray(noise).convert(mode)
    whole = read_image(image)
    monkeypatch.setattr(images, "_BAND", 100)
    np.testing.assert_array_equal(read_image(image), whole)


def test_a_file_that_was_read_is_closed(tmp_path: Path, opened: list[io.BufferedReader]) -> None:
    store(UPRIGHT).save(tmp_path / "p.png")
    for source in (tmp_path / "p.png", str(tmp_path / "p.png")):
        np.testing.assert_array_equal(read_image(source), UPRIGHT)
    assert [stream.closed for stream in opened] == [True, True]


def test_paths_that_are_no_file(tmp_path: Path) -> None:
    for path, reason in [
        (tmp_path, "folder"),
        (tmp_path / "missing.jpg", "no such file"),
        (tmp_path / "missing" / "photo.jpg", "no such file"),
        ("", "no such file"),
        ("nul\0byte.jpg", "null"),
        ("two\nlines.jpg", r"two\nlines.jpg"),
        ("x" * 5000, "xxx..."),
    ]:
        with pytest.raises(ImageError, match="cannot read") as error:
            read_image(path)
        one_line(error, reason)
        assert len(str(error.value)) < 500


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_refused_and_does_not_block(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        read_image(tmp_path / "pipe.jpg")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/a.jpg",
        "https://example.org/a.jpg",
        "s3://a/b",
        "data:image/png;base64,A",
    ],
)
def test_addresses_are_refused(url: str) -> None:
    for source in (url, Path(url)):
        with pytest.raises(ImageError, match="local files only") as error:
            read_image(source)
        one_line(error, source)


# The limit on pixels


def test_the_limit_is_inclusive_and_holds_for_pil_images(tmp_path: Path) -> None:
    image = store(np.zeros((20, 30, 3), np.uint8))
    image.save(tmp_path / "p.png")
    for source in (tmp_path / "p.png", image):
        assert read_image(source, max_pixels=600).shape == (20, 30, 3)
        with pytest.raises(ImageError, match="600 pixels") as error:
            read_image(source, max_pixels=599)
        one_line(error, "30 x 20", 599, "max_pixels")
    with pytest.raises(WordmaskError, match="at least 1"):
        read_image(image, max_pixels=0)


@pytest.mark.parametrize("max_pixels", [600, None])
def test_the_limit_of_pil_is_neither_in_the_way_nor_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_pixels: int | None
) -> None:
    store(np.zeros((20, 30, 3), np.uint8)).save(tmp_path / "p.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 15)
    monkeypatch.setattr("wordmask.images._BAND", 1)  # Pillow 12 checks what is cropped, too
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / "p.png")
    assert read_image(tmp_path / "p.png", max_pixels=max_pixels).shape == (20, 30, 3)
    assert Image.MAX_IMAGE_PIXELS == 15


def test_a_limit_inside_a_decoder_of_pil_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = bytearray(encoded("GIF"))
    data[6:10] = struct.pack("<HH", 4, 4)  # a screen that is smaller than its frame
    (tmp_path / "p.gif").write_bytes(data)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(ImageError, match="MAX_IMAGE_PIXELS") as error:
        read_image(tmp_path / "p.gif")
    one_line(error, tmp_path / "p.gif")


# Sizes


@pytest.mark.parametrize(
    ("size", "short_side", "long_side", "multiple", "expected"),
    [
        # SCLIP's harness: 336 / 366 * 500 = 459.02; multiple 1
        ((366, 500), 336, 2048, 1, (336, 459)),
        ((500, 366), 336, 2048, 1, (459, 336)),
        # CLIPer: 459.02 / 16 = 28.69 -> 29 patches
        ((366, 500), 336, 2048, 16, (336, 464)),
        # Cityscapes at 560: 1120 x 560; 1024 / 14 patches
        ((1024, 2048), 560, 2048, 1, (560, 1120)),
        ((1024, 2048), 448, 2048, 14, (448, 896)),
        # the long side decides: factor 2048 / 4000 = 0.512
        ((500, 4000), 336, 2048, 1, (256, 2048)),
        # 1 x 500: factor 2048 / 500 = 4.096
        ((1, 500), 336, 2048, 1, (4, 2048)),
        ((1, 500), 336, 2048, 16, (16, 2048)),
        ((1, 1), 336, 2048, 16, (336, 336)),
        # no short side: left alone unless too long
        ((300, 400), None, 2048, 1, (300, 400)),
        ((300, 400), None, 200, 1, (150, 200)),
        ((300, 409), None, 2048, 16, (304, 416)),  # 18.75 -> 19 and 25.56 -> 26 patches
        ((1, 9000), None, 2048, 1, (1, 2048)),  # 0.23 rounds to 0, never below 1
        ((5, 5), 5, 5, 2, (6, 6)),  # 2.5 goes up
    ],
)
def test_target_size_by_hand(
    size: tuple[int, int],
    short_side: int | None,
    long_side: int,
    multiple: int,
    expected: tuple[int, int],
) -> None:
    options = {"short_side": short_side, "long_side": long_side, "multiple": multiple}
    assert target_size(*size, **options) == expected


def test_minimum_side_lets_a_thin_picture_fill_a_patch() -> None:
    options = {"short_side": 336, "long_side": 2048, "minimum_side": 16}
    assert target_size(1, 500, **options) == (16, 2048)
    assert target_size(500, 1, **options) == (2048, 16)
    assert target_size(366, 500, **options) == (336, 459)
    assert target_size(1, 500, multiple=14, **options) == (28, 2044)


@given(
    height=st.integers(1, 20_000),
    width=st.integers(1, 20_000),
    short_side=st.none() | st.integers(1, 2048),
    long_side=st.integers(1, 4096),
    multiple=st.integers(1, 64),
    minimum_side=st.integers(1, 64),
)
def test_target_size_properties(
    height: int,
    width: int,
    short_side: int | None,
    long_side: int,
    multiple: int,
    minimum_side: int,
) -> None:
    options = {
        "short_side": short_side,
        "long_side": long_side,
        "multiple": multiple,
        "minimum_side": minimum_side,
    }
    size = target_size(height, width, **options)
    assert target_size(width, height, **options) == size[::-1]
    least = math.ceil(minimum_side / multiple) * multiple
    exact = min(long_side / max(height, width), (short_side or 1e9) / min(height, width))
    if short_side is None:
        exact = min(exact, 1)
    for side, before in zip(size, (height, width), strict=True):
        assert side % multiple == 0
        assert side >= max(multiple, minimum_side)
        assert side == least or abs(side - before * exact) <= multiple / 2 + 1e-6
        assert side <= max(long_side + multiple / 2, least)


@pytest.mark.parametrize("name", ["height", "width", "short_side", "long_side", "multiple"])
def test_numbers_below_one_are_refused(name: str) -> None:
    numbers = {"height": 4, "width": 4, "short_side": 4, "long_side": 4, "multiple": 1} | {name: 0}
    with pytest.raises(WordmaskError) as error:
        target_size(**numbers)
    one_line(error, name, "got 0")


# Preparing

AS_IT_IS = {"short_side": None, "long_side": 4096, "mean": (0, 0, 0), "std": (1, 1, 1)}


def resized(image: np.ndarray, short_side: int, long_side: int, resample: str) -> np.ndarray:
    options = AS_IT_IS | {"short_side": short_side, "long_side": long_side}
    values = prepare(image, resample=resample, **options).transpose(1, 2, 0) * 255
    np.testing.assert_allclose(values, np.rint(values), atol=1e-4)  # whole grey levels
    return np.rint(values).astype(int)


def test_normalisation_by_hand() -> None:
    image = np.array([[[0, 51, 255], [255, 255, 102]]], np.uint8)
    options = AS_IT_IS | {"mean": (0.5, 0.4, 0.2), "std": (0.5, 0.1, 0.4)}
    prepared = prepare(image, resample="pil-bicubic", **options)
    assert prepared.dtype == np.float32
    assert prepared.flags.c_contiguous
    np.testing.assert_allclose(prepared, [[[-1, 1]], [[-2, 6]], [[2, 0.5]]], atol=1e-6)


def test_cv2_bilinear_by_hand() -> None:
    # Twice as wide: pixel x reads (x + 0.5) / 2 - 0.5 = -0.25, 0.25, 0.75, 1.25; borders repeat.
    row = grey_rgb(np.array([[0, 100]], np.uint8))
    larger = resized(row, 2, 4, "cv2-bilinear")
    np.testing.assert_array_equal(larger[..., 0], [[0, 25, 75, 100]] * 2)
    # A quarter as wide: pixel x reads 4 x + 1.5, columns 4 x + 1 and 4 x + 2 and no other.
    columns = np.array([[255, 10, 30, 255, 255, 6, 7, 255]] * 4, np.uint8)
    smaller = resized(grey_rgb(columns), 1, 2, "cv2-bilinear")
    np.testing.assert_array_equal(smaller[..., 0], [[20, 7]])  # 6.5 goes up
    # PIL's filter is as wide as four columns and sees the white ones.
    assert (resized(grey_rgb(columns), 1, 2, "pil-bilinear") > 50).all()


@pytest.mark.parametrize("size", [(37, 61), (120, 90), (448, 336), (1, 9)])
def test_cv2_bilinear_is_that_of_torch(size: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 90, 3), dtype=np.uint8)
    values = torch.tensor(noise).permute(2, 0, 1)[None].float()
    wanted = torch.nn.functional.interpolate(values, size, mode="bilinear")[0].add(0.5).floor()
    found = images._resize(noise, *size, "cv2-bilinear")
    apart = np.abs(found - wanted.numpy())
    assert apart.max() <= 1
    assert (apart > 0).mean() < 1e-3  # halves, which float32 rounds either way


@pytest.mark.parametrize("name", ["bicubic", "bilinear"])
def test_pil_filters_are_those_of_pil(name: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (30, 50, 3), dtype=np.uint8)
    for short_side, size in [(12, (20, 12)), (48, (80, 48))]:
        expected = Image.fromarray(noise).resize(size, Image.Resampling[name.upper()])
        np.testing.assert_array_equal(resized(noise, short_side, 4096, f"pil-{name}"), expected)


@pytest.mark.parametrize("resample", RESAMPLES)
def test_an_unchanged_size_leaves_the_pixels(resample: str) -> None:
    frozen = UPRIGHT[:, ::-1]
    frozen.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prepared = prepare(frozen, resample=resample, **AS_IT_IS)
    np.testing.assert_array_equal(np.rint(prepared * 255).transpose(1, 2, 0), frozen)


@pytest.mark.parametrize("resample", RESAMPLES)
@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2)])
def test_tiny_and_thin_pictures_come_through(size: tuple[int, int], resample: str) -> None:
    image = np.full((*size, 3), 51, np.uint8)
    options = {"short_side": 224, "long_side": 448, "resample": resample}
    options |= {"mean": (0, 0, 0), "std": (1, 1, 1)}
    for rounding in ({"multiple": 16}, {"multiple": 1, "minimum_side": 16}):
        prepared = prepare(image, **options, **rounding)
        assert prepared.shape[0] == 3
        assert min(prepared.shape[1:]) >= 16
        np.testing.assert_allclose(prepared, 0.2, atol=1e-6)


def test_prepare_refuses_what_it_cannot_use() -> None:
    with pytest.raises(WordmaskError, match="did you mean pil-bicubic") as error:
        prepare(UPRIGHT, resample="pil-bicubik", **AS_IT_IS)
    one_line(error, "resampling")
    for image in (UPRIGHT.astype(np.float32), RAMP, np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(ImageError) as error:
            prepare(image, resample="pil-bicubic", **AS_IT_IS)
        one_line(error, image.dtype, image.shape)
    for wrong in ({"mean": (0.5,)}, {"std": (1, 1)}, {"std": (1, 0, 1)}, {"std": (1, math.nan, 1)}):
        with pytest.raises(WordmaskError, match="mean and std") as error:
            prepare(UPRIGHT, resample="pil-bicubic", **(AS_IT_IS | wrong))
        one_line(error)


# Finding


@pytest.fixture
def album(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [
        "b.jpg",
        "a.PNG",
        "notes.txt",
        ".hidden.jpg",
        "odd[1].jpg",
        "raw.dat",
        "deep/c.jpeg",
        "deep/deeper/d.tif",
        ".cache/e.jpg",
        "words/readme.md",
    ]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        (["b.jpg", "a.PNG"], ["b.jpg", "a.PNG"]),  # the order given
        (["raw.dat"], ["raw.dat"]),  # named: taken whatever its suffix
        ([".hidden.jpg"], [".hidden.jpg"]),
        (["."], ["a.PNG", "b.jpg", "deep/c.jpeg", "deep/deeper/d.tif", "odd[1].jpg"]),
        (["deep"], ["deep/c.jpeg", "deep/deeper/d.tif"]),
        ([".cache"], [".cache/e.jpg"]),
        (["*"], ["a.PNG", "b.jpg", "deep/c.jpeg", "deep/deeper/d.tif", "odd[1].jpg"]),
        (["*.jpg"], ["b.jpg", "odd[1].jpg"]),
        (["?.*"], ["a.PNG", "b.jpg"]),
        (["**/*.jp*g"], ["b.jpg", "deep/c.jpeg", "odd[1].jpg"]),
        (["odd[1].jpg"], ["odd[1].jpg"]),  # a file of that very name, not a pattern
        (["[ab].*"], ["a.PNG", "b.jpg"]),
        (["b.jpg", "./b.jpg", "deep/../b.jpg", "*.jpg"], ["b.jpg", "odd[1].jpg"]),
        (["deep/deeper", "deep"], ["deep/deeper/d.tif", "deep/c.jpeg"]),
        ("b.jpg", ["b.jpg"]),
        (Path("b.jpg"), ["b.jpg"]),
    ],
)
def test_find_images(album: Path, inputs: list[str], expected: list[str]) -> None:
    assert find_images(inputs) == [Path(name) for name in expected]
    if isinstance(inputs, list):
        absolute = [album / name for name in inputs]
        assert [path.resolve() for path in find_images(absolute)] == [album / x for x in expected]


@pytest.mark.parametrize(
    "given", ["missing.jpg", "*.bmp", "*.txt", "words", "no/*.jpg", "http://example.org/a.jpg", ""]
)
def test_finding_nothing_names_what_was_given(album: Path, given: str) -> None:
    with pytest.raises(ImageError, match="no picture") as error:
        find_images(["b.jpg", given])
    one_line(error, given)


def test_no_input_at_all() -> None:
    with pytest.raises(ImageError, match="no picture given") as error:
        find_images([])
    one_line(error)


# Reduced size


@pytest.mark.parametrize("orientation", range(1, 9))
def test_large_jpegs_are_decoded_at_a_reduced_size(tmp_path: Path, orientation: int) -> None:
    scene = Image.fromarray(toybox.render(3, 160).image).resize(
        (800, 600), Image.Resampling.BICUBIC
    )
    exif = Image.Exif()
    exif[0x0112] = orientation
    scene.save(tmp_path / "p.jpg", quality=95, exif=exif)
    content = (tmp_path / "p.jpg").read_bytes()
    whole = decode_image(content, "p")
    reduced, size = decode_reduced(content, "p", lambda h, w: (140, 150))
    assert size == whole.shape[:2]
    assert reduced.shape[:2] == (size[0] // 4, size[1] // 4)  # 1/8 would be less than 140
    small = Image.fromarray(whole).resize(reduced.shape[1::-1], Image.Resampling.BOX)
    assert np.abs(np.asarray(small, float) - reduced).mean() < 4
    same, size = decode_reduced(content, "p", lambda h, w: (h, w))
    np.testing.assert_array_equal(same, whole)


def test_other_files_are_decoded_whole_and_limits_count_all_pixels(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 60, 3), np.uint8)
    for name in ("p.png", "p.jpg"):
        Image.fromarray(noise).save(tmp_path / name)
    content = (tmp_path / "p.png").read_bytes()
    picture, size = decode_reduced(content, "p", lambda h, w: (1, 1))
    np.testing.assert_array_equal(picture, noise)
    assert size == (40, 60)
    content = (tmp_path / "p.jpg").read_bytes()
    with pytest.raises(ImageError, match="60 x 40 is 2400 pixels"):
        decode_reduced(content, "p", lambda h, w: (1, 1), max_pixels=2399)

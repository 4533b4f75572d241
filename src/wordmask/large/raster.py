"""Rasters read by windows as RGB, and label maps written as cloud-optimised GeoTIFF (rasterio)."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from wordmask.drawing import palette
from wordmask.errors import ImageError, WordmaskError
from wordmask.extras import need
from wordmask.files import one_line, shown
from wordmask.large.tiles import Tile

CACHE = 64 * 2**20  # bytes that GDAL keeps of blocks it has read or is going to write
SAMPLE = 1024  # longest side of the picture in which percentiles are looked up
PERCENTILES = "2%,98%"  # of each band, for pictures that are not of 8 bits
BLOCK = 512  # side of a block of the GeoTIFF, pixels
MOST_BLOCK = 2**28  # bytes of one block of the file that is read
STRIP = 2**24  # pixels that are read at a time where rows are taken at full width


@contextmanager
def gdal() -> Iterator[None]:
    """GDAL with a small cache; its errors become one line.

    Raises:
        WordmaskError: rasterio is missing, or a file cannot be read or written.
    """
    rasterio = need("rasterio", "geo", "a large picture")
    from rasterio._err import CPLE_BaseError  # is raised, and has no public name
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    with rasterio.Env(GDAL_CACHEMAX=CACHE, GDAL_TIFF_INTERNAL_MASK=True), warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        try:
            yield
        except (RasterioError, CPLE_BaseError) as error:
            raise ImageError(one_line(str(error.__cause__ or error))) from error


def parse_bands(text: str | Sequence[int] | None) -> tuple[int, ...] | None:
    """Bands for red, green and blue, or one for grey, counted from 1: `4,3,2`."""
    if text is None:
        return None
    try:
        bands = tuple(int(x) for x in (text.split(",") if isinstance(text, str) else text))
    except ValueError:
        bands = ()
    if len(bands) not in (1, 3) or min(bands) < 1:
        raise WordmaskError(
            f"got bands {text!r}; give those of red, green and blue, counted from 1, as in 4,3,2, "
            "or one"
        )
    return bands


def parse_scale(text: str | None) -> list[tuple[float, bool]] | None:
    """The values that become 0 and 255, and whether each is a percentile: `0,3000` or `2%,98%`."""
    if text is None:
        return None
    try:
        ends = [(float(x.strip().rstrip("%")), x.strip().endswith("%")) for x in text.split(",")]
        if len(ends) != 2 or not all(math.isfinite(x) for x, _ in ends):
            raise ValueError
        if any(share and not 0 <= x <= 100 for x, share in ends):
            raise ValueError
        if ends[0][1] == ends[1][1] and ends[0][0] >= ends[1][0]:
            raise ValueError
    except ValueError:
        raise WordmaskError(
            f"got the scale {text!r}; give the values that become black and white, low first, as "
            "in 0,3000, or percentiles, as in 2%,98%"
        ) from None
    return ends


class Source:
    """A raster that is read by windows as 8-bit RGB; open it in `gdal()`, with `with`.

    Args:
        path: any raster that GDAL reads.
        bands: those of red, green and blue, or one; None: what the file calls red, green, blue, or
            its only band.
        scale: as for `parse_scale`; None takes 8-bit values as they are, and others between
            percentiles 2 and 98 of each band.

    Attributes:
        size: (H, W).
        bands: the bands taken.
        limits: for each band the values that become 0 and 255; None: as they are.

    Raises:
        ImageError: the file cannot be read.
        WordmaskError: the bands do not exist, or are not said to be red, green and blue.
    """

    def __init__(
        self,
        path: str | Path,
        bands: Sequence[int] | None = None,
        scale: Sequence[tuple[float, bool]] | None = None,
    ):
        import rasterio

        self.path = Path(path)
        if not self.path.is_file():
            raise ImageError(f"cannot read {shown(path)}: there is no such file")
        self.file = rasterio.open(self.path)
        self.size = self.file.height, self.file.width
        self.colours: np.ndarray | None = None
        self.bands = self._bands(bands)
        types = {self.file.dtypes[band - 1] for band in self.bands}
        if any(np.dtype(one).kind == "c" for one in types):
            raise ImageError(f"cannot read {shown(path)}: its values are complex numbers")
        height, width = self.file.block_shapes[0]
        heavy = height * width * np.dtype(self.file.dtypes[0]).itemsize
        if heavy * self.file.count > MOST_BLOCK:
            raise ImageError(
                f"cannot read {shown(path)} in parts: it is stored in blocks of {width} x {height} "
                "pixels; store it in tiles first (gdal_translate -co TILED=YES IN.tif OUT.tif)"
            )
        if self.file.tags().get("EXIF_Orientation", "1") not in ("0", "1"):
            raise ImageError(
                f"cannot read {shown(path)} in parts: it is stored turned (EXIF orientation "
                f"{self.file.tags()['EXIF_Orientation']}); save it upright first"
            )
        self.limits = self._limits(scale, types)

    def __enter__(self) -> Source:
        return self

    def __exit__(self, *error: object) -> None:
        self.file.close()

    def _bands(self, given: Sequence[int] | None) -> tuple[int, ...]:
        from rasterio.enums import ColorInterp

        file = self.file
        if given is not None:
            if max(given) > file.count:
                raise WordmaskError(
                    f"got band {max(given)}; {shown(self.path)} has {file.count} bands"
                )
            return tuple(given) * (3 // len(given))
        kinds = {kind: i for i, kind in reversed(list(enumerate(file.colorinterp, 1)))}
        rgb = [kinds.get(k) for k in (ColorInterp.red, ColorInterp.green, ColorInterp.blue)]
        if all(rgb):
            return tuple(band for band in rgb if band)
        seen = [i for i, kind in enumerate(file.colorinterp, 1) if kind != ColorInterp.alpha]
        if len(seen) == 1:
            if file.colorinterp[seen[0] - 1] == ColorInterp.palette:
                table = file.colormap(seen[0])
                self.colours = np.array([table.get(i, (0, 0, 0, 0))[:3] for i in range(256)])
            return (seen[0],) * 3
        raise WordmaskError(
            f"{shown(self.path)} has {file.count} bands and does not say which are red, green and "
            "blue; give them, as in --bands 4,3,2"
        )

    def _limits(
        self, scale: Sequence[tuple[float, bool]] | None, types: set[str]
    ) -> list[tuple[float, float]] | None:
        if scale is None:
            if types == {"uint8"}:
                return None
            scale = parse_scale(PERCENTILES)
        assert scale is not None
        if not any(share for _, share in scale):
            return [(scale[0][0], scale[1][0])] * 3
        step = max(1.0, max(self.size) / SAMPLE)
        shape = tuple(max(1, round(side / step)) for side in self.size)
        one = sorted(set(self.bands))
        values = self.file.read(one, out_shape=(len(one), *shape)).astype(np.float64)
        masks = self.file.read_masks(one, out_shape=(len(one), *shape)) > 0
        found = {}
        for band, value, mask in zip(one, values, masks, strict=True):
            valid = value[mask & np.isfinite(value)]
            ends = [
                float(np.percentile(valid, x)) if share and len(valid) else x for x, share in scale
            ]
            found[band] = ends[0], ends[1]
        return [found[band] for band in self.bands]

    @property
    def whole_rows(self) -> bool:
        """Whether rows are stored whole, so that a window cannot be read alone (PNG, JPEG)."""
        return self.file.block_shapes[0][1] == self.size[1] and self.size[1] > BLOCK

    def copied(self, folder: Path) -> Source:
        """The same from a copy in blocks, made in one pass; it is kept in `folder`."""
        import rasterio.shutil

        target, part = folder / "blocks.tif", folder / "part.tif"
        part.unlink(missing_ok=True)
        if not target.exists():
            options = {"tiled": True, "compress": "lzw", "bigtiff": "if_safer"}
            rasterio.shutil.copy(self.file, part, driver="GTiff", **options)
            part.replace(target)
        other = object.__new__(Source)
        other.__dict__ |= self.__dict__ | {"file": rasterio.open(target)}
        return other

    def read(self, tile: Tile) -> tuple[np.ndarray, np.ndarray]:
        """A tile as uint8 RGB (h, w, 3), and where it has data, (h, w) bool.

        Pixels without data (nodata, alpha 0, a mask, NaN) get the mean colour of the others.
        """
        from rasterio.windows import Window

        window = Window.from_slices((tile.y.start, tile.y.stop), (tile.x.start, tile.x.stop))
        rgb, valid = self._read(window=window)
        if not valid.all() and valid.any():
            rgb[~valid] = rgb[valid].mean(0).round().astype(np.uint8)
        return rgb, valid

    def thumbnail(self, size: tuple[int, int]) -> np.ndarray:
        """The picture at another size (h, w), uint8 RGB; white where it has no data."""
        rgb, valid = self._read(out_shape=(len(set(self.bands)), *size))
        rgb[~valid] = 255
        return rgb

    def _read(self, **where: Any) -> tuple[np.ndarray, np.ndarray]:
        one = sorted(set(self.bands))
        values = self.file.read(one, **where)
        valid = (self.file.read_masks(one, **where) > 0).any(0)
        if values.dtype.kind == "f":
            valid &= np.isfinite(values).all(0)
        picked = values[[one.index(band) for band in self.bands]]
        if self.colours is not None:
            picked = self.colours[picked[0]].transpose(2, 0, 1).astype(np.uint8)
        if self.limits is not None:
            low, high = np.array(self.limits, np.float32).T[:, :, None, None]
            scaled = (picked.astype(np.float32) - low) / np.maximum(high - low, 1e-12)
            picked = np.rint(255 * np.nan_to_num(scaled).clip(0, 1))
        return np.ascontiguousarray(picked.transpose(1, 2, 0).astype(np.uint8)), valid

    def describe(self) -> dict[str, Any]:
        """Size, CRS, transform, bands and limits, as plain values."""
        crs = self.file.crs
        return {
            "height": self.size[0],
            "width": self.size[1],
            "crs": crs.to_string() if crs else None,
            "transform": list(self.file.transform)[:6],
            "bands": list(self.bands),
            "limits": None if self.limits is None else [list(x) for x in self.limits],
        }


def nodata_of(classes: int) -> tuple[str, int]:
    """The type of a label map, and the value of pixels without data: 255, or 65535."""
    return ("uint8", 255) if classes <= 254 else ("uint16", 65535)


@contextmanager
def label_file(path: Path, source: Source, names: Sequence[str]) -> Iterator[Any]:
    """A GeoTIFF to write labels to by windows, with the place, colours and names of the classes."""
    import rasterio

    dtype, nodata = nodata_of(len(names))
    place: dict[str, Any] = {"crs": source.file.crs, "transform": source.file.transform}
    points, points_crs = source.file.gcps
    if points:
        place = {"gcps": points, "crs": points_crs}
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=source.size[0],
        width=source.size[1],
        count=1,
        dtype=dtype,
        nodata=nodata,
        tiled=True,
        blockxsize=BLOCK,
        blockysize=BLOCK,
        compress="lzw",
        bigtiff="if_safer",
        **place,
    ) as file:
        if dtype == "uint8":
            colours = palette(len(names)).tolist()
            file.write_colormap(1, {i: (*one, 255) for i, one in enumerate(colours)})
        legend = {"0": "unlabelled"} | {str(i): name for i, name in enumerate(names, 1)}
        file.update_tags(WORDMASK_CLASSES=json.dumps(legend, ensure_ascii=False))
        file.set_band_description(1, "class")
        yield file


def optimise(path: Path, out: Path) -> None:
    """Copy a GeoTIFF as a cloud-optimised one: tiled, compressed, with overviews."""
    import rasterio.shutil

    rasterio.shutil.copy(
        path,
        out,
        driver="COG",
        compress="DEFLATE",
        blocksize=BLOCK,
        overview_resampling="MODE",
        bigtiff="IF_SAFER",
    )


def strips(file: Any, above: int = 0) -> Iterator[tuple[int, int, np.ndarray]]:
    """A label map from top to bottom.

    Args:
        above: how many rows of the strip before each begins with, where there are any.

    Yields:
        The first row of each strip, how many of its rows were there before, and its labels.
    """
    from rasterio.windows import Window

    rows = STRIP // file.width
    rows = rows // BLOCK * BLOCK or max(rows, 1)
    for top in range(0, file.height, rows):
        start, stop = max(top - above, 0), min(top + rows, file.height)
        yield (
            start,
            top - start,
            file.read(1, window=Window.from_slices((start, stop), (0, file.width))),
        )

"""Polygons of a label map, made strip by strip and written as they come (shapely, pyogrio)."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wordmask.errors import WordmaskError
from wordmask.extras import need
from wordmask.large.raster import strips

DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON"}
AT_ONCE = 4096  # polygons that are written at a time
EQUAL_AREA = "EPSG:6933"  # a cylinder: straight borders of geographic rasters stay straight


def check_polygons(path: Path) -> str:
    """GDAL's driver of a file, by its suffix.

    Raises:
        WordmaskError: another suffix, or a missing library.
    """
    if path.suffix.lower() not in DRIVERS:
        raise WordmaskError(f"got {path} for polygons; give a name ending in .gpkg or .geojson")
    for package in ("pyarrow", "pyogrio", "shapely"):
        need(package, "geo", "a file of polygons")
    return DRIVERS[path.suffix.lower()]


def polygons(file: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The connected parts of all classes, in pixels: x to the right, y down.

    A part that reaches the last row of a strip is kept until the next strip, and joined there with
    what touches it: in memory is one strip, and the parts that go on. Pixels are connected
    sideways and not over corners.

    Yields:
        Labels (N,) and polygons (N,).
    """
    import shapely
    from rasterio.features import shapes
    from shapely.geometry import shape

    open_labels, open_parts = np.empty(0, np.int64), np.empty(0, object)
    for top, _, labels in strips(file):
        wanted = (labels != 0) & (labels != file.nodata)
        kind = labels if labels.dtype == np.uint8 else labels.astype(np.int32)
        found = [(shape(s), v) for s, v in shapes(kind, wanted, connectivity=4)]
        parts = np.array([part for part, _ in found], object)
        values = np.array([value for _, value in found], np.int64)
        if len(parts):
            parts = shapely.transform(parts, lambda xy, top=top: xy + np.array((0, top)))
        begins = shapely.bounds(parts)[:, 1] == top if len(parts) else np.empty(0, bool)
        joined_parts, joined_values = [parts[~begins]], [values[~begins]]
        parts = np.concatenate([open_parts, parts[begins]])
        values = np.concatenate([open_labels, values[begins]])
        for value in np.unique(values):
            whole = shapely.get_parts(shapely.unary_union(parts[values == value]))
            joined_parts.append(shapely.simplify(whole, 0))  # points on straight lines go
            joined_values.append(np.full(len(whole), value))
        parts, values = np.concatenate(joined_parts), np.concatenate(joined_values)
        bottom = top + len(labels)
        if bottom < file.height and len(parts):
            goes_on = shapely.bounds(parts)[:, 3] == bottom
        else:
            goes_on = np.zeros(len(parts), bool)
        open_parts, open_labels = parts[goes_on], values[goes_on]
        yield values[~goes_on], parts[~goes_on]


def write_polygons(path: Path, driver: str, file: Any, names: Sequence[str], valid: int) -> int:
    """Write the polygons of a label map, and return their number.

    Fields: `class`; `label`; `pixels`; `share`, the pixels of the polygon over all pixels of the
    picture that have data, 0 to 1; `area_m2`, square metres on the ellipsoid, absent without a
    CRS. Coordinates are those of the CRS (GeoJSON: longitude and latitude, as RFC 7946 wants);
    without one, pixels from the upper left corner, y down.

    Args:
        file: an open label map.
        valid: how many of its pixels have data.
    """
    import pyarrow as pa
    import pyogrio
    import shapely
    from rasterio.warp import transform

    crs, written = file.crs, 0
    matrix = np.array(file.transform, float).reshape(3, 3)

    def place(xy: np.ndarray) -> np.ndarray:
        return xy @ matrix[:2, :2].T + matrix[:2, 2] if crs else xy

    def to(other: str) -> Any:
        return lambda xy: np.stack(transform(crs, other, xy[:, 0], xy[:, 1]), 1)

    fields = [("class", pa.string()), ("label", pa.int32()), ("pixels", pa.int64())]
    fields += [("share", pa.float64())] + ([("area_m2", pa.float64())] if crs else [])
    schema = pa.schema([*fields, ("geometry", pa.binary())])

    def batches() -> Iterator[Any]:
        nonlocal written
        for values, parts in polygons(file):
            for start in range(0, len(parts), AT_ONCE):
                some, labels = parts[start : start + AT_ONCE], values[start : start + AT_ONCE]
                pixels = np.rint(shapely.area(some)).astype(np.int64)
                columns = [[names[i - 1] for i in labels], labels, pixels, pixels / valid]
                some = shapely.transform(some, place)
                if crs:
                    columns.append(shapely.area(shapely.transform(some, to(equal_area(file)))))
                    if driver == "GeoJSON":
                        some = shapely.transform(some, to("OGC:CRS84"))
                some = shapely.orient_polygons(some)
                arrays = [*columns, shapely.to_wkb(some)]
                written += len(some)
                yield pa.record_batch(
                    [pa.array(x, t) for x, t in zip(arrays, schema.types, strict=True)],
                    schema=schema,
                )

    geographic = "EPSG:4326" if driver == "GeoJSON" else crs and crs.to_wkt()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "'crs' was not provided")
        pyogrio.write_arrow(
            pa.RecordBatchReader.from_batches(schema, batches()),
            path,
            driver=driver,
            layer=path.stem if driver == "GPKG" else None,
            geometry_name="geometry",
            geometry_type="Polygon",
            crs=geographic if crs else None,
        )
    return written


def equal_area(file: Any) -> str:
    """A CRS without distortion of areas for where a raster lies."""
    from rasterio.warp import transform

    x, y = file.xy(file.height // 2, file.width // 2)
    _, (latitude,) = transform(file.crs, "OGC:CRS84", [x], [y])
    if abs(latitude) < 75:
        return EQUAL_AREA
    return f"+proj=laea +lat_0={90 if latitude > 0 else -90} +datum=WGS84 +type=crs"

"""The text prompts of samgeo's REST interface, for plugins of QGIS: POST /segment/text.

The contract is that of segment-geospatial 1.4 (`samgeo/api.py`).
"""

from __future__ import annotations

import asyncio
import io
import json
import warnings
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, File, Form, Request, Response, UploadFile
from PIL import Image

from wordmask.extras import need
from wordmask.objects import Found
from wordmask.regions import polygons
from wordmask.serve.app import service_of, titles_of
from wordmask.serve.engine import How, Objects
from wordmask.serve.limits import Problem
from wordmask.version import __version__
from wordmask.vocabulary import Vocabulary

Output = Literal["geojson", "geotiff", "png", "detections", "json"]


def router(method: str, background: str = "auto") -> APIRouter:
    """The routes.

    Args:
        method: that the service was started with.
        background: as on the command line.
    """
    rasterio = need("rasterio", "geo", "pictures with a place on the earth")
    made = APIRouter(tags=["samgeo"])

    @made.get("/models", summary="samgeo: methods as models")
    async def models(request: Request) -> dict[str, Any]:
        names = sorted(titles_of(request, method))
        return {"models": {"wordmask": names}, "loaded": [["wordmask", method]]}

    @made.get("/health", summary="samgeo: whether the service runs")
    async def runs() -> dict[str, str]:
        return {"status": "ok", "version": __version__}

    @made.post("/segment/text", summary="samgeo: label a picture by words")
    async def segment_text(
        request: Request,
        file: Annotated[UploadFile, File(description="TIFF, PNG or JPEG")],
        prompt: Annotated[str, Form(description="Words: `building; road, street`")],
        model_id: Annotated[str | None, Form(description="A method")] = None,
        output_format: Annotated[Output, Form()] = "geojson",
        confidence_threshold: Annotated[float, Form(ge=0, le=1)] = 0.5,
        min_size: Annotated[int, Form(description="Pixels of a part")] = 0,
        max_size: Annotated[int | None, Form(description="Pixels of a part")] = None,
    ) -> Response:
        content = await file.read()
        how = How() if model_id in (None, "", method) else How(method=model_id)
        words = Vocabulary.parse(prompt)
        given = await service_of(request).objects(content, words, background, how)
        most = max_size if max_size and max_size > 0 else given.result.labels.size
        found = [
            one
            for one in given.found
            if one.confidence >= confidence_threshold and min_size <= one.region.area <= most
        ]
        if not found:
            raise Problem(404, "nothing was found; give other words or a lower threshold", prompt)
        place = await asyncio.to_thread(read_place, rasterio, content)
        return await asyncio.to_thread(write, rasterio, output_format, given, found, place)

    return made


def read_place(rasterio: Any, content: bytes) -> tuple[Any, Any]:
    """The transform from pixels to coordinates, and their system; of pixels if there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a picture without a place
        try:
            with rasterio.io.MemoryFile(content) as file, file.open() as picture:
                if picture.crs is not None:
                    return picture.transform, picture.crs
        except rasterio.errors.RasterioError:
            pass
    return rasterio.Affine.identity(), None


def write(
    rasterio: Any, kind: Output, given: Objects, found: list[Found], place: tuple[Any, Any]
) -> Response:
    """Parts in one of samgeo's formats; labels are those of the words in their order."""
    transform, crs = place
    size = given.result.labels.shape
    if kind in ("geotiff", "png"):
        labels = np.zeros(size, given.result.labels.dtype)
        for one in found:
            x0, y0, x1, y1 = one.region.box
            labels[y0:y1, x0:x1][one.region.pixels] = one.region.label
        if kind == "png":
            file = io.BytesIO()
            Image.fromarray(labels).save(file, "PNG")
            return Response(file.getvalue(), media_type="image/png")
        profile = {"driver": "GTiff", "height": size[0], "width": size[1], "count": 1}
        profile |= {"dtype": labels.dtype.name, "compress": "deflate"}
        if crs is not None:
            profile |= {"crs": crs, "transform": transform}
        with rasterio.io.MemoryFile() as memory:
            with memory.open(**profile) as picture:
                picture.write(labels, 1)
            return Response(memory.read(), media_type="image/tiff")
    if kind == "json":
        boxes = [
            {
                "id": i,
                "bbox": list(one.region.box),
                "width": one.region.xywh[2],
                "height": one.region.xywh[3],
                "score": one.confidence,
                "name": one.region.name,
            }
            for i, one in enumerate(found, start=1)
        ]
        return _json(
            {
                "image_width": size[1],
                "image_height": size[0],
                "num_detections": len(boxes),
                "detections": boxes,
            }
        )
    features = []
    for i, one in enumerate(found, start=1):
        x0, y0, x1, y1 = one.region.box
        about = {"id": i, "value": one.region.label, "name": one.region.name}
        about |= {"score": one.confidence, "bbox_pixel": [x0, y0, x1, y1]}
        if kind == "detections":
            corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
            shapes: list[list[np.ndarray]] = [[corners]]
        else:
            outlines = polygons(one.region.pixels)
            shapes = [
                [ring + np.array([x0, y0]) for ring in (part.exterior, *part.holes)]
                for part in outlines
            ]
        for rings in shapes:
            coordinates = [_placed(ring, transform) for ring in rings]
            geometry = {"type": "Polygon", "coordinates": coordinates}
            features.append({"type": "Feature", "properties": about, "geometry": geometry})
    answer: dict[str, Any] = {"type": "FeatureCollection", "features": features}
    if kind == "detections":
        answer["num_detections"] = len(features)
    if crs is not None:  # as GDAL writes it: QGIS reads coordinates of any system
        name = f"urn:ogc:def:crs:EPSG::{crs.to_epsg()}" if crs.to_epsg() else crs.to_wkt()
        answer["crs"] = {"type": "name", "properties": {"name": name}}
    return _json(answer)


def _placed(ring: np.ndarray, transform: Any) -> list[list[float]]:
    """A closed ring of pixels in coordinates."""
    return [list(transform @ tuple(point)) for point in [*ring.tolist(), ring[0].tolist()]]


def _json(value: Any) -> Response:
    return Response(json.dumps(value), media_type="application/json")

"""Label Studio's machine learning backend: brush strokes, polygons or boxes for its labels.

The contract is that of Label Studio 1.23 (`label_studio/ml/api_connector.py`): GET /health, POST
/setup, /predict and /webhook.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel

from wordmask.errors import WordmaskError
from wordmask.extras import need
from wordmask.files import one_line
from wordmask.objects import outlines, simplify
from wordmask.serve.app import service_of
from wordmask.serve.engine import Objects
from wordmask.serve.limits import Problem
from wordmask.serve.schemas import read_base64
from wordmask.version import __version__
from wordmask.vocabulary import Vocabulary

log = logging.getLogger("wordmask.serve")

VERSION = f"wordmask {__version__}"
TAGS = ("BrushLabels", "PolygonLabels", "RectangleLabels")
LOCAL = "/data/local-files/"  # pictures of a storage on Label Studio's own disk


class Setup(BaseModel):
    """A project that is connected."""

    model_config = {"extra": "allow"}


class Task(BaseModel):
    """A task: its data by name."""

    id: int | str | None = None
    data: dict[str, Any]
    model_config = {"extra": "allow"}


class Predict(BaseModel):
    """Tasks to be labelled, and the labelling interface of their project."""

    tasks: list[Task]
    label_config: str
    model_config = {"extra": "allow"}


def router(
    address: str | None = None,
    token: str = "",
    folder: Path | None = None,
    background: str = "auto",
) -> APIRouter:
    """The routes.

    Args:
        address: of Label Studio, from which uploaded pictures are fetched; None: none is fetched.
        token: of a user there.
        folder: LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, if this machine has it too; its pictures
            are read.
        background: as on the command line, for interfaces without a label named background.
    """
    need("label_studio_sdk", "label-studio", "Label Studio's backend")
    made = APIRouter(tags=["Label Studio"])

    @made.get("/health", summary="Label Studio: whether the backend runs")
    async def health() -> dict[str, str]:
        return {"status": "UP", "model_class": "wordmask"}

    @made.post("/setup", summary="Label Studio: a project is connected")
    async def setup(given: Setup) -> dict[str, str]:
        return {"model_version": VERSION}

    @made.post("/webhook", summary="Label Studio: an event, to which nothing is learned")
    async def webhook() -> dict[str, str]:
        return {"status": "ok"}

    @made.post("/predict", summary="Label Studio: label tasks")
    async def predict(given: Predict, request: Request) -> dict[str, Any]:
        service, controls = service_of(request), read_config(given.label_config)
        results: list[Any] = []
        problem, longest, started = None, 0.0, time.time()
        for task in given.tasks:
            begun = time.time()  # all tasks come at once: those that do not fit are asked again
            if begun + longest - started > 0.9 * service.limits.seconds:
                results.append([])
                continue
            try:
                strokes = []
                pictures: dict[str, bytes] = {}
                for control in controls:
                    source = task.data.get(control.value)
                    if not isinstance(source, str):
                        raise Problem(422, f"the task has no picture as {control.value!r}", task.id)
                    picture = pictures.get(source) or await _picture(source, address, token, folder)
                    pictures[source] = picture
                    found = await service.objects(picture, control.words, background)
                    strokes += await asyncio.to_thread(shapes, found, control)
            except Problem as error:  # of this task alone: it gets no prediction
                results.append([])
                problem = error
                log.warning("task %s: %s", task.id, error.message)
                continue
            longest = max(longest, time.time() - begun)
            sure = [stroke["score"] for stroke in strokes]
            score = sum(sure) / len(sure) if sure else 0.0
            results.append({"model_version": VERSION, "score": score, "result": strokes})
        if problem is not None and not any(results):
            raise problem
        return {"results": results, "model_version": VERSION}

    return made


class Control(NamedTuple):
    """What a labelling interface says of one set of labels.

    Attributes:
        tag, name, target: BrushLabels, PolygonLabels or RectangleLabels; its name, and its Image's.
        value: the key of the picture in the data of tasks.
        words: the labels, with the synonyms of `hint`.
        shown: the labels as results name them, which is `alias` where there is one.
    """

    tag: str
    name: str
    target: str
    value: str
    words: Vocabulary
    shown: list[str]


def read_config(text: str) -> list[Control]:
    """Read a labelling interface (XML).

    Raises:
        Problem: it is none, or has no labels for regions of a picture.
    """
    interface = need("label_studio_sdk.label_interface", "label-studio", "Label Studio's backend")
    controls = []
    try:
        read = interface.LabelInterface(text)
        for one in read.controls:
            if one.tag in TAGS and one.labels:
                picture = read.get_object(one.to_name[0])
                controls.append(_control(one, picture.name, picture.value_name))
    except WordmaskError:
        raise
    except Exception as error:  # of the XML reader and of the SDK's own kinds
        raise Problem(422, f"label_config: {one_line(str(error), 200)}", text) from None
    if not controls:
        listed = ", ".join(TAGS)
        message = f'label_config: give one of {listed} with name="...", toName="..." and labels'
        raise Problem(422, message, text)
    return controls


def _control(control: Any, target: str, value: str) -> Control:
    words = []
    for name, label in control.labels_attrs.items():
        more = (label.attr.get("hint") or "").split(",")
        words.append([label.attr.get("value") or name, *filter(None, map(str.strip, more))])
    shown = list(control.labels_attrs)
    return Control(control.tag, control.name, target, value, Vocabulary(words), shown)


def shapes(found: Objects, control: Control) -> list[dict[str, Any]]:
    """A result in Label Studio's form.

    A brush stroke for each label that was found, or a polygon or box for each of its parts.
    """
    size = np.array(found.result.labels.shape[::-1])
    values: list[tuple[int, float, dict[str, Any]]] = []
    if control.tag == "BrushLabels":
        brush = need("label_studio_sdk.converter.brush", "label-studio", "Label Studio's backend")
        for name in found.result.found:
            label = found.result.names.index(name)
            parts = [one for one in found.found if one.region.label == label + 1]
            areas = [one.region.area for one in parts]
            score = float(np.average([one.confidence for one in parts], weights=areas))
            runs = brush.mask2rle(found.result.mask(name).astype(np.uint8) * 255)
            values.append((label, score, {"format": "rle", "rle": runs}))
    for region, score in found.found if control.tag != "BrushLabels" else ():
        places: list[dict[str, Any]] = []
        if control.tag == "PolygonLabels":  # in percent of the picture
            rings = [simplify(ring, 1.0, "label-studio") for ring in outlines(region)]
            places = [{"points": (100 * one / size).tolist(), "closed": True} for one in rings]
        else:
            corner, sides = np.array(region.xywh, float).reshape(2, 2) * 100 / size
            box = zip(("x", "y", "width", "height"), [*corner, *sides], strict=True)
            places = [{key: float(one) for key, one in box} | {"rotation": 0}]
        values += [(region.label - 1, score, one) for one in places]
    kind = control.tag.lower()
    return [
        {
            "id": f"{control.name}-{i}",
            "from_name": control.name,
            "to_name": control.target,
            "type": kind,
            "original_width": int(size[0]),
            "original_height": int(size[1]),
            "image_rotation": 0,
            "score": score,
            "value": {**value, kind: [control.shown[label]]},
        }
        for i, (label, score, value) in enumerate(values, start=1)
    ]


async def _picture(source: str, address: str | None, token: str, folder: Path | None) -> bytes:
    """The content of a task's picture: of a data URI, of a file, or of Label Studio's own."""
    if source.startswith("data:"):
        return read_base64(source, "the task's picture")
    try:
        parts = urlsplit(source)
    except ValueError as error:
        raise Problem(422, f"the task's picture: {error}", source) from None
    if parts.path == LOCAL and folder is not None:
        place = (folder / unquote(parse_qs(parts.query).get("d", [""])[0])).resolve()
        if not place.is_relative_to(folder.resolve()) or not place.is_file():
            raise Problem(422, "there is no such picture in the folder of local files", source)
        return await asyncio.to_thread(place.read_bytes)
    if address is None:
        raise Problem(
            422, "no picture is fetched; start the service with --label-studio ADDRESS", source
        )
    own = urlsplit(address)
    elsewhere = parts.scheme or parts.netloc
    if elsewhere and (parts.scheme, parts.netloc) != (own.scheme, own.netloc):
        raise Problem(422, f"pictures are fetched from {address} alone", source)
    httpx = need("httpx", "client", "fetching pictures of Label Studio")
    base = f"{own.scheme}://{own.netloc}" if elsewhere else address.rstrip("/")
    query = f"?{parts.query}" if parts.query else ""
    where = f"{base}/{parts.path.lstrip('/')}{query}"  # of this host, whatever the path begins with
    headers = {"Authorization": f"Token {token}"} if token else {}
    try:
        async with httpx.AsyncClient(timeout=30) as client:  # follows no redirect
            answer = await client.get(where, headers=headers)
            answer.raise_for_status()
    except httpx.HTTPError as error:
        raise Problem(422, f"Label Studio gave no picture: {error}", source) from None
    content: bytes = answer.content
    return content

"""Label Studio's machine learning backend: brush strokes for the labels of a project.

The contract is that of Label Studio 1.23 (`label_studio/ml/api_connector.py`): GET /health, POST
/setup, /predict and /webhook.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel

from wordmask.extras import need
from wordmask.serve.app import service_of
from wordmask.serve.engine import Objects
from wordmask.serve.limits import Problem
from wordmask.version import __version__
from wordmask.vocabulary import Vocabulary

VERSION = f"wordmask {__version__}"
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
        service = service_of(request)
        config = read_config(given.label_config)
        results = []
        for task in given.tasks:
            source = task.data.get(config.value)
            if not isinstance(source, str):
                raise Problem(422, f"the task has no picture as {config.value!r}", task.id)
            picture = await _picture(source, address, token, folder)
            found = await service.objects(picture, config.words, background)
            strokes = await asyncio.to_thread(brush_strokes, found, config)
            sure = [stroke["score"] for stroke in strokes]
            score = sum(sure) / len(sure) if sure else 0.0
            results.append({"model_version": VERSION, "score": score, "result": strokes})
        return {"results": results, "model_version": VERSION}

    return made


class Config(BaseModel):
    """What a labelling interface says.

    Attributes:
        control, target: the names of its BrushLabels and of its Image.
        value: the key of the picture in the data of tasks.
        words: the labels, with the synonyms of `hint` or `alias`.
        shown: the labels as they are written in the interface.
    """

    control: str
    target: str
    value: str
    words: Any
    shown: list[str]


def read_config(text: str) -> Config:
    """Read a labelling interface (XML).

    Raises:
        Problem: it is none, or has no BrushLabels with labels for a picture.
    """
    interface = need("label_studio_sdk.label_interface", "label-studio", "Label Studio's backend")
    try:
        read = interface.LabelInterface(text)
        controls = [one for one in read.controls if one.tag == "BrushLabels"]
    except Exception as error:  # of the XML reader and of the SDK's own kinds
        raise Problem(422, f"label_config: {str(error).splitlines()[0]}", text) from None
    if not controls or not controls[0].labels:
        raise Problem(
            422, 'label_config: give <BrushLabels name="..." toName="..."> with labels', text
        )
    control = controls[0]
    picture = read.get_object(control.to_name[0])
    shown, words = [], []
    for name, label in control.labels_attrs.items():
        more = label.attr.get("hint") or ""
        shown.append(name)
        words.append([name, *(one.strip() for one in more.split(",") if one.strip())])
    return Config(
        control=control.name,
        target=picture.name,
        value=picture.value_name,
        words=Vocabulary(words),
        shown=shown,
    )


def brush_strokes(found: Objects, config: Config) -> list[dict[str, Any]]:
    """A result in Label Studio's form: a brush stroke for each label that was found."""
    brush = need("label_studio_sdk.converter.brush", "label-studio", "Label Studio's backend")
    height, width = found.result.labels.shape
    strokes = []
    for name in found.result.found:
        label = found.result.names.index(name)
        parts = [one for one in found.found if one.region.label == label + 1]
        area = sum(one.region.area for one in parts)
        score = sum(one.confidence * one.region.area for one in parts) / area
        mask = found.result.mask(name).astype(np.uint8) * 255
        strokes.append(
            {
                "id": f"wordmask-{label + 1}",
                "from_name": config.control,
                "to_name": config.target,
                "type": "brushlabels",
                "original_width": width,
                "original_height": height,
                "image_rotation": 0,
                "score": score,
                "value": {
                    "format": "rle",
                    "rle": brush.mask2rle(mask),
                    "brushlabels": [config.shown[label]],
                },
            }
        )
    return strokes


async def _picture(source: str, address: str | None, token: str, folder: Path | None) -> bytes:
    """The content of a task's picture: of a data URI, of a file, or of Label Studio's own."""
    if source.startswith("data:"):
        try:
            return base64.b64decode(source.partition(",")[2], validate=True)
        except binascii.Error:
            raise Problem(422, "the data URI of the picture is not base64", source) from None
    parts = urlsplit(source)
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
    where = address.rstrip("/") + parts.path + (f"?{parts.query}" if parts.query else "")
    headers = {"Authorization": f"Token {token}"} if token else {}
    try:
        async with httpx.AsyncClient(timeout=30) as client:  # follows no redirect
            answer = await client.get(where, headers=headers)
            answer.raise_for_status()
    except httpx.HTTPError as error:
        raise Problem(422, f"Label Studio gave no picture: {error}", source) from None
    content: bytes = answer.content
    return content

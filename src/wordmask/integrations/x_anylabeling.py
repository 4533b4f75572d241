"""X-AnyLabeling's remote server: text prompts become polygons.

The contract is that of X-AnyLabeling 4.2's own client (`remote_server.py`): GET /v1/models, POST
/v1/predict.
"""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from wordmask.extras import need
from wordmask.objects import outlines, simplify
from wordmask.serve.app import service_of, titles_of
from wordmask.serve.engine import How, Objects
from wordmask.serve.limits import Problem
from wordmask.serve.schemas import read_base64
from wordmask.vocabulary import Vocabulary

WIDGETS = [
    {"name": "edit_text", "value": None, "placeholder": "cat; sofa, couch"},
    {"name": "button_send", "value": None},
    {"name": "edit_conf", "value": 0.0},
    {"name": "mask_fineness_slider", "value": 1},
    {"name": "toggle_preserve_existing_annotations", "value": False},
]


class Parameters(BaseModel):
    """What the window of X-AnyLabeling sets."""

    text_prompt: str = ""
    conf_threshold: float = Field(default=0.0, ge=0, le=1)
    epsilon_factor: float = Field(default=0.001, ge=0, le=1)
    filter_classes: list[str] | None = None
    model_config = {"extra": "allow"}


class Predict(BaseModel):
    """A picture as a data URI, and words."""

    model: str
    image: str
    params: Parameters = Parameters()


def router(method: str, background: str = "auto") -> APIRouter:
    """The routes.

    Args:
        method: that the service was started with.
        background: as on the command line.
    """
    need("skimage.measure", "regions", "X-AnyLabeling's polygons")
    made = APIRouter(prefix="/v1", tags=["X-AnyLabeling"])

    @made.get("/models", summary="X-AnyLabeling: what may be asked")
    async def models(request: Request) -> dict[str, Any]:
        return {
            "success": True,
            "data": {
                f"wordmask-{name}": {
                    "display_name": f"wordmask: {title}",
                    "widgets": WIDGETS,
                    "batch_processing_mode": "text_prompt",
                }
                for name, title in titles_of(request, method).items()
            },
        }

    @made.post("/predict", summary="X-AnyLabeling: label a picture")
    async def predict(given: Predict, request: Request) -> dict[str, Any]:
        chosen = given.model.removeprefix("wordmask-")
        prompt = given.params.text_prompt
        if not prompt.strip():
            raise Problem(422, 'text_prompt: give words, as in "cat; sofa, couch"', prompt)
        words = Vocabulary.parse(prompt if ";" in prompt else prompt.replace(",", ";"))
        how = How() if chosen == method else How(method=chosen)
        picture = read_base64(given.image)
        found = await service_of(request).objects(picture, words, background, how)
        shapes = await asyncio.to_thread(polygon_shapes, found, given.params)
        return {"success": True, "data": {"shapes": shapes, "description": ""}}

    return made


def polygon_shapes(found: Objects, params: Parameters) -> list[dict[str, Any]]:
    """The shapes of a result, one for each connected part of a word.

    `epsilon_factor` of its outline's length is how far a polygon may stray from it.
    """
    shapes = []
    for region, confidence in found.found:
        if confidence < params.conf_threshold:
            continue
        if params.filter_classes and region.name not in params.filter_classes:
            continue
        for exact in outlines(region):
            sides = np.roll(exact, -1, axis=0) - exact
            length = float(np.hypot(*sides.T).sum())
            few = simplify(exact, params.epsilon_factor * length, "regions")
            shapes.append(
                {
                    "label": region.name,
                    "shape_type": "polygon",
                    "points": [*few.astype(float).tolist(), few[0].astype(float).tolist()],
                    "score": confidence,
                }
            )
    return shapes

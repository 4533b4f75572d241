"""`Engine` for folders that `wordmask export` wrote, in ONNX Runtime: it imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from wordmask.images import target_size
from wordmask.onnx.runtime import OnnxSegmenter, read_about
from wordmask.serve.engine import AS_STARTED, Ask, Encoded, Engine, How, guarded
from wordmask.serve.limits import Problem


class ExportedEngine(Engine):
    """Words, background and, of several, the model are free; the rest is as it was exported."""

    def _load(self, model: str) -> OnnxSegmenter:
        made = OnnxSegmenter.from_folder(model, options=self.recipe.options)
        made.max_pixels = self.recipe.limits.pixels
        return made

    def segmenter(self, how: How) -> OnnxSegmenter:
        """See `Engine.segmenter`."""
        model = how.model or self.recipe.model
        if model not in self._models:
            raise self._no_model(model)
        found: OnnxSegmenter = self._models[model]
        asked = replace(how, model=None)
        about = found.about
        same = ((None, about["method"]), (None, about["variant"]), (None, ()))
        given = asked.method, asked.variant, asked.refine
        if asked.options or not all(one in two for one, two in zip(given, same, strict=True)):
            named = {k: v for k, v in vars(asked).items() if v != getattr(AS_STARTED, k)}
            raise Problem(
                422,
                f"an exported network has its method, {about['method']}:{about['variant']}, with "
                "its options and no refiners; leave them out",
                ", ".join(f"{name}: {value!r}" for name, value in named.items()),
            )
        return found

    def _check_size(self, segmenter: Any, height: int, width: int) -> None:
        options = segmenter.options
        size = target_size(height, width, **segmenter.sizes())
        self._check_seen(*size, options["window"], options["stride"])

    def _encode(self, group: Sequence[Any]) -> None:
        for one in group:
            one.encoding = guarded(lambda one=one: one.segmenter.encode(one.prepared))  # type: ignore[misc]

    def _keep(self, ask: Ask, one: Any) -> Encoded:
        self.store.put(ask.handle, ask.owner, (one.how, replace(one.encoding, image=None)))
        height, width = one.encoding.size
        patch = one.segmenter.about["patch"]
        rows, columns = (max(side // patch, 1) for side in one.encoding.pixel_size)
        return Encoded(ask.handle, height, width, (rows, columns), self.store.seconds)

    def _objects(self, one: Any) -> Any:
        raise Problem(422, "an exported network gives no objects with a confidence")


def describe_exported(models: Sequence[str]) -> list[dict[str, Any]]:
    """What `GET /v1/methods` lists: the method of each exported folder, with no option to set."""
    return [
        {
            "name": about["method"],
            "model": model,
            "variants": {about["variant"]: about["options"]},
            "options": [],
        }
        for model, about in zip(models, map(read_about, models), strict=True)
    ]

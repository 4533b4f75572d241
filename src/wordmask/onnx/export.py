"""`export`: one CLIP and one method as ONNX graphs, which `runtime` runs without torch."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim

from wordmask.encoding import Encoding
from wordmask.errors import WordmaskError, unknown
from wordmask.extras import need
from wordmask.files import make_folder, shown, write_atomically
from wordmask.methods.base import Towers
from wordmask.methods.maskclip import MixtureRule
from wordmask.onnx.runtime import (
    ABOUT,
    IMAGE,
    SCENE_WORDS,
    SCHEMA,
    SCORES,
    TEXT,
    TOKENIZER,
    OnnxSegmenter,
    is_exported,
)
from wordmask.progress import stage
from wordmask.scoring import ClassMapRule, Rule, SoftmaxRule
from wordmask.segmenter import Segmenter
from wordmask.text_queries import TextQueries
from wordmask.towers.text import TextTower
from wordmask.version import versions
from wordmask.vocabulary import scene_words, templates

PRECISIONS = ("fp32", "fp16", "int8")
NAMES = {"fp32": "float32", "fp16": "float16", "int8": "int8"}
FEW = 512  # numbers of a tensor that is not worth rounding


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        folder: where.
        files: their sizes in bytes, by name.
        difference: of the graph's features from torch's on noise of another size than was traced,
            as a share of the largest of them.
    """

    folder: Path
    files: dict[str, int]
    difference: float


def export(segmenter: Segmenter, out: str | os.PathLike[str], precision: str = "fp32") -> Exported:
    """Write the network and the method of a segmenter as ONNX graphs into a folder.

    `image.onnx` takes any number of pictures of any size to the method's dense features,
    `text.onnx` prompts to embeddings, and `scores.onnx`, where a method's scores are more than
    cosines, features and texts to them.

    Args:
        segmenter: of a CLIP in float32, on a CPU.
        out: a new folder, an empty one, or that of an earlier export.
        precision: "fp32"; "fp16": weights are stored in half precision, and calculated with in
            float32; "int8": the products with weights are of 8-bit integers.

    Raises:
        WordmaskError: a method that no graph can hold, refiners, another model than a CLIP, a
            folder with something else in it, ONNX's packages are not installed.
    """
    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    out = Path(out)
    check_exportable(segmenter)
    if out.exists() and not is_exported(out) and (not out.is_dir() or any(out.iterdir())):
        raise WordmaskError(f"{shown(out)} is there and no exported network; give a new folder")
    make_folder(out)
    (out / ABOUT).unlink(missing_ok=True)  # an export that is stopped is none
    with torch.no_grad(), _quiet():
        about = _write_graphs(segmenter, out, precision)
    text = json.dumps(about, indent=2, ensure_ascii=False)
    write_atomically(out / ABOUT, lambda file: file.write(text.encode()))
    files = {one.name: one.stat().st_size for one in sorted(out.iterdir())}
    return Exported(out, files, _difference(segmenter, out))


def check_exportable(segmenter: Segmenter) -> None:
    """Refuse what no graph can hold, and a machine without ONNX's packages.

    Raises:
        WordmaskError: the reason.
    """
    method, tower = segmenter.method, segmenter.tower
    if reason := method.unexported:
        raise WordmaskError(f"{method.name} cannot be exported: {reason}")
    if segmenter.refiners:
        raise WordmaskError("refiners cannot be exported; leave --refine out")
    kind = tower.model.config.model_type
    if kind not in ("clip", "clip_vision_model"):
        raise WordmaskError(f"got a {kind!r} model; only CLIPs can be exported")
    if tower.device.type != "cpu" or tower.dtype != torch.float32:
        raise WordmaskError(
            f"got a model in {tower.dtype} on {tower.device}; load it on the cpu in float32"
        )
    for package in ("onnx", "onnxruntime", "onnxscript"):
        need(package, "onnx", "export")


def _write_graphs(segmenter: Segmenter, out: Path, precision: str) -> dict[str, Any]:
    method, tower = segmenter.method, segmenter.tower
    patch = tower.patch
    pixels = torch.randn(2, 3, 3 * patch, 4 * patch)  # neither square nor the native grid
    image = ImageGraph(segmenter.towers, method)
    outputs = image(pixels)
    rule = method.rule(_encoding(method, outputs, image.state), 0)
    names = ["features", *image.names]
    with stage("image.onnx"):
        free = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
        _write(image, (pixels,), (free,), ["pixels"], names, out / IMAGE, precision)
    (out / SCORES).unlink(missing_ok=True)
    if not method.gives_cosines:
        with stage("scores.onnx"):
            _write_scores(segmenter.towers, image, outputs, out / SCORES)
    about: dict[str, Any] = {
        "schema": SCHEMA,
        "method": method.name,
        "variant": segmenter.variant,
        "options": method.options(),
        "patch": patch,
        "width": tower.width,
        "mean": list(method.normalisation(tower)[0]),
        "std": list(method.normalisation(tower)[1]),
        "rule": _rule(rule),
        "templates": list(templates(method.templates)),
        "pooling": method.pooling,
        "logit_scale": method.logit_scale,
        "text": None,
        "model": segmenter.source,
        "weights": segmenter.weights(),
        "precision": NAMES[precision],
        "versions": versions("wordmask", "torch", "transformers", "onnxscript"),
    }
    for name in (TEXT, TOKENIZER, SCENE_WORDS):
        (out / name).unlink(missing_ok=True)
    if segmenter.text is not None:
        with stage("text.onnx"):
            about["text"] = _write_text(segmenter.text, out, precision)
        rows = segmenter.text.encode(scene_words(), method.templates).numpy()
        write_atomically(out / SCENE_WORDS, lambda file: np.save(file, rows))
    return about


class ImageGraph(nn.Module):
    """Pixels (B, 3, H, W) to features (B, E, h, w) and the tensors of the method's state."""

    def __init__(self, towers: Towers, method: Any):
        super().__init__()
        self.model = towers.clip.model  # so that its weights are the graph's
        self.towers, self.method = towers, method
        self.state: Any = None
        self.fields: list[str] = []

    @property
    def names(self) -> list[str]:
        """The names of the state's tensors among the outputs; it may have features too."""
        return [f"state_{name}" for name in self.fields]

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """Features, then the fields of the state that hold a tensor."""
        dense = self.method.encode(self.towers, pixels)
        held = {} if dense.state is None else vars(dense.state)
        held = {name: value for name, value in held.items() if isinstance(value, Tensor)}
        self.state, self.fields = dense.state, list(held)
        if self.method.gives_cosines:
            self.fields, held = [], {}
        return dense.features, *held.values()


class ScoresGraph(nn.Module):
    """Features, state and texts to the scores of a method, (B, Q or C, h, w)."""

    def __init__(self, towers: Towers, image: ImageGraph):
        super().__init__()
        self.towers, self.method = towers, image.method
        self.state, self.fields = image.state, image.fields

    def forward(
        self,
        outputs: Sequence[Tensor],
        foreground: Tensor,
        background: Tensor,
        owner: Tensor,
        classes: Tensor,
    ) -> Tensor:
        """Outputs of the image graph; rows (F, E), (K, E); owners (F + K,); any numbers (C,)."""
        encoding = _encoding(self.method, outputs, self.state, self.fields)
        return self.method.scores(
            self.towers, encoding, GraphTexts(foreground, background, owner, classes)
        )


class GraphTexts(TextQueries):
    """Texts of which only a graph knows the numbers."""

    _parts: tuple[Tensor, Tensor, Tensor]

    def __init__(self, foreground: Tensor, background: Tensor, owner: Tensor, classes: Tensor):
        embeddings = torch.cat([foreground, background])
        super().__init__(embeddings, owner, ())
        object.__setattr__(self, "_parts", (foreground, background, classes))

    @property
    def classes(self) -> int:
        """C."""
        return self._parts[2].shape[0]

    @property
    def foreground(self) -> Tensor:
        """The rows that belong to a class."""
        return self._parts[0]

    @property
    def background(self) -> Tensor:
        """The rows of background names."""
        return self._parts[1]

    def pool_foreground(self, scores: Tensor, dim: int) -> Tensor:
        """Maximum over the names of each class."""
        return self._pool(scores, dim, self.owner[: self.foreground.shape[0]], self.classes)


def _encoding(
    method: Any, outputs: Sequence[Tensor], state: Any, fields: Sequence[str] = ()
) -> Encoding:
    """An encoding of what an image graph gave."""
    features = outputs[0]
    given = dict(zip(fields, outputs[1:], strict=False))
    if state is not None and given:
        state = type(state)(**{**vars(state), **given})
    pixels = features.new_zeros(features.shape[0], 3, 1, 1)
    return Encoding(features, state, pixels, ((1, 1),) * 1)


def _write_scores(towers: Towers, image: ImageGraph, outputs: Sequence[Tensor], path: Path) -> None:
    width = outputs[0].shape[1]
    rows = nn.functional.normalize(torch.randn(9, width), dim=-1)
    owner = torch.tensor([0, 0, 1, 2, 2, 3, 4, 4, 4])
    texts = rows[:6], rows[6:], owner, torch.zeros(4)
    # of the state only tracing knows what stays as it is
    free: list[dict[int, Any]] = [dict.fromkeys(range(one.ndim), Dim.AUTO) for one in outputs]
    free[0] = {0: Dim.DYNAMIC, 2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    many = {0: Dim.DYNAMIC}
    names = ["features", *image.names, "foreground", "background", "owner", "classes"]
    _write(
        ScoresGraph(towers, image),
        (tuple(outputs), *texts),
        (tuple(free), many, many, many, many),
        names,
        ["scores"],
        path,
        "fp32",
    )


class TextGraph(nn.Module):
    """Tokens (P, L) to embeddings (P, E), not yet of unit length."""

    def __init__(self, model: nn.Module, projection: nn.Module):
        super().__init__()
        self.model, self.projection = model, projection

    def forward(self, input_ids: Tensor) -> Tensor:
        """The projected state of the first end token."""
        return self.projection(self.model(input_ids=input_ids).pooler_output)


def _write_text(text: TextTower, out: Path, precision: str) -> dict[str, int]:
    model, projection, tokenizer = text._require()
    if not hasattr(tokenizer, "backend_tokenizer"):
        raise WordmaskError(
            f"got a tokenizer {type(tokenizer).__name__}, which cannot be written as "
            "tokenizer.json; load its fast version"
        )
    start, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    ids = torch.tensor([[start, 1, 2, 3, end], [start, 4, 5, end, end]])
    free = {0: Dim.DYNAMIC, 1: Dim.DYNAMIC}
    graph = TextGraph(model, projection)
    _write(graph, (ids,), (free,), ["input_ids"], ["embeddings"], out / TEXT, precision)
    tokenizer.backend_tokenizer.save(str(out / TOKENIZER))
    return {"start": start, "end": end, "context": model.config.max_position_embeddings}


def _rule(rule: Rule) -> dict[str, Any]:
    """The rule of a method as plain values, see `decision.make_rule`."""
    if isinstance(rule, SoftmaxRule) and type(rule) in (SoftmaxRule, MixtureRule):
        return {"kind": "softmax", **asdict(rule), "mixture": isinstance(rule, MixtureRule)}
    if isinstance(rule, ClassMapRule) and type(rule) is ClassMapRule:
        return {"kind": "class maps", **asdict(rule)}
    raise WordmaskError(f"got the rule {type(rule).__name__}, which ONNX Runtime's side lacks")


def _write(
    graph: nn.Module,
    example: tuple[Any, ...],
    free: tuple[Any, ...],
    inputs: list[str],
    outputs: list[str],
    path: Path,
    precision: str,
) -> None:
    """Trace a graph and write it."""
    try:
        program = torch.onnx.export(
            graph.eval(),
            example,
            dynamo=True,
            dynamic_shapes=free,
            input_names=inputs,
            output_names=outputs,
            verbose=False,
        )
    except Exception as error:  # torch raises many kinds
        lines = [one for one in str(error).splitlines() if "<class" in one] or [str(error)]
        raise WordmaskError(
            f"{path.name} cannot be traced by torch {torch.__version__}: {lines[0].strip()}"
        ) from error
    assert program is not None
    program.save(path)
    if precision == "fp16":
        _halve(path)
    elif precision == "int8":
        _quantise(path)


def _halve(path: Path) -> None:
    """Store the weights of a graph in half precision; they are widened when it is loaded."""
    import onnx

    model = onnx.load(path)
    casts = []
    for weight in model.graph.initializer:
        values = onnx.numpy_helper.to_array(weight)
        if values.dtype != np.float32 or values.size < FEW:
            continue
        name = weight.name
        weight.CopyFrom(onnx.numpy_helper.from_array(values.astype(np.float16), f"{name}_half"))
        casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=1))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    onnx.save(model, path)


def _quantise(path: Path) -> None:
    """Weights as 8-bit integers, one scale for each channel; activations when they are there.

    Weights use 7 bits, since sums of 8 by 8 overflow on processors without VNNI.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    model = onnx.load(path)
    graph = model.graph
    ranks = {one.name: len(one.dims) for one in graph.initializer}
    # the stored positions are no weights of a layer
    others = [
        one.name
        for one in graph.node
        if one.op_type == "MatMul" and any(ranks.get(name, 2) != 2 for name in one.input)
    ]
    del graph.value_info[:]  # shapes of weights, which the tool turns without changing these
    full = path.with_suffix(".full.onnx")
    onnx.save(model, full)
    try:
        quantize_dynamic(
            full,
            path,
            op_types_to_quantize=["MatMul", "Gather"],  # integer convolutions are not everywhere
            nodes_to_exclude=others,
            per_channel=True,
            reduce_range=True,
            weight_type=QuantType.QInt8,
        )
    finally:
        full.unlink()


def _difference(segmenter: Segmenter, out: Path) -> float:
    """See `Exported`."""
    patch = segmenter.tower.patch
    pixels = torch.randn(1, 3, 5 * patch, 4 * patch + 1, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = segmenter.method.encode(segmenter.towers, pixels).features.numpy()
    made = OnnxSegmenter.from_folder(out)
    found = made._run(IMAGE, {"pixels": pixels.numpy()})[0]
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what torch, onnxscript and ONNX Runtime tell developers."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "root")]
    levels = [one.level for one in loggers]
    for one in loggers:
        one.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for one, level in zip(loggers, levels, strict=True):
            one.setLevel(level)

"""The cost of methods: parameters, FLOPs, time and memory, as in ProxyCLIP (supplement, Table 1)
and CLIPer (Table 4).

A round is encoding a batch of pictures and labelling it by words that are already encoded. Weights
do not change the time, so they may be random.
"""

from __future__ import annotations

import ctypes
import gc
import math
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from wordmask.devices import synchronise
from wordmask.errors import WordmaskError, unknown
from wordmask.evaluation.markdown import markdown_table
from wordmask.methods import METHODS, create_method, parse_option
from wordmask.refiners import read_refiners
from wordmask.registry import split_variant
from wordmask.segmenter import Segmenter

# width, blocks, heads, patch and picture size of the image encoder; width, blocks and heads of the
# text encoder; joint width
CLIP_SHAPES = {
    "openai/clip-vit-base-patch32": ((768, 12, 12, 32, 224), (512, 12, 8), 512),
    "openai/clip-vit-base-patch16": ((768, 12, 12, 16, 224), (512, 12, 8), 512),
    "openai/clip-vit-large-patch14": ((1024, 24, 16, 14, 224), (768, 12, 12), 768),
    "openai/clip-vit-large-patch14-336": ((1024, 24, 16, 14, 336), (768, 12, 12), 768),
}
RANDOM_VFM = "facebook/dino-vitb8"  # ViT-B/8, the default of ProxyCLIP
NOTE = (
    "Parameters are those of CLIP, both halves, and of auxiliary networks. Times and FLOPs are for "
    "one picture; FLOPs are torch's, a multiply-add being two (ProxyCLIP's Table 1 counts one). "
    "IPS: images per second. Memory is weights and what a round holds on top of them."
)


@dataclass(frozen=True)
class Cost:
    """One row: the cost of a method, alone or with refiners.

    Attributes:
        method, variant: names of the method and its variant.
        refine: refiners in order, "" for none.
        networks: auxiliary networks that ran, source by kind.
        parameters: of CLIP, both encoders, and of those networks.
        network_parameters: of those networks alone.
        flops: floating point operations for one picture, a multiply-add being two (torch's count;
            papers often count it as one).
        milliseconds: median time of a round, over the pictures of the batch.
        encoding: the same for encoding alone, which does not depend on words.
        images_per_second: pictures of a batch over the median time of a round.
        memory: peak MiB of a round, weights included; None if it cannot be measured.
    """

    method: str
    variant: str
    refine: str
    networks: dict[str, str]
    parameters: int
    flops: int
    milliseconds: float
    encoding: float
    images_per_second: float
    memory: float | None
    network_parameters: int = 0


def candidates(
    methods: Sequence[str] | None, refine: Sequence[str], networks: Iterable[str]
) -> list[tuple[str, str | None, str]]:
    """List what to measure, for `measure`.

    Args:
        methods: names or FILE.py:NAME, a variant after a colon; None: all methods that need no
            networks but those of `networks`.
        refine: refiners, each measured with every method, besides the method alone.
        networks: kinds of auxiliary networks that are available.

    Raises:
        WordmaskError: an unknown method, variant or refiner.
    """
    known = {"none", *networks}
    if methods is None:
        methods = [name for name in sorted(METHODS) if METHODS[name].network in known]
    chosen = []
    for text in methods:
        name, variant = split_variant(text)
        method, _ = create_method(name, variant)
        chosen += [(method.name, variant, names) for names in ("", *refine)]
    for names in refine:
        read_refiners(names)
    return chosen


def measure(
    model: nn.Module,
    chosen: Iterable[tuple[str, str | None, str]],
    *,
    size: tuple[int, int] = (336, 336),
    batch: int = 1,
    words: int = 20,
    rounds: int = 10,
    networks: Mapping[str, Any] | None = None,
    local_files_only: bool = False,
    options: Sequence[str] = (),
    report: Callable[[Cost], object] = lambda _: None,
) -> list[Cost]:
    """Measure methods one after the other, on random pixels.

    Args:
        model: a CLIP of transformers, on the device and of the dtype to be measured.
        chosen: (method, variant or None, refiners as in "pamr" or "").
        size: height and width of the network's input, whatever the method would resize to.
        batch: pictures in a round.
        words: number of classes, without background.
        rounds: number of timed rounds, after one that is not timed.
        networks, local_files_only: as for `Segmenter.from_pretrained`.
        options: changes of all methods, `option=value`.
        report: called with each row when it is measured.

    Raises:
        WordmaskError: an unknown method or refiner, numbers below 1, weights that cannot be
            loaded.
    """
    if min(*size, batch, words, rounds) < 1:
        raise WordmaskError(
            f"got size {size[0]} x {size[1]}, batch {batch}, {words} words and {rounds} rounds; "
            "each must be 1 or more"
        )
    costs = []
    for method, variant, refine in chosen:
        segmenter = Segmenter.from_pretrained(
            model,
            method,
            variant,
            refine=refine or None,
            options=dict(parse_option(method, text) for text in options),
            networks=networks,
            local_files_only=local_files_only,
        )
        costs.append(_measure(segmenter, refine, size, batch, words, rounds))
        report(costs[-1])
    return costs


def _measure(
    segmenter: Segmenter, refine: str, size: tuple[int, int], batch: int, words: int, rounds: int
) -> Cost:
    tower = segmenter.tower
    random = torch.Generator().manual_seed(0)
    pixels = torch.randn(batch, 3, *size, generator=random)  # on the CPU, as a picture from a file
    rows = F.normalize(torch.randn(words, tower.width, generator=random), dim=-1)
    texts = segmenter.encode_text(rows)

    def encode() -> Any:
        return segmenter.encode(pixels)

    def whole() -> object:
        return segmenter(encode(), texts)

    flops = count_flops(whole)  # networks are loaded here, and provenance is taken
    used = {kind: text["source"] for kind, text in segmenter.networks.describe().items()}
    models = [tower.model]
    for kind in used:
        network = getattr(segmenter.networks, kind)
        models += network.modules() if hasattr(network, "modules") else [network.model]
    own = {id(x) for x in tower.model.parameters()}
    # by id, since a network may occur twice
    parameters = {id(x): x for model in models for x in model.parameters()}
    buffers = {id(x): x for model in models for x in model.buffers()}
    whole()
    peak = peak_memory(whole, tower.device)
    seconds, encoding = (median_seconds(call, rounds, tower.device) for call in (whole, encode))
    weights = sum(x.numel() * x.element_size() for x in (parameters | buffers).values()) / 2**20
    return Cost(
        method=segmenter.method.name,
        variant=segmenter.variant,
        refine=refine,
        networks=used,
        parameters=sum(x.numel() for x in parameters.values()),
        network_parameters=sum(x.numel() for key, x in parameters.items() if key not in own),
        flops=flops // batch,
        milliseconds=1000 * seconds / batch,
        encoding=1000 * encoding / batch,
        images_per_second=batch / seconds,
        memory=None if peak is None else peak + weights,
    )


def median_seconds(call: Callable[[], object], rounds: int, device: torch.device) -> float:
    """The median of so many calls, each until the device is done."""
    times = []
    for _ in range(rounds):
        synchronise(device)
        start = time.perf_counter()
        call()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def count_flops(call: Callable[[], object]) -> int:
    """Floating point operations of a call by torch's own counter.

    Attention runs as plain products meanwhile, as the counter does not know the fused kernel of
    CPUs.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        call()
    return counter.get_total_flops()


def peak_memory(call: Callable[[], object], device: torch.device) -> float | None:
    """Peak memory of a call in MiB, above that before it.

    With CUDA it is the memory allocated by torch; on a CPU the rise of the resident set, sampled
    every half millisecond (Linux only; None elsewhere). Apple's GPUs report no peak: None.
    """
    gc.collect()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        call()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    if device.type != "cpu" or not sys.platform.startswith("linux"):
        return None
    _return_free_memory()
    before = highest = resident()
    done = threading.Event()

    def sample() -> None:
        nonlocal highest
        while not done.wait(0.0005):
            highest = max(highest, resident())

    sampler = threading.Thread(target=sample)
    sampler.start()
    try:
        call()
    finally:
        done.set()
        sampler.join()
    return (highest - before) / 2**20


def resident() -> int:
    """Bytes of the resident set of this process (Linux)."""
    import resource

    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _return_free_memory() -> None:
    """Release freed memory, which a second call would reuse and so seem to need none."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # glibc has it
    if trim is not None:
        trim(0)


# -- random weights -------------------------------------------------------------------------------


def random_clip(name: str, device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A `CLIPModel` in the shape of a published one with random weights, to measure time only.

    Raises:
        WordmaskError: a name not in `CLIP_SHAPES`.
    """
    from transformers import CLIPConfig, CLIPModel

    if name not in CLIP_SHAPES:
        raise unknown("shape of a CLIP", name, CLIP_SHAPES)
    (width, blocks, heads, patch, side), (text_width, text_blocks, text_heads), joint = CLIP_SHAPES[
        name
    ]
    vision = _transformer(width, blocks, heads) | {"patch_size": patch, "image_size": side}
    text = _transformer(text_width, text_blocks, text_heads)
    config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=joint)
    return _make(CLIPModel, config, device, dtype)


def random_vfm(device: torch.device, dtype: torch.dtype) -> nn.Module:
    """A `ViTModel` in the shape of `RANDOM_VFM` with random weights."""
    from transformers import ViTConfig, ViTModel

    config = ViTConfig(**_transformer(768, 12, 12), patch_size=8, image_size=224)
    return _make(lambda c: ViTModel(c, add_pooling_layer=False), config, device, dtype)


def _transformer(width: int, blocks: int, heads: int) -> dict[str, int]:
    return {
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": blocks,
        "num_attention_heads": heads,
    }


def _make(kind: Any, config: Any, device: torch.device, dtype: torch.dtype) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config).eval().to(device, dtype)


# -- tables ---------------------------------------------------------------------------------------


def conditions(device: torch.device, dtype: torch.dtype) -> dict[str, str | int]:
    """The hardware and software of the measurement, as plain values."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    name = f"Apple's GPU, {name}" if device.type == "mps" else name
    return {
        "device": name,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _processor() -> str:
    """The name of the CPU, if the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(x.split(":", 1)[1].strip() for x in lines if x.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        return platform.processor() or platform.machine()


def table(costs: Sequence[Cost]) -> list[list[str]]:
    """Rows of text, the heading first; Table 1 of ProxyCLIP's supplement, with more columns."""
    rows = [
        [
            "method",
            "with",
            "params (M)",
            "speed (IPS)",
            "time (ms)",
            "encode (ms)",
            "memory (MiB)",
            "FLOPs (G)",
        ]
    ]
    for cost in costs:
        added = [*([cost.refine] if cost.refine else []), *cost.networks.values()]
        rows.append(
            [
                f"{cost.method} ({cost.variant})",
                ", ".join(added) or "-",
                f"{cost.parameters / 1e6:.1f}",
                _three_digits(cost.images_per_second),
                _three_digits(cost.milliseconds),
                _three_digits(cost.encoding),
                "-" if cost.memory is None else f"{cost.memory:.0f}",
                f"{cost.flops / 1e9:.1f}",
            ]
        )
    return rows


def _three_digits(value: float) -> str:
    """A number above 0 with at least three digits, without exponent."""
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}"


def to_json(costs: Sequence[Cost], settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings and rows as plain values."""
    return {"settings": dict(settings), "costs": [asdict(cost) for cost in costs]}


def to_markdown(costs: Sequence[Cost], settings: Mapping[str, Any]) -> str:
    """The settings, the table, and the table in the form of CLIPer's Table 4."""
    rows = table(costs)
    lines = [", ".join(f"{name} {value}" for name, value in settings.items()), ""]
    lines += markdown_table(rows[0], rows[1:], rows[0])
    lines += ["", NOTE, "", "In the form of CLIPer's Table 4:", ""]
    heading = ["method", "encoder", "input size", "time (ms)"]
    model, size = str(settings["model"]), str(settings["size"])
    short = []
    for cost, row in zip(costs, rows[1:], strict=True):
        name = cost.method + (f" + {cost.refine}" if cost.refine else "")
        short.append([name, model, size, row[4]])
    return "\n".join([*lines, *markdown_table(heading, short, heading)])

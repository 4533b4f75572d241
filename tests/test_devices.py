"""What runs on a CPU runs on a GPU: every method, variant, refiner and background, emulated.

`emulated.Gpu` refuses what the device would refuse. A method or a refiner is tested by being
registered, as in `methods/test_methods.py`.
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from emulated import Far, Gpu
from places import GOLDEN
from tiny import tiny_clip, tiny_sam, tiny_tokenizer, tiny_vfm
from wordmask import Background, Segmenter, WordmaskError
from wordmask.devices import check_finite, pick_device, pick_dtype
from wordmask.evaluation import cost
from wordmask.methods import METHODS
from wordmask.pipeline import Pipeline
from wordmask.refiners import REFINERS
from wordmask.towers.families import Classifier, LoadedClip

PLACES = [
    ("cuda", torch.float16),
    ("cuda", torch.bfloat16),
    ("mps", torch.float32),
    ("mps", torch.float16),
]
OTHERS = [  # options with which a method uses networks or steps that its variants do not
    ("car", "paper", {"classifier": "second"}),
    ("cliper", "official-v2", {"window": 32, "stride": 16}),
    ("cliptrase", "official", {"clusters": "vfm", "masks": "sam"}),
    ("corrclip", "repaired", {"region_maps": "attention", "window": 32, "stride": 16}),
    ("gla_clip", "paper", {"window": 32, "stride": 16}),
    ("maskclip", "harness", {"key_smoothing": 0.5, "prompt_denoising": 0.5}),
    ("ov_stitcher", "repaired", {"window": 32, "stride": 16}),
    ("proxyclip", "paper", {"window": 32, "stride": 16, "stitch": True}),
    ("rf_clip", "paper", {"window": 32, "stride": 16, "sink_channels": (1, 2), "sigma": 1.5}),
    ("sclip", "paper", {"window": 32, "stride": 16, "area_threshold": 0.1}),
    ("sclip", "paper", {"window": 32, "stride": 16, "stitch": True}),
]
METHOD_CASES = [(name, v, {}) for name in sorted(METHODS) for v in METHODS[name].variants] + OTHERS
REFINER_CASES = [
    *((name, variant, {}) for name in sorted(REFINERS) for variant in REFINERS[name].variants),
    ("diffusion", "official-v2", {"threshold": 0.95}),  # so few entries that they are kept
]
SMALL = {"pamr": {"steps": 2}, "sam": {"points_per_side": 4}}  # cheaper and no different
pytestmark = pytest.mark.filterwarnings("ignore:.*frobenius_norm is deprecated")
WORDS = ["cat", "dog", ["photo", "of a photo"]]
BACKGROUNDS = [
    "none",
    ["a thing", "a cap"],
    Background.auto(),
    Background.threshold(0.4),
    Background.complement(2.0),
]


def photo(height: int = 32, width: int = 48) -> np.ndarray:
    coarse = np.random.default_rng(0).integers(0, 256, (height // 8, width // 8, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=0).repeat(8, axis=1)


def read_diffusion() -> SimpleNamespace:
    """The small random Stable Diffusion of the golden vectors, as a pipeline in memory."""
    import diffusers
    import transformers

    parts = {
        "unet": diffusers.UNet2DConditionModel,
        "vae": diffusers.AutoencoderKL,
        "scheduler": diffusers.PNDMScheduler,
        "text_encoder": transformers.CLIPTextModel,
        "tokenizer": transformers.CLIPTokenizer,
    }
    home = GOLDEN / "sd_model"
    read = {name: kind.from_pretrained(home, subfolder=name) for name, kind in parts.items()}
    return SimpleNamespace(**read)


def make(device: torch.device, dtype: torch.dtype) -> Segmenter:
    """All networks in memory, moved to a device."""
    diffusion = read_diffusion()
    sources = {"vfm": tiny_vfm(), "sam": tiny_sam(), "classifier": tiny_clip(layers=2, seed=5)}
    clip = tiny_clip(layers=2)
    for model in (clip, *sources.values(), diffusion.unet, diffusion.vae, diffusion.text_encoder):
        torch.nn.Module.to(model.eval().requires_grad_(False), device, dtype)
    tokenizer = tiny_tokenizer()
    segmenter = Segmenter.from_pretrained(
        clip, "clip", tokenizer=tokenizer, networks=sources | {"diffusion": diffusion}
    )
    with_tokenizer(segmenter, sources["classifier"], tokenizer)
    return segmenter


def with_tokenizer(segmenter: Segmenter, classifier: torch.nn.Module, tokenizer) -> None:
    """Load the second CLIP with a tokenizer, which it has when it comes from a folder."""
    loaded = LoadedClip(classifier, tokenizer, None, None, "second")
    segmenter.networks._loaded["classifier"] = Classifier(loaded.tower(), loaded.text())


@pytest.fixture(autouse=True)
def _room(monkeypatch):
    """Free memory, which only a real device can be asked for."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (2**34, 2**34))
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 2**34)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 0)


@pytest.fixture(scope="module", params=PLACES, ids=lambda p: f"{p[0]}-{str(p[1])[6:]}")
def place(request):
    """An emulated device with all networks on it, and for float32 the same ones on the CPU."""
    kind, dtype = request.param
    gpu = Gpu(kind)
    with gpu:
        far = make(gpu.device, dtype)
    near = make(torch.device("cpu"), dtype) if dtype == torch.float32 else None
    return SimpleNamespace(gpu=gpu, far=far, near=near, dtype=dtype)


@pytest.fixture(autouse=True)
def _one_thread_of_gradients():
    with torch.autograd.set_multithreading_enabled(False):  # there is no thread for the device
        yield


def with_method(segmenter: Segmenter, name, variant, options, refine=None) -> Segmenter:
    small = {"short_side": None, "templates": "single"}
    if name == "car":
        small["classifier_templates"] = "single"
    return segmenter.with_method(name, variant, small | options, refine)


def everything(segmenter: Segmenter, backgrounds) -> list[torch.Tensor]:
    """All that can be read of a picture and its words, and the map that mixes patches."""
    tower, method = segmenter.tower, segmenter.method
    encoding = segmenter.encode(photo())
    assert encoding.features.device == tower.device
    for background in backgrounds:
        scored = segmenter.score(encoding, WORDS, background)
        labels = scored.labels()
        if scored.rule.gives_probabilities:
            assert np.isfinite(scored.confidence(labels)).all()
    scored.labels(["cat"])
    result = scored.segmentation()
    assert result.labels.shape == (32, 48)
    assert result.provenance["device"] == tower.device.type
    with torch.inference_mode():
        trace = method.trace(segmenter.towers, encoding.pixels, method.need(tower.depth))
        mixing = method.mixing_map(tower, trace).float().cpu()
    return [encoding.features.cpu(), scored.class_maps().cpu(), scored.image_scores(), mixing]


def compare(place, found: list[torch.Tensor], expected) -> None:
    assert all(torch.isfinite(x).all() for x in found)
    if place.near is not None:
        for here, there in zip(found, expected(), strict=True):
            assert torch.allclose(here, there, atol=1e-4)


@pytest.mark.parametrize(("name", "variant", "options"), METHOD_CASES)
def test_every_method_and_background(place, name, variant, options):
    first = variant == next(iter(METHODS[name].variants)) and not options
    backgrounds = BACKGROUNDS if first else BACKGROUNDS[:1]
    if name == "car":  # a pass backwards for every word
        backgrounds = [b for b in backgrounds if b is not BACKGROUNDS[2]]
    with place.gpu:
        found = everything(with_method(place.far, name, variant, options), backgrounds)
    compare(
        place,
        found,
        lambda: everything(with_method(place.near, name, variant, options), backgrounds),
    )


@pytest.mark.parametrize(("name", "variant", "options"), REFINER_CASES)
def test_every_refiner(place, name, variant, options):
    refine = [(f"{name}:{variant}", SMALL.get(name, {}) | options)]
    with place.gpu:
        found = everything(with_method(place.far, "sclip", None, {}, refine), ["none"])
    compare(
        place,
        found,
        lambda: everything(with_method(place.near, "sclip", None, {}, refine), ["none"]),
    )


@pytest.mark.parametrize("place", PLACES[:1], indirect=True)
def test_low_memory_says_where_it_was_computed(place, monkeypatch):
    """And not where CLIP waits while refiners run."""
    waiting = []
    refine = Pipeline._refine

    def watched(self, *arguments):
        waiting.append(self.towers.clip.device.type)
        return refine(self, *arguments)

    monkeypatch.setattr(Pipeline, "_refine", watched)
    with place.gpu:
        segmenter = with_method(place.far, "clip", None, {}, "vfm,pamr")
        segmenter.low_memory = True
        results = segmenter([photo(), photo()], WORDS)
        assert segmenter.tower.device == place.gpu.device
    assert waiting == ["cpu"] * 4
    assert [r.provenance["device"] for r in results] == [place.gpu.device.type] * 2


@pytest.mark.parametrize("place", PLACES[:1], indirect=True)
def test_bench_gives_pictures_as_a_user_does(place, monkeypatch):
    """On the CPU: moving them first hid that a method did not."""
    seen = []
    encode = Segmenter.encode
    monkeypatch.setattr(Segmenter, "encode", lambda s, x: seen.append(x) or encode(s, x))
    monkeypatch.setattr(cost, "peak_memory", lambda call, device: None)
    monkeypatch.setattr(cost, "count_flops", lambda call: call() and 0)
    monkeypatch.setattr(cost, "synchronise", lambda device: None)
    with place.gpu:
        clip = place.far.tower.model
        (one,) = cost.measure(clip, [("clip", None, "")], size=(32, 48), rounds=1)
    assert one.milliseconds > 0
    assert seen
    assert not any(isinstance(x, Far) for x in seen)


def test_the_benchmark_for_a_gpu_runs_without_one(monkeypatch, capsys, tmp_path):
    """In bfloat16 on the CPU; its exit status says whether all rows are within the bounds."""
    path = Path(__file__).parents[1] / "benchmarks" / "gpu.py"
    spec = importlib.util.spec_from_file_location("gpu_benchmark", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    given = "--device cpu --dtype bfloat16 --methods clip --refiners vfm --rounds 1"
    Image.fromarray(photo(48, 48)).save(tmp_path / "photo.png")
    small = ["--picture", str(tmp_path / "photo.png"), "--side", "48", "--words", "grass; sand"]
    monkeypatch.setattr(sys, "argv", ["gpu.py", *small, *given.split()])
    assert benchmark.main() == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[4:7]]
    assert [row[:2] for row in rows] == [
        ["clip:paper", rows[0][1]],
        ["clearclip:paper", "vfm:proxyclip"],
        ["clearclip:paper", "vfm:cliper"],
    ]
    assert float(rows[0][1]) > 0  # milliseconds
    assert all(0 < float(row[-1]) < 0.15 for row in rows)
    monkeypatch.setitem(benchmark.BOUNDS, torch.bfloat16, (1.0, 0.0))
    monkeypatch.setattr(sys, "argv", [*sys.argv[:-3], "--rounds", "1"])
    assert benchmark.main() == 1
    assert "OUTSIDE" in capsys.readouterr().out


# -- the emulation itself -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "call", "error"),
    [
        (None, lambda d, x, c: x + c, "same device"),
        (None, lambda d, x, c: c @ x, "same device"),
        (None, lambda d, x, c: torch.cat([x, c]), "same device"),
        (None, lambda d, x, c: c.add_(x[0, 0]), "same device"),
        (None, lambda d, x, c: c[torch.zeros(2, dtype=torch.long, device=d)], "same device"),
        (None, lambda d, x, c: x.index_select(0, torch.tensor([0])), "same device"),
        (None, lambda d, x, c: torch.where(c > 0, x, x), "same device"),
        (None, lambda d, x, c: x.numpy(), "numpy"),
        (None, lambda d, x, c: np.asarray(x), "numpy"),
        (None, lambda d, x, c: torch.randn(2, device=d, generator=torch.Generator()), "generator"),
        ("mps", lambda d, x, c: x.double(), "float64"),
        ("mps", lambda d, x, c: x.mean(0, dtype=torch.float64), "float64"),
        ("mps", lambda d, x, c: torch.arange(3, dtype=torch.float64, device=d), "float64"),
        ("mps", lambda d, x, c: x.to_sparse_csr(), "implemented|sparse"),
        ("mps", lambda d, x, c: torch.linalg.eigh(x), "not currently implemented"),
        (None, lambda d, x, c: x * torch.tensor(2.0, dtype=torch.float64), None),
        (None, lambda d, x, c: x[torch.tensor([1, 0])] + x[[1, 0]], None),
        (None, lambda d, x, c: x.__setitem__(slice(0, 1), c[:1]), None),
        (None, lambda d, x, c: x[c > 0].cpu().numpy(), None),
        (None, lambda d, x, c: (x.tolist(), float(x.sum()), x.new_tensor([1.0]) + x), None),
        ("cuda", lambda d, x, c: x.double().to_sparse_csr() @ x.double(), None),
    ],
)
def test_what_a_device_refuses(kind, call, error):
    for one in ("cuda", "mps") if kind is None else (kind,):
        with Gpu(one) as gpu:
            x, c = torch.ones(2, 2, device=gpu.device), torch.ones(2, 2)
            if error is None:
                call(gpu.device, x, c)
            else:
                with pytest.raises((RuntimeError, TypeError, NotImplementedError), match=error):
                    call(gpu.device, x, c)


# -- which device, which type ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cuda", "mps", "device", "dtype"),
    [
        (True, True, "cuda", torch.float16),
        (False, True, "mps", torch.float32),
        (False, False, "cpu", torch.float32),
    ],
)
def test_the_fastest_device_is_picked(monkeypatch, cuda, mps, device, dtype):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    assert pick_device(None).type == device
    assert pick_dtype(None, pick_device(None)) == dtype


@pytest.mark.parametrize("device", ["meta", "cuda:7", "tpu9"])
def test_a_device_that_cannot_be_used(device):
    with pytest.raises(WordmaskError, match=f"got device '{device}', which is not usable here"):
        pick_device(device)


def test_dtypes_by_name():
    assert pick_dtype("bfloat16", torch.device("cpu")) == torch.bfloat16
    with pytest.raises(WordmaskError, match="got dtype 'int8'; choose from: float32, float16"):
        pick_dtype("int8", torch.device("cpu"))


# -- numbers that are not finite ------------------------------------------------------------------


def overflowing(model: torch.nn.Module, name: str, factor: float = 1e6) -> torch.nn.Module:
    """A network of which one weight is so large that float16 cannot hold what comes of it."""
    with torch.no_grad():
        model.get_parameter(name).mul_(factor)
    return model


@pytest.mark.parametrize("name", sorted(METHODS))
def test_features_that_overflow_are_an_error(name):
    """In float16; in bfloat16 and float32 the same network works."""

    def run(dtype):
        clip = overflowing(tiny_clip(layers=3), "vision_model.encoder.layers.0.mlp.fc2.bias")
        clip = clip.to(dtype)
        segmenter = Segmenter.from_pretrained(
            clip, name, options={"short_side": None}, networks={"vfm": tiny_vfm().to(dtype)}
        )
        words = torch.eye(3, 48)
        return segmenter(photo(), words, "none").labels

    with pytest.raises(WordmaskError) as caught:
        run(torch.float16)
    assert str(caught.value).endswith(
        "are NaN or infinite in float16; its largest number is 65504; use bfloat16 or float32 "
        "(--dtype, dtype=)"
    )
    assert run(torch.bfloat16).shape == run(torch.float32).shape == (32, 48)


@pytest.mark.parametrize(
    ("method", "refine", "kind", "weight", "what"),
    [
        ("clip", "vfm", "vfm", "layers.0.mlp.fc2.bias", "the features of ViTModel"),
        ("proxyclip", None, "vfm", "layers.0.mlp.fc2.bias", "the features of ViTModel"),
        ("clip", "sam", "sam", "vision_encoder.neck.layer_norm2.bias", "the embeddings of"),
        ("clip", "diffusion", "vae", "encoder.conv_in.bias", "the latents that the VAE of"),
        ("clip", "diffusion", "unet", "conv_in.bias", "queries or keys of"),
        ("car", None, "classifier", "vision_model.embeddings.class_embedding", "the classifier's"),
    ],
)
def test_auxiliary_models_that_overflow_are_an_error(method, refine, kind, weight, what):
    diffusion = read_diffusion()
    sources = {
        "vfm": tiny_vfm(),
        "sam": tiny_sam(),
        "diffusion": diffusion,
        "classifier": tiny_clip(layers=2, seed=5),
    }
    bad = getattr(diffusion, kind) if kind in ("vae", "unet") else sources[kind]
    overflowing(bad, weight, 1e8)
    for model in (sources["vfm"], sources["sam"], sources["classifier"]):
        model.half()
    diffusion.unet.half(), diffusion.vae.half()
    options = {"short_side": None}
    if method == "car":
        options |= {"classifier": "second", "classifier_templates": "single"}
    tokenizer = tiny_tokenizer()
    segmenter = Segmenter.from_pretrained(
        tiny_clip(layers=3),
        method,
        options=options,
        networks=sources,
        refine=refine,
        tokenizer=tokenizer,
    )
    with_tokenizer(segmenter, sources["classifier"], tokenizer)
    with pytest.raises(WordmaskError, match=f"^{what}.* NaN or infinite in float16; .*bfloat16"):
        segmenter(photo(), WORDS, "none")


def test_the_message_fits_the_type():
    check_finite(torch.ones(3), "these", torch.float16)
    check_finite(torch.full((9,), 6e4).half(), "these", torch.float16)
    check_finite(torch.full((9,), 3e38), "these", torch.float32)  # their sum is not finite
    with pytest.raises(WordmaskError, match=r"^these are NaN or infinite in float32; check the we"):
        check_finite(torch.tensor([torch.inf, -torch.inf]), "these", torch.float32)

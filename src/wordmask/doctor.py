"""What this machine has and lacks for wordmask: the first thing that a bug report needs.

Nothing is downloaded, written or loaded but the built-in network, and nothing that fails to be
examined ends the examination: torch itself may be what is broken. No token or password is told.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import stat
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wordmask.files import one_line, size_text
from wordmask.towers.auxiliary import DEFAULT_CLIP, KINDS
from wordmask.towers.built_in import CLIP as TINY
from wordmask.user_code import describe_error, is_file
from wordmask.version import __version__

if TYPE_CHECKING:
    import torch

    from wordmask.towers.fetch import Files

SCHEMA = 1  # of the report; to be increased when a key changes its name or meaning
PURPOSES = {  # of extras that no method or refiner needs, told where they are absent
    "app": "the page (wordmask app)",
    "client": "the client of a service (wordmask.client)",
    "cvat": "labels in CVAT",
    "docs": "building the documents' site",
    "evaluate": "reports and COCO's ground truth (wordmask evaluate)",
    "fiftyone": "data sets of FiftyOne",
    "formats": "COCO's run lengths and connected components (--format)",
    "geo": "pictures of any size (wordmask large)",
    "heif": "HEIC photos of phones",
    "label-studio": "Label Studio's brush strokes (--format)",
    "mcp": "a server for assistants (wordmask mcp)",
    "napari": "the widget of napari",
    "onnx": "writing networks that need no torch (wordmask export)",
    "onnx-runtime": "networks that need no torch (--backend onnxruntime)",
    "parquet": "Parquet manifests (wordmask segment)",
    "ray": "jobs on a cluster",
    "regions": "regions without a network",
    "serve": "the service (wordmask serve)",
    "siglip": "tokenizers of SigLIP 1 and TIPSv2",
    "supervision": "Segmentation.detections()",
    "torch": "every network but exported ones",
}
DTYPES = ("float32", "float16", "bfloat16")
CLOSE = 0.02  # cosines of another type or device may differ from the CPU's by this much
LITTLE = 700_000_000  # bytes of the default CLIP and some
SECONDS = 5.0  # for the hub to answer
INSTALL_TORCH = "install torch anew, see https://pytorch.org/get-started/locally"
VARIABLES = (  # of the environment, told if set
    "WORDMASK_MODEL",
    "WORDMASK_CACHE",
    "HF_HOME",
    "HF_HUB_CACHE",
    "HF_ENDPOINT",
    "HF_HUB_OFFLINE",
    "HF_HUB_DISABLE_XET",
    "XDG_CACHE_HOME",
    "CUDA_VISIBLE_DEVICES",
    "PYTORCH_ENABLE_MPS_FALLBACK",
    "OMP_NUM_THREADS",
)


@dataclass(frozen=True)
class Finding:
    """One thing that was examined.

    Attributes:
        name: its name, unique in its section.
        state: "ok"; "absent": an optional thing that is not here; "partial": a download that was
            not finished; "fails": an optional thing that does not work; "broken": wordmask needs
            it and it does not work; "skipped": not examined.
        text: what was found, in one line.
        todo: what to do about it, in one line; empty if nothing.
        details: the same as plain values.
    """

    name: str
    state: str
    text: str
    todo: str = ""
    details: dict[str, Any] = field(default_factory=dict)


def examine(model: str, *, offline: bool = False, seconds: float = SECONDS) -> dict[str, Any]:
    """Examine machine, packages, devices, extras, checkpoints, caches and the hub.

    Args:
        model: the id of the CLIP that commands load by default.
        offline: do not ask the hub; nor is it asked if HF_HUB_OFFLINE is set.
        seconds: how long the hub has to answer.

    Returns:
        Plain values: "schema" (1), "wordmask" (the version), "works" (False if anything is
        "broken"), and a list of findings for each section, with the keys of `Finding`.
    """
    sections: dict[str, Callable[[], Iterable[Finding]]] = {
        "machine": _machine,
        "packages": _packages,
        "devices": _devices,
        "extras": _extras,
        "checkpoints": lambda: _checkpoints(model),
        "caches": _caches,
        "hub": lambda: _hub(model, offline, seconds),
    }
    found = {name: _examined(name, section) for name, section in sections.items()}
    works = all(one["state"] != "broken" for section in found.values() for one in section)
    return {"schema": SCHEMA, "wordmask": __version__, "works": works, **found}


def _examined(name: str, section: Callable[[], Iterable[Finding]]) -> list[dict[str, Any]]:
    """The findings of a section as plain values without secrets; an error in it is one more."""
    found: list[Finding] = []
    try:
        for one in section():
            found.append(one)
    except Exception as error:
        text = f"could not be examined: {describe_error(error)}"
        todo = "" if isinstance(error, ImportError) else "please report this line"
        found.append(Finding(name, "fails", text, todo))
    return [_without_secrets(asdict(one)) for one in found]


def _without_secrets(value: Any) -> Any:
    """A plain value without user names and passwords of addresses, and without tokens."""
    if isinstance(value, dict):
        return {key: _without_secrets(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_secrets(one) for one in value]
    if not isinstance(value, str):
        return value
    value = re.sub(r"(\w+://)[^\s,]*@", r"\1***@", value)
    value = re.sub(r"(^|[=\s])[^\s,/@]+:[^\s,]*@", r"\1***@", value)  # without http://
    return one_line(re.sub(r"\bhf_\w{6,}", "hf_***", value))


# -- the machine and what is installed on it ----------------------------------------------------


def _machine() -> Iterator[Finding]:
    yield Finding("system", "ok", platform.platform(), details={"machine": platform.machine()})
    python = f"{platform.python_version()}, {_tilde(sys.executable)}"
    yield Finding("python", "ok", python, details={"version": platform.python_version()})
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on macOS and Windows
        cores = os.cpu_count() or 0
    yield Finding("cores", "ok", str(cores), details={"count": cores})
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # not on Windows
        total = None
    free = _free_memory()
    text = "unknown" if total is None else size_text(total)
    text += "" if free is None else f", {size_text(free)} free"
    yield Finding("memory", "ok", text, details={"bytes": total, "free": free})
    names = [*VARIABLES, *(name for name in sorted(os.environ) if name.lower().endswith("_proxy"))]
    told = {name: os.environ[name] for name in names if os.environ.get(name)}
    text = ", ".join(f"{name}={value}" for name, value in told.items()) or "nothing set"
    yield Finding("environment", "ok", text, details={"variables": told})


def _free_memory() -> int | None:
    """Bytes that this process may still take, also in a container; None if it cannot be told."""
    from wordmask.memory import free_memory

    return free_memory("cpu")


def _packages() -> Iterator[Finding]:
    """What wordmask needs in any case, with versions."""
    for name, wanted in sorted(_requirements("").items()):
        yield _package(name, wanted, "broken")


def _package(name: str, wanted: Any, state: str) -> Finding:
    """One package: `state` if it is missing or of a version that does not fit `wanted`."""
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        version = None
    details = {"version": version, "wanted": str(wanted)}
    if version is None:
        return Finding(name, state, "not installed", f'pip install "{name}{wanted}"', details)
    if not wanted.contains(version, prereleases=True):
        text = f"{version}, but {wanted} is needed"
        return Finding(name, state, text, f'pip install "{name}{wanted}"', details)
    return Finding(name, "ok", version, "", details)


def _extras() -> Iterator[Finding]:
    """The optional parts, and what uses them."""
    registries: tuple[Mapping[str, Any], ...] = ()
    if find_spec("torch"):
        from wordmask.methods import METHODS
        from wordmask.refiners import REFINERS

        registries = METHODS, REFINERS
    every = metadata.metadata("wordmask").get_all("Provides-Extra") or []
    for extra in every:
        if extra in ("all", "test"):
            continue
        parts = [one for registry in registries for one in registry.values()]
        users = sorted(one.name for one in parts if one.extra == extra)
        found = [_package(n, wanted, "absent") for n, wanted in _requirements(extra).items()]
        bad = [one for one in found if one.state != "ok"]
        lacking = [one.name for one in bad]
        text = ", ".join(f"{one.name} {one.text}" for one in bad or found)
        if bad:
            needed = f"{' and '.join(users)} cannot run" if users else PURPOSES.get(extra, "")
            text = f"{needed}; lacks {text.replace(' not installed', '')}"
        todo = f'pip install "wordmask[{extra}]"' if lacking else ""
        versions = {one.name: one.details["version"] for one in found}
        details = {"versions": versions, "missing": lacking, "used_by": users}
        yield Finding(extra, "absent" if lacking else "ok", text, todo, details)


def _requirements(extra: str) -> dict[str, Any]:
    """The packages that wordmask's own metadata name for an extra, or "", and their versions."""
    from packaging.requirements import Requirement

    found: dict[str, Any] = {}
    for text in metadata.requires("wordmask") or ():
        one = Requirement(text)
        always = one.marker is None or one.marker.evaluate({"extra": ""})
        here = one.marker is None or one.marker.evaluate({"extra": extra})
        if not here or always != (not extra):
            continue
        if one.name == "wordmask":  # an extra that includes others
            for other in sorted(one.extras):
                found |= _requirements(other)
        else:
            found[one.name] = one.specifier
    return found


# -- devices ------------------------------------------------------------------------------------


def _devices() -> Iterator[Finding]:
    """Every device with every type, on the built-in network, compared with the CPU in float32."""
    if not find_spec("torch"):
        runtime = find_spec("onnxruntime") is not None
        text = "torch is not installed; " + (
            "exported networks alone can run (--backend onnxruntime)"
            if runtime
            else "nor is ONNX Runtime: no network can run"
        )
        todo = 'pip install "wordmask[torch]"'
        yield Finding("cpu", "absent" if runtime else "broken", text, todo)
        return
    try:
        import torch
    except Exception as error:
        text = f"torch cannot be imported: {describe_error(error)}"
        yield Finding("cpu", "broken", text, INSTALL_TORCH)
        return
    places = [("cpu", f"threads: {torch.get_num_threads()}")]
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        gpu = torch.cuda.get_device_properties(i)
        places.append((f"cuda:{i}", f"{gpu.name}, {size_text(gpu.total_memory)}"))
    if torch.backends.mps.is_available():
        places.append(("mps", "Apple GPU"))
    reference = None
    for place, title in places:
        types: dict[str, dict[str, Any]] = {}
        for dtype in DTYPES:
            types[dtype] = {"works": False, "difference": None, "error": None}
            try:
                cosines = _cosines(place, dtype)
            except Exception as error:
                types[dtype]["error"] = describe_error(error)
                continue
            reference = cosines if reference is None else reference
            apart = float((cosines - reference).abs().max())
            types[dtype] |= {
                "works": apart < CLOSE,
                "difference": apart if apart == apart else None,
            }
            if not apart < CLOSE:
                types[dtype]["error"] = f"cosines differ by {apart:.2g} from the CPU's in float32"
        bad = [dtype for dtype in DTYPES if not types[dtype]["works"]]
        text = "; ".join([title, *(_said(dtype, types[dtype]) for dtype in DTYPES)])
        state, todo = ("fails" if bad else "ok"), ""
        if bad == list(DTYPES) or "float32" in bad:
            state = "broken"
            todo = INSTALL_TORCH if place == "cpu" else f"use --device cpu; or {INSTALL_TORCH}"
        elif bad:
            todo = f"with --device {place} use --dtype {next(d for d in DTYPES if d not in bad)}"
        yield Finding(place, state, text, todo, {"title": title, "types": types})
    if len(places) == 1:
        yield _no_gpu(torch)


def _cosines(place: str, dtype: str) -> torch.Tensor:
    """Cosines of the patches of a rendered scene with two words, by the built-in network."""
    import torch

    from wordmask.segmenter import Segmenter
    from wordmask.toybox.scenes import render

    segmenter = Segmenter.from_pretrained(
        TINY, "clearclip", device=place, dtype=dtype, local_files_only=True
    )
    segmenter.note = ""
    assert segmenter.text is not None
    segmenter.text.cache_dir = None
    texts = segmenter.encode_text(["grass", "red plain"], "none").embeddings.cpu()
    features = segmenter.encode(render(0, 64).image).features.cpu()
    unit = torch.nn.functional.normalize(features, dim=1)
    return torch.einsum("behw,re->brhw", unit, texts.to(unit))


def _said(dtype: str, found: dict[str, Any]) -> str:
    if not found["works"]:
        return f"{dtype} fails: {found['error']}"
    return f"{dtype} works" + (
        f" (within {found['difference']:.0e})" if found["difference"] else ""
    )


def _no_gpu(torch: Any) -> Finding:
    """Why there is none: a build of torch without it, or a driver that torch cannot use."""
    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi")
    if driver and torch.version.cuda is None:
        text = f"an NVIDIA driver is here, but torch {torch.__version__} is a build for CPUs"
        return Finding("gpu", "fails", text, f"for the GPU {INSTALL_TORCH}")
    if driver and os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return Finding("gpu", "absent", "hidden by CUDA_VISIBLE_DEVICES")
    if driver:
        text = f"an NVIDIA driver is here, but torch (CUDA {torch.version.cuda}) cannot use a GPU"
        return Finding("gpu", "fails", text, f"update the driver, or {INSTALL_TORCH}")
    return Finding("gpu", "absent", "none found; everything runs on the CPU")


# -- checkpoints and caches ---------------------------------------------------------------------


def _checkpoints(model: str) -> Iterator[Finding]:
    """Those that commands load by default, then any other in the hub's cache that can be read."""
    if not find_spec("torch"):
        yield Finding("hub", "skipped", "checkpoints need torch; an exported network is a folder")
        return
    from wordmask.towers.diffusion import MIRRORS

    uses = {model: "--model"} | {kind.source: f"--{kind.name}" for kind in KINDS.values()}
    chosen = os.environ.get("WORDMASK_MODEL", "").partition("@")[0]
    if chosen and not is_file(chosen) and not Path(chosen).expanduser().is_dir():
        uses[chosen] = "--model"
    cached = {one.name: one for one in _cached()}
    copies = [x for x in MIRRORS if x in cached and not _lacking(cached[x].snapshot, "--diffusion")]
    if copies and copies[0] not in uses:  # any copy serves in place of the default
        uses = {n: flag for n, flag in uses.items() if n not in MIRRORS}
        uses[copies[0]] = "--diffusion"
    unread = 0
    for name in [*uses, *(name for name in sorted(cached) if name not in uses)]:
        one, flag = cached.get(name), uses.get(name, "")
        details = {"default": name in uses, "flag": flag, "missing": [], "damaged": []}
        details |= {"bytes": 0, "path": None}
        if one is None:
            todo = f"it is downloaded when first used; beforehand: {_command(name, flag)}"
            yield Finding(name, "absent", f"{flag}: not in the cache", todo, details)
            continue
        flag = flag or one.flag
        if not flag:
            unread += 1
            continue
        missing = _lacking(one.snapshot, flag)
        damaged = [str(file) for file in one.files() if _damaged(one.snapshot / file)]
        details |= {"flag": flag, "missing": missing, "damaged": damaged, "path": str(one.path)}
        details |= {"bytes": one.bytes}
        text = f"{flag}: {size_text(one.bytes)}"
        if damaged:
            text += f", damaged: {', '.join(damaged)}"
            todo = f"{_command(name, flag, damaged)} --force-download"
            yield Finding(name, "partial", text, todo, details)
        elif missing:
            text += f", lacks {', '.join(missing)}"
            command = _command(name, flag, missing)
            todo = f"with a network the next run downloads the rest, or: {command}"
            yield Finding(name, "partial", text, todo, details)
        else:
            yield Finding(name, "ok", f"{text}, complete", "", details)
    if unread:
        text = f"{unread} in the cache that wordmask does not read"
        yield Finding("others", "ok", text, "", {"count": unread})


def cached_clips() -> list[str]:
    """Image-text models in the hub's cache that are complete, the default CLIP or else the largest
    first.
    """
    found = [x for x in _cached() if x.flag == "--model" and not _lacking(x.snapshot, x.flag)]
    found.sort(key=lambda one: (one.name != DEFAULT_CLIP, -one.bytes))
    return [one.name for one in found]


@dataclass(frozen=True)
class _Cached:
    """A repository in the hub's cache, its newest snapshot, and the flag that takes it or ""."""

    name: str
    path: Path
    snapshot: Path
    flag: str
    bytes: int

    def files(self) -> list[Path]:
        """The files of the snapshot, relative to it."""
        found = sorted(self.snapshot.rglob("*"))
        return [file.relative_to(self.snapshot) for file in found if not file.is_dir()]


def _cached() -> Iterator[_Cached]:
    """The repositories of models in the hub's cache."""
    for path in sorted(_hub_cache().glob("models--*")):
        name = path.name.removeprefix("models--").replace("--", "/", 1)
        ref = path / "refs" / "main"
        commit = ref.read_text().strip() if ref.is_file() else ""
        snapshots = [path / "snapshots" / commit] if commit else sorted(path.glob("snapshots/*"))
        folder = snapshots[-1] if snapshots else path / "snapshots"
        flag = _read_as(folder)
        yield _Cached(name, path, folder, flag, _measure(path)[0])


def _caches() -> Iterator[Finding]:
    """Where things are kept, how large they are, and what unfinished downloads left behind."""
    from huggingface_hub import constants

    from wordmask.files import default_cache_dir

    places = {
        "hub": (_hub_cache(), "checkpoints, also Stable Diffusion's"),
        "xet": (Path(constants.HF_XET_CACHE), "pieces of downloads"),
        "text": (default_cache_dir(), "embeddings of words, hashes of weights"),
    }
    for name, (path, what) in places.items():
        there = path
        while not there.exists():
            there = there.parent
        free, (used, files) = shutil.disk_usage(there).free, _measure(path)
        details = {"path": str(path), "bytes": used, "files": files, "free": free}
        details["writable"] = os.access(there, os.W_OK)
        held = size_text(used) if used else "empty"
        text = f"{_tilde(path)}, {what}: {held}, {size_text(free)} free"
        state, todo = "ok", ""
        if not details["writable"]:
            variable = "WORDMASK_CACHE" if name == "text" else "HF_HOME"
            state, text = "fails", f"{text}, cannot be written"
            todo = f"for downloads set {variable} to a folder that can be written"
        elif free < LITTLE and name == "hub":
            state, text = "fails", f"{text}, too little for a checkpoint"
            todo = "free some disk, or set HF_HOME to a folder on another one"
        yield Finding(name, state, text, todo, details)
    rest = [file.stat().st_size for file in _hub_cache().glob("models--*/blobs/*.incomplete")]
    if rest:
        text = f"{len(rest)} left by downloads that were cut, {size_text(sum(rest))}"
        pattern = _hub_cache() / "models--*" / "blobs" / "*.incomplete"
        todo = f"if no download is running, delete {_tilde(pattern)}"
        details = {"files": len(rest), "bytes": sum(rest)}
        yield Finding("unfinished", "partial", text, todo, details)


def _hub_cache() -> Path:
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE)


def _measure(folder: Path) -> tuple[int, int]:
    """Bytes and number of the files in a folder, links left out."""
    sizes = []
    for at, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                status = os.lstat(os.path.join(at, name))
                if stat.S_ISREG(status.st_mode):
                    sizes.append(status.st_size)
    return sum(sizes), len(sizes)


def _damaged(file: Path) -> bool:
    """Whether a file is absent, empty, a pointer of git-LFS or a safetensors that was cut."""
    with suppress(OSError):
        if not file.exists():  # a link to nothing
            return True
        if not file.stat().st_size:
            return True
        with file.open("rb") as stream:
            if stream.read(24) == b"version https://git-lfs.":
                return True
    if file.suffix != ".safetensors":
        return False
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "numpy"):
            return False
    except (SafetensorError, OSError):
        return True


# -- the hub ------------------------------------------------------------------------------------


def _hub(model: str, offline: bool, seconds: float) -> Iterator[Finding]:
    """Whether the hub answers, and what stands between."""
    from huggingface_hub import constants, get_token

    proxies = {
        k: v for k, v in urllib.request.getproxies().items() if k in ("http", "https", "all")
    }
    if proxies:
        text = ", ".join(f"{kind} {address}" for kind, address in proxies.items())
        yield Finding("proxy", "ok", text, details={"proxies": proxies})
    token = get_token() is not None
    text = "there is one (not shown)" if token else "none; gated models need one"
    yield Finding("token", "ok", text, "", {"present": token})
    place = constants.ENDPOINT
    details: dict[str, Any] = {"endpoint": place, "answers": None, "seconds": None}
    if offline or constants.HF_HUB_OFFLINE:
        why = "--offline" if offline else "HF_HUB_OFFLINE is set"
        yield Finding("answer", "skipped", f"{place} was not asked ({why})", "", details)
        return
    start = time.monotonic()
    problem = _ask(place, model, seconds)
    details |= {"answers": problem is None, "seconds": round(time.monotonic() - start, 2)}
    if problem is None:
        yield Finding("answer", "ok", f"{place} answers in {details['seconds']} s", "", details)
        return
    todo = "checkpoints in the cache work, with --offline at once; "
    todo += "check the proxy; " if proxies else "a proxy: export HTTPS_PROXY=http://HOST:PORT; "
    todo += "a mirror: export HF_ENDPOINT=https://HOST"
    yield Finding("answer", "fails", f"{place}: {problem}", todo, details)


def _ask(place: str, model: str, seconds: float) -> str | None:
    """Why the hub does not answer in time; None if it does."""
    from huggingface_hub.utils import get_session

    answers: list[str | None] = []

    def ask() -> None:
        try:
            answer = get_session().get(f"{place}/api/models/{model}", timeout=seconds)
            if answer.status_code in (200, 401, 404):  # 401, 404: of a mirror that has others
                answer.json()
                answers.append(None)
            else:
                answers.append(f"it answers {answer.status_code} {answer.reason_phrase}")
        except ValueError:  # no JSON
            answers.append("what answers is no hub; does this network want a login first?")
        except Exception as error:
            answers.append(f"{type(error).__name__}: {error}")

    # names are resolved without a limit on time; a daemon thread ends with the process
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds + 1)
    return answers[0] if answers else f"no answer within {seconds:g} s"


# -- text ---------------------------------------------------------------------------------------


def _tilde(path: str | os.PathLike[str]) -> str:
    """A path with `~` for the user's folder."""
    text, home = os.fspath(path), str(Path.home())
    return f"~{text[len(home) :]}" if text.startswith(home + os.sep) else text


# -- which files a checkpoint needs -------------------------------------------------------------


def _read_as(folder: Path) -> str:
    """The flag that takes a snapshot of a repository; "" if none does, or nothing can be told."""
    from wordmask.towers import diffusion, families, panoptic, sam, vfm

    def value(name: str, key: str) -> str:
        try:
            return str(json.loads((folder / name).read_text(encoding="utf-8")).get(key))
        except (OSError, ValueError, AttributeError):
            return ""

    if (folder / diffusion.INDEX).is_file():
        is_sd = value(diffusion.INDEX, "_class_name") == "StableDiffusionPipeline"
        return "--diffusion" if is_sd else ""
    kind = value("config.json", "model_type")
    if kind in families.FAMILIES:
        return "--model"
    if kind in panoptic.MODELS:
        return "--mask2former" if kind == "mask2former" else "--eomt"
    return "--sam" if kind in sam.MODELS else "--vfm" if kind in vfm.FAMILIES else ""


def _lacking(folder: Path, flag: str) -> list[str]:
    """The files that a snapshot lacks to be read by a flag."""
    from wordmask.towers import diffusion
    from wordmask.towers.fetch import lacking

    index = diffusion.INDEX if flag == "--diffusion" else "config.json"
    gaps = [] if (folder / index).is_file() else [index]
    return gaps + lacking(folder, _files(flag))


def _files(flag: str) -> Files:
    """The files of the networks that a flag takes."""
    from wordmask.towers import diffusion, families, panoptic
    from wordmask.towers.fetch import Files

    known = dict.fromkeys(("--vfm", "--sam", "--sam2"), Files())
    known |= dict.fromkeys(("--mask2former", "--eomt"), panoptic.FILES)
    known |= {"--diffusion": diffusion.FILES}
    return known.get(flag, families.FILES)


def _command(name: str, flag: str, missing: Sequence[str] = ()) -> str:
    """The command that downloads missing files of a repository, or all that are needed."""
    from wordmask.towers.fetch import Repository

    names = [name for gap in missing for name in gap.replace(" with ", " or ").split(" or ")]
    if not names:
        weights = _files(flag).weights
        several = len(weights) > 1  # pipelines, which have safetensors on the hub
        names = [name for part in weights for name in part[: 1 if several else None]]
        names = ["*.json", "*.txt", *names]
    return Repository(name).command(names)

"""From a hub id to a local folder: what is fetched, what is not, what is said when it fails."""

from __future__ import annotations

import errno
import io
import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from commands import picture
from replicas.hub import Hub, Swallow, environment
from tiny import save_tiny_clip, tiny_sam, tiny_vfm
from tiny_families import blip_tokenizer, siglip_tokenizer, tiny_blip, tiny_siglip
from wordmask import Segmenter, WordmaskError, bars
from wordmask.progress import listening
from wordmask.towers import auxiliary, transfer
from wordmask.towers.diffusion import DEFAULT, MIRRORS, load_diffusion
from wordmask.towers.families import load_clip
from wordmask.towers.sam import load_sam
from wordmask.towers.transfer import Transfer
from wordmask.towers.vfm import load_vfm
from wordmask.towers.weights import fingerprint

CPU = {"device": torch.device("cpu"), "dtype": torch.float32}
TINY_DIFFUSION = Path(auxiliary.__file__).parents[1] / "networks" / "tiny-diffusion"
LOADERS = {
    "clip": load_clip,
    "blip": load_clip,
    "siglip": load_clip,
    "vfm": load_vfm,
    "sam": load_sam,
    "diffusion": load_diffusion,
}
JUNK = ("tf_model.h5", "flax_model.msgpack", "open_clip_pytorch_model.bin", "onnx/model.onnx")


def to_bin(folder: Path, stem: str = "model", name: str = "pytorch_model") -> None:
    """Turn weights in safetensors into pickled ones."""
    weights = load_file(folder / f"{stem}.safetensors")
    torch.save(weights, folder / f"{name}.bin")
    (folder / f"{stem}.safetensors").unlink()


def add_half(folder: Path, stem: str = "model") -> None:
    """Add weights in half precision."""
    weights = load_file(folder / f"{stem}.safetensors")
    half = {key: value.half() for key, value in weights.items()}
    save_file(half, folder / f"{stem}.fp16.safetensors", {"format": "pt"})


PARTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each kind of network, weights in safetensors, and what hubs hold beside them."""
    home = tmp_path_factory.mktemp("models")
    save_tiny_clip(home / "clip", layers=2, text_layers=1)
    tiny_blip(layers=2).save_pretrained(home / "blip")
    blip_tokenizer().save_pretrained(home / "blip")
    tiny_siglip(layers=2).save_pretrained(home / "siglip")
    siglip_tokenizer().save_pretrained(home / "siglip")
    tiny_vfm().save_pretrained(home / "vfm")
    tiny_sam().save_pretrained(home / "sam")
    shutil.copytree(TINY_DIFFUSION, home / "diffusion")
    for folder in home.iterdir():
        for name in JUNK:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"junk")
    return home


@pytest.fixture
def folder(folders, tmp_path):
    """A copy of one of them, to be changed: `folder("clip")`."""

    def copy(kind: str) -> Path:
        return Path(shutil.copytree(folders / kind, tmp_path / kind))

    return copy


@pytest.fixture
def hub(monkeypatch):
    """The hub of this process; its `repositories` are filled by each test."""
    with Hub() as found:
        found.use(monkeypatch)
        yield found


def cached(cache: Path, name: str) -> set[str]:
    """The files of a repository in the cache."""
    (snapshot,) = (cache / f"models--{name.replace('/', '--')}" / "snapshots").iterdir()
    return {p.relative_to(snapshot).as_posix() for p in snapshot.rglob("*") if p.is_file()}


def weights_in(names: set[str]) -> set[str]:
    return {n for n in names if n.endswith((".bin", ".safetensors", ".h5", ".msgpack", ".onnx"))}


def models_of(tower) -> list:
    return tower.modules() if hasattr(tower, "modules") else [tower.model]


def refusal(load, source, **where) -> str:
    with pytest.raises(WordmaskError) as error:
        load(source, **CPU, **where)
    assert "\n" not in str(error.value)
    return str(error.value)


# -- what is fetched ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", LOADERS)
def test_one_format_is_fetched_and_then_nothing_is_asked(kind, folders, hub, tmp_path, capfd):
    hub.repositories[f"owner/{kind}"] = {"main": folders / kind}
    shutil.copytree(folders / kind, tmp_path / "both")
    pairs = {"": "model"} if kind != "diffusion" else PARTS
    for part, stem in pairs.items():
        name = "pytorch_model" if stem == "model" else stem
        (tmp_path / "both" / part / f"{name}.bin").write_bytes(b"a second format")
        add_half(tmp_path / "both" / part, stem)
    hub.repositories["owner/both"] = {"main": tmp_path / "both"}
    first = LOADERS[kind]("owner/both", **CPU, cache_dir=tmp_path / "cache")
    expected = {f"{part}/{stem}.safetensors".strip("/") for part, stem in pairs.items()}
    found = cached(tmp_path / "cache", "owner/both")
    assert weights_in(found) == expected
    here = {p.relative_to(folders / kind).as_posix() for p in (folders / kind).rglob("*.*")}
    assert {n for n in here if n.endswith((".json", ".txt"))} - {"chat_template.json"} <= found | {
        "generation_config.json"
    }
    local = LOADERS[kind](folders / kind, **CPU)
    assert fingerprint(*models_of(first)) == fingerprint(*models_of(local))

    asked = list(hub.requests)
    assert len([r for r in asked if "/api/" in r]) == 1
    LOADERS[kind]("owner/both", **CPU, cache_dir=tmp_path / "cache")
    LOADERS[kind]("owner/both", **CPU, cache_dir=tmp_path / "cache", local_files_only=True)
    assert hub.requests == asked
    assert "Warning" not in capfd.readouterr().err


@pytest.mark.parametrize("kind", ["clip", "diffusion"])
def test_half_precision_is_fetched_where_it_serves(kind, folder, hub, tmp_path):
    home = folder(kind)
    pairs = {"": "model"} if kind == "clip" else PARTS
    for part, stem in pairs.items():
        add_half(home / part, stem)
    hub.repositories["owner/model"] = {"main": home}
    half = {"device": torch.device("cpu"), "dtype": torch.float16, "cache_dir": tmp_path / "cache"}
    tower = LOADERS[kind]("owner/model", **half)
    expected = {f"{part}/{stem}.fp16.safetensors".strip("/") for part, stem in pairs.items()}
    assert weights_in(cached(tmp_path / "cache", "owner/model")) == expected
    local = LOADERS[kind](home, **half)
    assert fingerprint(*models_of(tower)) == fingerprint(*models_of(local))
    asked = list(hub.requests)  # what is there serves, also where it is not preferred
    LOADERS[kind]("owner/model", **CPU, cache_dir=tmp_path / "cache")
    assert hub.requests == asked


def test_revisions_have_files_of_their_own(folders, folder, hub, tmp_path):
    save_tiny_clip(other := tmp_path / "other", layers=2, text_layers=1, seed=1)
    hub.repositories["owner/clip"] = {"main": folders / "clip", "v2": other}
    where = {**CPU, "cache_dir": tmp_path / "cache"}
    one, two = load_clip("owner/clip", **where), load_clip("owner/clip@v2", **where)
    assert fingerprint(one.model) != fingerprint(two.model)
    assert two.source == "owner/clip@v2"
    assert fingerprint(load_clip("owner/clip", **where, revision="v2").model) == fingerprint(
        two.model
    )
    segmenter = Segmenter.from_pretrained(
        "owner/clip", "clip", cache_dir=tmp_path / "cache", revision="v2", local_files_only=True
    )
    assert segmenter.provenance()["model"] == "owner/clip@v2"
    for load in (load_clip, load_vfm, load_sam, load_diffusion):
        for source in ("owner/clip@v2", str(other), torch.nn.Linear(2, 2), "wordmask/tiny-clip"):
            with pytest.raises(WordmaskError, match="got revision='v3'"):
                load(source, revision="v3", **CPU)


def test_a_pipeline_as_the_vfm(folders, hub, tmp_path):
    hub.repositories["owner/sd"] = {"main": folders / "diffusion"}
    tower = load_vfm("owner/sd", **CPU, cache_dir=tmp_path / "cache")
    assert type(tower).__name__ == "DiffusionVfm"


def test_another_kind_of_model_is_refused_before_its_weights_are_fetched(folders, hub, tmp_path):
    hub.repositories["owner/sam"] = {"main": folders / "sam"}
    with pytest.raises(WordmaskError, match="'sam' model from owner/sam"):
        load_clip("owner/sam", **CPU, cache_dir=tmp_path / "cache")
    assert cached(tmp_path / "cache", "owner/sam") == {"config.json"}


# -- files on this machine ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "form", ["bin", "fp16", "fp16 bin", "sharded bin", "sharded", "fp16 sharded"]
)
@pytest.mark.parametrize("kind", ["clip", "sam", "diffusion"])
def test_all_forms_of_weights_are_read(kind, form, folder, hub, tmp_path, capfd):
    home = folder(kind)
    known = LOADERS[kind](home, **CPU)
    if "fp16" in form:
        known = fingerprint(*(m.half().float() for m in models_of(known)))
    else:
        known = fingerprint(*models_of(known))
    for part, stem in ({"": "model"} if kind != "diffusion" else PARTS).items():
        path = home / part / f"{stem}.safetensors"
        weights = load_file(path)
        path.unlink()
        if "fp16" in form:
            weights = {key: value.half() for key, value in weights.items()}
        name = "pytorch_model" if stem == "model" and "bin" in form else stem
        kind_of_file = "bin" if "bin" in form else "safetensors"
        half = ".fp16" if "fp16" in form else ""
        keys = sorted(weights)
        shards = {f"{name}{half}.{kind_of_file}": keys}
        if "sharded" in form:
            marks = [f"{name}{half}-0000{i}-of-00002.{kind_of_file}" for i in (1, 2)]
            shards = {marks[0]: keys[: len(keys) // 2], marks[1]: keys[len(keys) // 2 :]}
            index = {"metadata": {}, "weight_map": {k: f for f, ks in shards.items() for k in ks}}
            index["metadata"]["total_size"] = sum(v.nbytes for v in weights.values())
            path.with_name(f"{name}.{kind_of_file}.index{half}.json").write_text(json.dumps(index))
        for file, some in shards.items():
            if kind_of_file == "bin":
                torch.save({key: weights[key] for key in some}, path.with_name(file))
            else:
                save_file({k: weights[k] for k in some}, path.with_name(file), {"format": "pt"})
    hub.repositories["owner/model"] = {"main": home}
    capfd.readouterr()
    for source in (home, "owner/model"):
        tower = LOADERS[kind](source, **CPU, cache_dir=tmp_path / "cache")
        assert fingerprint(*models_of(tower)) == known
    said = capfd.readouterr()
    assert said.out == ""
    assert all(line.startswith("wordmask: fetch") for line in said.err.splitlines()), said.err
    if "sharded" in form:  # a shard that is missing is named
        shard = next(p for p in home.rglob("*-00002-of-00002.*"))
        shard.unlink()
        assert shard.name in refusal(LOADERS[kind], home)


def test_an_interrupted_cache_is_completed(folders, hub, tmp_path):
    hub.repositories["owner/clip"] = {"main": folders / "clip"}
    load_clip("owner/clip", **CPU, cache_dir=tmp_path)
    (snapshot,) = (tmp_path / "models--owner--clip" / "snapshots").iterdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (snapshot / name).resolve().unlink()
        (snapshot / name).unlink()
    said = refusal(load_clip, "owner/clip", cache_dir=tmp_path, local_files_only=True)
    assert "tokenizer.json or vocab.json with merges.txt not in the cache" in said
    hub.sent.clear()
    loaded = load_clip("owner/clip", **CPU, cache_dir=tmp_path)
    assert set(hub.sent) == {"tokenizer.json", "tokenizer_config.json"}
    assert loaded.text().encode(["cat"], ["a {}"]).shape == (1, 48)


def test_a_repository_without_a_tokenizer_is_asked_once(folder, hub, tmp_path):
    home = folder("clip")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (home / name).unlink()
    hub.repositories["owner/clip"] = {"main": home}
    load_clip("owner/clip", **CPU, cache_dir=tmp_path)
    asked = list(hub.requests)
    load_clip("owner/clip", **CPU, cache_dir=tmp_path)
    assert hub.requests == asked


def test_damaged_weights_in_the_cache(folders, hub, tmp_path):
    hub.repositories["owner/clip"] = {"main": folders / "clip"}
    load_clip("owner/clip", **CPU, cache_dir=tmp_path)
    (snapshot,) = (tmp_path / "models--owner--clip" / "snapshots").iterdir()
    (snapshot / "model.safetensors").resolve().write_bytes(b"damaged")
    said = refusal(load_clip, "owner/clip", cache_dir=tmp_path)
    assert str(snapshot) in said
    assert "--force-download` fetches it again" in said


# -- no network -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def caches(folders, tmp_path_factory):
    """A cache with a network of each kind, all in .bin as on the default model's main branch."""
    home, cache = tmp_path_factory.mktemp("bins"), tmp_path_factory.mktemp("home")
    with Hub() as hub, pytest.MonkeyPatch.context() as patch:
        hub.use(patch)
        for kind, load in LOADERS.items():
            shutil.copytree(folders / kind, home / kind)
            for part, stem in ({"": "model"} if kind != "diffusion" else PARTS).items():
                to_bin(home / kind / part, stem, "pytorch_model" if stem == "model" else stem)
            hub.repositories[f"owner/{kind}"] = {"main": home / kind}
            load(f"owner/{kind}", **CPU, cache_dir=cache / "hub")
    return cache


EVERY_COMMAND = """
import sys
from wordmask.cli import run
from wordmask.towers.auxiliary import AuxiliaryModels
from wordmask.towers.families import load_clip

for offline in (False, True):
    for name in ("clip", "blip", "siglip"):
        assert load_clip(f"owner/{name}", local_files_only=offline).tokenizer is not None
    for kind in ("vfm", "sam", "diffusion", "classifier"):
        source = {kind: f"owner/{kind.replace('classifier', 'clip')}"}
        AuxiliaryModels(source, local_files_only=offline).get(kind)
    more = ["--model", "owner/clip", "--set", "short_side=56"] + ["--offline"] * offline
    words = ["photo.png", "-c", "cat; dog", "--background", "none"]
    vfm = ["--method", "proxyclip", "--vfm", "owner/vfm"]
    out = f"out{offline}"
    for command in (
        ["segment", *words, *more, *vfm, "--refine", "vfm,sam", "--sam", "owner/sam", "--out", out],
        ["explain", *words, *more, "--method", "clip", "--out", f"{out}/explain"],
        ["evaluate", "clip", "toybox", "--limit", "1", *more, "--out", f"{out}/runs"],
        ["compare", *words, *more, "--methods", "clip,maskclip", "--out", f"{out}.png"],
        ["bench", "clip", "--rounds", "1", "--size", "56", *more[:2], *more[4:]],
    ):
        code = run(command)
        print("CODE", command[0], code)
print("END", flush=True)
"""


def test_nothing_is_asked_where_all_is_in_the_cache_and_the_process_ends(caches, tmp_path):
    """Every kind of network and every command that loads one, with a hub that never answers."""
    picture(tmp_path / "photo.png", (56, 56))
    with Swallow() as swallow:
        done = subprocess.run(
            [sys.executable, "-c", EVERY_COMMAND],
            cwd=tmp_path,
            env=environment(swallow.url, caches, WORDMASK_CACHE=str(tmp_path / "text")),
            capture_output=True,
            text=True,
            timeout=400,  # that it ends at all
        )
        assert swallow.connections == 0
    assert done.stdout.endswith("END\n"), done.stderr[-3000:]
    codes = [line for line in done.stdout.splitlines() if line.startswith("CODE")]
    assert len(codes) == 10
    assert all(line.endswith(" 0") for line in codes), (codes, done.stderr[-3000:])


def test_offline_asks_nothing_and_a_silent_hub_is_named(folders, tmp_path, monkeypatch):
    monkeypatch.setattr("wordmask.towers.fetch.TIMEOUT", 0.5)
    with Swallow() as swallow, Hub() as hub:
        hub.url = swallow.url
        hub.use(monkeypatch)
        for name, load in LOADERS.items():
            said = refusal(load, f"owner/{name}", cache_dir=tmp_path, local_files_only=True)
            assert "downloads are off" in said
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        said = refusal(load_clip, "owner/clip", cache_dir=tmp_path)
        assert "HF_HUB_OFFLINE is set" in said
        assert swallow.connections == 0
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        said = refusal(load_clip, "owner/clip", cache_dir=tmp_path)
        assert f"{swallow.url} did not answer in time" in said


# -- what goes wrong ------------------------------------------------------------------------------


def test_a_cut_connection_goes_on_where_it_was(folders, hub, tmp_path, monkeypatch):
    piece = 65536
    monkeypatch.setattr("wordmask.towers.fetch.PIECE", piece)
    size = (folders / "clip" / "model.safetensors").stat().st_size
    hub.repositories["owner/clip"] = {"main": folders / "clip"}
    hub.faults.cut_after, hub.faults.cuts = size // 2, 1
    load_clip("owner/clip", **CPU, cache_dir=tmp_path)
    assert hub.faults.cuts == 0
    assert size <= hub.sent["model.safetensors"] <= size + piece


def gate(hub):
    hub.faults.gated.add("owner/clip")


def hide(hub):
    hub.faults.private.add("owner/clip")


def only_open_clip(hub):
    home = hub.repositories["owner/clip"]["main"]
    (home / "config.json").unlink()
    (home / "model.safetensors").rename(home / "open_clip_model.safetensors")


def open_clip_with_config(hub):
    (hub.repositories["owner/clip"]["main"] / "model.safetensors").unlink()


def only_tensorflow(hub):
    open_clip_with_config(hub)
    (hub.repositories["owner/clip"]["main"] / "open_clip_pytorch_model.bin").unlink()


def remote_code(hub):
    path = hub.repositories["owner/clip"]["main"] / "config.json"
    config = json.loads(path.read_text())
    code = {"AutoConfig": "configuration_jina_clip.JinaCLIPConfig"}
    path.write_text(json.dumps({**config, "model_type": "jina_clip", "auto_map": code}))


def no_kind(hub):
    (hub.repositories["owner/clip"]["main"] / "config.json").write_text("{}")


def fault(**values):
    def change(hub):
        for key, value in values.items():
            setattr(hub.faults, key, value)

    return change


def stop(hub):
    hub.__exit__()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (gate, ["is gated: ask for access on http", "/owner/clip, then log in", "hf download"]),
        (hide, ["has no model 'owner/clip', or it is private", "hf auth login"]),
        (fault(headers=False), ["lacks the hub's headers (ETag", "proxies", "HF_ENDPOINT"]),
        (fault(file_status=403), ["refused access (403)", "hf auth login", "HF_TOKEN"]),
        (fault(status=503), ["answered with error 503; try again later", "hf download"]),
        (fault(page="<html>Log in</html>"), ["no hub's answer", "log-in page"]),
        (stop, ["cannot be reached (", "hf download owner/clip --cache-dir"]),
        (only_open_clip, ["no config.json, only files for open_clip (open_clip_model"]),
        (
            open_clip_with_config,
            ["no model.safetensors or pytorch_model.bin, only files for open_"],
        ),
        (only_tensorflow, ["no model.safetensors or", "(flax_model.msgpack, onnx/model.onnx, tf_"]),
        (remote_code, ["'jina_clip' model from owner/clip", "code of its own"]),
        (no_kind, ["owner/clip", "config.json", "model_type"]),
    ],
)
def test_what_the_hub_says_reaches_the_message(change, words, folder, hub, tmp_path):
    hub.repositories["owner/clip"] = {"main": folder("clip")}
    change(hub)
    said = refusal(load_clip, "owner/clip", cache_dir=tmp_path / "cache")
    assert "owner/clip" in said
    for word in words:
        assert word in said


def test_the_copy_that_was_begun_is_the_one_named(folders, hub, tmp_path):
    _, second = MIRRORS
    hub.repositories[second] = {"main": folders / "diffusion"}
    load_diffusion(**CPU, cache_dir=tmp_path)
    next(tmp_path.rglob("*/snapshots/*/unet/*.safetensors")).unlink()
    said = refusal(load_diffusion, DEFAULT, cache_dir=tmp_path, local_files_only=True)
    assert f"cannot load {second!r} as the diffusion model" in said
    assert "--include unet/diffusion_pytorch_model.safetensors" in said


def test_a_revision_that_is_not_there(folders, hub, tmp_path):
    hub.repositories["owner/clip"] = {"main": folders / "clip"}
    said = refusal(load_clip, "owner/clip@v3", cache_dir=tmp_path)
    assert "'owner/clip' has no revision 'v3'" in said
    assert "hf download" not in said


def test_the_disk(folders, hub, tmp_path, monkeypatch):
    hub.repositories["owner/clip"] = {"main": folders / "clip"}
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
        said = refusal(load_clip, "owner/clip", cache_dir=tmp_path)
    assert "is full, 6" in said  # 6xx kB are needed
    assert "model.safetensors" not in cached(tmp_path, "owner/clip")

    def write(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", write)
    said = refusal(load_clip, "owner/clip", cache_dir=tmp_path)
    assert f"the disk of {tmp_path} is full; make room, or set HF_HOME" in said


def test_the_named_command_repairs_it(folders, hub, tmp_path):
    """Empty and interrupted caches, for every kind of network."""
    for kind, load in LOADERS.items():
        hub.repositories[f"owner/{kind}"] = {"main": folders / kind}
        where = {"cache_dir": tmp_path / "a cache", "local_files_only": True}
        for stage in ("empty", "interrupted"):
            said = refusal(load, f"owner/{kind}", **where)
            words = shlex.split(said.split("`")[1])
            assert words[:5] == ["hf", "download", f"owner/{kind}", "--cache-dir", words[4]]
            assert set(words[5::2]) == {"--include"}
            huggingface_hub.snapshot_download(
                words[2], cache_dir=words[4], allow_patterns=words[6::2], tqdm_class=None
            )
            load(f"owner/{kind}", **CPU, **where)
            if stage == "empty":
                for path in (tmp_path / "a cache").rglob("*model.safetensors"):
                    path.unlink()


# -- what is shown --------------------------------------------------------------------------------


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_downloads_are_shown(folders, hub, tmp_path, monkeypatch, capsys):
    hub.repositories["owner/clip"] = {"main": folders / "clip"}
    monkeypatch.setattr(bars, "LINE_EVERY", 0.0)
    monkeypatch.setattr(bars, "SOON", 0.0)
    hub.faults.stall = hub.faults.slow = 0.01
    load_clip("owner/clip", **CPU, cache_dir=tmp_path)
    first, *lines, last = capsys.readouterr().err.splitlines()
    assert first.startswith("wordmask: fetching owner/clip (4 files, ")
    assert f" kB) from {hub.url}; kept in {tmp_path}" in first
    assert re.search(r": .* of .*B, .*B/s, \d+ s left$", "\n".join(lines), re.MULTILINE)
    assert re.search(r"model.safetensors: .* of .*B, .*B/s", lines[-1])
    assert last.startswith("wordmask: fetched ")

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    load_clip("owner/clip", **CPU, cache_dir=tmp_path / "other")
    assert "━" in terminal.getvalue()
    assert "kB/s" in terminal.getvalue() or "MB/s" in terminal.getvalue()


def test_loading_counts_tensors(folders):
    said = []
    with listening(lambda _: None, lambda *count: said.append(count)):
        load_clip(str(folders / "clip"), **CPU)
    total = said[0][2]
    assert total > 50
    assert said == [("tensors", done, total) for done in range(total)] + [("tensors", total, total)]


def test_the_switch_of_the_hubs_library_silences_them(folders, hub, tmp_path, capsys):
    hub.repositories["owner/clip"] = {"main": folders / "clip"}
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )

    disable_progress_bars()
    try:
        load_clip("owner/clip", **CPU, cache_dir=tmp_path)
        assert are_progress_bars_disabled()
    finally:
        enable_progress_bars()
    assert capsys.readouterr().err == ""


def test_an_interrupted_download_says_what_is_kept(folders, hub, tmp_path, monkeypatch, capsys):
    hub.repositories["owner/clip"] = {"main": folders / "clip"}
    show = Transfer._show

    def press(self, name, done):
        show(self, name, done)
        if name == "model.safetensors" and self.shown:
            raise KeyboardInterrupt

    monkeypatch.setattr(Transfer, "_show", press)
    with pytest.raises(KeyboardInterrupt):
        load_clip("owner/clip", **CPU, cache_dir=tmp_path)
    last = capsys.readouterr().err.splitlines()[-1]
    assert "in complete files are kept, model.safetensors will start again" in last
    monkeypatch.undo()
    hub.use(monkeypatch)
    hub.sent.clear()
    load_clip("owner/clip", **CPU, cache_dir=tmp_path)
    assert set(hub.sent) == {"model.safetensors"}
    assert not list(tmp_path.rglob("*.incomplete"))


def test_a_spinner_gives_way():
    class Spinner:
        said: list[str] = []  # noqa: RUF012

        def start(self):
            self.said.append("start")

        def stop(self):
            self.said.append("stop")

    with transfer.making_room(Spinner()), Transfer("title", {"a": 3}) as one:
        assert Spinner.said == ["stop"]
        one.file("a")
        one.end_file()
    assert Spinner.said == ["stop", "start"]
    with Transfer("title", {"a": 3}):
        pass
    assert Spinner.said == ["stop", "start"]

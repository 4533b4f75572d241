"""The examination of a machine: what is here, what is half here, what is broken, no secrets."""

from __future__ import annotations

import json
import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from packaging.specifiers import SpecifierSet

import wordmask
from commands import files, process
from waiting import LONG
from wordmask import doctor
from wordmask.doctor import examine
from wordmask.options import EXTRAS
from wordmask.towers.auxiliary import KINDS

CLIP = "openai/clip-vit-base-patch16"
NETWORKS = Path(wordmask.__file__).parent / "networks"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
SECTIONS = ["machine", "packages", "devices", "extras", "checkpoints", "caches", "hub"]
STATES = {"ok", "absent", "partial", "fails", "broken", "skipped"}


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """An empty HF_HOME, without network, proxies and tokens."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_XET_CACHE", str(tmp_path / "xet"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.delenv("WORDMASK_MODEL", raising=False)
    for name in ("HF_TOKEN", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return tmp_path


def network(name: str) -> dict[str, bytes]:
    """The files of a built-in network."""
    at = NETWORKS / name
    return {f.relative_to(at).as_posix(): f.read_bytes() for f in at.rglob("*") if f.is_file()}


def cache(home: Path, name: str, content: dict[str, bytes], unfinished: int = 0) -> None:
    """Write a repository as the hub's cache holds it, perhaps with an unfinished download."""
    place = home / "hub" / f"models--{name.replace('/', '--')}"
    (place / "blobs").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    for i, (file, data) in enumerate(content.items()):
        (place / "blobs" / f"{i:040x}").write_bytes(data)
        link = place / "snapshots" / COMMIT / file
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(place / "blobs" / f"{i:040x}")
    if unfinished:
        (place / "blobs" / f"{'f' * 64}.0a1b2c3d.incomplete").write_bytes(bytes(unfinished))


def named(section: str, name: str, report: dict) -> dict:
    return next(one for one in report[section] if one["name"] == name)


def checkpoints() -> dict[str, doctor.Finding]:
    return {one.name: one for one in doctor._checkpoints(CLIP)}


def test_a_machine_with_nothing(home):
    """All defaults are absent, nothing is broken, nothing is written; the keys of the report."""
    report = examine(CLIP, offline=True)
    assert list(report) == ["schema", "wordmask", "works", *SECTIONS]
    assert report["schema"] == 1
    assert report["works"] is True
    for section in SECTIONS:
        names = [one["name"] for one in report[section]]
        assert len(set(names)) == len(names) > 0
        for one in report[section]:
            assert list(one) == ["name", "state", "text", "todo", "details"]
            assert one["state"] in STATES
            assert "\n" not in one["text"] + one["todo"]
            assert bool(one["todo"]) == (
                one["state"] in ("absent", "partial", "fails", "broken")
            ) or (section == "devices"), one
    assert json.loads(json.dumps(report)) == report
    assert [one["name"] for one in report["checkpoints"]] == [
        CLIP,
        *(kind.source for kind in KINDS.values()),
    ]
    assert {one["state"] for one in report["checkpoints"]} == {"absent"}
    assert named("hub", "answer", report)["state"] == "skipped"
    cpu = named("devices", "cpu", report)
    assert cpu["state"] == "ok"
    assert cpu["details"]["types"]["float32"] == {"works": True, "difference": 0.0, "error": None}
    assert 0 < cpu["details"]["types"]["bfloat16"]["difference"] < 0.02
    assert files(home) == []


def test_a_cache_that_is_half_downloaded(home):
    clip, diffusion = network("tiny-clip"), network("tiny-diffusion")
    weights = clip["model.safetensors"]
    cache(home, CLIP, {"config.json": clip["config.json"]}, unfinished=10_000)
    cache(home, "a/whole", clip)
    cache(home, "a/cut", clip | {"model.safetensors": weights[:-100]})
    cache(home, "a/pointer", clip | {"model.safetensors": b"version https://git-lfs.github.com/"})
    cache(home, "a/no-tokenizer", {k: v for k, v in clip.items() if "tokenizer" not in k})
    shards = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    config = network("tiny-vfm")["config.json"]
    parts = {"model.safetensors.index.json": shards.encode(), "model-1.safetensors": weights}
    cache(home, "a/shard", {"config.json": config} | parts)
    vae = "vae/diffusion_pytorch_model.safetensors"
    cache(home, KINDS["diffusion"].source, {k: v for k, v in diffusion.items() if k != vae})
    cache(home, "a/bert", {"config.json": b'{"model_type": "bert"}'})
    found = checkpoints()
    states = {name: found[name].state for name in found}
    assert states == {
        CLIP: "partial",
        **dict.fromkeys((kind.source for kind in KINDS.values()), "absent"),
        KINDS["diffusion"].source: "partial",
        "a/whole": "ok",
        "a/cut": "partial",
        "a/pointer": "partial",
        "a/no-tokenizer": "partial",
        "a/shard": "partial",
        "others": "ok",
    }
    assert found["a/cut"].details["damaged"] == ["model.safetensors"]
    assert "--force-download" in found["a/pointer"].todo
    assert found["a/shard"].details["missing"] == ["model-2.safetensors"]
    assert "hf download" in found[CLIP].todo
    assert "vae/" in found[KINDS["diffusion"].source].details["missing"][0]
    assert found["others"].details == {"count": 1}
    unfinished = next(one for one in doctor._caches() if one.name == "unfinished")
    assert unfinished.details == {"files": 1, "bytes": 10_000}


def test_a_copy_of_stable_diffusion_serves(home):
    cache(home, "Manojb/stable-diffusion-2-1-base", network("tiny-diffusion"))
    found = checkpoints()
    assert found["Manojb/stable-diffusion-2-1-base"].state == "ok"
    assert found["Manojb/stable-diffusion-2-1-base"].details["default"]
    assert KINDS["diffusion"].source not in found


def test_no_secret_is_told(home, monkeypatch):
    """Not the token, not passwords of proxies or of the endpoint, in whatever text they are."""
    token = "hf_" + "abcdefghij" * 3
    monkeypatch.setenv("HF_TOKEN", token)
    monkeypatch.setenv("HTTPS_PROXY", "http://me:hun/ter@2@proxy.example:3128")
    monkeypatch.setenv("http_proxy", "me:swordfish@proxy.example:3128")
    monkeypatch.setenv("HF_ENDPOINT", "https://me:opensesame@mirror.example/hub")
    monkeypatch.setattr(constants, "ENDPOINT", "https://me:opensesame@mirror.example/hub")
    monkeypatch.setattr(doctor, "_devices", lambda: 1 / len(token[:0]))  # an error that is told
    report = examine(CLIP)
    text = json.dumps(report)
    for secret in (token, token[:12], "hunter2", "ter@2", "hun/", "swordfish", "opensesame"):
        assert secret not in text, secret
    assert named("hub", "token", report)["details"] == {"present": True}
    assert named("hub", "proxy", report)["details"]["proxies"]["https"].endswith(
        "proxy.example:3128"
    )
    assert "ZeroDivisionError" in named("devices", "devices", report)["text"]


# -- the hub ------------------------------------------------------------------------------------


def answer(place: str, monkeypatch, seconds: float = LONG) -> dict:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", place)
    report = {"hub": [vars(one) for one in doctor._hub(CLIP, False, seconds)]}
    return named("hub", "answer", report)


@pytest.fixture
def hub():
    """A hub that answers with the status that was asked for: address, and paths asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            assert "authorization" not in self.headers
            body = b"<html>Welcome!" if "/login/" in self.path else b'{"id": "a/clip"}'
            self.send_response(503 if "/down/" in self.path else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_a_hub_that_answers(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 20)  # is not sent, see `Handler`
    found = answer(hub[0], monkeypatch)
    assert found["state"] == "ok"
    assert hub[1] == [f"/api/models/{CLIP}"]


def test_a_network_that_wants_a_login(hub, monkeypatch):
    found = answer(f"{hub[0]}/login", monkeypatch)
    assert found["state"] == "fails"
    assert "login" in found["text"]


def test_a_hub_that_is_down(hub, monkeypatch):
    found = answer(f"{hub[0]}/down", monkeypatch)
    assert found["state"] == "fails"
    assert "503" in found["text"]
    assert found["details"]["answers"] is False
    assert "HF_ENDPOINT" in found["todo"]


def test_a_hub_that_swallows_everything(monkeypatch):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        place = f"http://127.0.0.1:{listener.getsockname()[1]}"
        found = answer(place, monkeypatch, seconds=0.3)  # and not for ever
    assert found["state"] == "fails"


@pytest.mark.parametrize("offline", [True, False])
def test_offline_asks_nobody(monkeypatch, offline):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", not offline)
    monkeypatch.setattr(doctor, "_ask", lambda *_: pytest.fail("asked"))
    found = [one for one in doctor._hub(CLIP, offline, 1.0) if one.name == "answer"]
    assert [one.state for one in found] == ["skipped"]


# -- what is broken -----------------------------------------------------------------------------


def test_types_that_do_not_work(monkeypatch):
    """NaN, an error or other numbers in a type; in float32 the device is broken."""
    given = {"float32": torch.ones(3), "float16": torch.full((3,), torch.nan)}

    def cosines(place: str, dtype: str) -> torch.Tensor:
        if dtype == "bfloat16":
            raise RuntimeError("not implemented\nfor 'BFloat16'")
        return given[dtype]

    monkeypatch.setattr(doctor, "_cosines", cosines)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    cpu = next(iter(doctor._devices()))
    assert cpu.state == "fails"
    assert cpu.todo == "with --device cpu use --dtype float32"
    types = cpu.details["types"]
    assert [types[dtype]["works"] for dtype in doctor.DTYPES] == [True, False, False]
    assert "differ by nan" in types["float16"]["error"]
    assert "not implemented" in types["bfloat16"]["error"]
    monkeypatch.setattr(doctor, "_cosines", lambda *_: 1 / 0)
    assert next(iter(doctor._devices())).state == "broken"


def test_packages_that_do_not_fit():
    assert doctor._package("torch", SpecifierSet(">=2.4"), "broken").state == "ok"
    old = doctor._package("torch", SpecifierSet(">=99"), "broken")
    assert (old.state, old.todo) == ("broken", 'pip install "torch>=99"')
    gone = doctor._package("wordmask-no-such", SpecifierSet(">=1"), "absent")
    assert (gone.state, gone.text) == ("absent", "not installed")


def test_extras_are_those_of_the_metadata(monkeypatch):
    tomllib = pytest.importorskip("tomllib")
    lacking = doctor.Finding("diffusers", "absent", "not installed", "", {"version": None})
    real = doctor._package
    monkeypatch.setattr(
        doctor, "_package", lambda name, *a: lacking if name == "diffusers" else real(name, *a)
    )
    found = {one.name: one for one in doctor._extras()}
    assert {"cluster", "diffusion", "evaluate"} <= set(found)
    assert found["cluster"].state == "ok"
    assert found["diffusion"].state == "absent"
    assert "diffusion cannot run" in found["diffusion"].text
    assert found["diffusion"].todo == 'pip install "wordmask[diffusion]"'
    monkeypatch.setattr(doctor, "_package", lambda *a: lacking)
    text = {one.name: one.text for one in doctor._extras()}
    assert text["geo"].startswith("pictures of any size (wordmask large); ")
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    every = set(project["project"]["optional-dependencies"]) - {"all", "test"}
    assert every == {*doctor.PURPOSES, *EXTRAS}  # each says what it is for


def test_a_machine_whose_torch_is_broken(home):
    """The command tells it, ends with 2, and still tells the rest."""
    (home / "torch").mkdir()
    (home / "torch" / "__init__.py").write_text("raise ImportError('libtorch.so: not found')")
    source = str(Path(wordmask.__file__).parents[1])
    paths = {"PYTHONPATH": f"{home}:{source}", "HF_HOME": str(home), "HF_HUB_OFFLINE": "1"}
    done = process("-m", "wordmask", "doctor", "--json", **paths)
    assert done.returncode == 2, done.stderr
    assert done.stderr == ""
    report = json.loads(done.stdout)
    assert report["works"] is False
    cpu = named("devices", "cpu", report)
    assert cpu["state"] == "broken"
    assert "libtorch.so: not found" in cpu["text"]
    assert named("packages", "transformers", report)["state"] == "ok"


def test_a_cache_that_cannot_be_written(home, monkeypatch):
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)  # root may write everywhere
    found = {one.name: one for one in doctor._caches()}
    assert found["hub"].state == found["text"].state == "fails"
    assert "HF_HOME" in found["hub"].todo
    assert "WORDMASK_CACHE" in found["text"].todo

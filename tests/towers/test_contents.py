"""Files that are missing, pointers, cut short or nonsense: one line that says which."""

from __future__ import annotations

import importlib.metadata
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch

from replicas import build
from replicas.files import clip_vocabulary
from wordmask import Segmenter, WordmaskError
from wordmask.towers.contents import first_line
from wordmask.towers.diffusion import load_diffusion
from wordmask.towers.families import load_clip
from wordmask.towers.vfm import load_vfm

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 605247071\n"
)
NAME = "openai/clip-vit-large-patch14"  # weights in both formats
STUB = {  # what transformers makes of a folder without tokenizer files
    "version": "1.0",
    "added_tokens": [],
    "model": {"type": "BPE", "vocab": {"<|endoftext|>": 0, "a": 1, "b": 2}, "merges": []},
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clip")
    build(NAME, folder)
    return folder


@pytest.fixture
def folder(made, tmp_path) -> Path:
    shutil.copytree(made, tmp_path / "clip")
    return tmp_path / "clip"


def message(folder: Path, load=load_clip) -> str:
    with pytest.raises(WordmaskError) as error:
        load(folder)
    assert "\n" not in str(error.value)
    assert "weights_only" not in str(error.value)
    return str(error.value)


TOKENIZER = ("tokenizer.json", "vocab.json", "merges.txt")


@pytest.mark.parametrize("gone", [TOKENIZER, TOKENIZER[:2], TOKENIZER[::2]])
def test_a_folder_without_a_tokenizer(folder, gone):
    """Features of texts can be given, so it is said when names are encoded."""
    for name in gone:
        (folder / name).unlink()
    segmenter = Segmenter.from_pretrained(folder, "clip")
    picture, texts = torch.rand(1, 3, 56, 56), torch.rand(2, 48)
    assert segmenter(picture, texts, "none")[0].labels.shape == (56, 56)
    said = message(folder, lambda _: segmenter(picture, ["cat"], "none"))
    assert f"names need a tokenizer, and {folder} lacks tokenizer.json" in said
    assert "vocab.json with merges.txt" in said


def test_a_tokenizer_of_three_tokens(folder):
    (folder / "tokenizer.json").write_text(json.dumps(STUB))
    said = message(folder)
    assert "its tokenizer (tokenizer.json, vocab.json, merges.txt) has " in said
    assert f" tokens and its text model {len(clip_vocabulary())}; fetch it again" in said


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors", "tokenizer.json"])
def test_a_pointer_of_git_lfs(folder, name):
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    (folder / name).write_text(POINTER)
    assert f"{name} is a git-LFS pointer and not the file itself (`git lfs pull`" in message(folder)


def test_a_pointer_in_a_part_of_stable_diffusion(tmp_path):
    pytest.importorskip("diffusers", reason="the extra diffusion is not installed")
    build("Manojb/stable-diffusion-2-1-base", tmp_path)
    (tmp_path / "unet" / "diffusion_pytorch_model.safetensors").write_text(POINTER)
    said = message(tmp_path, load_diffusion)
    assert "unet/diffusion_pytorch_model.safetensors is a git-LFS pointer" in said
    (tmp_path / "tokenizer" / "tokenizer_config.json").write_text("[]")
    assert "tokenizer/tokenizer_config.json holds []" in message(tmp_path, load_diffusion)


def test_a_pointer_that_nothing_reads(folder):
    (folder / "pytorch_model.bin").write_text(POINTER)
    (folder / "flax_model.msgpack").write_text(POINTER)
    assert load_clip(folder).tokenizer is not None


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "empty", "page", "zeros"])
def test_damaged_weights(folder, name, damage):
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    held = (folder / name).read_bytes()
    bad = {"cut": held[:-1000], "empty": b"", "page": b"<!DOCTYPE html>", "zeros": bytes(9999)}
    (folder / name).write_bytes(bad[damage])
    assert f"{name} is cut short or damaged, it has {len(bad[damage])} bytes" in message(folder)


def test_a_checkpoint_with_code_in_it(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"a": pytest.raises}, folder / "pytorch_model.bin")
    assert "holds code, which is not run" in message(folder)
    legacy = {"a": torch.zeros(2)}
    torch.save(legacy, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    assert "lack" in message(folder)  # read, but no complete CLIP
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))
    assert "cut short or damaged" in message(folder)


@pytest.mark.parametrize(
    "name", ["config.json", "tokenizer_config.json", "preprocessor_config.json"]
)
@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "holds nothing"),
        ("[1, 2]", r"holds [1, 2]"),
        ("null", "holds null"),
        ("{", "is no JSON"),
    ],
)
def test_settings_that_are_no_object(folder, name, content, says):
    (folder / name).write_text(content)
    said = message(folder)
    assert f"{name} {says}" in said
    assert str(folder) in said


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("image_mean", [float("nan"), 0.4, 0.4]),
        ("image_mean", [0.5, 0.5]),
        ("image_mean", "0.5"),
        ("image_mean", [[0.5]] * 3),
        ("image_std", [0.0, 0.2, 0.2]),
        ("image_std", [0.2, -0.2, 0.2]),
        ("image_std", [0.2, 0.2, float("inf")]),
        ("image_std", None),
    ],
)
def test_means_and_deviations_that_cannot_be(folder, key, value, tmp_path):
    path = folder / "preprocessor_config.json"
    settings = json.loads(path.read_text()) | {key: value}
    path.write_text(json.dumps(settings))
    assert f"preprocessor_config.json has {key}={json.dumps(value)}" in message(folder)
    build("facebook/dino-vitb8", tmp_path / "vfm")
    (tmp_path / "vfm" / path.name).write_text(json.dumps(settings))
    assert f"{path.name} has {key}=" in message(tmp_path / "vfm", lambda at: load_vfm(str(at)))


def test_siglip_says_which_packages_it_needs_before_its_weights_are_read(tmp_path, monkeypatch):
    import transformers

    build("google/siglip-base-patch16-224", tmp_path)
    found = importlib.metadata.version

    def version(name):
        if name in ("sentencepiece", "protobuf"):
            raise importlib.metadata.PackageNotFoundError(name)
        return found(name)

    monkeypatch.setattr("wordmask.towers.families.version", version)
    monkeypatch.setattr(transformers.SiglipModel, "from_pretrained", None)
    said = message(tmp_path)
    assert "spiece.model needs sentencepiece and protobuf" in said
    assert said.endswith('pip install "wordmask[siglip]"')


def test_a_reason_that_begins_with_an_empty_line():
    assert first_line(ImportError("\nIt needs a package.\nInstall it.")) == "It needs a package."


def test_a_tokenizer_that_is_given_takes_the_place_of_a_missing_one(folder):
    own = load_clip(folder).tokenizer
    for name in TOKENIZER:
        (folder / name).unlink()
    text = load_clip(folder, tokenizer=own).text()
    assert text.encode(["cat"], ["{}"]).shape == (1, 48)


def test_a_tokenizer_of_vocabulary_and_merges_alone(folder):
    own = load_clip(folder).tokenizer
    (folder / "tokenizer.json").unlink()
    other = load_clip(folder).tokenizer
    words = ["a photo of a cat", "dog"]
    assert other(words).input_ids == own(words).input_ids

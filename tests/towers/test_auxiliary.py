"""Auxiliary models by kind; revisions of hub ids; models that a function in a file builds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from replicas.files import put_into_cache
from tiny import save_tiny_clip, tiny_clip, tiny_sam, tiny_vfm
from wordmask import WordmaskError
from wordmask.segmenter import Segmenter
from wordmask.towers import auxiliary
from wordmask.towers.auxiliary import KINDS, AuxiliaryModels, Kind, register_kind
from wordmask.towers.families import load_clip
from wordmask.towers.hub import build_model
from wordmask.towers.weights import fingerprint

BUILT_IN = Path(auxiliary.__file__).parents[1] / "networks"
CPU = {"device": torch.device("cpu"), "dtype": torch.float32}


# -- the registry of kinds ------------------------------------------------------------------------


def test_a_kind_is_one_entry(monkeypatch):
    monkeypatch.setattr(auxiliary, "KINDS", dict(KINDS))
    loaded = []

    def load(source, **where):
        loaded.append((source, where["local_files_only"]))
        return type("Tower", (), {"model": torch.nn.Linear(2, 2)})()

    kind = register_kind(Kind("depth", "owner/depth", load, "A depth model."))
    assert register_kind(kind) is kind  # the same again
    models = AuxiliaryModels(local_files_only=True)
    assert loaded == []
    assert models.depth is models.get("depth")
    assert loaded == [("owner/depth", True)]
    assert models.describe()["depth"]["source"] == "owner/depth"
    models.release("depth")
    models.load(["none", "depth"])
    assert len(loaded) == 2
    with pytest.raises(WordmaskError, match="'depth'"):
        register_kind(Kind("depth", "owner/other", load, "Another."))
    with pytest.raises(WordmaskError, match="plain word"):
        register_kind(Kind("a kind", "owner/other", load, "Another."))


def test_unknown_kinds_are_refused():
    with pytest.raises(WordmaskError, match="did you mean vfm"):
        AuxiliaryModels({"vfn": "x"})
    models = AuxiliaryModels()
    with pytest.raises(WordmaskError, match="kind of auxiliary model 'depth'"):
        models.load(["depth"])
    with pytest.raises(AttributeError, match="depth"):
        _ = models.depth
    assert (
        set(models.sources)
        == set(KINDS)
        == {
            *("vfm", "diffusion", "classifier"),
            *("sam", "sam2", "mask2former", "eomt"),
        }
    )


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_says_what_it_is_and_loads_in_memory_or_not_at_all(kind, tmp_path):
    assert KINDS[kind].help.endswith(".")
    missing = f"owner/{kind}@v2"
    models = AuxiliaryModels({kind: missing}, cache_dir=tmp_path, local_files_only=True)
    with pytest.raises(WordmaskError, match=rf"{missing}.*--revision v2") as error:
        models.get(kind)
    assert "\n" not in str(error.value)


def test_the_kinds_load_no_torch():
    code = "import sys, wordmask.towers.auxiliary; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "False", done.stderr


def test_the_fingerprint_covers_names_types_shapes_and_bytes():
    one = torch.nn.Linear(2, 3)
    state = {key: value.clone() for key, value in one.state_dict().items()}
    same = torch.nn.Linear(2, 3)
    same.load_state_dict(state)
    assert fingerprint(one) == fingerprint(same)
    with torch.no_grad():
        same.bias[0] += 1
    assert len({fingerprint(one), fingerprint(same), fingerprint(one.to(torch.float64))}) == 3


# -- revisions ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A hub cache with two revisions of a CLIP, the built-in networks and a tiny SAM."""
    folder = tmp_path_factory.mktemp("hub")
    for seed, revisions in ((0, {"main": "a" * 40}), (1, {"v2": "b" * 40})):
        made = tmp_path_factory.mktemp("clip")
        save_tiny_clip(made, seed=seed)
        put_into_cache(folder, "owner/clip", made, **revisions)
    for name in ("tiny-vfm", "tiny-diffusion"):
        put_into_cache(folder, f"owner/{name}", BUILT_IN / name, v2="c" * 40)
    made = tmp_path_factory.mktemp("sam")
    tiny_sam().save_pretrained(made)
    put_into_cache(folder, "owner/sam", made, v2="d" * 40)
    return folder


def test_a_revision_of_a_clip(cache):
    def weights(source: str) -> str:
        return fingerprint(
            load_clip(source, **CPU, cache_dir=cache, local_files_only=True).model.cpu()
        )

    main, other = weights("owner/clip"), weights("owner/clip@v2")
    assert main != other
    assert weights("owner/clip@main") == main
    assert weights(f"owner/clip@{'b' * 40}") == other
    segmenter = Segmenter.from_pretrained("owner/clip@v2", cache_dir=cache, local_files_only=True)
    assert segmenter.provenance()["model"] == "owner/clip@v2"
    assert segmenter.provenance()["weights"] == other


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("vfm", "owner/tiny-vfm@v2"),
        ("vfm", "owner/tiny-diffusion@v2"),
        ("diffusion", "owner/tiny-diffusion@v2"),
        ("sam", "owner/sam@v2"),
        ("classifier", "owner/clip@v2"),
    ],
)
def test_a_revision_of_every_kind(kind, source, cache):
    models = AuxiliaryModels({kind: source}, cache_dir=cache, local_files_only=True)
    models.get(kind)
    assert models.describe()[kind]["source"] == source
    bare = source.partition("@")[0]
    if bare != "owner/clip":  # in the cache under this revision only
        with pytest.raises(WordmaskError, match=f"cannot load '{bare}'"):
            AuxiliaryModels({kind: bare}, cache_dir=cache, local_files_only=True).get(kind)


def test_what_is_wrong_with_a_revision(cache):
    def message(source: str) -> str:
        with pytest.raises(WordmaskError) as error:
            load_clip(source, **CPU, cache_dir=cache, local_files_only=True)
        assert "\n" not in str(error.value)
        return str(error.value)

    assert "`hf download owner/clip --revision v3 " in message("owner/clip@v3")
    for text in ("owner/clip@", "owner/clip/more@v2", "/no/folder@v2"):
        assert f"got {text!r}" in message(text)
    assert "built-in network" in message("wordmask/tiny-clip@v2")


def test_a_folder_may_have_an_at_sign_in_its_name(tmp_path):
    save_tiny_clip(tmp_path / "clip@home")
    assert load_clip(tmp_path / "clip@home", **CPU).source.endswith("clip@home")


# -- models of a function -------------------------------------------------------------------------

FILE = f"""
import sys
sys.path.append({str(Path(__file__).parents[1])!r})
import tiny

def clip():
    import os
    assert os.environ["DISABLE_SAFETENSORS_CONVERSION"] == "1"  # else a thread outlives the run
    return tiny.tiny_clip(seed=3).train()
def pair(): return tiny.tiny_clip(seed=3), tiny.tiny_tokenizer()
def vfm(): return tiny.tiny_vfm()
def sam(): return tiny.tiny_sam()
def fails(): raise ValueError("no weights")
def number(): return 3
value = 3
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("file") / "models_of_a_test.py"
    path.write_text(FILE)
    return path


def test_a_function_as_the_model(file):
    segmenter = Segmenter.from_pretrained(f"{file}:pair", dtype="bfloat16")
    assert segmenter.provenance()["model"] == f"{file}:pair"
    assert segmenter.tower.dtype == torch.bfloat16
    assert not segmenter.tower.model.training
    segmenter = Segmenter.from_pretrained(f"{file}:pair")
    assert segmenter.weights() == fingerprint(tiny_clip(seed=3))
    assert segmenter.encode_text(["cat"], "none").embeddings.shape == (1, 48)
    assert build_model(f"{file}:clip")[1] is None
    assert "DISABLE_SAFETENSORS_CONVERSION" not in os.environ


@pytest.mark.parametrize("kind", ["vfm", "sam", "classifier"])
def test_a_function_as_an_auxiliary_model(kind, file):
    name = {"classifier": "pair"}.get(kind, kind)
    models = AuxiliaryModels({kind: f"{file}:{name}"}, dtype=torch.bfloat16)
    models.get(kind)
    known = {"vfm": tiny_vfm, "sam": tiny_sam, "classifier": lambda: tiny_clip(seed=3)}[kind]()
    found = models.describe()[kind]
    assert found == {"source": f"{file}:{name}", "weights": fingerprint(known.to(torch.bfloat16))}
    if kind == "classifier":
        assert models.classifier.text.tokenizer is not None


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("fails", ["fails failed", "line", "ValueError: no weights"]),
        ("number", ["returned int", "(model, tokenizer)"]),
        ("value", ["is not a function"]),
        ("clop", ["unknown name", "clip"]),
    ],
)
def test_functions_that_give_no_model(name, words, file):
    with pytest.raises(WordmaskError) as error:
        Segmenter.from_pretrained(f"{file}:{name}")
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)

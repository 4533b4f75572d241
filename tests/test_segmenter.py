"""The public interface: loading, encoding, scoring, segmenting, and everything it refuses."""

from __future__ import annotations

import os
import pydoc
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionModelWithProjection

import wordmask
from tiny import class_scores, save_tiny_clip, tiny_clip, tiny_tokenizer
from wordmask import Background, Segmenter, Vocabulary, WordmaskError, compare, explain
from wordmask.segmentation import Segmentation

WORDS = ["cat", ["sofa", "couch"], "dog"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip")
    save_tiny_clip(path)
    return path


@pytest.fixture(scope="module")
def segmenter(folder):
    return Segmenter.from_pretrained(folder, method="clearclip", options={"short_side": 64})


@pytest.fixture(scope="module")
def photo():
    generator = np.random.default_rng(0)
    small = generator.integers(0, 255, (6, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((90, 60), Image.Resampling.BICUBIC))


# -- the five lines of the README -----------------------------------------------------------------


def test_words_and_a_photo_in_a_mask_out(segmenter, photo):
    result = segmenter(photo, WORDS)
    assert isinstance(result, Segmentation)
    assert result.labels.shape == (60, 90)
    assert result.names == ("cat", "sofa", "dog")
    assert result.scores.shape[0] == 3
    assert result.image is not None
    assert result.provenance["method"] == "clearclip"
    assert result.provenance["background"]["kind"] == "auto"


def test_every_kind_of_picture_gives_the_same(segmenter, photo, tmp_path):
    path = tmp_path / "photo.png"
    Image.fromarray(photo).save(path)
    results = [segmenter(x, WORDS) for x in (photo, Image.fromarray(photo), path, str(path))]
    for result in results[1:]:
        assert (result.labels == results[0].labels).all()


def test_encode_once_score_many_times(segmenter, photo):
    encoding = segmenter.encode(photo)
    for words in (WORDS, ["cat"], ["a", "b", "c", "d"]):
        again = segmenter(encoding, words)
        assert (again.labels == segmenter(photo, words).labels).all()


def test_lists_mix_sizes_for_the_call(segmenter, photo):
    results = segmenter([photo, photo[:40], photo.transpose(1, 0, 2)], WORDS)
    assert [r.labels.shape for r in results] == [(60, 90), (40, 90), (90, 60)]
    assert (results[1].labels == segmenter(photo[:40], WORDS).labels).all()


def test_lists_of_one_size_are_one_encoding(segmenter, photo):
    encoding = segmenter.encode([photo, photo[::-1].copy()])
    assert len(encoding) == 2
    assert len(segmenter(encoding, WORDS)) == 2
    with pytest.raises(WordmaskError, match="different shapes"):
        segmenter.encode([photo, photo.transpose(1, 0, 2)])


def test_words_in_every_form(segmenter, photo):
    encoding = segmenter.encode(photo)
    forms = [WORDS, Vocabulary(WORDS), {"cat": [], "sofa": "couch", "dog": []}]
    scores = [class_scores(segmenter, encoding, words) for words in forms]
    assert all(torch.equal(s, scores[0]) for s in scores)
    rows = segmenter.text.encode(["cat", "dog"], wordmask.vocabulary.templates("openai"))
    by_tensor = class_scores(segmenter, encoding, rows)
    assert torch.allclose(by_tensor, scores[0][:, [0, 2]], atol=1e-6)


@pytest.mark.parametrize("pooling", ["max", "mean"])
def test_text_features_with_names(segmenter, photo, pooling):
    segmenter = segmenter.with_method("clip", options={"short_side": 56, "pooling": pooling})
    rows = segmenter.text.encode(["cat", "dog", "sofa"], wordmask.vocabulary.templates("openai"))
    words = {"feline": rows[0], "others": 3 * rows[1:]}  # of any length
    result, texts = segmenter(photo, words), segmenter.encode_text(words)
    assert result.names == texts.names == ("feline", "others")
    assert texts.strategy.kind == "none"
    by_names = segmenter(photo, ["cat", ["dog", "sofa"]], "none")
    assert np.array_equal(result.labels, by_names.labels)
    assert segmenter(photo, words, ["sky"]).names == result.names


def test_what_is_printed_is_short_and_tells(segmenter, photo):
    refined = segmenter.with_method("sclip", "clearclip", {"short_side": 56}, "pamr")
    how = "sclip:clearclip + pamr, float32 on cpu"
    assert repr(refined) == f"Segmenter({segmenter.source}, {how})"
    encoding = refined.encode(photo)
    height, width = photo.shape[:2]
    assert f"{width}x{height}, seen as " in repr(encoding)
    assert f"{encoding.grid[1]}x{encoding.grid[0]} patches, 48 features" in repr(encoding)
    assert repr(refined.encode([photo, photo])).startswith(f"Encoding(2 pictures of {width}x")
    windows = refined.with_method("sclip", options={"window": 32, "stride": 16, "short_side": 56})
    assert " in each of " in repr(windows.encode(photo))
    texts = refined.encode_text(["cat", ["sofa", "couch"]], "none")
    assert "2 classes: cat, sofa; 3 embeddings of 48" in repr(texts)
    scored = refined.score(encoding, texts)
    assert repr(scored).startswith(f"Scored({width}x{height}, 2 classes on ")
    for one in (encoding, windows.encode(photo), texts, scored):
        assert len(repr(one)) < 200
        assert "tensor" not in repr(one)


def test_several_results_are_a_list_and_a_grid(segmenter, photo):
    results = segmenter([photo, photo[:, ::-1]], WORDS)
    assert isinstance(results, list)
    assert [type(one) for one in results] == [wordmask.Segmentation] * 2
    assert type(results[:1]) is type(results)
    assert results._repr_png_().startswith(b"\x89PNG")


def test_help_shows_types_and_what_a_user_needs():
    text = pydoc.plain(pydoc.render_doc(Segmenter))
    told = set(re.findall(r"^ \|  (\w+)\(", text, re.MULTILINE)) - {"Segmenter"}
    assert told == {
        "__call__", "__init__", "__repr__", "encode", "encode_each", "encode_prepared",
        "encode_text", "from_pretrained", "load_networks", "prepare", "prepare_reduced",
        "provenance", "score", "score_all", "segment_prepared", "weights", "with_method",
    }  # fmt: skip
    for name in ("__call__", "encode", "encode_text", "score"):
        (signature,) = re.findall(rf"^ \|  {name}\(.*$", text, re.MULTILINE)
        assert re.search(r"Picture|Words", signature)
        assert signature.endswith("'")
        assert "-> 'Any'" not in signature
    assert "Initialize self" not in text


def test_importing_the_segmenter_loads_no_library_but_torch():
    heavy = ["transformers", "huggingface_hub", "scipy", "sklearn", "diffusers", "matplotlib"]
    heavy += ["torch._dynamo", "torch._inductor", "sympy", "pillow_heif", "rich", "typer"]
    code = "import sys; from wordmask import Segmenter; print([*sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert "'wordmask.segmenter'" in loaded
    assert [name for name in heavy if f"'{name}'" in loaded] == []


def test_mean_of_synonyms(folder, photo):
    segmenter = Segmenter.from_pretrained(folder, "clearclip", options={"pooling": "mean"})
    texts = segmenter.encode_text(WORDS, "none")
    assert texts.embeddings.shape[0] == 3
    assert torch.allclose(texts.embeddings.norm(dim=-1), torch.ones(3))


def test_background_reaches_the_labels(segmenter, photo):
    encoding = segmenter.encode(photo)
    assert segmenter(encoding, WORDS, "none").labels.min() >= 1
    by_names = segmenter(encoding, WORDS, ["wall", "sky"])
    assert by_names.provenance["background"] == {"kind": "names", "distractors": ["wall", "sky"]}
    assert segmenter(encoding, WORDS, Background.threshold(0.99)).labels.shape == (60, 90)
    with pytest.raises(WordmaskError, match="both a class and a background"):
        segmenter(encoding, WORDS, ["dog"])


def test_one_class_against_the_empty_prompt(folder, photo):
    segmenter = Segmenter.from_pretrained(folder, "clip_surgery", "feature-surgery")
    scores = class_scores(segmenter, photo, ["cat"])
    assert scores.shape[1] == 1
    assert torch.isfinite(scores).all()


def test_another_method_on_the_same_network(segmenter, photo):
    other = segmenter.with_method("cliper", "official-v1", {"short_side": 64})
    assert other.tower.model is segmenter.tower.model
    assert other(photo, WORDS).provenance["variant"] == "official-v1"


# -- loading --------------------------------------------------------------------------------------


def test_a_model_in_memory_is_used_through_its_own_modules(photo):
    model = tiny_clip()
    rows = torch.nn.functional.normalize(torch.randn(3, 48), dim=-1)
    before = Segmenter.from_pretrained(model, "sclip")(photo, rows).scores
    model.vision_model.pre_layrnorm = torch.nn.Identity()
    model.vision_model.encoder.layers[2].mlp = torch.nn.Identity()
    after = Segmenter.from_pretrained(model, "sclip")(photo, rows).scores
    assert not np.allclose(before, after, atol=1e-3)
    with torch.no_grad():  # the plain method is then the model's own forward
        pixels = torch.randn(1, 3, 56, 56)
        encoding = Segmenter.from_pretrained(model, "clip").encode(pixels)
        states = model.vision_model.encoder(
            inputs_embeds=model.vision_model.pre_layrnorm(model.vision_model.embeddings(pixels))
        ).last_hidden_state
        expected = model.visual_projection(model.vision_model.post_layernorm(states))[0, 1:]
    assert torch.allclose(encoding.features[0].flatten(1).T, expected, atol=1e-5)


def test_names_with_a_model_in_memory_need_a_tokenizer(photo):
    model = tiny_clip()
    with pytest.raises(WordmaskError, match="tokenizer"):
        Segmenter.from_pretrained(model)(photo, ["cat"])
    with_one = Segmenter.from_pretrained(model, tokenizer=tiny_tokenizer())
    assert with_one(photo, ["cat", "dog"]).names == ("cat", "dog")


def test_a_vision_model_alone_takes_text_features(photo):
    clip = tiny_clip()
    vision = CLIPVisionModelWithProjection(clip.config.vision_config).eval()
    vision.vision_model.load_state_dict(clip.vision_model.state_dict())
    vision.visual_projection.load_state_dict(clip.visual_projection.state_dict())
    rows = torch.nn.functional.normalize(torch.randn(4, 48), dim=-1)
    small = {"short_side": 64}
    one, two = (
        Segmenter.from_pretrained(m, "gem", options=small)(photo, rows) for m in (vision, clip)
    )
    assert (one.labels == two.labels).all()
    with pytest.raises(WordmaskError, match="no text encoder"):
        Segmenter.from_pretrained(vision)(photo, ["cat"])


def test_vision_checkpoint_in_a_folder(tmp_path, photo):
    vision = CLIPVisionModelWithProjection(tiny_clip().config.vision_config).eval()
    vision.save_pretrained(tmp_path)
    rows = torch.randn(2, 48)
    assert Segmenter.from_pretrained(tmp_path)(photo, rows).names == ("class 1", "class 2")


@pytest.mark.parametrize("hidden_act", ["gelu", "quick_gelu"])
def test_the_activation_comes_from_the_checkpoint(tmp_path, hidden_act):
    model = save_tiny_clip(tmp_path, hidden_act=hidden_act)
    pixels = torch.randn(1, 3, 56, 56)
    encoding = Segmenter.from_pretrained(tmp_path, "clip").encode(pixels)
    with torch.no_grad():
        hidden = model.vision_model(pixels).last_hidden_state
        expected = model.visual_projection(model.vision_model.post_layernorm(hidden))[0, 1:]
    assert torch.allclose(encoding.features[0].flatten(1).T, expected, atol=1e-5)


def test_normalisation_comes_from_the_checkpoint(tmp_path):
    import json

    save_tiny_clip(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    settings = json.loads(path.read_text())
    settings.update(image_mean=[0.5, 0.5, 0.5], image_std=[0.25, 0.25, 0.25])
    path.write_text(json.dumps(settings))
    assert Segmenter.from_pretrained(tmp_path).tower.mean == (0.5, 0.5, 0.5)
    assert Segmenter.from_pretrained(tmp_path).tower.std == (0.25, 0.25, 0.25)


def test_pickled_weights_are_read_without_running_anything(tmp_path, photo):
    model = save_tiny_clip(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    assert Segmenter.from_pretrained(tmp_path)(photo, WORDS).names[0] == "cat"

    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    torch.save({"logit_scale": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WordmaskError):
        Segmenter.from_pretrained(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_weights_are_the_same_after_loading_twice(folder, photo):
    one, two = (Segmenter.from_pretrained(folder)(photo, WORDS) for _ in range(2))
    assert one.provenance["weights"] == two.provenance["weights"]
    other = Segmenter.from_pretrained(tiny_clip(seed=5), tokenizer=tiny_tokenizer())
    assert other.provenance()["weights"] != one.provenance["weights"]


def run_offline(code: str, home) -> subprocess.CompletedProcess:
    """Run code in a process whose hub cache is empty and whose sockets are closed."""
    closed = (
        "import socket\n"
        "def no(*a, **k): raise OSError('network is blocked')\n"
        "socket.socket.connect = no; socket.getaddrinfo = no\n"
    )
    environment = {**os.environ, "HF_HOME": str(home), "WORDMASK_CACHE": str(home / "text")}
    environment.pop("HF_HUB_OFFLINE", None)
    return subprocess.run(
        [sys.executable, "-c", closed + code],
        capture_output=True,
        text=True,
        env=environment,
        timeout=240,
    )


def test_a_hub_id_without_network_or_cache(tmp_path):
    for offline in (True, False):
        code = (
            "from wordmask import Segmenter, WordmaskError\n"
            "try: Segmenter.from_pretrained('openai/clip-vit-base-patch16', "
            f"local_files_only={offline})\n"
            "except WordmaskError as e: print('ERROR', e)\n"
        )
        done = run_offline(code, tmp_path)
        lines = [x for x in done.stdout.splitlines() if x.startswith("ERROR")]
        assert len(lines) == 1, done.stderr[-2000:]
        for word in ("openai/clip-vit-base-patch16", "model.safetensors", "hf download", "folder"):
            assert word in lines[0]


def test_a_local_folder_needs_no_network(folder, tmp_path):
    code = (
        "import numpy as np\nfrom wordmask import Segmenter\n"
        f"s = Segmenter.from_pretrained({str(folder)!r})\n"
        "print(s(np.zeros((40, 60, 3), np.uint8), ['cat', 'dog'], 'none').labels.shape)\n"
    )
    done = run_offline(code, tmp_path)
    assert "(40, 60)" in done.stdout, done.stderr[-2000:]


def test_a_hub_id_in_the_cache_is_loaded_offline(folder, tmp_path):
    """The hub's cache layout, made by hand: what a download leaves behind."""
    snapshot = tmp_path / "hub" / "models--owner--clip" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    for path in folder.iterdir():
        (snapshot / path.name).write_bytes(path.read_bytes())
    refs = tmp_path / "hub" / "models--owner--clip" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    code = (
        "from wordmask import Segmenter\n"
        "s = Segmenter.from_pretrained('owner/clip', local_files_only=True)\n"
        "print(s.text.encode(['cat'], ('a {}',)).shape, s.tower.mean[0])\n"
    )
    done = run_offline(code, tmp_path)
    assert "torch.Size([1, 48]) 0.4814" in done.stdout, done.stderr[-2000:]


def test_importing_loads_nothing_heavy():
    code = (
        "import sys, wordmask\n"
        "heavy = {'torch', 'transformers', 'numpy', 'PIL'} & set(sys.modules)\n"
        "print(sorted(heavy)); print(dir(wordmask)[-1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.stdout.splitlines()[0] == "[]", done.stderr


# -- what it refuses ------------------------------------------------------------------------------


def test_words_in_one_string_show_the_list_to_write(segmenter, photo, tmp_path):
    for call in (
        lambda: segmenter(photo, "cat, dog"),
        lambda: segmenter.encode_text("cat; dog"),
        lambda: segmenter.score(photo, "cat, dog"),
        lambda: segmenter(photo, ["sofa"], "cat, dog"),
        lambda: segmenter(photo, ["cat", "dog"], image_labels="cat, dog"),
        lambda: wordmask.segment_folder(segmenter, "photos", "cat, dog", tmp_path),
        lambda: compare.compare(segmenter, [photo], "cat, dog", ["clip"]),
        lambda: explain.draw(segmenter, photo, "classes", "cat, dog"),
    ):
        with pytest.raises(WordmaskError, match=re.escape('["cat", "dog"]')):
            call()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda s, p: s.encode(torch.zeros(3, 64, 64)), ["(3, 64, 64)", "(B, 3, H, W)"]),
        (lambda s, p: s.encode(torch.zeros(1, 4, 64, 64)), ["(1, 4, 64, 64)"]),
        (lambda s, p: s.encode(torch.zeros(1, 3, 64, 64).byte()), ["uint8"]),
        (lambda s, p: s.encode(torch.zeros(0, 3, 64, 64)), ["(0, 3, 64, 64)"]),
        (lambda s, p: s.encode(torch.full((1, 3, 64, 64), torch.nan)), ["NaN"]),
        (lambda s, p: s.encode([]), ["empty list"]),
        (lambda s, p: s.encode("nothing.jpg"), ["nothing.jpg"]),
        (lambda s, p: s(p, []), ["empty"]),
        (lambda s, p: s(p, "cat"), ["list"]),
        (lambda s, p: s(p, ["cat", " "]), ["empty name"]),
        (lambda s, p: s(p, ["cat", "cat"]), ["cat"]),
        (lambda s, p: s(p, torch.zeros(2, 7)), ["(2, 7)", "48"]),
        (lambda s, p: s(p, torch.zeros(0, 48)), ["no text feature"]),
        (lambda s, p: s(p, torch.full((1, 48), torch.nan)), ["NaN"]),
        (lambda s, p: s(p, torch.ones(2, 48), "auto"), ["auto", "tensor"]),
        (lambda s, p: s(p, {"a": torch.ones(48), "b": "c"}), ["'c' for 'b'", "a tensor for each"]),
        (lambda s, p: s(p, {"a": torch.ones(48), "b": torch.ones(7)}), ["(1, 7)", "48"]),
        (lambda s, p: s(p, {"a": torch.ones(48), "A": torch.ones(48)}), ["'A'", "class 2"]),
        (lambda s, p: s(p, ["cat"], "autto"), ["autto"]),
        (lambda s, p: s.with_method("scilp"), ["scilp", "sclip"]),
        (lambda s, p: Segmenter.from_pretrained("/no/such/folder"), ["/no/such/folder"]),
        (lambda s, p: Segmenter.from_pretrained(torch.nn.Linear(2, 2)), ["Linear", "CLIPModel"]),
        (lambda s, p: Segmenter.from_pretrained(tiny_clip(), device="cpu"), ["model.to"]),
        (lambda s, p: Segmenter.from_pretrained("x", device="gpu9"), ["gpu9"]),
        (lambda s, p: Segmenter.from_pretrained("x", dtype="int8"), ["int8", "bfloat16"]),
    ],
)
def test_bad_input_is_one_clear_line(segmenter, photo, call, words):
    with pytest.raises(WordmaskError) as caught:
        call(segmenter, photo)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_incomplete_checkpoints_are_refused(tmp_path):
    from safetensors.torch import load_file, save_file

    save_tiny_clip(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("visual_projection.weight")
    save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(WordmaskError, match="visual_projection"):
        Segmenter.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(WordmaskError):
        Segmenter.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(WordmaskError, match=r"lacks model\.safetensors or"):
        Segmenter.from_pretrained(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(WordmaskError, match=r"config\.json"):
        Segmenter.from_pretrained(tmp_path)


def test_another_kind_of_model_is_refused(tmp_path):
    from transformers import ViTConfig, ViTModel

    ViTModel(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(
        tmp_path
    )
    with pytest.raises(WordmaskError, match="'vit'"):
        Segmenter.from_pretrained(tmp_path)


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (7, 3)])
@pytest.mark.parametrize("method", ["cliper", "clearclip", "sclip"])
def test_pictures_of_a_pixel_or_a_line(folder, size, method):
    picture = np.full((*size, 3), 128, np.uint8)
    segmenter = Segmenter.from_pretrained(folder, method, options={"short_side": 32})
    assert segmenter(picture, WORDS).labels.shape == size


def test_a_word_of_both_lists_is_background(photo):
    """As released lists have it: of two equal scores the background's comes first."""
    segmenter = Segmenter.from_pretrained(tiny_clip(layers=3), "clip", tokenizer=tiny_tokenizer())
    words = ["cat", "dog", "photo"]
    plain = segmenter(photo, words, "none").labels
    common = int(np.bincount(plain.ravel()).argmax())
    both = Background("names", (words[common - 1],), overlap=True)
    labels = segmenter(photo, words, both).labels
    assert np.array_equal(labels, np.where(plain == common, 0, plain))
    with pytest.raises(WordmaskError, match="both a class and a background name"):
        segmenter(photo, words, Background.names(words[common - 1]))


# -- image-level labels -----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["clip", "sclip", "gem", "gem:official", "car", "cliper"])
def test_only_labelled_words_get_pixels(photo, method):
    segmenter = Segmenter.from_pretrained(
        tiny_clip(layers=3), method, options={"short_side": 64}, tokenizer=tiny_tokenizer()
    )
    encoding = segmenter.encode(photo)
    words = ["photo", "cat", "dog", "do"]
    result = segmenter(encoding, words, "none", image_labels=["cat", "do"])
    assert set(np.unique(result.labels)) <= {2, 4}
    assert np.array_equal(
        result.labels, segmenter(encoding, words, "none", image_labels=[3, 1]).labels
    )
    nothing = segmenter(encoding, words, "none", image_labels=[])
    assert not nothing.labels.any()
    everything = segmenter(encoding, words, "none", image_labels=words)
    if method in ("clip", "gem"):  # no rule of their own drops a class
        assert np.array_equal(everything.labels, segmenter(encoding, words, "none").labels)


def test_labels_of_several_pictures_are_their_own(photo):
    segmenter = Segmenter.from_pretrained(tiny_clip(layers=3), "clip", tokenizer=tiny_tokenizer())
    words, known = ["photo", "cat", "dog"], [["cat"], None]
    many = segmenter([photo, photo], words, "none", image_labels=known)
    encoded = segmenter(segmenter.encode([photo, photo]), words, "none", image_labels=known)
    for results in (many, encoded):
        assert set(np.unique(results[0].labels)) == {2}
        assert np.array_equal(results[1].labels, segmenter(photo, words, "none").labels)


@pytest.mark.parametrize(
    ("image_labels", "words"),
    [
        (["cta"], ["unknown image-level label 'cta'", "cat"]),
        ([7], ["image-level label '7'"]),
        ("cat", ["'cat'", "list"]),
    ],
)
def test_bad_image_level_labels(photo, image_labels, words):
    segmenter = Segmenter.from_pretrained(tiny_clip(layers=3), "clip", tokenizer=tiny_tokenizer())
    with pytest.raises(WordmaskError) as error:
        segmenter(photo, ["cat", "photo"], "none", image_labels=image_labels)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_image_scores_are_the_maxima_of_the_maps(photo):
    texts = torch.nn.functional.normalize(
        torch.randn(4, 48, generator=torch.Generator().manual_seed(2)), dim=-1
    )
    cliper = Segmenter.from_pretrained(tiny_clip(layers=3), "cliper")
    expected = cliper.score(cliper.encode(photo), texts).class_maps().amax((1, 2))
    assert torch.allclose(cliper.score(photo, texts).image_scores(), expected)
    many = cliper.score([photo, photo], texts)
    assert [s.image_scores().shape for s in many] == [(4,), (4,)]
    plain = Segmenter.from_pretrained(tiny_clip(layers=3), "clip")
    scored = plain.score(plain.encode(photo), texts)
    probability = torch.softmax(plain.method.logit_scale * scored.class_maps(), 0).amax((1, 2))
    assert torch.allclose(scored.image_scores(), probability, atol=1e-6)

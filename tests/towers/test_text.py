from __future__ import annotations

import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from transformers import AutoTokenizer, CLIPModel

from tiny import START, save_tiny_clip, tiny_clip, tiny_tokenizer
from wordmask.errors import WordmaskError
from wordmask.towers import text as module
from wordmask.towers.text import TextTower

TEMPLATES = ("a photo of a {}.", "a {}", "itap of the {} in the scene.")
NAMES = ["cat", "red car", "dog", "naïve café", "zebra crossing"]
LONG = " ".join(["hippopotamus"] * 20)


@pytest.fixture(scope="module")
def clip() -> CLIPModel:
    return tiny_clip()


def tower(model: CLIPModel, **options: Any) -> TextTower:
    options = {"cache_dir": None, "tokenizer": tiny_tokenizer(), **options}
    tokenizer = options.pop("tokenizer")
    return TextTower(model.text_model, model.text_projection, tokenizer, **options)


@torch.no_grad()
def direct(
    model: CLIPModel, names: list[str], templates: tuple[str, ...] = TEMPLATES, pad: str = ""
) -> torch.Tensor:
    """One prompt at a time, by transformers' own path: the definition."""
    tokenizer = tiny_tokenizer()
    if pad:
        tokenizer.pad_token = pad
    rows = []
    for name in names:
        prompts = []
        for template in templates:
            inputs = tokenizer(
                template.replace("{}", name),
                return_tensors="pt",
                padding="max_length" if pad else False,
                truncation=True,
                max_length=model.config.text_config.max_position_embeddings,
            )
            pooled = model.get_text_features(**inputs).pooler_output[0].double()
            prompts.append(pooled / pooled.norm())
        mean = torch.stack(prompts).mean(0)
        rows.append(mean / mean.norm())
    return torch.stack(rows).float()


class Count:
    """Counts the prompts and calls that reach a model's text encoder."""

    def __init__(self, model: CLIPModel) -> None:
        self.calls: list[tuple[int, int]] = []
        self.hook = model.text_model.register_forward_pre_hook(self.note, with_kwargs=True)

    def note(self, _: object, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self.calls.append(tuple(options["input_ids"].shape))

    @property
    def prompts(self) -> int:
        return sum(rows for rows, _ in self.calls)

    def __enter__(self) -> Count:
        return self

    def __exit__(self, *_: object) -> None:
        self.hook.remove()


# ---- numbers


@pytest.mark.parametrize("legacy_end", [False, True])
@pytest.mark.parametrize("hidden_act", ["quick_gelu", "gelu"])
def test_equals_one_prompt_at_a_time(legacy_end: bool, hidden_act: str) -> None:
    model = tiny_clip(hidden_act=hidden_act, legacy_end=legacy_end)
    rows = tower(model, batch_size=4).encode(NAMES, TEMPLATES)
    assert rows.shape == (5, 48)
    assert rows.dtype == torch.float32
    assert not rows.requires_grad
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(5))
    torch.testing.assert_close(rows, direct(model, NAMES), atol=1e-6, rtol=0)
    assert (rows @ rows.T).fill_diagonal_(0).max() < 0.999  # the names are told apart


@pytest.mark.parametrize("pad", ["<|endoftext|>", "!"])
def test_padding_to_the_context_changes_nothing(clip: CLIPModel, pad: str) -> None:
    rows = tower(clip).encode(NAMES, TEMPLATES)
    torch.testing.assert_close(rows, direct(clip, NAMES, pad=pad), atol=1e-6, rtol=0)


def test_the_tokenizers_own_padding_does_not_matter(clip: CLIPModel) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token, tokenizer.padding_side = "!", "left"
    tokenizer(["cat", "dog dog"], padding="max_length", truncation=True, max_length=9)
    rows = tower(clip, tokenizer=tokenizer).encode(NAMES, TEMPLATES)
    assert torch.equal(rows, tower(clip).encode(NAMES, TEMPLATES))


def test_a_tokenizer_without_special_tokens_gets_them(clip: CLIPModel) -> None:
    class Plain:
        """The same ids without start and end token, as some converted tokenizers give them."""

        def __init__(self) -> None:
            self.full = tiny_tokenizer()
            self.bos_token_id, self.eos_token_id = self.full.bos_token_id, self.full.eos_token_id

        def __call__(self, prompts: list[str], **options: Any) -> dict[str, Any]:
            ids = self.full(prompts, **options)["input_ids"]
            return {"input_ids": [row[1:-1] for row in ids]}

    rows = tower(clip, tokenizer=Plain()).encode(NAMES, TEMPLATES)
    assert torch.equal(rows, tower(clip).encode(NAMES, TEMPLATES))


def test_a_row_does_not_depend_on_the_others(clip: CLIPModel) -> None:
    together = tower(clip).encode(NAMES, TEMPLATES)
    for i, name in enumerate(NAMES):
        alone = tower(clip).encode([name], TEMPLATES)[0]
        torch.testing.assert_close(alone, together[i], atol=1e-6, rtol=0)
    order = [3, 0, 4, 1, 2]
    permuted = tower(clip).encode([NAMES[i] for i in order], TEMPLATES)
    torch.testing.assert_close(permuted, together[order], atol=1e-6, rtol=0)
    small = tower(clip, batch_size=1).encode(NAMES, TEMPLATES)
    torch.testing.assert_close(small, together, atol=1e-6, rtol=0)


def test_a_name_given_twice_has_its_row_twice(clip: CLIPModel) -> None:
    rows = tower(clip).encode(["cat", "dog", "cat"], TEMPLATES)
    assert torch.equal(rows[0], rows[2])
    assert not torch.equal(rows[0], rows[1])


def test_template_lists_by_name(clip: CLIPModel) -> None:
    by_name = tower(clip).encode(["cat"], "single")
    assert torch.equal(by_name, tower(clip).encode(["cat"], ["a photo of a {}."]))


def test_the_empty_text_can_be_encoded(clip: CLIPModel) -> None:
    rows = tower(clip).encode(["", "cat"], TEMPLATES)
    torch.testing.assert_close(rows, direct(clip, ["", "cat"]), atol=1e-6, rtol=0)


def test_braces_in_a_name_are_no_template(clip: CLIPModel) -> None:
    names = ["{}", "{0}"]
    torch.testing.assert_close(
        tower(clip).encode(names, TEMPLATES), direct(clip, names), atol=1e-6, rtol=0
    )


def test_half_precision_weights_give_float32_unit_rows() -> None:
    model = tiny_clip()
    expected = tower(model).encode(NAMES, TEMPLATES)
    rows = tower(model.to(torch.bfloat16)).encode(NAMES, TEMPLATES)
    assert rows.dtype == torch.float32
    torch.testing.assert_close(rows.norm(dim=-1), torch.ones(5))
    assert F.cosine_similarity(rows, expected).min() > 0.999


def test_weights_from_a_folder_give_the_same(tmp_path: Path) -> None:
    model = save_tiny_clip(tmp_path)
    loaded = CLIPModel.from_pretrained(tmp_path)
    other = tower(loaded, tokenizer=AutoTokenizer.from_pretrained(tmp_path))
    assert torch.equal(other.encode(NAMES, TEMPLATES), tower(model).encode(NAMES, TEMPLATES))
    assert other.fingerprint() == tower(model).fingerprint()


# ---- work


def test_each_unique_prompt_is_encoded_once(clip: CLIPModel) -> None:
    # "a small cat" is a prompt of "cat" and of "small cat": 2 + 2 + 1 prompts, not 2 * 3.
    with Count(clip) as count:
        rows = tower(clip).encode(["cat", "small cat", "cat"], ["a {}", "a small {}"])
    assert count.prompts == 3
    torch.testing.assert_close(
        rows[1], direct(clip, ["small cat"], ("a {}", "a small {}"))[0], atol=1e-6, rtol=0
    )


def test_batches_are_sorted_by_length(clip: CLIPModel) -> None:
    names = ["x" * n for n in (30, 1, 20, 2, 10, 3)]
    with Count(clip) as count:
        tower(clip, batch_size=2).encode(names, ["{}"])
    # A word of n letters is n tokens here, and start and end.
    assert count.calls == [(2, 4), (2, 12), (2, 32)]


def test_asking_again_costs_nothing_and_a_new_name_only_itself(clip: CLIPModel) -> None:
    texts = tower(clip)
    with Count(clip) as count:
        first = texts.encode(["cat", "dog"], TEMPLATES)
        assert count.prompts == 6
        assert torch.equal(texts.encode(["dog", "cat"], list(TEMPLATES)), first[[1, 0]])
        assert count.prompts == 6
        texts.encode(["dog", "zebra", "cat"], TEMPLATES)
        assert count.prompts == 9
        texts.encode(["cat"], ["the {}"])
        assert count.prompts == 10


def test_what_is_returned_is_the_callers(clip: CLIPModel) -> None:
    texts = tower(clip)
    first = texts.encode(["cat"], TEMPLATES)
    kept = first.clone()
    first.zero_()
    assert torch.equal(texts.encode(["cat"], TEMPLATES), kept)


def test_memory_forgets_the_oldest(clip: CLIPModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY_ROWS", 2)
    texts = tower(clip)
    with Count(clip) as count:
        everything = texts.encode(["a", "b", "c"], ["{}"])  # more than fit at once
        texts.encode(["b"], ["{}"])  # now the newest
        texts.encode(["d"], ["{}"])  # drops c
        assert count.prompts == 4
        texts.encode(["b", "d"], ["{}"])
        assert count.prompts == 4
        again = texts.encode(["c"], ["{}"])[0]
        torch.testing.assert_close(again, everything[2], atol=1e-6, rtol=0)
        assert count.prompts == 5


# ---- the disk


def test_a_second_tower_reads_what_the_first_wrote(clip: CLIPModel, tmp_path: Path) -> None:
    folder = tmp_path / "made" / "when needed"
    rows = tower(clip, cache_dir=folder).encode(NAMES, TEMPLATES)
    assert len(list(folder.iterdir())) == 1
    with Count(clip) as count:
        again = tower(clip, cache_dir=str(folder)).encode(NAMES[::-1], TEMPLATES)
    assert not count.calls
    assert torch.equal(again, rows.flip(0))
    assert len(list(folder.iterdir())) == 1


def test_the_key_holds_weights_templates_names_and_tokenizer(tmp_path: Path) -> None:
    def files() -> int:
        return len(list(tmp_path.iterdir()))

    model = tiny_clip()
    tower(model, cache_dir=tmp_path).encode(["cat"], TEMPLATES)
    tower(model, cache_dir=tmp_path).encode(["dog"], TEMPLATES)
    assert files() == 2
    tower(model, cache_dir=tmp_path).encode(["cat"], TEMPLATES[::-1])
    assert files() == 3
    with torch.no_grad():
        model.text_projection.weight[0, 0] += 1e-3
    changed = tower(model, cache_dir=tmp_path).encode(["cat"], TEMPLATES)
    assert files() == 4
    torch.testing.assert_close(changed, direct(model, ["cat"]), atol=1e-6, rtol=0)
    other = tiny_tokenizer()
    other.add_tokens(["cat"])
    assert tower(model, tokenizer=other).fingerprint() != tower(model).fingerprint()


def test_the_fingerprint_tells_models_apart() -> None:
    models = [
        tiny_clip(),
        tiny_clip(seed=1),
        tiny_clip(hidden_act="gelu"),
        tiny_clip(heads=4),
        tiny_clip(legacy_end=True),
        tiny_clip().bfloat16(),
    ]
    prints = {tower(model).fingerprint() for model in models}
    assert len(prints) == len(models)
    # What belongs to the pictures does not count.
    assert tower(tiny_clip(layers=4)).text_projection is not None
    model = tiny_clip()
    with torch.no_grad():
        model.visual_projection.weight.zero_()
    assert tower(model).fingerprint() == tower(tiny_clip()).fingerprint()


def test_the_fingerprint_does_not_depend_on_what_was_asked_before(clip: CLIPModel) -> None:
    used = tower(clip)
    used.tokenizer(["cat", "dog dog"], padding=True, truncation=True, max_length=5)
    used.encode(NAMES, TEMPLATES)
    assert used.fingerprint() == tower(clip).fingerprint()


def test_a_replaced_module_counts() -> None:
    model = tiny_clip()
    plain = tower(model)
    first, rows = plain.fingerprint(), plain.encode(["cat"], TEMPLATES)
    model.text_model.encoder.layers[0].mlp.activation_fn = torch.nn.ReLU()  # holds no weight
    replaced = tower(model)
    assert replaced.fingerprint() != first
    assert not torch.allclose(replaced.encode(["cat"], TEMPLATES), rows, atol=1e-3)


def good(rows: int = 5, width: int = 48) -> torch.Tensor:
    return F.normalize(torch.ones(rows, width), dim=-1)


BAD_FILES = {
    "empty": b"",
    "text": b"not a safetensors file",
    "half": None,
    "folder": None,
    "other tensor": {"other": good()},
    "fewer rows": {"embeddings": good(4)},
    "narrower": {"embeddings": good(5, 47)},
    "one axis more": {"embeddings": good()[None]},
    "float64": {"embeddings": good().double()},
    "zeros": {"embeddings": torch.zeros(5, 48)},
    "nan": {"embeddings": torch.full((5, 48), torch.nan)},
    "no metadata": safetensors.torch.save({"embeddings": good()}),
    "odd metadata": safetensors.torch.save({"embeddings": good()}, {"cut": "3"}),
}


@pytest.mark.parametrize("kind", BAD_FILES)
@pytest.mark.filterwarnings("ignore:text embeddings are not cached on disk")
def test_a_bad_cache_file_is_made_anew(clip: CLIPModel, tmp_path: Path, kind: str) -> None:
    rows = tower(clip, cache_dir=tmp_path).encode(NAMES, TEMPLATES)
    (path,) = tmp_path.iterdir()
    content = BAD_FILES[kind]
    if kind == "folder":
        path.unlink()
        path.mkdir()
    elif kind == "half":
        path.write_bytes(path.read_bytes()[:-400])
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_bytes(safetensors.torch.save(content, {"cut": "[]", "names": "[]"}))
    with Count(clip) as count:
        again = tower(clip, cache_dir=tmp_path).encode(NAMES, TEMPLATES)
    assert count.prompts == len(NAMES) * len(TEMPLATES)
    assert torch.equal(again, rows)
    assert list(tmp_path.iterdir()) == [path]  # no temporary file is left
    if kind != "folder":
        with Count(clip) as count:
            assert torch.equal(tower(clip, cache_dir=tmp_path).encode(NAMES, TEMPLATES), rows)
        assert not count.calls


def test_a_folder_that_cannot_be_written_is_said_once(clip: CLIPModel, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    texts = tower(clip, cache_dir=blocked / "cache")
    with pytest.warns(UserWarning, match="not cached on disk") as caught:
        rows = texts.encode(["cat"], TEMPLATES)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        texts.encode(["dog"], TEMPLATES)
    assert torch.equal(rows, tower(clip).encode(["cat"], TEMPLATES))
    assert blocked.read_text() == "in the way"


def test_no_folder_is_made_without_a_cache(
    clip: CLIPModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORDMASK_CACHE", str(tmp_path))
    texts = tower(clip)
    monkeypatch.setattr(texts, "fingerprint", lambda: pytest.fail("hashed for nothing"))
    texts.encode(["cat"], TEMPLATES)
    assert not list(tmp_path.iterdir())


def test_threads_write_the_same_file(clip: CLIPModel, tmp_path: Path) -> None:
    def work(_: int) -> torch.Tensor:
        return tower(clip, cache_dir=tmp_path).encode(NAMES, TEMPLATES)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(16)))
    assert all(torch.equal(rows, results[0]) for rows in results)
    (path,) = tmp_path.iterdir()
    assert torch.equal(
        safetensors.torch.load_file(path)["embeddings"],
        results[0][sorted(range(5), key=NAMES.__getitem__)],
    )


def test_threads_share_one_tower(clip: CLIPModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MEMORY_ROWS", 3)
    texts = tower(clip)
    expected = tower(clip).encode(NAMES, TEMPLATES)
    with ThreadPoolExecutor(8) as pool:
        turns = [[(i + j) % 5 for j in range(3)] for i in range(20)]
        rows = list(pool.map(lambda turn: texts.encode([NAMES[i] for i in turn], TEMPLATES), turns))
    for turn, row in zip(turns, rows, strict=True):
        torch.testing.assert_close(row, expected[turn], atol=1e-6, rtol=0)


def test_processes_write_the_same_file(clip: CLIPModel, tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from tiny import tiny_clip, tiny_tokenizer\n"
        "from wordmask.towers.text import TextTower\n"
        "model = tiny_clip()\n"
        "tower = TextTower(model.text_model, model.text_projection, tiny_tokenizer(),\n"
        "                  cache_dir=sys.argv[2])\n"
        "sys.stdout.write(repr(tower.encode(['cat', 'dog'], 'single').sum().item()))\n"
    )
    command = [sys.executable, "-c", code, str(Path(__file__).parents[1]), str(tmp_path)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    rows = []
    while other.poll() is None:  # this process writes and reads all the while
        rows.append(tower(clip, cache_dir=tmp_path).encode(["cat", "dog"], "single"))
        for path in tmp_path.glob("*.safetensors"):
            path.unlink(missing_ok=True)
        time.sleep(0.05)
    assert other.returncode == 0
    assert float(other.communicate()[0]) == pytest.approx(rows[0].sum().item(), abs=1e-6)
    assert all(torch.equal(row, rows[0]) for row in rows)
    tower(clip, cache_dir=tmp_path).encode(["cat", "dog"], "single")
    assert len(list(tmp_path.iterdir())) == 1  # one key in both, no temporary file left


# ---- long names and bad input


def test_a_long_name_is_cut_and_said_once(clip: CLIPModel, tmp_path: Path) -> None:
    texts = tower(clip, cache_dir=tmp_path)
    with pytest.warns(UserWarning, match="hippopotamus.*context of 77") as caught:
        rows = texts.encode(["cat", LONG], TEMPLATES)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        texts.encode([LONG], ["the {}"])
    assert len(str(caught[0].message)) < 200
    torch.testing.assert_close(rows, direct(clip, ["cat", LONG]), atol=1e-6, rtol=0)
    # Another process that finds the embedding on disk says it too.
    with pytest.warns(UserWarning, match="hippopotamus") as caught, Count(clip) as count:
        tower(clip, cache_dir=tmp_path).encode(["cat", LONG], TEMPLATES)
    assert len(caught) == 1
    assert not count.calls


def test_a_cut_name_is_still_said_from_a_file_of_known_names(
    clip: CLIPModel, tmp_path: Path
) -> None:
    texts = tower(clip, cache_dir=tmp_path)
    with pytest.warns(UserWarning, match="hippopotamus"):
        texts.encode([LONG], TEMPLATES)
    texts.encode([LONG, "cat"], TEMPLATES)  # only "cat" is encoded here
    with pytest.warns(UserWarning, match="hippopotamus"):
        tower(clip, cache_dir=tmp_path).encode([LONG, "cat"], TEMPLATES)


def test_a_name_that_just_fits_is_not_cut() -> None:
    model = tiny_clip(context=12)
    texts = tower(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fits = texts.encode(["x" * 10], ["{}"])
    with pytest.warns(UserWarning, match="context of 12"):
        longer = texts.encode(["x" * 11], ["{}"])
    # The last letter of a word is a token of its own kind ("x</w>"), so the cut one differs.
    assert not torch.allclose(fits, longer, atol=1e-3)
    torch.testing.assert_close(fits, direct(model, ["x" * 10], ("{}",)), atol=1e-6, rtol=0)
    torch.testing.assert_close(longer, direct(model, ["x" * 11], ("{}",)), atol=1e-6, rtol=0)


def refused(texts: TextTower, names: Any = ("cat",), templates: Any = TEMPLATES) -> str:
    with pytest.raises(WordmaskError) as caught:
        texts.encode(names, templates)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_names_need_a_tokenizer_and_a_text_model(clip: CLIPModel) -> None:
    assert "tokenizer=" in refused(tower(clip, tokenizer=None))
    vision_only = TextTower(None, None, tiny_tokenizer(), cache_dir=None)
    assert "text features as a tensor" in refused(vision_only)


def test_bad_names_and_templates_are_refused(clip: CLIPModel) -> None:
    texts = tower(clip)
    assert "list" in refused(texts, "cat")
    assert "list" in refused(texts, [])
    assert "exactly once" in refused(texts, templates=["a photo"])
    assert "did you mean openai" in refused(texts, templates="openia")


def test_a_tokenizer_of_another_model_is_refused() -> None:
    model = tiny_clip()
    model.text_model.config.eos_token_id = 511
    assert "token 519" in refused(tower(model))
    assert "token 511" in refused(tower(model))
    # Under the legacy id the end token must be the highest one, or another token is pooled.
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(["zebra"])
    legacy = tiny_clip(legacy_end=True)
    assert "token 520" in refused(tower(legacy, tokenizer=tokenizer), ["zebra"])
    assert "token 520" in refused(tower(tiny_clip(), tokenizer=tokenizer), ["zebra"])
    tower(legacy, tokenizer=tokenizer).encode(["cat"], TEMPLATES)


def test_an_end_token_inside_a_name_is_refused(clip: CLIPModel) -> None:
    assert "end token" in refused(tower(clip), ["cat <|endoftext|> dog"])
    tower(clip).encode([f"cat {START} dog"], TEMPLATES)  # odd, but pooled where it ends


def test_weights_that_give_nan_are_refused_and_not_kept(tmp_path: Path) -> None:
    model = tiny_clip()
    with torch.no_grad():
        model.text_projection.weight[0, 0] = torch.nan
    assert "not finite" in refused(tower(model, cache_dir=tmp_path))
    assert not list(tmp_path.iterdir())


def test_nothing_is_left_in_the_model(clip: CLIPModel) -> None:
    before = {name: weight.clone() for name, weight in clip.state_dict().items()}
    tower(clip).encode(NAMES, TEMPLATES)
    assert all(torch.equal(weight, before[name]) for name, weight in clip.state_dict().items())
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in clip.modules())

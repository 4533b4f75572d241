"""What must hold for every step on words, and for each of them."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tiny import tiny_clip, tiny_tokenizer, tiny_vfm
from wordmask import Background, Segmenter, WordmaskError
from wordmask.evaluation.protocols import Entry
from wordmask.methods import METHODS, Method
from wordmask.refiners import REFINERS, WordScores, WordStep, read_refiners
from wordmask.refiners.freecp import FreeCp
from wordmask.refiners.ptc import Ptc
from wordmask.refiners.vip import Vip
from wordmask.text_queries import TextQueries
from wordmask.towers.clip import ClipTower

STEPS = [name for name in sorted(REFINERS) if issubclass(REFINERS[name], WordStep)]
VARIANTS = [f"{name}:{variant}" for name in STEPS for variant in REFINERS[name].variants]
HOSTS = [name for name in METHODS if not METHODS[name].class_maps]
SMALL = {"ptc": {"patches": 2, "momentum": 0.5}, "freecp": {"redundancy": 0.05}}


@pytest.fixture(scope="module")
def clip():
    return tiny_clip(layers=3)


@pytest.fixture(scope="module")
def words():
    """Three classes, the second of two names, and their background."""
    rows = F.normalize(torch.randn(5, 48, generator=torch.Generator().manual_seed(1)), dim=-1)
    return TextQueries.of([rows[:1], rows[1:3], rows[3:4]], rows[4:])


def photo(height: int = 64, width: int = 96, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 16, width // 16, 3), dtype=np.uint8)
    return coarse.repeat(16, axis=0).repeat(16, axis=1)


def build(clip, variant, method="clearclip", **options):
    name = variant.partition(":")[0]
    return Segmenter.from_pretrained(
        clip,
        method,
        options={"short_side": 64, **options},
        refine=[(variant, SMALL.get(name, {}))],
        networks={"vfm": tiny_vfm()},
    )


@pytest.mark.parametrize("variant", VARIANTS)
class TestEveryStep:
    def test_it_changes_scores_and_leaves_the_picture_beside_it_alone(self, clip, words, variant):
        segmenter = build(clip, variant)
        plain = segmenter.with_method(segmenter.method)
        pictures = [photo(seed=seed) for seed in (1, 2)]
        changed = False
        for picture, one in zip(pictures, segmenter(pictures, words), strict=True):
            alone = segmenter(picture, words)
            assert np.array_equal(alone.labels, one.labels)
            assert np.allclose(alone.scores, one.scores, atol=1e-5)
            assert np.isfinite(one.scores).all()
            changed |= not np.allclose(one.scores, plain(picture, words).scores, atol=1e-4)
        assert changed

    def test_windows_and_pads(self, clip, words, variant):
        for options in ({"window": 48, "stride": 24}, {"remainder": "pad", "short_side": 60}):
            segmenter = build(clip, variant, **options)
            result = segmenter(photo(), words)
            assert result.labels.shape == (64, 96)
            assert result.scores.shape[0] == 3

    def test_the_order_of_words_does_not_matter(self, clip, variant):
        rows = F.normalize(torch.randn(4, 48, generator=torch.Generator().manual_seed(1)), dim=-1)
        segmenter = build(clip, variant)
        encoding = segmenter.encode(photo())
        one = segmenter(encoding, rows, "none").labels.astype(int)
        other = segmenter(encoding, rows.flip(0), "none").labels.astype(int)
        assert np.mean(one == 5 - other) > 0.99

    def test_every_pixel_has_a_word_without_a_background(self, clip, variant):
        rows = 1 + 0.1 * torch.randn(30, 48, generator=torch.Generator().manual_seed(4))
        segmenter = build(clip, variant)
        for few in (rows, rows[:2], rows[:1]):
            assert segmenter(photo(), few, "none").labels.min() >= 1

    def test_one_patch_and_one_word(self, clip, words, variant):
        segmenter = build(clip, variant, short_side=8)
        assert segmenter(photo(16, 16), words).labels.shape == (16, 16)
        assert segmenter(photo(16, 16), words.embeddings[:1]).labels.shape == (16, 16)

    def test_refiners_of_maps_come_after(self, clip, words, variant):
        segmenter = build(clip, variant)
        refined = segmenter.with_method(
            segmenter.method, refine=[*segmenter.refiners, ("pamr", {"steps": 2})]
        )
        assert refined(photo(), words).labels.shape == (64, 96)
        name = variant.partition(":")[0]
        with pytest.raises(WordmaskError, match=f"got pamr before {name}"):
            read_refiners(f"pamr,{name}")


@pytest.mark.parametrize("method", HOSTS)
def test_any_method_of_cosines(clip, words, method):
    for variant in ("freecp", "freecp:purge", "ptc", "vip"):
        segmenter = build(clip, variant, method)
        scored = segmenter.score(photo(), words)
        assert torch.isfinite(scored.class_maps()).all()
        assert scored.labels().shape == (64, 96)
        assert scored.image_scores().shape == (3,)


@pytest.mark.parametrize("method", [name for name in METHODS if METHODS[name].class_maps])
@pytest.mark.parametrize("step", STEPS)
def test_methods_of_class_maps_are_refused(clip, method, step):
    told = f"got {step} with {method}, which makes class maps"
    with pytest.raises(WordmaskError, match=told):
        Segmenter.from_pretrained(clip, method, refine=step)
    with pytest.raises(WordmaskError, match=told):
        Segmenter.from_pretrained(clip, "clip").with_method(method, refine=step)
    with pytest.raises(WordmaskError, match=told):
        Entry.parse(f"{method}+{step}")


# -- one pass -----------------------------------------------------------------------------------


def count_passes(monkeypatch) -> list[torch.Size]:
    passes: list[torch.Size] = []
    run = ClipTower.trace
    monkeypatch.setattr(
        ClipTower,
        "trace",
        lambda self, pixels, *rest: passes.append(pixels.shape) or run(self, pixels, *rest),
    )
    return passes


def test_attention_is_recorded_in_the_methods_pass_and_kept(clip, words, monkeypatch):
    """Other words need no pass; ResCLIP sums other blocks, so that there are two."""
    segmenter = build(clip, "freecp", window=48, stride=24)
    passes = count_passes(monkeypatch)
    encoding = segmenter.encode(photo())
    windows = len(encoding.windows)
    assert windows > 1
    assert len(passes) == windows
    passes.clear()
    never = segmenter.with_method(segmenter.method, refine=[("freecp", {"ambiguity": 2.0})])
    encoding.prepared.update({(0, never.refiners[0]): encoding.prepared[0, segmenter.refiners[0]]})
    never(encoding, words)
    assert not passes
    other = build(clip, "freecp", "resclip")
    passes.clear()
    recorded = other.encode(photo())
    assert len(passes) == 2
    assert (0, other.refiners[0]) in recorded.prepared


def test_a_pass_of_its_own_gives_the_same(clip, words):
    segmenter = build(clip, "freecp", window=48, stride=24)
    (step,) = segmenter.refiners
    encoding = segmenter.encode(photo())
    recorded = encoding.prepared.pop((0, step))
    assert torch.allclose(
        segmenter.pipeline.prepare_refiner(encoding, 0, step), recorded, atol=1e-6
    )
    lean = build(clip, "freecp", window=48, stride=24)
    lean.low_memory = True
    assert np.array_equal(lean(photo(), words).labels, segmenter(photo(), words).labels)


# -- FreeCP -------------------------------------------------------------------------------------


def test_boxes_of_holes_and_borders():
    """A ring has its own box and that of the patches around its hole; `official` is cut short."""
    ring = torch.zeros(1, 6, 7)
    ring[0, 1:6, 2:7] = 1
    ring[0, 3, 4] = 0
    assert sorted(FreeCp().boxes(ring)) == [(0, 1, 2, 6, 7), (0, 2, 3, 5, 6)]
    assert sorted(FreeCp(full_boxes=False).boxes(ring)) == [(0, 1, 2, 5, 6), (0, 2, 3, 5, 6)]
    corner = torch.zeros(1, 6, 7)
    corner[0, 5, 6] = 1
    assert FreeCp(full_boxes=False).boxes(corner) == [(0, 5, 6, 5, 6)]  # of no height or width


def test_groups_are_linked_through_others():
    """1 overlaps 0 and 2, which do not overlap; 4 overlaps nothing, 3 is not kept."""
    r = torch.tensor([[1, 1, 0, 0, 0], [1, 1, 1, 1, 0], [0, 0, 1, 1, 0], [1, 1, 1, 1, 0.0]])
    r = torch.cat([r, torch.tensor([[0, 0, 0, 0, 1.0]])])[:, None]
    kept = torch.tensor([True, True, True, False, True])
    (group,) = FreeCp(ambiguity=0.5).ambiguous(r, kept)
    assert group.tolist() == [0, 1, 2]
    assert not FreeCp(ambiguity=0.6).ambiguous(r, kept)


def test_purge_leaves_the_methods_scores_of_what_is_kept(clip, words):
    segmenter = build(clip, "freecp:purge")
    encoding = segmenter.encode(photo())
    scored = segmenter.score(encoding, words)
    own = segmenter.method.scores(segmenter.towers, encoding, words)[0]
    (tile,) = scored.maps.tiles
    dropped = (tile.scores == -1).flatten(1).all(1)
    assert torch.equal(tile.scores[~dropped], own[~dropped])
    assert not dropped[4]  # the background
    assert dropped[1] == dropped[2]  # names of one class
    assert 0 < dropped.sum() < 4
    refined = build(clip, "freecp").score(photo(), words).class_maps()
    assert torch.equal(refined.flatten(1).amax(1) == 0, dropped[[0, 1, 3]])


@pytest.mark.parametrize("variant", ["freecp", "freecp:purge"])
def test_classes_that_are_known_to_be_there_are_not_purged(clip, words, variant):
    segmenter = build(clip, variant)
    (found,) = segmenter([photo()], words, image_labels=[[2]])
    assert (found.labels == 3).any()
    assert set(np.unique(found.labels)) <= {0, 3}


def test_purged_maps_are_below_those_that_are_left(clip, words):
    """The map of the only class that is left is 0 somewhere, where no purged one may win a tie."""
    segmenter = Segmenter.from_pretrained(
        clip, "clearclip", options={"short_side": 64}, refine=[("freecp", {"redundancy": 0.49})]
    )
    texts = TextQueries.of([words.embeddings[i : i + 1] for i in (0, 1, 3)])
    maps = segmenter.score(photo(), texts).maps.tiles[0].scores
    kept = maps.amax((1, 2)) > 0
    assert int(kept.sum()) == 1
    assert maps[kept].min() == 0
    assert maps[~kept].max() < 0


def test_background_of_purged_maps(clip, words):
    """Background is 1 - the largest map, or what the strategy says in its place."""
    segmenter = build(clip, "freecp")
    encoding = segmenter.encode(photo())
    strategies = {
        "names": lambda m: 1 - m,
        Background.threshold(0.8): lambda m: torch.full_like(m, 0.8),
        Background.complement(3.0): lambda m: (1 - m) ** 3,
    }
    for strategy, ground in strategies.items():
        texts = words if strategy == "names" else replace(words, strategy=strategy)
        scored = segmenter.score(encoding, texts)
        maps = scored.maps.rows(0, 64, (64, 96))
        best, which = maps.max(0)
        expected = torch.where(best > ground(best), which + 1, 0)
        assert np.array_equal(scored.labels(), expected.numpy())
        assert (scored.labels() == 0).any()
        known = scored.labels([0])
        assert set(np.unique(known)) <= {0, 1}
        assert not scored.labels([]).any()


# -- PTC ----------------------------------------------------------------------------------------


def replica(scores, features, owner, rows, k, share, momentum, scale, support):
    """PTC in plain Python: scores [window][query][patch], features [window][patch], texts."""
    count = max(owner) + 1
    totals = [[0.0] * len(rows[0]) for _ in range(count)]
    found, taken = Counter(), Counter()
    for window, maps in enumerate(scores):
        members = [[] for _ in range(count)]
        for patch in range(len(maps[0])):
            best = [
                max(m[patch] for m, o in zip(maps, owner, strict=True) if o == c)
                for c in range(count)
            ]
            order = sorted(range(count), key=lambda c: -best[c])
            members[order[0]].append((scale * (best[order[0]] - best[order[1]]), patch))
        for c, own in enumerate(members):
            if len(own) < k:
                continue
            own = sorted(own, reverse=True)[: max(k, int(share * len(own)))]
            total = sum(margin for margin, _ in own)
            for margin, patch in own:
                vector = features[window][patch]
                length = math.sqrt(sum(x * x for x in vector))
                for e, x in enumerate(vector):
                    totals[c][e] += margin / total * x / length
            found[c] += 1
            taken[c] += len(own)
    least = min(support, len(scores)) if len(scores) > 16 or count > 30 else 1
    moved = []
    for c, row in zip(owner, rows, strict=True):
        if found[c] >= least:
            length = math.sqrt(sum(x * x for x in totals[c]))
            pull = momentum * min(1.0, math.log(1 + taken[c]) / math.log(1 + 10 * k))
            row = [(1 - pull) * t + pull * x / length for t, x in zip(row, totals[c], strict=True)]
        length = math.sqrt(sum(x * x for x in row))
        moved.append([x / length for x in row])
    return moved


@pytest.mark.parametrize(
    ("windows", "names", "k", "share"), [(1, 5, 3, 0.1), (4, 5, 4, 0.6), (4, 40, 1, 0.5)]
)
def test_ptc_against_a_replica(windows, names, k, share):
    generator = torch.Generator().manual_seed(windows + names)
    rows = F.normalize(torch.randn(names, 6, generator=generator), dim=-1)
    owner = [0, 1, 1, *range(2, names - 1)]
    texts = TextQueries.of(
        [rows[[i for i, o in enumerate(owner) if o == c]] for c in range(names - 2)],
        rows[-1:],
    )
    features = torch.randn(windows, 6, 4, 5, generator=generator)
    scores = torch.einsum("qe,wehv->wqhv", texts.embeddings, F.normalize(features, dim=1))
    given = WordScores(scores, texts, features, features, None, None, None)
    step = Ptc(patches=k, share=share, momentum=0.3)
    expected = replica(
        scores.flatten(2).tolist(),
        features.flatten(2).transpose(1, 2).tolist(),
        texts.owner.tolist(),
        texts.embeddings.tolist(),
        k,
        share,
        0.3,
        40.0,
        2,
    )
    moved = step.move(given)
    assert torch.allclose(moved, torch.tensor(expected), atol=1e-5)
    assert not torch.allclose(moved, texts.embeddings, atol=1e-3)


def test_ptc_moves_nothing_of_small_classes(clip, words):
    segmenter = build(clip, "ptc")
    small = segmenter.with_method(segmenter.method, refine=[("ptc", {"patches": 1000})])
    plain = segmenter.with_method(segmenter.method)
    assert np.array_equal(small(photo(), words).scores, plain(photo(), words).scores)


# -- VIP ----------------------------------------------------------------------------------------


def test_vip_by_hand():
    """Two names at cosines 1 and 0 with the picture's mean: weights e^10 : 1, halves about it."""
    features = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 2, 3)
    texts = TextQueries.of([torch.eye(2), torch.tensor([[0.6, 0.8]])])
    scores = torch.tensor([0.3, 0.2, 0.25]).view(1, 3, 1, 1).expand(1, 3, 2, 3)
    given = WordScores(scores, texts, features, features, None, None, None)
    found = Vip(temperature=0.5, tau=10.0).rescore(given)[0, :, 0, 0].tolist()
    share = math.exp(2) / (1 + math.exp(2))
    maps = [0.3 * 2 * share, 0.2 * 2 * (1 - share)]
    joined = math.log(sum(math.exp(10 * m) for m in maps)) / 10
    assert found == pytest.approx([joined, -1.0, 0.25], abs=1e-6)


def test_vip_changes_classes_of_several_names_alone(clip, words):
    segmenter = build(clip, "vip")
    encoding = segmenter.encode(photo())
    own = segmenter.method.scores(segmenter.towers, encoding, words)[0]
    (tile,) = segmenter.score(encoding, words).maps.tiles
    assert torch.equal(tile.scores[[0, 3, 4]], own[[0, 3, 4]])
    assert not torch.equal(tile.scores[1], own[1])


# -- chosen negatives ---------------------------------------------------------------------------


def test_negatives_are_chosen_for_the_words_and_told(clip):
    segmenter = Segmenter.from_pretrained(clip, "clip", tokenizer=tiny_tokenizer())
    texts = segmenter.encode_text(["cat", "dog"], Background.negatives(5))
    result = segmenter(photo(), texts)
    told = result.provenance["background"]
    assert told["kind"] == "negatives"
    assert told["count"] == 5
    assert len(told["distractors"]) == len(texts.background) == 5
    assert (texts.background @ texts.foreground.T).max() <= 0.9 + 1e-6
    again = segmenter.encode_text(["dog", "cat"], "negatives").strategy.distractors
    assert segmenter.encode_text(["cat", "dog"], "negatives").strategy.distractors == again
    rows = segmenter.encode_text(["cat", "dog"], "none").embeddings
    own = segmenter.encode_text({"a": rows[0], "b": rows[1]}, "negatives")
    assert own.strategy.distractors == again


@pytest.mark.parametrize(
    ("step", "options", "told"),
    [
        ("freecp", {"redundancy": 0.5}, "redundancy"),
        ("freecp", {"crop": 0}, "crop=0"),
        ("ptc", {"momentum": 1.5}, "momentum=1.5"),
        ("ptc", {"support": 0}, "support=0"),
        ("vip", {"tau": 0.0}, "tau=0"),
    ],
)
def test_bad_options(step, options, told):
    with pytest.raises(WordmaskError, match=told):
        read_refiners([(step, options)])


def test_steps_follow_one_another(clip, words):
    """Prototypes are moved by the scores before them, and the purge sees moved words."""
    options = SMALL["ptc"]
    segmenter = build(clip, "ptc")
    both = segmenter.with_method(segmenter.method, refine=[("ptc", options), "freecp:purge"])
    encoding = both.encode(photo())
    purged = both.score(encoding, words).maps.tiles[0].scores
    moved = segmenter.score(encoding, words).maps.tiles[0].scores
    kept = (purged != -1).flatten(1).any(1)
    assert torch.equal(purged[kept], moved[kept])
    with pytest.raises(WordmaskError, match="got freecp twice; give it once"):
        read_refiners("freecp,freecp")
    with pytest.raises(WordmaskError, match="got freecp before ptc"):
        read_refiners("freecp,ptc")
    assert issubclass(METHODS["clearclip"], Method)

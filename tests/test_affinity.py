"""The affinity operators against the matrices that they stand for."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tiny import Dense
from wordmask import affinity
from wordmask.affinity import (
    Affinity,
    ByRows,
    Chain,
    HeadAttention,
    Mean,
    Sharpened,
)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def stochastic(size: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.softmax(2 * random(size, size, seed=seed, dtype=dtype), dim=-1)


@pytest.fixture
def small_blocks(monkeypatch):
    """Blocks of three rows of 40, so that a map of 40 rows takes 14 of them."""
    monkeypatch.setattr(affinity, "BLOCK", 120)


def sharpened(matrix: torch.Tensor, threshold: float, epsilon: float = 1e-5) -> torch.Tensor:
    """What the released code of CLIPer does with one matrix, written as its card says."""
    m = matrix / (matrix.max(0, keepdim=True).values + epsilon)
    m = torch.where(m < threshold, torch.zeros_like(m), m)
    return m / (m.sum(1, keepdim=True) + epsilon)


# -- attention of one head ----------------------------------------------------------------------


@pytest.mark.usefixtures("small_blocks")
def test_head_attention_is_the_softmax_of_all_rows():
    q, k, x = random(40, 8), random(40, 8, seed=1), random(40, 5, seed=2)
    attention = HeadAttention(q, k)
    matrix = torch.softmax(q @ k.T / 8**0.5, dim=-1)
    assert len(list(attention.blocks())) == 14
    assert torch.allclose(attention @ x, matrix @ x, atol=1e-6)
    assert torch.allclose(attention.dense(), matrix, atol=1e-7)
    assert torch.allclose(HeadAttention(q, k, 0.3).dense(), torch.softmax(0.3 * q @ k.T, dim=-1))


@given(size=st.integers(1, 30), block=st.integers(1, 200))
@settings(max_examples=40, deadline=None)
def test_blocks_hold_every_row_once(size, block):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(affinity, "BLOCK", block)
        blocks = Dense(torch.eye(size)).blocks()
        rows = torch.cat([torch.arange(size)[b] for b in blocks])
    assert rows.sort().values.tolist() == list(range(size))


def test_half_precision_attention_is_computed_in_single():
    q, k = random(40, 8).half(), random(40, 8, seed=1).half()
    assert HeadAttention(q, k).dense().dtype == torch.float32
    expected = torch.softmax(q.float() @ k.float().T / 8**0.5, dim=-1)
    assert torch.allclose(HeadAttention(q, k).dense(), expected, atol=1e-6)


# -- sharpening ---------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("threshold", [0.0, 0.1, 0.2, 0.35, 0.9])
@pytest.mark.parametrize("sparse", [0.0, 0.1, 1.0])
def test_sharpened(threshold, sparse):
    matrix, x = stochastic(40), random(40, 5, seed=1).abs()
    expected = sharpened(matrix, threshold)
    ours = Sharpened(Dense(matrix), threshold, sparse=sparse)
    assert (ours.kept is not None) == (sparse == 1.0)  # at 0.1, blocks this small look too full
    assert torch.allclose(ours.dense(), expected, atol=1e-6)
    assert torch.allclose(ours @ x, expected @ x, atol=1e-6)
    assert torch.allclose(ours.rows(slice(3, None, 7)), expected[3::7], atol=1e-6)


@pytest.mark.usefixtures("small_blocks")
def test_a_sparse_form_drops_the_attention_and_gives_the_same():
    q, k, x = 4 * random(40, 8), 4 * random(40, 8, seed=1), random(40, 5, seed=2)
    sparse = Sharpened(HeadAttention(q, k), 0.2, sparse=0.5)
    blocks = Sharpened(HeadAttention(q, k), 0.2, sparse=0)
    assert sparse.kept is not None
    assert sparse.attention is None
    assert blocks.kept is None
    assert torch.allclose(sparse @ x, blocks @ x, atol=1e-6)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("sparse", [0.0, 1.0])
def test_small_entries_by_the_mean_of_the_row(sparse):
    matrix, x = stochastic(40), random(40, 5, seed=1)
    large = torch.where(matrix < 1 / 40, torch.zeros_like(matrix), matrix)
    expected = large / large.sum(1, keepdim=True)
    ours = Sharpened(Dense(matrix), 1.0, column_maximum=False, epsilon=0.0, sparse=sparse)
    assert torch.allclose(ours.dense(), expected, atol=1e-6)
    assert torch.allclose(ours @ x, expected @ x, atol=1e-6)
    assert torch.allclose(ours.dense().sum(1), torch.ones(40), atol=1e-5)


@pytest.mark.parametrize("sparse", [0.0, 1.0])
def test_by_hand(sparse):
    matrix = torch.tensor([[0.8, 0.2], [0.4, 0.6]])  # column maxima 0.8 and 0.6
    ours = Sharpened(Dense(matrix), 0.4, epsilon=0.0, sparse=sparse)
    # [[1, 1/3], [1/2, 1]] -> 1/3 is below 0.4 -> rows [1, 0] and [1/3, 2/3]
    assert torch.allclose(ours.dense(), torch.tensor([[1.0, 0.0], [1 / 3, 2 / 3]]))


@pytest.mark.parametrize("sparse", [0.0, 1.0])
def test_a_row_of_which_nothing_is_left_is_zero_and_not_nan(sparse):
    matrix = torch.full((4, 4), 0.25)
    matrix[:3] = torch.eye(4)[:3] * 0.9 + 0.025
    matrix[:3, 3] = 0.9  # row 3 is below half of every column's maximum
    ours = Sharpened(Dense(matrix), 0.5, sparse=sparse)
    result = ours @ torch.ones(4, 2)
    assert torch.equal(result[3], torch.zeros(2))
    assert torch.allclose(result[:3], torch.ones(3, 2), atol=1e-4)
    assert not ours.dense().isnan().any()


@given(seed=st.integers(0, 999), size=st.integers(1, 24), threshold=st.floats(0, 0.99))
@settings(max_examples=40, deadline=None)
def test_sharpened_rows_sum_to_one_or_are_empty(seed, size, threshold):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(affinity, "BLOCK", 50)
        for sparse in (0.0, 1.0):
            ours = Sharpened(Dense(stochastic(size, seed)), threshold, sparse=sparse)
            total = (ours @ torch.ones(size, 1))[:, 0]
            assert bool((((total - 1).abs() < 1e-3) | (total == 0)).all())


# -- several at once ----------------------------------------------------------------------------


def test_a_chain_right_to_left_is_the_full_product():
    matrices = [stochastic(50, seed, torch.float64) for seed in range(10)]
    x = random(50, 7, dtype=torch.float64)
    product = matrices[0]
    for matrix in matrices[1:]:
        product = product @ matrix
    chain = Chain([Dense(m) for m in matrices])
    assert (chain @ x - product @ x).abs().max() < 1e-14
    backwards = Chain([Dense(m) for m in reversed(matrices)])
    assert (backwards @ x - product @ x).abs().max() > 1e-6


def test_a_chain_of_attentions_in_double_is_the_full_product():
    parts = [random(2, 30, 8, seed=seed, dtype=torch.float64) for seed in range(4)]
    x = random(30, 3, dtype=torch.float64)
    chain = Chain([Sharpened(HeadAttention(q, k), 0.1, sparse=0) for q, k in parts])
    product = torch.eye(30, dtype=torch.float64)
    for q, k in parts:
        product = product @ sharpened(torch.softmax(q @ k.T / 8**0.5, dim=-1), 0.1)
    assert (chain @ x - product @ x).abs().max() < 1e-14


def test_mean_and_dense_of_chain():
    a, b = stochastic(20), stochastic(20, 1)
    x = random(20, 3)
    assert torch.allclose(Mean([Dense(a), Dense(b)]) @ x, (a + b) / 2 @ x, atol=1e-6)
    assert torch.allclose(Mean([Dense(a), Dense(b)]).dense(), (a + b) / 2, atol=1e-6)
    assert torch.allclose(Chain([Dense(a), Dense(b)]).dense(), a @ b, atol=1e-6)


def test_a_subclass_must_say_how_it_is_applied():
    with pytest.raises(TypeError, match="Affinity does not implement __matmul__"):
        Affinity() @ torch.ones(2, 1)
    with pytest.raises(TypeError, match="ByRows does not implement rows"):
        ByRows().rows(slice(None))

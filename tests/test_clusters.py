"""Nested clusters of patches."""

import itertools

import numpy as np
import pytest
import torch

from wordmask.clusters import cluster_tree, cut_tree
from wordmask.errors import WordmaskError


def features(labels: list[list[int]], seed: int = 0) -> torch.Tensor:
    """Features (16, h, w) that are alike where labels are equal."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randn(10, 16, generator=generator)
    noise = 0.05 * torch.randn(16, len(labels), len(labels[0]), generator=generator)
    return kinds[torch.tensor(labels)].permute(2, 0, 1) + noise


def same_parts(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((np.equal.outer(a, a) == np.equal.outer(b, b)).all())


@pytest.mark.parametrize("linkage", ["average", "weighted", "complete"])
def test_the_tree_finds_what_is_alike(linkage):
    labels = [[0, 0, 1, 1, 1], [0, 0, 1, 1, 2], [0, 0, 2, 2, 2]]
    found = cut_tree(cluster_tree(features(labels), linkage=linkage), 3)
    assert same_parts(found, np.ravel(labels))


def test_cuts_are_nested():
    joins = cluster_tree(torch.randn(8, 6, 7, generator=torch.Generator().manual_seed(1)))
    cuts = [cut_tree(joins, n) for n in (2, 4, 8, 16, 42)]
    assert [len(np.unique(cut)) for cut in cuts] == [2, 4, 8, 16, 42]
    for coarse, fine in itertools.pairwise(cuts):
        assert all(len(np.unique(coarse[fine == k])) == 1 for k in range(fine.max() + 1))


def test_spacing_tells_equal_things_apart():
    labels = [[0] * 3 + [1] * 6 + [0] * 3] * 2
    joins = cluster_tree(features(labels), spacing=0)
    assert same_parts(cut_tree(joins, 2), np.ravel(labels))
    joins = cluster_tree(features(labels), spacing=2)
    left, right = cut_tree(joins, 3).reshape(2, 12)[0, [0, 11]]
    assert left != right


def test_degenerate_pictures():
    assert cut_tree(cluster_tree(torch.ones(8, 1, 1)), 4).tolist() == [0]
    constant = torch.ones(8, 3, 5)
    assert set(cut_tree(cluster_tree(constant, spacing=0), 4)) == {0}  # all joins are tied
    assert len(set(cut_tree(cluster_tree(constant), 4))) <= 4
    assert len(set(cut_tree(cluster_tree(torch.rand(8, 2, 2)), 100))) == 4
    with pytest.raises(WordmaskError, match="NaN or infinite"):
        cluster_tree(torch.full((8, 3, 3), torch.nan))

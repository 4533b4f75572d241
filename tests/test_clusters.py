"""Nested clusters of patches."""

import numpy as np
import pytest
import torch
from scipy.cluster import hierarchy

from wordmask.clusters import all_clusters, cluster_tree
from wordmask.errors import WordmaskError


def features(labels: list[list[int]], seed: int = 0) -> torch.Tensor:
    """Features (16, h, w) that are alike where labels are equal."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randn(10, 16, generator=generator)
    noise = 0.05 * torch.randn(16, len(labels), len(labels[0]), generator=generator)
    return kinds[torch.tensor(labels)].permute(2, 0, 1) + noise


def same_parts(a: np.ndarray, b: np.ndarray) -> bool:
    return bool((np.equal.outer(a, a) == np.equal.outer(b, b)).all())


def patches_of(joins: np.ndarray) -> np.ndarray:
    """(K, L) bool, which patches are in which cluster."""
    found = all_clusters(joins)
    members = np.zeros((len(found.parent), len(joins) + 1), bool)
    members[: len(joins) + 1] = np.eye(len(joins) + 1, dtype=bool)
    for cluster, parent in enumerate(found.parent[:-1]):
        members[parent] |= members[cluster]
    return members


@pytest.mark.parametrize("linkage", ["average", "weighted", "complete"])
def test_the_tree_finds_what_is_alike(linkage):
    labels = np.array([[0, 0, 1, 1, 1], [0, 0, 1, 1, 2], [0, 0, 2, 2, 2]])
    joins = cluster_tree(features(labels.tolist()), linkage=linkage)
    members, found = patches_of(joins), all_clusters(joins)
    lasting = np.argsort(found.joined - found.made)[-3:]  # the three things last longest
    things = {tuple(labels.ravel() == thing) for thing in range(3)}
    assert {tuple(members[one]) for one in lasting} == things


def test_all_clusters():
    """Three patches: the first two are joined at 1, with the third at 4."""
    found = all_clusters(np.array([[0, 1, 1.0, 2], [2, 3, 4.0, 3]]))
    assert found.parent.tolist() == [3, 3, 4, 4, 4]
    assert [level.tolist() for level in found.levels] == [[4], [2, 3], [0, 1]]
    assert found.size.tolist() == [1, 1, 1, 2, 3]
    assert found.made.tolist() == [0, 0, 0, 0.25, 1]
    assert found.joined.tolist() == [0.25, 0.25, 1, 1, 1]


def test_clusters_are_those_of_scipy():
    joins = cluster_tree(torch.randn(8, 6, 7, generator=torch.Generator().manual_seed(1)))
    members, found = patches_of(joins), all_clusters(joins)
    assert members[-1].all()
    assert sorted(np.concatenate(found.levels)) == list(range(83))
    assert (found.joined >= found.made).all()
    for height in (0.2, 0.5, 0.9):
        alive = (found.made <= height) & (height < found.joined)
        parts = hierarchy.fcluster(joins, height * joins[-1, 2], "distance")
        assert same_parts(members[alive].argmax(0), parts)


def test_spacing_tells_equal_things_apart():
    things = np.ravel([[0] * 3 + [1] * 6 + [0] * 3] * 2)
    left = np.arange(24) % 12 < 3
    for spacing, alone in ((0, False), (2, True)):
        joins = cluster_tree(features(things.reshape(2, 12).tolist()), spacing=spacing)
        assert (patches_of(joins) == left).all(1).any() == alone


def test_degenerate_pictures():
    one = all_clusters(cluster_tree(torch.ones(8, 1, 1)))
    assert (one.parent.tolist(), one.made.tolist(), one.joined.tolist()) == ([0], [0], [1])
    tied = all_clusters(cluster_tree(torch.ones(8, 3, 5), spacing=0))
    assert (tied.joined - tied.made).argmax() == 28  # all patches are alike: the picture lasts
    with pytest.raises(WordmaskError, match="NaN or infinite"):
        cluster_tree(torch.full((8, 3, 3), torch.nan))

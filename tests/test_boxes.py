"""Maps spread by attention inside the boxes of their parts."""

from __future__ import annotations

import torch

from wordmask.boxes import attention_affinity, component_boxes, fill_boxes


def test_affinity_by_hand():
    """One round on [[1, 3], [1, 1]]: columns to 1/2 1/2, 3/4 1/4, then rows; symmetric; squared."""
    once = torch.tensor([[0.5 / 1.25, 0.75 / 1.25], [0.5 / 0.75, 0.25 / 0.75]])
    symmetric = (once + once.T) / 2
    ours = attention_affinity(torch.tensor([[1.0, 3.0], [1.0, 1.0]]), rounds=1)
    assert torch.allclose(ours, symmetric @ symmetric)


def test_affinity_approaches_a_symmetric_doubly_stochastic_map():
    a = attention_affinity(
        torch.rand(9, 9, generator=torch.Generator().manual_seed(0)) + 0.1, rounds=50
    )
    assert torch.allclose(a, a.T, atol=1e-5)
    assert torch.allclose(a.sum(1), torch.ones(9), atol=1e-4)
    identity = torch.eye(5)
    assert torch.equal(attention_affinity(identity), identity)


def test_boxes_by_hand():
    """A diagonal pair is one component; the far pixel is another; an empty mask has none."""
    mask = torch.tensor(
        [
            [1, 0, 0, 0, 0],
            [0, 1, 0, 0, 0],
            [1, 0, 0, 0, 1],
            [0, 0, 0, 0, 0],
            [0, 1, 1, 0, 0],
        ],
        dtype=torch.bool,
    )
    expected = torch.zeros(5, 5, dtype=torch.bool)
    expected[:3, :2] = True
    expected[2, 4] = True
    expected[4, 1:3] = True
    masks = torch.stack([mask, torch.zeros_like(mask), mask.T])
    boxes = fill_boxes(component_boxes(masks), masks)
    assert torch.equal(boxes[0], expected)
    assert not boxes[1].any()
    assert torch.equal(boxes[2], expected.T)


def test_a_winding_component_is_one_box():
    mask = torch.tensor([[1, 1, 1, 1], [0, 0, 0, 1], [1, 1, 1, 1], [1, 0, 0, 0]], dtype=torch.bool)
    assert component_boxes(mask[None]) == [(0, 0, 0, 4, 4)]


def test_corners_connect_only_where_asked():
    mask = torch.eye(3, dtype=torch.bool)[None]
    assert component_boxes(mask) == [(0, 0, 0, 3, 3)]
    assert sorted(component_boxes(mask, diagonal=False)) == [
        (0, i, i, i + 1, i + 1) for i in range(3)
    ]

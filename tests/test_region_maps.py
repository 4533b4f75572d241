"""Region maps: of every source, from folders, and what may be wrong with them."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch

from tiny import save_tiny_panoptic, tiny_sam, tiny_vfm
from wordmask import WordmaskError
from wordmask.region_maps import (
    SOURCES,
    check_source,
    nearest,
    network_of,
    numbered,
    paint,
    patch_clusters,
    read_region_map,
    region_map,
)
from wordmask.towers.auxiliary import KINDS, AuxiliaryModels


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    sources = {"vfm": tiny_vfm(), "sam": tiny_sam(1), "sam2": tiny_sam(2)}
    for kind in ("mask2former", "eomt"):
        sources[kind] = tmp_path_factory.mktemp(kind)
        save_tiny_panoptic(sources[kind], kind)
    return AuxiliaryModels(sources)


def halves(height: int = 48, width: int = 80) -> torch.Tensor:
    """A picture that is red on the left and blue on the right."""
    image = torch.zeros(3, height, width)
    image[0, :, : width // 2] = 1
    image[2, :, width // 2 :] = 1
    return image


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_numbered_regions(networks, source):
    made = region_map(source, halves(), networks)
    assert made.dtype == torch.int32
    assert made.device.type == "cpu"
    assert made.ndim == 2
    assert int(made.min()) >= 0
    assert torch.equal(made, region_map(source, halves(), networks))
    assert set(network_of(source)) <= set(KINDS)


@pytest.mark.parametrize("source", ["felzenszwalb", "attention"])
def test_what_looks_alike_is_one_region(networks, source):
    left, right = region_map(source, halves(), networks).chunk(2, dim=1)
    assert not set(left.unique().tolist()) & set(right.unique().tolist())
    if source == "felzenszwalb":
        assert len(left.unique()) == len(right.unique()) == 1


@pytest.mark.parametrize("source", ["felzenszwalb", "slic"])
@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 2)])
def test_pictures_of_a_few_pixels(source, size):
    made = region_map(source, torch.rand(3, *size), AuxiliaryModels())
    assert made.shape == size
    assert int(made.min()) >= 1


def test_large_pictures_are_seen_smaller():
    assert region_map("felzenszwalb", halves(700, 1000), AuxiliaryModels()).shape == (336, 480)


def test_masks_are_painted_small_over_large():
    masks = torch.zeros(3, 2, 4, dtype=torch.bool)
    masks[0, 0, :2] = True
    masks[1, :, :3] = True
    assert paint(masks).tolist() == [[2, 2, 1, 0], [1, 1, 1, 0]]
    assert paint(masks[:0]).tolist() == [[0] * 4] * 2


def test_nearest_is_that_of_torch():
    map_ = torch.arange(7 * 11).view(7, 11)
    for size in [(3, 4), (14, 30), (7, 11), (1, 1)]:
        theirs = torch.nn.functional.interpolate(map_[None, None].double(), size=size)[0, 0].long()
        assert torch.equal(nearest(map_, size), theirs)


def test_patches_join_up_to_a_distance():
    features = torch.tensor([[1.0, 0], [3, 0.1], [0, 2], [-1, 0]]).T[:, :, None]  # (2, 4, 1)
    joined = patch_clusters(features, 0.1)[:, 0].tolist()
    assert joined[0] == joined[1]
    assert len(set(joined)) == 3
    assert patch_clusters(features, 2.0).unique().tolist() == [1]
    assert patch_clusters(features[:, :1], 0.5).tolist() == [[1]]
    assert patch_clusters(0 * features, 0.5).shape == (4, 1)  # no direction at all
    with pytest.raises(WordmaskError, match="NaN or infinite; run the network in float32"):
        patch_clusters(torch.nan * features, 0.5)


# -- folders ----------------------------------------------------------------------------------


GIVEN = np.array([[0, 300, 300], [7, 7, 0]], np.uint16)  # ids need not be consecutive
NUMBERED = [[0, 2, 2], [1, 1, 0]]


@pytest.mark.parametrize("form", ["8 bit", "16 bit", "palette", "colours", "npz", "negative"])
def test_folder_of_maps(tmp_path, form):
    given = GIVEN.astype(np.int64)
    if form == "npz":
        np.savez(tmp_path / "one.npz", GIVEN)
    elif form == "negative":
        np.savez_compressed(tmp_path / "one.npz", regions=np.where(given == 0, -1, given))
    elif form == "colours":
        colours = np.zeros((2, 3, 3), np.uint8)
        colours[GIVEN == 300] = (0, 0, 9)
        colours[GIVEN == 7] = (200, 1, 0)
        PIL.Image.fromarray(colours).save(tmp_path / "one.png")
    else:
        dtype = np.uint16 if form == "16 bit" else np.uint8
        picture = PIL.Image.fromarray((GIVEN if form == "16 bit" else GIVEN // 2).astype(dtype))
        if form == "palette":
            picture.putpalette(list(range(256)) * 3)
        picture.save(tmp_path / "one.png")
    for name in ["one", "one.jpg", "/pictures/one.JPEG", "below/one.tif"]:
        assert read_region_map(tmp_path, name, (2, 3)).tolist() == NUMBERED


def test_masks_and_names_with_folders_and_dots(tmp_path):
    masks = np.zeros((2, 2, 3), bool)
    masks[0] = True
    masks[1, 0, 0] = True
    (tmp_path / "city").mkdir()
    np.savez(tmp_path / "city" / "a.b.npz", masks=masks)
    np.savez(tmp_path / "a.b.npz", masks=masks[:1])
    assert read_region_map(tmp_path, "city/a.b", (2, 3)).tolist() == [[2, 1, 1], [1, 1, 1]]
    assert read_region_map(tmp_path, "/x/city/a.b.png", (2, 3)).tolist() == [[1] * 3] * 2


def save(tmp_path, array):
    np.savez(tmp_path / "one.npz", array)


@pytest.mark.parametrize(
    ("prepare", "name", "words"),
    [
        (lambda at: None, "", ["picture in memory", "name=NAME"]),
        (lambda at: None, "two.jpg", ["no region map of two.jpg", "two.png or two.npz"]),
        (lambda at: save(at, GIVEN[:1]), "one", ["3 x 1 pixels", "3 x 2"]),
        (lambda at: PIL.Image.new("L", (4, 2)).save(at / "one.png"), "one", ["4 x 2 pixels"]),
        (lambda at: save(at, GIVEN.astype(float)), "one", ["float64 (2, 3)", "integers"]),
        (lambda at: save(at, np.array([None])), "one", ["cannot read the region map"]),
        (lambda at: np.savez(at / "one.npz", a=GIVEN, b=GIVEN), "one", ["2 arrays"]),
        (lambda at: (at / "one.png").write_bytes(b"no"), "one", ["cannot read the region map"]),
    ],
)
def test_what_is_wrong_with_a_map_is_one_line(tmp_path, prepare, name, words):
    prepare(tmp_path)
    with pytest.raises(WordmaskError) as error:
        read_region_map(tmp_path, name, (2, 3))
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)


def test_a_source_is_a_name_or_a_folder(tmp_path):
    check_source("slic")
    check_source(str(tmp_path))
    assert network_of(str(tmp_path)) == ()
    with pytest.raises(WordmaskError, match="region_maps='felsenswalb'; give felzenszwalb, slic"):
        check_source("felsenswalb")


def test_numbers_of_any_integers():
    huge = np.array([[0, 2**63 + 1], [2**63 + 5, 0]], np.uint64)
    assert numbered(huge).tolist() == [[0, 1], [2, 0]]
    assert numbered(np.array([[-3, 7], [0, 2]], np.int8)).tolist() == [[0, 2], [0, 1]]
    assert numbered(np.array([[True, False]])).tolist() == [[1, 0]]

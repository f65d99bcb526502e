"""Batches: the right pixels, at the right place, every epoch, and again after a restart."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from scaletut.data import Augment, Batches, ImageSet, channel_statistics, to_tensor
from scaletut.data.batches import cut
from scaletut.errors import ParameterError

UNIT = {"mean": (0, 0, 0), "std": (1 / 255,) * 3}  # leaves grey levels as they are


def noise(n=60, height=8, width=10, seed=0):
    draw = np.random.default_rng(seed)
    images = draw.integers(0, 256, (n, height, width, 3), np.uint8)
    return ImageSet(images, np.arange(n), tuple(map(str, range(n))), "noise")  # the label is the row


def everything(batches, epoch=0, start=0):
    images, labels = zip(*batches.epoch(epoch, start), strict=True)
    return torch.cat(images), torch.cat(labels)


def levels(images):
    return images.permute(0, 2, 3, 1).round().to(torch.uint8).numpy()


@pytest.mark.parametrize("drop_last", [False, True])
def test_an_epoch_shows_each_image_once(drop_last):
    batches = Batches(noise(), batch_size=16, drop_last=drop_last, **UNIT)
    images, labels = everything(batches)
    assert len(batches) == len(list(batches.epoch(0))) == (3 if drop_last else 4)
    assert len(labels) == len(set(labels.tolist())) == (48 if drop_last else 60)
    np.testing.assert_array_equal(levels(images), noise().images[labels])


def test_epochs_and_seeds_differ_and_repeat():
    def order(seed, epoch):
        return everything(Batches(noise(), batch_size=7, seed=seed, **UNIT), epoch)[1].tolist()

    assert order(0, 0) == order(0, 0)
    assert len({tuple(order(seed, epoch)) for seed in range(3) for epoch in range(3)}) == 9


@pytest.mark.parametrize("flip", ["none", "random", "alternate"])
@pytest.mark.parametrize("start", [1, 3, 8])
def test_start_gives_the_rest_of_the_same_epoch(flip, start):
    augment = Augment(crop=2, flip=flip, cutout=3)
    whole = list(Batches(noise(), batch_size=7, augment=augment).epoch(5))
    fresh = Batches(noise(), batch_size=7, augment=augment)
    list(fresh.epoch(4))  # what was drawn before does not matter
    rest = list(fresh.epoch(5, start))
    assert len(rest) == len(whole) - start
    for (x, y), (u, v) in zip(whole[start:], rest, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


def test_each_crop_is_a_window_of_the_reflected_image_and_all_windows_occur():
    data = noise(n=2000)
    images, labels = everything(Batches(data, batch_size=128, augment=Augment(crop=2), **UNIT))
    padded = np.pad(data.images, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="reflect")
    windows = np.lib.stride_tricks.sliding_window_view(padded, (8, 10, 3), axis=(1, 2, 3))[:, :, :, 0]
    hit = (windows[labels] == levels(images)[:, None, None]).all(axis=(3, 4, 5))
    assert (hit.sum(axis=(1, 2)) == 1).all()
    frequency = hit.mean(axis=0)  # 25 places, each 1/25
    assert (np.abs(frequency - 0.04) < 5 * np.sqrt(0.04 * 0.96 / 2000)).all()


def test_random_flip_is_a_coin_for_each_image_and_epoch():
    data = noise(n=1000)
    mirrored = []
    for epoch in (0, 1):
        images, labels = everything(Batches(data, batch_size=100, augment=Augment(flip="random"), **UNIT), epoch)
        shown, original = levels(images), data.images[labels]
        flipped = (shown == original[:, :, ::-1]).all(axis=(1, 2, 3))
        assert (flipped | (shown == original).all(axis=(1, 2, 3))).all()
        mirrored.append(flipped[labels.argsort()])
    for one in (mirrored[0], mirrored[1], mirrored[0] ^ mirrored[1]):
        assert abs(one.mean() - 0.5) < 5 * 0.5 / np.sqrt(1000)


def test_alternate_flip_shows_both_views_in_any_two_epochs_in_a_row():
    data = noise(n=1000)
    batches = Batches(data, batch_size=100, augment=Augment(flip="alternate"), **UNIT)
    mirrored = []
    for epoch in range(4):
        images, labels = everything(batches, epoch)
        flipped = (levels(images) == data.images[labels][:, :, ::-1]).all(axis=(1, 2, 3))
        mirrored.append(flipped[labels.argsort().numpy()])
    for before, after in pairwise(mirrored):
        np.testing.assert_array_equal(before, ~after)
    assert abs(mirrored[0].mean() - 0.5) < 5 * 0.5 / np.sqrt(1000)


def test_cutout_blanks_one_square_and_nothing_else():
    data = ImageSet(np.full((500, 8, 10, 3), 200, np.uint8), np.zeros(500, np.int64), ("a",), "flat")
    images, _ = everything(Batches(data, batch_size=50, augment=Augment(cutout=4), mean=(0, 0, 0), std=(1, 1, 1)))
    blank = (images == 0).all(dim=1).numpy()
    assert (blank == (images == 0).any(dim=1).numpy()).all()
    assert (images[~torch.tensor(blank)[:, None].expand_as(images)] == images.max()).all()
    tall, wide = blank.any(axis=2).sum(axis=1), blank.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(blank.sum(axis=(1, 2)), tall * wide)  # a rectangle
    assert (tall.max(), wide.max(), tall.min()) == (4, 4, 2)  # half of it may lie outside
    assert blank.any(axis=0).all()


def test_both_ways_to_cut_agree():
    """The gather of pixels, used where memory may not be viewed twice, against the gather of lines."""
    data = torch.tensor(noise().images)
    draw = torch.Generator().manual_seed(0)
    rows, top, left = (torch.randint(0, high, (500,), generator=draw) for high in (60, 4, 5))
    lines = cut(data, rows, top, left, 5, 6)
    tall, wide = data.shape[1:3]
    expected = torch.stack([data[r, t : t + 5, k : k + 6] for r, t, k in zip(rows, top, left, strict=True)])
    assert torch.equal(lines, expected)
    assert torch.equal(cut(data, rows, top, left, 5, 6, overlapping=False), expected)
    corner = torch.tensor([59]), torch.tensor([tall - 5]), torch.tensor([wide - 6])  # the very end of the memory
    assert torch.equal(cut(data, *corner, 5, 6)[0], data[59, -5:, -6:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("channels_last", [True, False])
def test_type_layout_and_normalisation(dtype, channels_last):
    data = noise()
    mean, std = channel_statistics(data)
    images, labels = next(Batches(data, batch_size=60, dtype=dtype, channels_last=channels_last).epoch(0))
    assert images.dtype == dtype
    assert labels.dtype == torch.int64
    assert images.shape == (60, 3, 8, 10)
    assert images.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)
    expected = ((data.images[labels] / 255 - mean) / std).transpose(0, 3, 1, 2)
    tolerance = 0.01 if dtype == torch.bfloat16 else 1e-5
    np.testing.assert_allclose(images.double().numpy(), expected, rtol=tolerance, atol=tolerance)
    same = to_tensor(data.images[labels], mean, std, dtype, channels_last)
    assert torch.equal(same, images)
    assert same.stride() == images.stride()


@pytest.mark.filterwarnings("error")
def test_read_only_arrays_raise_no_warning():
    data = noise()
    assert len(everything(Batches(data, batch_size=16, augment=Augment(crop=1)))[1]) == 60
    assert to_tensor(data.images, (0, 0, 0), (1, 1, 1)).shape == (60, 3, 8, 10)


def test_the_set_is_not_changed():
    data = noise()
    before = data.images.copy()
    everything(Batches(data, batch_size=16, augment=Augment(crop=0, flip="alternate", cutout=2)), 1)
    np.testing.assert_array_equal(data.images, before)


def test_channel_statistics():
    data = noise(n=200)
    mean, std = channel_statistics(data)
    np.testing.assert_allclose(mean, (data.images / 255).mean(axis=(0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(std, (data.images / 255).std(axis=(0, 1, 2)), rtol=1e-9)
    flat = ImageSet(np.full((3, 4, 4, 3), 7, np.uint8), np.zeros(3, np.int64), ("a",), "flat")
    np.testing.assert_allclose(channel_statistics(flat), [[7 / 255] * 3, [1 / 255] * 3])


@pytest.mark.parametrize(
    "wrong",
    [
        {"batch_size": 0},
        {"seed": -1},
        {"augment": Augment(crop=8)},
        {"std": (1, 0, 1)},
        {"mean": (0.5,)},
    ],
)
def test_refuses_impossible_settings(wrong):
    with pytest.raises(ParameterError):
        Batches(noise(), **{"batch_size": 4, **wrong})


@pytest.mark.parametrize("wrong", [{"flip": "vertical"}, {"crop": -1}, {"cutout": -2}])
def test_augment_refuses(wrong):
    with pytest.raises(ParameterError):
        Augment(**wrong)


def test_refuses_an_empty_set():
    with pytest.raises(ParameterError, match="no images"):
        Batches(noise().take([]), batch_size=4)


def test_start_beyond_the_epoch_is_refused():
    with pytest.raises(ParameterError, match="0 to 4"):
        list(Batches(noise(), batch_size=16).epoch(0, 5))
    assert list(Batches(noise(), batch_size=16).epoch(0, 4)) == []


def shown_by(augment, data, seed=0, **options):
    return next(Batches(data, batch_size=len(data), augment=augment, seed=seed, **UNIT, **options).epoch(0))


def test_older_choices_keep_their_numbers_beside_new_kinds():
    """Crop, flip and cut-out of an epoch are what they were before rotation, zoom and mix-up existed."""
    old = Augment(crop=2, flip="random", cutout=3)
    new = Augment(crop=2, flip="random", cutout=3, rotation=20, zoom=0.3, mixup=0.4)
    before, after = (Batches(noise(), batch_size=7, augment=augment, seed=3)._plan(4) for augment in (old, new))
    for name in ("rows", "top", "left", "mirror", "hole"):
        assert torch.equal(getattr(before, name), getattr(after, name)), name
    assert before.warp is None
    assert before.share is None


@pytest.mark.parametrize(("height", "width"), [(24, 24), (18, 26)])
def test_a_turned_and_enlarged_image_is_what_the_formula_gives(height, width):
    """On a field that is linear in x and y, bilinear interpolation is exact, so every inner pixel is known."""
    y, x = np.mgrid[:height, :width] + 0.5
    ramp = np.stack([100 + 2 * x, 90 + 3 * y, 80 + x + 2 * y], axis=-1).astype(np.uint8)
    data = ImageSet(np.tile(ramp, (40, 1, 1, 1)), np.zeros(40, np.int64), ("a",), "ramp")
    batches = Batches(data, batch_size=40, augment=Augment(rotation=30, zoom=0.3), **UNIT)
    (images, _), plan = next(batches.epoch(0)), batches._plan(0)
    angle, factor = torch.atan2(plan.warp[:, 1], plan.warp[:, 0]), 1 / plan.warp.norm(dim=1)
    assert angle.abs().max() <= np.radians(30)
    assert angle.abs().max() > np.radians(25)
    assert 0.7 <= factor.min() < 0.75 < 1.25 < factor.max() <= 1.3
    rows, columns = np.mgrid[:height, :width] + 0.5 - np.array([height / 2, width / 2])[:, None, None]
    for image, a, s in zip(images.numpy(), angle.numpy(), factor.numpy(), strict=True):
        source_x = (np.cos(a) * columns - np.sin(a) * rows) / s + width / 2
        source_y = (np.sin(a) * columns + np.cos(a) * rows) / s + height / 2
        inner = (source_x > 1) & (source_x < width - 1) & (source_y > 1) & (source_y < height - 1)
        assert inner.mean() > 0.4
        # The ramp was cut to whole grey levels: at most one level off each way.
        np.testing.assert_allclose(image[0][inner], (100 + 2 * source_x)[inner], atol=1.1)
        np.testing.assert_allclose(image[1][inner], (90 + 3 * source_y)[inner], atol=1.1)


def test_mixup_mixes_images_and_labels_by_the_same_share():
    data = noise(n=500)
    plain, rows = shown_by(Augment(), data)
    images, targets = shown_by(Augment(mixup=0.3), data)
    share = targets[torch.arange(500), rows]
    assert targets.shape == (500, 500)
    torch.testing.assert_close(targets.sum(1), torch.ones(500))
    torch.testing.assert_close(targets[torch.arange(500), rows.roll(1)], 1 - share)
    by_hand = share[:, None, None, None] * plain + (1 - share[:, None, None, None]) * plain.roll(1, 0)
    torch.testing.assert_close(images, by_hand, atol=1e-3, rtol=1e-5)
    deviation = np.sqrt(0.25 / (2 * 0.3 + 1))  # of a Beta(0.3, 0.3)
    assert abs(share.mean() - 0.5) < 5 * deviation / np.sqrt(500)
    assert abs(share.std() - deviation) < 0.05


@pytest.mark.parametrize("start", [1, 5])
def test_new_kinds_start_anywhere_in_an_epoch_too(start):
    augment = Augment(crop=1, flip="alternate", cutout=2, rotation=10, zoom=0.1, mixup=0.2)
    whole = list(Batches(noise(), batch_size=7, augment=augment).epoch(2))
    rest = Batches(noise(), batch_size=7, augment=augment).epoch(2, start)
    for (x, y), (u, v) in zip(whole[start:], rest, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


@pytest.mark.parametrize("wrong", [{"rotation": -1}, {"rotation": 181}, {"zoom": 1.0}, {"zoom": -0.1}, {"mixup": -1}])
def test_new_kinds_refuse(wrong):
    with pytest.raises(ParameterError, match=next(iter(wrong))):
        Augment(**wrong)

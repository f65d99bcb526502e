"""Pre-training by turns: the task is what it says, and the network learns it without labels."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from scaletut.data import ImageSet, load
from scaletut.errors import ParameterError
from scaletut.models import build
from scaletut.train import Recipe
from scaletut.train.selfsupervised import pretrain, quarter_turns

RECIPE = Recipe(epochs=4, batch_size=40, optimizer="adamw", lr=3e-3, weight_decay=1e-2)


@pytest.fixture(scope="module")
def data() -> ImageSet:
    return load("zipf10:patterns=20", n_train=100, n_test=10).train


def test_each_image_comes_in_its_four_orientations(data):
    turned = quarter_turns(data)
    assert turned.class_names == ("0°", "90°", "180°", "270°")
    assert turned.labels.tolist() == [0, 1, 2, 3] * 100
    for row in (0, 1, 2, 3, 7, 399):
        np.testing.assert_array_equal(turned.images[row], np.rot90(data.images[row // 4], row % 4))


def test_labels_do_not_matter_and_turns_are_learned(data):
    other = replace(data, labels=np.zeros_like(data.labels))
    model = build("tutorial", seed=0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    one, two = (pretrain(model, images, RECIPE, 0) for images in (data, other))
    for (name, a), b in zip(one.model.state_dict().items(), two.model.state_dict().values(), strict=True):
        assert torch.equal(a, b), name
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())  # a copy was trained
    turned = quarter_turns(data)
    assert (one.predict(turned).argmax(1) == turned.labels).mean() > 0.5  # by guessing 0.25


def test_a_killed_run_goes_on_where_it_was(data, tmp_path):
    file = tmp_path / "pre.pt"

    def stop(progress):
        if progress.step == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pretrain(build("tutorial", seed=0), data, RECIPE, 0, checkpoint=file, progress=stop)
    resumed = pretrain(build("tutorial", seed=0), data, RECIPE, 0, checkpoint=file)
    whole = pretrain(build("tutorial", seed=0), data, RECIPE, 0)
    for a, b in zip(resumed.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_refuses_oblongs_and_flips(data):
    with pytest.raises(ParameterError, match="turned, they would not fit"):
        quarter_turns(replace(data, images=data.images[:, :8]))
    with pytest.raises(ParameterError, match="three of them"):
        pretrain(build("tutorial"), data, replace(RECIPE, flip="random"), 0)

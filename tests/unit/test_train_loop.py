"""The loop: it learns, it repeats, it survives kill -9 at any step, it stops in time."""

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from scaletut.data import ImageSet, load, to_tensor
from scaletut.errors import ParameterError
from scaletut.models.speednet import SpeedNet, patch_whitening
from scaletut.train import Recipe, execution, fit, report, training_flops
from scaletut.train.checkpoint import CheckpointError
from scaletut.train.loop import predict
from scaletut.train.optim import FilterMuon, rate_share

SPEED = Recipe(
    epochs=3, batch_size=64, optimizer="muon", lr=0.24, head_lr=40.0, vector_lr=3.0, momentum=0.6, weight_decay=0.0,
    warmup=0.0, label_smoothing=0.2, crop=2, flip="alternate", averaging=0.1, normalise_filters=True,
)  # fmt: skip
ADAM = Recipe(epochs=2, batch_size=64, optimizer="adamw", lr=2e-3, precision="fp32")
SGD = Recipe(epochs=2, batch_size=64, lr=0.05, crop=2, flip="random", cutout=4)
MIXED = replace(SGD, rotation=15, zoom=0.2, mixup=0.2, label_smoothing=0.1)


@pytest.fixture(scope="module")
def data() -> ImageSet:
    return load("zipf10", n_train=512, n_test=200).train


def net(seed: int = 0, dropout: float = 0.0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SpeedNet((8, 16, 16), 10, torch.randn(200, 3, 32, 32))
    if dropout:
        model.pool = nn.Sequential(model.pool, nn.Dropout(dropout))
    return model


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict, b: dict) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a)


def test_loss_falls_in_twenty_steps(data: ImageSet) -> None:
    history = fit(net(), data, replace(SPEED, epochs=5), 0).history
    assert history[-1].loss < 0.8 * history[0].loss


@pytest.mark.parametrize("recipe", [SPEED, ADAM, SGD, MIXED], ids=["muon", "adamw", "sgd", "mixed"])
def test_same_seed_same_weights(data: ImageSet, recipe: Recipe) -> None:
    one, two, other = (fit(net(dropout=0.2), data, recipe, seed).model for seed in (1, 1, 2))
    assert same(weights(one), weights(two))
    assert not same(weights(one), weights(other))


def test_global_randomness_is_left_alone(data: ImageSet) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    fit(net(), data, replace(ADAM, epochs=1), 0)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize("stop_at", [1, 5, 8, 9, 15, 23])
def test_interrupted_at_any_step_and_resumed(data: ImageSet, tmp_path: Path, stop_at: int) -> None:
    """Ctrl-C at a step, then the same call again: equal to the run left alone, dropout and averages included."""
    file = tmp_path / "run.pt"

    def stop(progress) -> None:
        if progress.step == stop_at:
            raise KeyboardInterrupt

    whole = fit(net(dropout=0.2), data, SPEED, 3)
    with pytest.raises(KeyboardInterrupt):
        fit(net(dropout=0.2), data, SPEED, 3, checkpoint=file, progress=stop)
    assert file.exists()
    resumed = fit(net(dropout=0.2), data, SPEED, 3, checkpoint=file)
    assert same(weights(whole.model), weights(resumed.model))
    assert [h.loss for h in whole.history] == [h.loss for h in resumed.history]
    assert whole.steps == resumed.steps
    assert whole.flops == resumed.flops
    assert not file.exists()


def test_mixed_labels_are_learned_and_resumed(data: ImageSet, tmp_path: Path) -> None:
    def stop(progress) -> None:
        if progress.step == 11:
            raise KeyboardInterrupt

    whole = fit(net(), data, replace(MIXED, epochs=4), 3)
    assert whole.history[-1].loss < whole.history[0].loss
    with pytest.raises(KeyboardInterrupt):
        fit(net(), data, replace(MIXED, epochs=4), 3, checkpoint=tmp_path / "run.pt", progress=stop)
    resumed = fit(net(), data, replace(MIXED, epochs=4), 3, checkpoint=tmp_path / "run.pt")
    assert same(weights(whole.model), weights(resumed.model))
    assert whole.history[-1].accuracy == resumed.history[-1].accuracy > 0.15  # of the larger part's label


def test_new_kinds_when_off_leave_the_recipes_digest_alone() -> None:
    assert not {"rotation", "zoom", "mixup"} & set(SGD.to_dict())
    assert {"rotation": 15, "zoom": 0.2, "mixup": 0.2}.items() <= MIXED.to_dict().items()
    assert Recipe(**MIXED.to_dict()) == MIXED


CHILD = """
import sys, torch
sys.path.insert(0, {here!r})
torch.set_num_threads(1)
from test_train_loop import SPEED, net
from scaletut.data import load
from scaletut.train import fit
result = fit(net(), load("zipf10", n_train=512, n_test=200).train, SPEED, 3, checkpoint={file!r}, checkpoint_seconds=0,
             progress=lambda p: print(p.step, flush=True))
torch.save(result.model.state_dict(), {out!r})
"""


def test_killed_with_sigkill_and_resumed(data: ImageSet, tmp_path: Path) -> None:
    """kill -9 at random moments until the run gets through: its weights are those of an unharmed run."""
    file, out = tmp_path / "run.pt", tmp_path / "weights.pt"
    script = CHILD.format(here=str(Path(__file__).parent), file=str(file), out=str(out))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    rng, kills = random.Random(0), 0
    while not out.exists():
        child = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
        lines = rng.randint(1, 9) if kills < 4 else 10**9
        for _ in range(lines):
            if not child.stdout.readline():
                break
        if lines < 10**9:
            time.sleep(rng.random() * 0.02)  # land inside a step or inside the writing of a checkpoint
            child.send_signal(signal.SIGKILL)
            kills += 1
        child.wait()
        child.stdout.close()
        assert kills < 4 or lines < 10**9 or child.returncode == 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = weights(fit(net(), data, SPEED, 3).model)
    finally:
        torch.set_num_threads(threads)
    assert kills == 4
    assert same(whole, torch.load(out, weights_only=True))


def test_a_checkpoint_of_another_run_is_refused(data: ImageSet, tmp_path: Path) -> None:
    file = tmp_path / "run.pt"

    def stop(progress) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(net(), data, SPEED, 3, checkpoint=file, progress=stop)
    for recipe, seed in ((SPEED, 4), (replace(SPEED, lr=0.1), 3)):
        with pytest.raises(CheckpointError, match="another recipe, seed"):
            fit(net(), data, recipe, seed, checkpoint=file)
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        fit(net(), data, SPEED, 3, checkpoint=file)


def test_early_stopping_keeps_the_best_weights(data: ImageSet) -> None:
    train, validation = data.split(128, seed=0)
    recipe = Recipe(epochs=40, batch_size=64, lr=0.2, schedule="constant", patience=1)
    result = fit(net(), train, recipe, 0, validation=validation)
    losses = [stats.validation_loss for stats in result.history]
    assert result.status == "stopped early"
    assert len(losses) < 60
    kept = report(result.predict(validation), validation.labels).cross_entropy
    assert kept == pytest.approx(min(losses), rel=1e-4)
    assert losses[-1] > min(losses)


def test_divergence_is_a_status(data: ImageSet) -> None:
    class Explodes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(10))

        def forward(self, x):
            return self.scale * x.mean((1, 2, 3))[:, None] * float("inf")

    result = fit(Explodes(), data, replace(ADAM, epochs=3), 0)
    assert result.status == "diverged"
    assert len(result.history) == 1


def test_flops_of_a_linear_layer_are_known() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 10))
    # forward and the gradient of the weights: 2 x 2 x in x out; the input needs no gradient
    assert training_flops(model, 8) == 2 * 2 * 192 * 10


def test_whitening_whitens() -> None:
    """The positive filters give decorrelated responses of unit variance on the images they come from."""
    images = to_tensor(load("zipf10", n_train=500, n_test=100).train.images, [0.5] * 3, [0.25] * 3)
    filters = patch_whitening(images, eps=0.0)
    assert filters.shape == (24, 3, 2, 2)
    assert torch.equal(filters[:12], -filters[12:])
    responses = nn.functional.conv2d(images.double(), filters[:12].double()).permute(1, 0, 2, 3).reshape(12, -1)
    covariance = responses @ responses.T / responses.shape[1]
    assert torch.allclose(covariance, torch.eye(12, dtype=torch.float64), atol=2e-3)


def test_muon_updates_the_filters_it_was_given() -> None:
    """The matrices share memory with the filters, in either memory layout, and give the same result."""
    outcomes = []
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        conv = nn.Conv2d(4, 8, 3).to(memory_format=layout)
        optimizer = FilterMuon([conv.weight], replace(SPEED, lr=0.1))
        conv(torch.randn(2, 4, 6, 6).to(memory_format=layout)).square().sum().backward()
        before = conv.weight.detach().clone()
        optimizer.step()
        assert not torch.equal(before, conv.weight)
        outcomes.append(conv.weight.detach().contiguous())
    torch.testing.assert_close(*outcomes, atol=2e-2, rtol=2e-2)  # Muon's matrix iteration runs in bf16


def test_schedules_reach_peak_and_end() -> None:
    for schedule in ("one_cycle", "cosine"):
        recipe = Recipe(schedule=schedule, warmup=0.25)
        shares = [rate_share(step, 100, recipe) for step in range(100)]
        assert max(shares) == 1.0
        assert shares.index(1.0) == 24
        assert 0 < shares[-1] < 0.03
        assert shares[0] == pytest.approx(0.04)
        assert all(a >= b for a, b in pairwise(shares[25:]))
    assert rate_share(7, 100, Recipe(schedule="constant")) == 1.0


def test_views_average_what_they_say(data: ImageSet) -> None:
    how, normalisation = execution(precision="fp32"), ((0.5,) * 3, (0.25,) * 3)
    model, few = net().eval(), data.take(range(20))
    mirrored = ImageSet(few.images[:, :, ::-1].copy(), few.labels, few.class_names, few.name)
    one, two = (predict(model, few, normalisation, views=v, how=how) for v in (1, 2))
    other = predict(model, mirrored, normalisation, how=how)
    np.testing.assert_allclose(two, (one + other) / 2, atol=1e-5)
    assert predict(model, few, normalisation, views=6, how=how).shape == (20, 10)


@pytest.mark.parametrize(
    ("change", "says"),
    [({"epochs": 0}, "epochs"), ({"warmup": 1.0}, "warmup"), ({"normalise_filters": True}, "muon"), ({"lr": -1}, "lr")],
)
def test_recipes_refuse_nonsense(change: dict, says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        Recipe(**change)


def test_a_frozen_network_is_refused(data: ImageSet) -> None:
    model = net()
    model.requires_grad_(False)
    with pytest.raises(ParameterError, match="no trainable parameter"):
        fit(model, data, SPEED, 0)


def test_an_absent_device_is_refused() -> None:
    with pytest.raises(ParameterError, match="not available here"):
        execution("cuda:7" if not torch.cuda.is_available() else "nonesuch")


def test_a_recipe_at_another_rate_keeps_what_follows_its_rate() -> None:
    slow = Recipe(lr=0.2, vector_lr=0.0, weight_decay=0.1).at_rate(0.5)
    assert (slow.lr, slow.head_lr, slow.vector_lr) == (0.1, None, 0.0)
    assert slow.weight_decay == 0.1
    assert Recipe(lr=0.2, head_lr=3.0).at_rate(0.1).head_lr == pytest.approx(0.3)

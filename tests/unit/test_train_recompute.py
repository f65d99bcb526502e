"""Activation checkpointing changes memory and time, and nothing that is learned."""

import contextlib
import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from scaletut.data import ImageSet, load
from scaletut.errors import ParameterError
from scaletut.models import build
from scaletut.train import Recipe, execution, fit
from scaletut.train.loop import backward, prepare
from scaletut.train.recompute import recompute_blocks

HOW = execution("cpu", "fp32")
RECIPE = Recipe(epochs=2, batch_size=16, lr=0.05)


@pytest.fixture(scope="module")
def batch() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    return torch.randn(12, 3, 32, 32, generator=draw), torch.randint(0, 10, (12,), generator=draw)


@pytest.fixture(scope="module")
def data() -> ImageSet:
    return load("zipf10", n_train=64, n_test=10).train


def with_dropout(name: str) -> nn.Module:
    model = build(name, width=0.5, seed=0)
    blocks = model.groups if hasattr(model, "groups") else model.stage2
    blocks.insert(1, nn.Sequential(nn.Dropout(0.3), nn.Identity()))
    return model


def after_a_step(model: nn.Module, batch: tuple[Tensor, Tensor], **options: object) -> dict[str, Tensor]:
    """Gradients and buffers of one forward and backward pass, the random numbers the same each time."""
    model, forward = prepare(copy.deepcopy(model), replace(HOW, **options))
    model.train()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        backward(forward, *batch, RECIPE, replace(HOW, **options))
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad} | dict(model.named_buffers())


@pytest.mark.parametrize("name", ["resnet14", "speednet-s"])
@pytest.mark.parametrize("micro_batch", [0, 5])
def test_gradients_and_running_statistics_are_the_same_bit_for_bit(
    name: str, micro_batch: int, batch: tuple[Tensor, Tensor]
) -> None:
    """Dropout too: the random numbers of the first forward pass are drawn again in the second."""
    plain = after_a_step(with_dropout(name), batch, micro_batch=micro_batch)
    again = after_a_step(with_dropout(name), batch, micro_batch=micro_batch, recompute=True)
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[key], again[key]) for key in plain)
    counts = [value for key, value in again.items() if key.endswith("num_batches_tracked")]
    assert counts
    assert all(count == (3 if micro_batch else 1) for count in counts)


def test_without_care_a_batch_would_count_twice(batch: tuple[Tensor, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    """What the guard is for: left out, running statistics move in the second forward pass as well."""
    plain = after_a_step(build("resnet8", width=0.5, seed=0), batch)
    monkeypatch.setattr("scaletut.train.recompute._still_norms", lambda _: contextlib.nullcontext())
    again = after_a_step(build("resnet8", width=0.5, seed=0), batch, recompute=True)
    assert not all(torch.equal(plain[key], again[key]) for key in plain)


def test_momentum_is_given_back(batch: tuple[Tensor, Tensor]) -> None:
    model = recompute_blocks(build("speednet-s", width=0.5, seed=0))
    momenta = [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    F.cross_entropy(model.train()(batch[0]), batch[1]).backward()
    assert [m.momentum for m in model.modules() if isinstance(m, nn.BatchNorm2d)] == momenta


def test_names_evaluation_and_copies_stay(batch: tuple[Tensor, Tensor]) -> None:
    plain = build("resnet8", width=0.5, seed=0).eval()
    model = recompute_blocks(recompute_blocks(copy.deepcopy(plain)))  # twice is once
    assert list(model.state_dict()) == list(plain.state_dict())
    twin = copy.deepcopy(model)
    assert type(twin.stage1[0]) is type(model.stage1[0]) is not type(plain.stage1[0])
    assert isinstance(twin.stage1[0], type(plain.stage1[0]))
    plain.load_state_dict(twin.state_dict())
    with torch.inference_mode():
        assert torch.equal(plain(batch[0]), twin(batch[0]))
    F.cross_entropy(twin.train()(batch[0]), batch[1]).backward()
    assert all(p.grad is not None for p in twin.parameters())
    assert all(p.grad is None for p in model.parameters())


def test_blocks_may_take_options(batch: tuple[Tensor, Tensor]) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU())

        def forward(self, x: Tensor, *, by: float) -> Tensor:
            return by * self.layers(x)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Scaled(), Scaled()])

        def forward(self, x: Tensor) -> Tensor:
            for block in self.blocks:
                x = block(x, by=0.5)
            return x.mean(dim=(2, 3))

    torch.manual_seed(0)
    model = Net().train()
    plain = torch.autograd.grad(model(batch[0]).square().sum(), list(model.parameters()))
    again = torch.autograd.grad(recompute_blocks(model)(batch[0]).square().sum(), list(model.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_a_run_may_be_resumed_in_the_other_way(data: ImageSet, tmp_path: Path) -> None:
    def train(path: Path | None, stop_after: int = 0, **options: bool) -> dict[str, Tensor]:
        def progress(now: object) -> None:
            if stop_after and now.step == stop_after:
                raise KeyboardInterrupt

        model = build("resnet8", width=0.5, seed=0)
        how = replace(HOW, **options)
        return fit(model, data, RECIPE, 0, how=how, checkpoint=path, progress=progress).model.state_dict()

    whole = train(None)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "run.pt", stop_after=3, recompute=True)
    resumed = train(tmp_path / "run.pt")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_flat_stack_is_refused() -> None:
    with pytest.raises(ParameterError, match="flat stack of layers"):
        recompute_blocks(build("tutorial", seed=0))

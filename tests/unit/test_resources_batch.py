"""The largest batch: it fits, a larger one would not, and micro-batches add up to a whole one."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

from scaletut.errors import ParameterError
from scaletut.models import build
from scaletut.resources import batch
from scaletut.resources.batch import largest_batch, memory_limit
from scaletut.resources.memory import measure_memory, predict_memory
from scaletut.train import Recipe, execution
from scaletut.train.loop import backward, prepare

HOW = execution("cpu", "fp32")
SGD, ADAM = Recipe(batch_size=16), Recipe(batch_size=64, optimizer="adamw")
LIMIT = 12_000_000


@pytest.mark.parametrize("options", [{}, {"recompute": True}])
def test_the_batch_is_the_largest_and_many_steps_stay_below_the_limit(options: dict[str, bool]) -> None:
    model, how = build("resnet8", width=0.5, seed=0), replace(HOW, **options)
    choice = largest_batch(model, SGD, limit_bytes=LIMIT, how=how)
    allowed = LIMIT * (1 - choice.reserve)
    assert choice.predicted <= allowed < predict_memory(model, SGD, batch_size=choice.batch_size + 2, how=how).peak
    assert choice.measured == pytest.approx(choice.predicted, rel=0.02)
    assert measure_memory(model, SGD, batch_size=choice.batch_size, how=how, steps=30) <= allowed
    fixed, per_image = choice.line
    assert fixed + per_image * choice.batch_size == pytest.approx(choice.predicted, rel=0.01)
    assert choice.micro_batch == 0


def test_a_batch_that_does_not_fit_is_cut_into_micro_batches_that_do() -> None:
    model = build("tutorial", width=0.5, seed=0)
    choice = largest_batch(model, ADAM, limit_bytes=LIMIT, how=HOW)
    assert 0 < choice.micro_batch <= choice.batch_size < ADAM.batch_size
    parts = replace(HOW, micro_batch=choice.micro_batch)
    peak = measure_memory(model, ADAM, batch_size=ADAM.batch_size, how=parts, steps=10)
    assert 0.7 * LIMIT < peak <= 0.9 * LIMIT
    assert measure_memory(model, ADAM, batch_size=ADAM.batch_size, how=HOW) > LIMIT


def test_no_more_images_than_there_are() -> None:
    choice = largest_batch(build("tutorial", width=0.5), SGD, limit_bytes=10**12, how=HOW, most=50, confirm=False)
    assert (choice.batch_size, choice.measured) == (50, None)


def test_what_real_steps_take_beyond_the_forecast_makes_the_batch_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scratch space of a GPU, for instance: here a quarter more than was forecast."""
    taken = []

    def greedy(model: nn.Module, recipe: Recipe, **options: object) -> float:
        taken.append(1.25 * predict_memory(model, recipe, **options).peak)
        return taken[-1]

    model = build("tutorial", width=0.5, seed=0)
    plain = largest_batch(model, SGD, limit_bytes=LIMIT, how=HOW, confirm=False)
    monkeypatch.setattr(batch, "measure_memory", greedy)
    choice = largest_batch(model, SGD, limit_bytes=LIMIT, how=HOW)
    assert choice.batch_size < plain.batch_size
    assert len(taken) == 2
    assert 0.85 * LIMIT < choice.measured <= 0.9 * LIMIT < taken[0]


def optimiser_first(images: int) -> int:
    return max(50_000, 1000 * images)


@pytest.mark.parametrize(
    ("peak", "room", "most"),
    [
        (lambda n: 700 + 10 * n, 3000, 230),
        (optimiser_first, 200_000, 200),
        (optimiser_first, 50_999, 50),  # at the bend itself
        (lambda n: max(900 + 10 * n, 40 * n), 100_000, 2500),
    ],
)
def test_lines_with_a_bend_are_solved(peak: Callable[[int], int], room: float, most: int) -> None:
    found, _ = batch._solve(peak, room, None)
    assert most - 2 <= found <= most
    assert peak(found) <= room


@pytest.mark.parametrize(
    ("peak", "room", "words"),
    [
        (lambda n: 10 * n + (n > 100) * 1_000_000, 50_000, "in line with the batch"),
        (lambda n: 3_000_000, 4e6, "in line with the batch"),
        (lambda n: 5_000_000 + n, 4e6, "one image needs 5.0 MB and there are 4.0 MB"),
    ],
)
def test_what_cannot_be_solved_is_said(peak: Callable[[int], int], room: float, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        batch._solve(peak, room, None)


@pytest.mark.parametrize("wrong", [{"limit_bytes": 0}, {"reserve": 1.0}, {"most": 0}])
def test_values_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ParameterError, match="reserve"):
        largest_batch(build("tutorial"), SGD, **({"limit_bytes": LIMIT} | wrong))


def test_a_batch_whose_images_alone_are_too_many_is_refused() -> None:
    recipe = replace(SGD, batch_size=100_000)
    with pytest.raises(ParameterError, match="not even in parts"):
        largest_batch(build("tutorial", width=0.5), recipe, limit_bytes=LIMIT, how=HOW, confirm=False)


# --- micro-batches


def gradients(model: nn.Module, micro_batch: int, *, still: bool = False) -> torch.Tensor:
    """All gradients of one batch of 16 in one vector; `still` takes the norms' running statistics."""
    draw = torch.Generator().manual_seed(0)
    images, labels = torch.randn(16, 3, 32, 32, generator=draw), torch.randint(0, 10, (16,), generator=draw)
    model, forward = prepare(model, HOW)
    model.train(not still).zero_grad()
    backward(forward, images, labels, SGD, replace(HOW, micro_batch=micro_batch))
    return torch.cat([p.grad.flatten() for p in model.parameters()])


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize("micro_batch", [1, 4, 5, 16])
def test_micro_batches_add_up_to_the_whole_batch(micro_batch: int) -> None:
    """To rounding, also when the last part is smaller (5, 5, 5, 1)."""
    model = build("tutorial", width=0.5, seed=0)
    assert apart(gradients(model, micro_batch), gradients(model, 0)) < 1e-6


def test_batch_norm_is_what_makes_them_differ() -> None:
    """Each micro-batch is normalised by its own mean and variance: ghost batch norm, the further off the smaller it is.

    With statistics that do not come from the batch, the same network's gradients agree to rounding.
    """
    model = build("resnet8", width=0.5, seed=0)
    off = [apart(gradients(model, size), gradients(model, 0)) for size in (2, 4, 8)]
    assert all(a > b for a, b in pairwise(off))
    assert off[-1] > 0.1
    assert apart(gradients(model, 4, still=True), gradients(model, 0, still=True)) < 1e-5


# --- how much memory there is


def test_the_limit_is_what_the_machine_and_its_control_groups_allow(tmp_path: Path) -> None:
    assert 1e8 < memory_limit(torch.device("cpu")) < 1e14
    (tmp_path / "meminfo").write_text("MemTotal: 2000 kB\nMemAvailable:    1000 kB\n")
    assert batch._available(tmp_path / "meminfo") == [1_024_000]
    assert batch._available(tmp_path / "nowhere") == []


def group(folder: Path, names: tuple[str, str], limit: str, used: int, stat: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in zip((*names, "memory.stat"), (limit, str(used), stat), strict=True):
        (folder / name).write_text(text + "\n")


def test_control_groups_of_both_versions(tmp_path: Path) -> None:
    names = ("memory.max", "memory.current")
    group(tmp_path / "a", names, "5000", 1000, "anon 5\ninactive_file 300")
    group(tmp_path / "a" / "b", names, "max", 1000, "inactive_file 0")
    (tmp_path / "groups").write_text("0::/a/b\n")
    assert list(batch._group_allowances(tmp_path / "groups", tmp_path)) == [4300]
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes")
    group(tmp_path / "memory" / "c", names, "9000", 2000, "total_inactive_file 500")
    group(tmp_path / "memory", names, str(2**63 - 4096), 2000, "total_inactive_file 500")
    (tmp_path / "groups").write_text("5:cpu:/c\n4:memory:/c\n")
    assert list(batch._group_allowances(tmp_path / "groups", tmp_path)) == [7500]
    assert list(batch._group_allowances(tmp_path / "nowhere", tmp_path)) == []

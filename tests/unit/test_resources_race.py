"""The race of batch sizes: the clock is images a second, the finishing line a held-out loss."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scaletut.errors import ParameterError
from scaletut.resources.racing import CHECKS, Curve, Race, race, run_curve
from scaletut.resources.setting import Setting
from scaletut.resources.trial import Task
from scaletut.train import Recipe


def curve(batch_size: int, seed: int, rate: float, *loss: float) -> Curve:
    images = tuple(100 * (i + 1) for i in range(len(loss)))
    return Curve(batch_size, seed, rate, images, loss, tuple(0.5 for _ in loss))


def test_the_line_is_crossed_between_two_checks() -> None:
    one = curve(64, 0, 100.0, 2.0, 1.0, 1.5, 0.5)
    assert one.seconds == (1.0, 2.0, 3.0, 4.0)
    assert one.seconds_to(2.5) == 1.0
    assert one.seconds_to(1.25) == pytest.approx(1.75)
    assert one.seconds_to(0.75) == pytest.approx(3.5)  # from the best so far, 1.0, not from 1.5
    assert one.seconds_to(0.1) == float("inf")


def test_a_run_that_diverges_never_arrives() -> None:
    assert curve(64, 0, 100.0, 2.0, float("nan"), float("nan")).seconds_to(1.0) == float("inf")


def test_more_images_a_second_can_be_slower_to_the_goal() -> None:
    curves = [curve(64, seed, 100.0, 2.0, 1.0, 0.5) for seed in (0, 1)]
    curves += [curve(256, seed, 150.0, 2.2, 1.8, 1.4) for seed in (0, 1)]
    result = Race(tuple(curves), target=1.0, own=64)
    assert result.seconds(256) == (float("inf"), float("inf"))
    assert result.winner() == 64
    assert replace(result, own=256, target=1.5).winner() == 64


def test_seeds_must_agree() -> None:
    curves = (
        curve(64, 0, 100.0, 2.0, 1.0),
        curve(64, 1, 100.0, 2.0, 1.0),
        curve(32, 0, 100.0, 0.5, 0.4),
        curve(32, 1, 100.0, 2.0, 1.1),
    )
    assert Race(curves, target=1.0, own=64).winner() == 64
    agreed = (*curves[:3], curve(32, 1, 100.0, 0.9, 0.8))
    assert Race(agreed, target=1.0, own=64).winner() == 32


def test_a_lead_below_the_margin_is_no_reason_to_change() -> None:
    curves = [curve(64, seed, 100.0, 2.0, 1.0) for seed in (0, 1)]
    curves += [curve(32, seed, 102.0, 2.0, 1.0) for seed in (0, 1)]
    result = Race(tuple(curves), target=1.0, own=64)
    assert result.winner() == 64
    assert result.winner(margin=0.01) == 32


def test_a_real_race_scores_held_out_images_and_repeats() -> None:
    task = Task("resources_nets:plain", Recipe(batch_size=16, lr=0.02, crop=2), images=400)
    base = Setting(batch_size=16, data="memory", threads=1)
    settings = {16: base, 32: replace(base, batch_size=32)}
    rates = {16: 500.0, 32: 600.0}
    first = race(task, settings, rates, seconds=1, seeds=(0, 1))
    assert run_curve(task, base, rates[16], 1) == first.curves[0]
    assert first.batch_sizes() == (16, 32)
    for one in first.curves:
        assert len(one.loss) == CHECKS
        assert one.images[-1] >= rates[one.batch_size]
        assert one.images[-1] < rates[one.batch_size] + one.batch_size
        assert one.loss[-1] < one.loss[0]
    assert first.target == max(min(one.loss) for one in first.curves if one.batch_size == 16)


def test_too_short_a_race_is_refused() -> None:
    task = Task("resources_nets:plain", Recipe(batch_size=64), images=400)
    with pytest.raises(ParameterError, match=r"7\.7 s or more"):
        race(task, {64: Setting(batch_size=64)}, {64: 100.0}, seconds=2)

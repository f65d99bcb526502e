"""The driver: what a recipe leaves is what the functions behind it leave, measured on the same images."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from scaletut.compress import Program, compress, driver, parse, points
from scaletut.compress.driver import Bench, Stage, accuracy, files, paired_drop, record_of, retraining, score
from scaletut.data import load
from scaletut.errors import CheckFailed, ParameterError
from scaletut.models import build, load_weights, names
from scaletut.models.build import NetSpec
from scaletut.records import write_record
from scaletut.train import Recipe, fit

RECIPE = Recipe(epochs=4, batch_size=32, lr=0.1, precision="fp32")


@pytest.fixture(scope="module")
def trained():
    train, scored = load("zipf10", n_train=480, n_test=10).train.split(160, seed=0)
    result = fit(build("resnet8", width=0.5, seed=0), train, replace(RECIPE, epochs=10), 0)
    return result.model, train, scored, result.normalisation


def bench_of(trained, folder: Path, **changes) -> Bench:
    _, train, scored, normalisation = trained
    made = Bench(train, scored, normalisation, folder, recipe=RECIPE, seconds=0.05, calibration=64, checked=100)
    return replace(made, **changes)


@pytest.fixture(scope="module")
def stages(trained, tmp_path_factory) -> tuple[Stage, ...]:
    bench = bench_of(trained, tmp_path_factory.mktemp("programs"), petaflop=0.5)
    return compress(trained[0], parse("prune=0.4,distil=2,int8"), bench)


def test_one_stage_a_step_and_the_network_as_given_first(stages) -> None:
    assert [stage.name for stage in stages] == ["eager", "onnx", "prune=0.4", "distil=2", "int8"]
    assert stages[-1].steps == ("prune=0.4", "distil=2", "int8")
    assert [stage.measured for stage in stages] == [True, True, False, True, True]
    with pytest.raises(ParameterError, match="training follows"):
        stages[2].values()


def test_it_gets_smaller_and_its_figures_are_its_files(stages) -> None:
    eager, onnx, pruned, distilled, int8 = stages
    assert pruned.parameters == distilled.parameters < 0.8 * eager.parameters
    assert int8.bytes < distilled.bytes < onnx.bytes
    for stage in (onnx, distilled, int8):
        assert stage.bytes == stage.program.path.stat().st_size
        assert Program.load(stage.program.path).manifest["precision"] == stage.program.manifest["precision"]
    assert eager.bytes == eager.weights.stat().st_size
    assert int8.weights == distilled.weights


def test_accuracy_is_of_the_program_and_paired_with_the_network(trained, stages) -> None:
    labels = trained[2].labels
    for stage in stages[1:2] + stages[3:]:
        said = stage.program.logits(trained[2].images).argmax(1)
        assert np.array_equal(said, stage.predictions)
        assert stage.accuracy.value == pytest.approx(100 * np.mean(said == labels))
        assert stage.drop.value == pytest.approx(stages[0].accuracy.value - stage.accuracy.value)
    assert stages[0].drop.value == 0
    assert stages[0].accuracy.value > 25  # it has learned something, so the rest says something


def test_training_is_counted_and_its_teacher_too(stages) -> None:
    eager, onnx, pruned, distilled, int8 = stages
    assert eager.petaflop == onnx.petaflop == pruned.petaflop == 0.5
    assert distilled.petaflop == int8.petaflop > 0.5
    steps = load_weights(distilled.weights).steps
    assert [step["step"] for step in steps] == ["prune_channels", "distil"]
    assert distilled.petaflop == pytest.approx(0.5 + steps[-1]["flops"] / 1e15)


def test_the_weights_beside_a_program_are_its_network(trained, stages) -> None:
    from scaletut.train import predict

    net = load_weights(stages[3].weights)
    assert np.array_equal(predict(net, trained[2], trained[3]).argmax(1), stages[3].predictions)


def test_a_stage_becomes_a_point_of_the_frontier(trained, stages, tmp_path) -> None:
    bench = bench_of(trained, tmp_path)
    for stage in stages:
        if stage.measured:
            write_record(record_of(stage, bench, "resnet8", profile="quick", data="zipf10"), tmp_path)
    from scaletut.records import find_records

    found = {point.name: point for point in points(find_records(tmp_path))}
    assert set(found) == {
        "resnet8.eager", "resnet8.onnx", "resnet8.prune0p4_distil2", "resnet8.prune0p4_distil2_int8",
    }  # fmt: skip
    point, stage = found["resnet8.prune0p4_distil2_int8"], stages[-1]
    assert point.accuracy == stage.accuracy
    assert point.values["bytes"].value == stage.bytes / 1e3
    assert point.values["latency_1"].value == pytest.approx(1e3 * stage.latency[1].seconds.value)
    assert point.values["drop"] == stage.drop
    assert point.seeds == (0,)


def test_another_reference_and_a_program_scored_again(trained, stages, tmp_path) -> None:
    net = trained[0]
    bench = bench_of(trained, tmp_path)
    right, drop = score(net, stages[-1].program, bench)
    assert (right, drop) == (stages[-1].accuracy, stages[-1].drop)
    random = build("resnet8", width=0.25, seed=3)
    found = compress(random, (), bench, reference=net)
    assert [stage.name for stage in found] == ["eager", "onnx"]
    assert found[0].drop.value == pytest.approx(stages[0].accuracy.value - found[0].accuracy.value)
    assert found[0].drop.value > 5
    assert found[0].latency[64].ratio.value > 1  # a quarter of the width is faster than the reference


def test_zeros_stay_zero_through_training(trained, stages, tmp_path) -> None:
    found = compress(
        trained[0], parse("weights=0.7,finetune=1"), bench_of(trained, tmp_path), exported=stages[1].program
    )
    net = load_weights(found[-1].weights)
    weights = torch.cat([m.weight.flatten() for m in net.modules() if isinstance(m, (nn.Conv2d, nn.Linear))])
    assert (weights == 0).float().mean().item() == pytest.approx(0.7, abs=0.01)
    assert found[-1].bytes == pytest.approx(found[1].bytes, rel=0.02)  # zeros take the same bytes


def test_training_goes_on_where_it_was_cut_off(trained, stages, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(
        driver, "export", lambda *_, **__: stages[1].program
    )  # which takes seconds; this is of training
    steps = parse("prune=0.4,finetune=2")
    whole = compress(trained[0], steps, bench_of(trained, tmp_path / "whole"))

    def stop(stage: str, share: float) -> None:
        if stage.startswith("finetune") and share > 0.6:
            raise KeyboardInterrupt

    cut = bench_of(trained, tmp_path / "cut", resume=True)
    with pytest.raises(KeyboardInterrupt):
        compress(trained[0], steps, replace(cut, report=stop))
    assert list((tmp_path / "cut").glob("*.pt"))
    went_on = compress(trained[0], steps, cut)
    assert not list((tmp_path / "cut").glob("*.pt"))
    one, other = (load_weights(found[-1].weights).state_dict() for found in (whole, went_on))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_training_that_diverges_is_told(trained, stages, tmp_path) -> None:
    wild = replace(RECIPE, lr=1e6, optimizer="sgd", warmup=0.0)
    with pytest.raises(CheckFailed, match="finetune=1 diverged"):
        compress(
            trained[0],
            parse("prune=0.4,finetune=1"),
            bench_of(trained, tmp_path, recipe=wild),
            exported=stages[1].program,
        )


def test_options_reach_the_functions_behind_the_steps(trained, stages, tmp_path) -> None:
    bench = bench_of(trained, tmp_path, options={"prune": {"spread": "odd"}})
    with pytest.raises(ParameterError, match="spread"):
        compress(trained[0], parse("prune=0.4"), bench, exported=stages[1].program)


# --- the arithmetic


def test_the_interval_of_an_accuracy_is_wilsons() -> None:
    right = np.array([True] * 8 + [False] * 2)
    n, p, z = 10, 0.8, 1.959964
    centre, half = (p + z * z / (2 * n)) / (1 + z * z / n), z / (1 + z * z / n)
    half *= math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    found = accuracy(right)
    assert (found.value, found.low, found.high) == pytest.approx((80, 100 * (centre - half), 100 * (centre + half)))


def test_a_drop_is_paired_and_images_on_which_both_agree_do_not_widen_it() -> None:
    one = np.array([True] * 90 + [False] * 10)
    other = one.copy()
    other[:4] = False
    other[95] = True
    found = paired_drop(one, other)
    assert found.value == pytest.approx(3.0)
    assert found.low < 0 < found.high
    many = paired_drop(np.tile(one, 10), np.tile(other, 10))
    assert many.value == pytest.approx(3.0)
    assert many.low > 0
    equal = paired_drop(one, one)
    assert equal.value == 0
    assert equal.high == -equal.low < 2.5


def test_the_interval_of_a_drop_holds_the_truth_as_often_as_it_says() -> None:
    """400 images, 8 % lost and 3 % won: 95 of 100 intervals should hold the 5 points."""
    rng, held = np.random.default_rng(0), 0
    for _ in range(1000):
        kind = rng.random(400)
        one = kind < 0.9
        other = (one & (kind >= 0.08)) | (kind >= 0.97)
        found = paired_drop(one, other)
        held += found.low <= 5 <= found.high
    assert 930 <= held <= 970


def test_every_network_has_a_way_to_be_trained_on() -> None:
    for name in names():
        assert retraining(NetSpec(name, 10)).lr > 0
    assert retraining(NetSpec("speednet-s", 10)).head_lr > 1


def test_where_files_are() -> None:
    program, weights = files(parse("prune=0.4,finetune=2,int8"), Path("x"))
    assert program.as_posix() == "x/prune0p4_finetune2_int8.onnx"
    assert weights.as_posix() == "x/prune0p4_finetune2.safetensors"
    assert files((), Path("x"))[0].name == "onnx.onnx"

"""The profile of a step: traces written by hand, where every microsecond is known, and real ones."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from scaletut.data import Batches, ImageSet, load
from scaletut.errors import DataError, ParameterError
from scaletut.models import build
from scaletut.resources.profiling import RULES, Operator, Profile, advise, profile_steps, read_trace
from scaletut.train import Execution, Recipe, execution

RECIPE = Recipe(epochs=1, batch_size=32, lr=0.05, crop=2)
KINDS = {"convolution", "matrix product", "norm", "elementwise", "copy", "other", "optimiser", "data", "overhead"}


@pytest.fixture(scope="module")
def data() -> ImageSet:
    return load("zipf10", n_train=96, n_test=16).train


def event(name: str, start: float, length: float, cat: str = "cpu_op", **arguments: object) -> dict:
    return {"ph": "X", "cat": cat, "name": name, "tid": 1, "ts": start, "dur": length, "args": arguments}


def mark(name: str, start: float, length: float) -> dict:
    return event(f"scaletut::{name}", start, length, "user_annotation")


def copied(start: float, length: float, kinds: list[str], strides: list[list[int]]) -> dict:
    shapes = {"Input Dims": [[10, 4], [10, 4], []], "Input type": [*kinds, "Scalar"], "Input Strides": [*strides, []]}
    return event("aten::copy_", start, length, **shapes)


def read(folder: Path, events: list[dict]) -> Profile:
    path = folder / "trace.json"
    path.write_text(json.dumps({"traceEvents": events}), encoding="utf-8")
    return read_trace(path)


# Two steps in 2000 microseconds.
ON_A_CPU = [
    mark("run", 0, 2000),
    mark("step", 0, 1000),
    mark("data", 0, 100),  # all of it is data's, Python included
    event("aten::index_select", 10, 20),
    event("aten::conv2d", 100, 310),  # 10 by itself: it only calls
    event("aten::mkldnn_convolution", 110, 300),
    event("aten::empty", 120, 5),
    event("aten::native_batch_norm", 420, 80),
    event("aten::relu", 500, 42),
    event("aten::clamp_min", 501, 40),
    event("aten::addmm", 550, 60),
    event("aten::max_pool2d_with_indices", 610, 10),
    event("autograd::engine::evaluate_function: ConvolutionBackward0", 620, 200),
    event("aten::convolution_backward", 621, 190),
    copied(630, 30, ["float", "float"], [[4, 1], [1, 10]]),
    mark("optimiser", 900, 50),
    event("Optimizer.step#SGD.step", 901, 48, "user_annotation"),
    event("aten::add_", 910, 30),
    mark("step", 1000, 1000),
    copied(1100, 60, ["c10::BFloat16", "float"], [[4, 1], [4, 1]]),
]


def test_a_trace_of_a_cpu_by_hand(tmp_path: Path) -> None:
    seen = read(tmp_path, ON_A_CPU)
    assert (seen.steps, seen.seconds) == (2, pytest.approx(1e-3))
    micro = {kind: round(2e6 * seconds, 6) for kind, seconds in seen.kinds.items()}
    assert micro == {
        "convolution": 295 + 160, "norm": 80, "elementwise": 40, "matrix product": 60, "other": 10,
        "copy": 30 + 60, "data": 100, "optimiser": 50, "overhead": 2000 - 885,
    }  # fmt: skip
    assert list(seen.kinds.values()) == sorted(seen.kinds.values(), reverse=True)
    assert seen.share("convolution", "norm") == pytest.approx((455 + 80) / 2000)
    assert seen.small == 5 / 2  # index_select, clamp_min, max_pool, the first copy, add_
    assert seen.small_seconds == pytest.approx((20 + 40 + 10 + 30 + 30) / 2e6)
    assert seen.copied_bytes == (40 * 8 + 40 * 6) / 2
    assert seen.layout_bytes == 40 * 8 / 2
    assert seen.top(2) == (
        Operator("mkldnn_convolution", "convolution", 0.5, pytest.approx(295e-6 / 2)),
        Operator("convolution_backward", "convolution", 0.5, pytest.approx(160e-6 / 2)),
    )
    assert {(one.name, one.kind) for one in seen.operators if one.kind in ("data", "optimiser")} == {
        ("index_select", "data"), ("add_", "optimiser"),
    }  # fmt: skip


def test_a_trace_of_a_gpu_tells_the_time_of_the_gpu(tmp_path: Path) -> None:
    """A kernel counts for the operator that asked for it; what the GPU does not do is overhead."""
    seen = read(
        tmp_path,
        [
            mark("run", 0, 1000),
            mark("step", 0, 1000),
            mark("data", 0, 100),
            event("aten::index_select", 10, 20, **{"External id": 1}),
            event("aten::cudnn_convolution", 200, 5, **{"External id": 2}),
            event("aten::relu", 210, 5, **{"External id": 3}),  # on a GPU it may work by itself
            mark("optimiser", 300, 20),
            event("aten::_foreach_add_", 305, 5, **{"External id": 4}),
            event("void indexSelect", 50, 30, "kernel", **{"External id": 1}),
            event("sm80_xmma_fprop", 230, 400, "kernel", **{"External id": 2}),
            event("elementwise_kernel", 640, 40, "kernel", **{"External id": 3}),
            event("multi_tensor_apply", 700, 60, "kernel", **{"External id": 4}),
            event("Memcpy HtoD", 900, 100, "gpu_memcpy", **{"External id": 99}),
        ],
    )
    micro = {kind: round(1e6 * seconds, 6) for kind, seconds in seen.kinds.items()}
    assert micro == {
        "data": 30, "convolution": 400, "elementwise": 40, "optimiser": 60, "copy": 100, "overhead": 370
    }  # fmt: skip
    assert seen.small == 2


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"traceEvents": []}', '{"traceEvents": [{"ph": "X", "name": "a"}]}'])
def test_what_is_no_trace_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match="profile_steps wrote"):
        read_trace(path)
    with pytest.raises(DataError, match="profile_steps wrote"):
        read_trace(tmp_path / "absent.json")


# --- real steps


def test_the_steps_of_fit_are_profiled(data: ImageSet, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = build("resnet8", width=0.5).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trace, logs = tmp_path / "trace.json", tmp_path / "logs"
    how = execution("cpu", "fp32")
    seen = profile_steps(model, data, RECIPE, how, steps=2, warm_up=1, trace=trace, logdir=logs)

    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not model.training
    assert capfd.readouterr().err == ""  # the profiler's own chatter is kept away
    assert seen.steps == 2
    assert seen.execution == "cpu fp32 channels-last"
    assert set(seen.kinds) <= KINDS
    assert sum(seen.kinds.values()) == pytest.approx(seen.seconds)
    assert seen.plain_seconds > 0
    calls = {one.name: one.calls for one in seen.operators if one.kind in ("convolution", "norm")}
    assert calls["convolution_backward"] == calls["native_batch_norm"] == 9  # of a network of 9 of each
    assert sum(seen.kinds[kind] for kind in ("convolution", "norm", "elementwise", "data", "optimiser")) > 0
    assert {one.kind for one in seen.operators} >= {"data", "optimiser", "convolution", "norm", "elementwise"}
    assert seen.copied_bytes > 32 * 3 * 32 * 32 * 4  # the batch at least, as float32

    assert seen.trace == trace
    assert replace(read_trace(trace), plain_seconds=seen.plain_seconds, execution=seen.execution, trace=trace) == seen
    (told,) = logs.iterdir()
    assert told.name.endswith(".pt.trace.json")
    assert told.read_bytes() == trace.read_bytes()


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_any_optimiser_is_told_apart(data: ImageSet, optimizer: str) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, lr=0.01)
    seen = profile_steps(build("resnet8", width=0.5), data, recipe, execution("cpu", "fp32"), steps=1, warm_up=0)
    own = {one.name for one in seen.operators if one.kind == "optimiser"}
    assert own >= ({"addmm", "mm"} if optimizer == "muon" else {"sqrt", "addcdiv_"}), own
    assert "convolution" not in {one.kind for one in seen.operators if one.name in own}


def test_slow_data_are_seen_and_said(data: ImageSet, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Batches.epoch

    def slow(self: Batches, *arguments: int, **keywords: int):
        for batch in real(self, *arguments, **keywords):
            time.sleep(0.2)
            yield batch

    monkeypatch.setattr(Batches, "epoch", slow)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    seen = profile_steps(model, data, RECIPE, execution("cpu", "fp32"), steps=1, warm_up=1)
    assert seen.kinds["data"] > 0.2
    assert seen.share("data") > 0.5
    assert advise(seen)[0].seen == "making batches"


def test_layout_changes_are_counted(data: ImageSet) -> None:
    """Batches are made as channels-last; who wants them otherwise has every image read and written once more."""
    images = 32 * 3 * 32 * 32 * 4
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)
    )
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))

    def moved(model: nn.Module, channels_last: bool) -> float:
        how = execution("cpu", "fp32", channels_last)
        return profile_steps(model, data, RECIPE, how, steps=1, warm_up=0).layout_bytes

    assert moved(net, True) < 0.5 * images
    assert moved(net, False) >= 2 * images
    assert moved(flat, True) >= 2 * images


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"steps": 0}, "1 step or more"),
        ({"how": Execution(torch.device("mps"), None, True)}, "sees only the calls"),
    ],
)
def test_what_cannot_be_profiled_is_refused(data: ImageSet, options: dict, why: str) -> None:
    with pytest.raises(ParameterError, match=why):
        profile_steps(nn.Flatten(), data, RECIPE, **{"how": execution("cpu"), **options})


# --- advice


def with_kinds(**kinds: float) -> Profile:
    """A step of one second; the rest of it is pooling."""
    kinds = {kind.replace("_", " "): seconds for kind, seconds in kinds.items()}
    return Profile(1, 1.0, 1.0, {**kinds, "other": 1 - sum(kinds.values())}, 0, 0.0, (), 0, 0)


@pytest.mark.parametrize(
    ("kinds", "seen"),
    [
        ({"data": 0.1}, "making batches"),
        ({"copy": 0.1}, "copies"),
        ({"overhead": 0.25}, "operators under 50 microseconds"),
        ({"optimiser": 0.1}, "the optimiser"),
        ({"norm": 0.2, "elementwise": 0.15}, "norms"),
        ({"convolution": 0.5, "matrix_product": 0.2}, "convolutions"),
    ],
)
def test_each_rule_speaks_above_its_bound_and_is_silent_at_it(kinds: dict[str, float], seen: str) -> None:
    first = next(iter(kinds))
    more, less = ({**kinds, first: kinds[first] + change} for change in (0.01, -0.01))
    (told,) = advise(with_kinds(**more))
    assert told.seen.startswith(seen)
    assert told.share == pytest.approx(sum(more.values()))
    assert told.advice
    assert told.reason
    assert advise(with_kinds(**less)) == ()


def test_many_small_operators_are_advised_on() -> None:
    (told,) = advise(replace(with_kinds(overhead=0.1), small=900, small_seconds=0.2))
    assert "larger batch" in told.advice
    assert told.share == pytest.approx(0.3)


def test_every_rule_has_a_test() -> None:
    assert len(RULES) == 6

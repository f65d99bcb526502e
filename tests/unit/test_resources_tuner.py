"""The tuner and its command: a planted gain is found, a limit is kept, the budget is kept, bad input is one line."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from scaletut import cli
from scaletut.errors import ParameterError
from scaletut.records import Value
from scaletut.resources import throughput, tuner
from scaletut.resources.setting import Setting, knobs
from scaletut.resources.trial import Task
from scaletut.sizes import size_in_bytes
from scaletut.train import Recipe

RECIPE = Recipe(epochs=2, batch_size=32, lr=0.02)


def some_knobs(*names: str):
    return lambda base, device: {name: one for name, one in knobs(base, device).items() if name in names}


@pytest.fixture(scope="module")
def tuning():
    """One tuning of a network that waits in the layout that is PyTorch's default."""
    patch = pytest.MonkeyPatch()
    patch.setattr(throughput, "TURN_SECONDS", 0.05)
    patch.setattr(tuner, "knobs", some_knobs("channels-last", "images in memory", "bf16 autocast", "checkpointing"))
    patch.setattr(tuner, "emulated", lambda device: ("bf16 autocast",))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    task = Task("resources_nets:slow_unless_channels_last", RECIPE, images=480)
    yield tuner.tune(task, budget=100, rounds=3, device="cpu")
    torch.set_num_threads(threads)
    patch.undo()


def test_the_planted_gain_is_taken(tuning: tuner.Tuning) -> None:
    assert tuning.setting.channels_last
    assert tuning.speedup.setting == tuning.setting
    assert tuning.speedup.ratio.low > 2
    assert tuning.first_changes()[0].name == "channels-last"


def test_every_knob_has_its_reason(tuning: tuner.Tuning) -> None:
    said = "\n".join(tuning.reasons)
    for name in ("channels-last", "images in memory", "bf16 autocast", "checkpointing", "compiled"):
        assert f"{name}: " in said
    assert "channels-last: " in said
    assert ", taken" in said
    assert "bf16 autocast: not tried" in said
    assert "flat stack" in said  # why checkpointing cannot be


def test_batch_sizes_were_raced_from_the_recipes_own(tuning: tuner.Tuning) -> None:
    assert tuning.race is not None
    assert tuning.race.own == 32
    assert {16, 32} <= set(tuning.race.batch_sizes())
    assert tuning.setting.batch_size in tuning.race.batch_sizes()
    assert "held-out loss" in "\n".join(tuning.reasons)


def test_it_can_be_written_and_run_again(tuning: tuner.Tuning) -> None:
    written = json.loads(json.dumps(tuning.to_dict()))
    assert written["setting"]["channels_last"] is True
    space: dict = {}
    exec("\n".join(tuning.code().splitlines()[:2]), space)
    assert space["setting"] == tuning.setting
    assert tuning.planned_images == 960
    assert 0 < tuning.predicted_peak_bytes < tuning.memory_limit


def test_a_small_memory_gives_micro_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "TURN_SECONDS", 0.05)
    monkeypatch.setattr(tuner, "knobs", some_knobs("channels-last"))
    task = Task("resnet8", replace(RECIPE, batch_size=256), images=256, width=0.25)
    run = tuner._Tuner(task, 100, 12_000_000, "cpu", 3, lambda _: None)
    setting = run.fitting(Setting(batch_size=256, threads=1))
    assert 0 < setting.micro_batch < 256
    assert run.peak(setting.micro_batch) <= 0.9 * 12_000_000
    assert "micro-batches" in run.reasons[0]


def test_knobs_of_a_long_step_are_timed_at_a_smaller_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(throughput, "TURN_SECONDS", 0.05)
    monkeypatch.setattr(tuner, "knobs", some_knobs("channels-last"))
    monkeypatch.setattr(tuner, "STEP_SECONDS", 0.0)
    monkeypatch.setattr(tuner, "PROBE_IMAGES", 8)
    task = Task("resources_nets:slow_unless_channels_last", replace(RECIPE, batch_size=64), images=128)
    run = tuner._Tuner(task, 100, 0, "cpu", 3, lambda _: None)
    base = Setting(batch_size=64, threads=1)
    brief = run.brief(base)
    assert brief == replace(base, batch_size=8)
    assert "timed at batch 8: a step of 64 takes" in run.reasons[-1]
    run.fitting(base)
    together = run.composed(base, brief, run.singles(brief))
    assert together == replace(base, channels_last=True)  # the batch stays the recipe's


@pytest.mark.parametrize(("with_it", "kept"), [((1.9, 2.0, 2.1), True), ((1.4, 2.0, 2.6), False)])
def test_kept_memory_must_be_seen_to_pay_at_the_whole_batch(with_it: tuple[float, ...], kept: bool) -> None:
    plain = Setting(batch_size=64)

    def row(name: str, setting: Setting, low: float, ratio: float, high: float) -> throughput.Row:
        return throughput.Row(name, setting, Value(100.0), Value(ratio, "", low, high, 3))

    rows = (
        row(tuner.DEFAULTS, plain, 1, 1, 1),
        row(tuner.TOGETHER, plain, 1.4, 1.5, 1.6),
        row(tuner.KEPT, replace(plain, keep_memory=True), *with_it),
    )
    run = tuner._Tuner(Task("resnet8", RECIPE, images=64), 100, 0, "cpu", 3, lambda _: None)
    chosen = run.kept(throughput.Ledger(rows, 3, None, 1.0), plain)
    assert chosen.keep_memory is kept
    assert list(run.ran(throughput.Ledger(rows, 3, None, 1.0), chosen).values()) == [rows[2 if kept else 1]]


def test_the_budget_is_kept_by_leaving_knobs_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "knobs", some_knobs("channels-last", "images in memory", "faster optimiser step"))
    monkeypatch.setattr(tuner, "LEAST_BUDGET", 0.1)
    found = tuner.tune(Task("resources_nets:slow", RECIPE, images=64), budget=0.5, device="cpu", rounds=3)
    assert "not tried: the time was over" in "\n".join(found.reasons)
    assert found.setting == Setting(batch_size=32)
    assert "kept, the time did not suffice" in "\n".join(found.reasons) or found.race is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnt20"], "nearest name is 'resnet20'"),
        (["resnet20", "--memory-limit", "12"], "12GB or 500MB"),
        (["resnet20", "--memory-limit", "1MB"], "a step on one image needs"),
        (["resnet20", "--budget", "5"], "20 s or more"),
        (["nothere:f"], "module:function"),
        (["resnet20", "--epochs", "-1"], "greater than 0"),
        (["resnet20", "--data", "nothing"], "unknown data source"),
    ],
)
def test_bad_input_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture) -> None:
    assert cli.main(["tune", *arguments]) == 2
    captured = capsys.readouterr()
    assert words in captured.err
    assert "Traceback" not in captured.err


def test_sizes_are_read() -> None:
    assert size_in_bytes("12GB") == 12 * 10**9
    assert size_in_bytes("1.5 GiB") == 3 * 2**29
    assert size_in_bytes("500mb") == 5 * 10**8
    for text in ("", "12", "GB", "0GB", "-1GB", "12 apples"):
        with pytest.raises(ParameterError, match="not an amount"):
            size_in_bytes(text)


def test_the_table_shows_what_was_measured(tuning: tuner.Tuning) -> None:
    from scaletut.cli_resources import _tuning_lines

    text = "\n".join(_tuning_lines(tuning))
    assert f"{tuning.speedup.ratio.value:.2f} times PyTorch's defaults" in text
    assert "channels-last" in text
    assert "from scaletut.resources import Setting" in text
    assert "why:" in text

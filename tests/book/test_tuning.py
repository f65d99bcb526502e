"""The chapter on tuning one device: its links, its claims, and what its cells compute by hand."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from chapter_cells import cell_with, code_of, definitions, prose_of, results
from pydantic import ValidationError

from scaletut import figures, resources
from scaletut.chapters import schemas
from scaletut.data import load
from scaletut.errors import ParameterError
from scaletut.models import build, complexity
from scaletut.resources import Curve, Setting
from scaletut.train import Recipe, execution, fit

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cells() -> list[str]:
    return code_of("tuning")


@pytest.fixture(scope="module")
def record() -> dict:
    return json.loads((ROOT / "results" / "tuning.json").read_text(encoding="utf-8"))


def test_links_lead_to_numbers_that_the_chapter_keeps(record: dict) -> None:
    linked = set(re.findall(r"\]\(#tuning\.(\w+)\)", prose_of("tuning")))
    assert len(linked) >= 12
    assert linked <= {*record["values"], "run_minutes", "run_peak_memory"}


def test_code_and_claims_fit_the_page(cells: list[str], record: dict) -> None:
    settings = cell_with(cells, 'networks = ""')  # written by `scaletut params`
    others = [source for source in cells if source != settings]
    assert not [line for source in others for line in source.splitlines() if len(line) > 75]
    assert max(map(len, record["claims"])) <= 70
    assert all(record["claims"].values())


def test_what_was_recorded_is_more_than_one_network_and_seed(record: dict) -> None:
    gains = {key: value for key, value in record["values"].items() if key.startswith("gain_")}
    assert len(gains) >= 3
    assert all(value["n"] >= 3 and value["low"] <= value["value"] <= value["high"] for value in gains.values())
    shifts = [value for key, value in record["values"].items() if key.startswith("accuracy_")]
    assert all(value["n"] >= 3 for value in shifts)


def test_the_count_by_hand_is_the_forecast_but_for_temporaries(cells: list[str]) -> None:
    model = build("resnet8", seed=0)
    space = {"model": model, "side": 32, "batch": 64, "complexity": complexity}
    counted = results(cell_with(cells, "sizes.saved_bytes * batch"), **space)
    forecast = resources.predict_memory(model, Recipe(), batch_size=64, how=execution("cpu", "fp32"))
    by_hand = counted["states"] + counted["kept"]
    assert by_hand == pytest.approx(forecast.peak, rel=0.15)


def test_micro_batches_by_hand(cells: list[str]) -> None:
    found = definitions(
        cell_with(cells, "def gradients("),
        torch=torch,
        build=build,
        replace=replace,
        execution=execution,
        Recipe=Recipe,
    )
    whole = found.gradients("tutorial", 1)
    model = build("tutorial", seed=0).train()
    pictures = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.nn.functional.cross_entropy(model(pictures), torch.arange(64) % 10).backward()
    by_torch = torch.cat([w.grad.flatten() for w in model.parameters()])
    assert torch.allclose(whole, by_torch, atol=1e-6)
    assert found.apart("resnet8", 4) > 0.01 > found.apart("tutorial", 4)


def test_the_mistake_is_refused_with_the_right_peak(cells: list[str], capsys: pytest.CaptureFixture) -> None:
    import textwrap

    source = cell_with(cells, "peak=78e12")
    results(source, resources=resources, ParameterError=ParameterError, textwrap=textwrap, print=print)
    said = capsys.readouterr().out
    assert "312" in said
    assert "0.20" in said
    with pytest.raises(ParameterError):
        results(source.replace("except ParameterError", "except KeyError"), resources=resources, ParameterError=0)


def test_both_scripts_of_the_exercise_train_on_the_same_images(cells: list[str]) -> None:
    import time

    full = load("zipf10").train
    data, _ = full.split(len(full) - 96, seed=0)
    names = {"Setting": Setting, "Recipe": Recipe, "fit": fit, "build": build, "time": time, "torch": torch}
    slow = definitions(cell_with(cells, "def slow("), **names).slow
    mended = definitions(cell_with(cells, "def mended("), **names).mended
    assert slow(data) > 0
    assert mended(data) > 0


@pytest.mark.parametrize("raced", [True, False])
def test_a_race_is_drawn_and_none_is_not(cells: list[str], raced: bool) -> None:
    import matplotlib.pyplot as plt

    curves = [Curve(size, seed, 100.0, (100, 200), (2.0, 1.0), (0.2, 0.5)) for size in (32, 64) for seed in (0, 1)]
    found = SimpleNamespace(race=resources.Race(tuple(curves), 1.2, 64) if raced else None)
    shown: list[int] = []
    patched = SimpleNamespace(show=lambda: shown.append(len(plt.gca().lines)))
    results(cell_with(cells, "found.race.curves"), found=found, figures=figures, plt=patched)
    assert shown == ([len(curves) + 1] if raced else [])
    plt.close("all")


def test_the_page_says_what_no_gpu_has_confirmed() -> None:
    prose = prose_of("tuning")
    assert "**No GPU has confirmed this chapter yet.**" in prose
    assert "scaletut tune resnet18 --data cifar10 --device cuda" in prose


@pytest.mark.parametrize(
    "options",
    [{"networks": "resnet8,resnet8"}, {"networks": "a b"}, {"memory": "12"}, {"memory": "many"}, {"seeds": -1}],
)
def test_parameters_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(ValidationError):
        schemas.Tuning(**options)

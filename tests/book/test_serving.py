"""The chapter on serving: its links, its claims, and what its cells compute by hand."""

from __future__ import annotations

import contextlib
import io
import json
import re
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from chapter_cells import cell_with, code_of, definitions, prose_of, results
from PIL import Image
from pydantic import ValidationError

from scaletut import serve
from scaletut.chapters import schemas

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def cells() -> list[str]:
    return code_of("serving")


@pytest.fixture(scope="module")
def record() -> dict:
    return json.loads((ROOT / "results" / "serving.json").read_text(encoding="utf-8"))


def test_links_lead_to_numbers_that_the_chapter_keeps(record: dict) -> None:
    linked = set(re.findall(r"\]\(#serving\.(\w+)\)", prose_of("serving")))
    assert len(linked) >= 10
    assert linked <= {*record["values"], "run_minutes", "run_peak_memory"}


def test_code_and_claims_fit_the_page(cells: list[str], record: dict) -> None:
    settings = cell_with(cells, 'network = ""')  # written by `scaletut params`
    others = [source for source in cells if source != settings]
    assert not [line for source in others for line in source.splitlines() if len(line) > 75]
    assert max(map(len, record["claims"])) <= 70
    assert len(record["claims"]) >= 6
    assert all(record["claims"].values())


def test_recorded_rounds_have_an_interval(record: dict) -> None:
    gain = record["values"]["gain_workers"]
    assert gain["n"] >= 3
    assert gain["low"] <= gain["value"] <= gain["high"]


def test_the_queue_by_hand_and_the_count_inside(cells: list[str]) -> None:
    waits = definitions(cell_with(cells, "def waits("), np=np).waits
    np.testing.assert_allclose(waits([0.0, 1.0, 5.0], 2.0), [0.0, 1.0, 0.0])
    arrivals = serve.poisson_arrivals(100, 30, seed=4)
    np.testing.assert_allclose(waits(arrivals, 0.008) + 0.008, serve.simulate(arrivals, fixed=0.008))
    inside = definitions(cell_with(cells, "def inside("), np=np).inside
    assert inside(np.array([0.0, 1.0]), np.array([3.0, 2.0]), np.array([0.5, 1.5, 2.5, 4.0])).tolist() == [1, 2, 1, 0]


def test_the_knee_of_the_formula_has_one_inside(cells: list[str], capsys: pytest.CaptureFixture) -> None:
    x = np.linspace(0.01, 0.95, 200)
    found = results(cell_with(cells, "the knee: utilisation"), x=x, service=0.005, serve=serve, np=np)
    assert found["rates"][found["at"]] * found["stay"][found["at"]] == pytest.approx(1, abs=0.03)
    assert "inside 1.0" in capsys.readouterr().out


def test_the_prediction_is_the_simulation_with_the_batchs_cost(cells: list[str]) -> None:
    names = {"fixed": 0.004, "per_image": 0.001, "best": 32, "p": SimpleNamespace(seed=0), "serve": serve}
    predicted = definitions(cell_with(cells, "def predicted("), **names).predicted
    assert 0.006 < predicted(2) < 0.0075  # alone: the wait for others, the call, one image
    assert predicted(600) > 2 * predicted(2)
    assert predicted(600, workers=2) < predicted(600)


def test_pictures_of_the_chapter_are_what_they_are_called(cells: list[str]) -> None:
    space = results(
        cell_with(cells, "hostile = {"), io=io, json=json, Image=Image, PNG={}, time=time, contextlib=contextlib
    )
    bodies = {name: body for name, (body, _) in space["hostile"].items()}
    assert Image.open(io.BytesIO(bodies["an animation"])).n_frames == 2
    bomb = bodies["30 million pixels in a few kB"]
    assert np.prod(Image.open(io.BytesIO(bomb)).size) == 30_000_000
    assert len(bomb) < 10_000
    with pytest.raises(OSError, match="truncated"):
        Image.open(io.BytesIO(bodies["half a picture"])).load()


def test_the_page_says_what_no_gpu_has_confirmed() -> None:
    assert "**not yet run on one**" in prose_of("serving")


@pytest.mark.parametrize("options", [{"images": -1}, {"seconds": -1.0}, {"data": "nowhere"}, {"rounds": 1000}])
def test_parameters_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(ValidationError):
        schemas.Serving(**options)

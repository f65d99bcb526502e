"""TensorBoard and MLflow, started on the loopback address and opened in a browser: the run and its numbers are there.

They skip where the extra `track` is not installed, and run with
`pip install 'scaletut[track]' && pytest tests/browser/test_tracking.py`.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from checks import DESKTOP

from scaletut.data import load
from scaletut.train import Recipe, TrainingResult, execution, fit

NAME = "linear, seed 0"
PATIENCE = 180  # seconds; MLflow alone takes half a minute to start on a busy machine


@dataclass(frozen=True)
class Told:
    """Where the runs lie, and what was told about them."""

    logs: Path
    database: Path
    run: str
    result: TrainingResult


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    """One short run, told to both trackers; its profile lies beside the scalars."""
    for package in ("tensorboard", "mlflow"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: it is NOT opened in a browser here")
    from torch import nn

    from scaletut.resources.profiling import profile_steps
    from scaletut.resources.tracking import MlflowTracker, TensorBoardTracker

    folder = tmp_path_factory.mktemp("tracked")
    train = load("zipf10", n_train=128, n_test=16).train
    recipe = Recipe(epochs=3, batch_size=32, lr=0.05)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10))
    boards = TensorBoardTracker(folder / "logs", NAME, recipe.to_dict())
    runs = MlflowTracker(folder / "runs.db", NAME, recipe.to_dict())
    with boards, runs:
        result = fit(model, train, recipe, 0)
        for tracker in (boards, runs):
            tracker.finish(result)
    profile_steps(model, train, recipe, execution("cpu", "fp32"), steps=1, logdir=folder / "logs" / NAME)
    return Told(folder / "logs", folder / "runs.db", runs.run_id, result)


@contextlib.contextmanager
def serving(*command: str, folder: Path) -> Iterator[str]:
    """Run a server until the test is over; yields its origin once it answers."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    origin = f"http://127.0.0.1:{port}"
    log = folder / "server.log"
    whole = [sys.executable, "-m", *command, "--host", "127.0.0.1", "--port", str(port)]
    quiet = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with log.open("wb") as out:
        server = subprocess.Popen(whole, stdout=out, stderr=out, cwd=folder, env=quiet, start_new_session=True)
    try:
        _wait(origin, server, log)
        yield origin
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # it may have started workers
        server.wait(30)


def _wait(origin: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while server.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError):
            return urlopen(origin, timeout=10).close()
        time.sleep(0.3)
    pytest.fail(f"the server did not come up:\n{log.read_text(errors='replace')}", pytrace=False)


@pytest.fixture
def tab(browser) -> Iterator:
    """A page of its own, that notes and stops what it asks of other hosts."""
    page = browser.new_page(viewport=DESKTOP)
    page.set_default_timeout(PATIENCE * 1000)
    page.foreign = []

    def stop(route) -> None:
        page.foreign.append(route.request.url)
        route.abort()

    page.route(lambda address: not address.startswith(("http://127.0.0.1:", "data:", "blob:")), stop)
    yield page
    page.close()


def test_tensorboard_shows_the_run(told: Told, tab, tmp_path: Path) -> None:
    with serving("tensorboard.main", "--logdir", str(told.logs), folder=tmp_path) as origin:
        tab.goto(f"{origin}/#timeseries")
        tab.get_by_text(NAME).first.wait_for()
        tab.get_by_text("/images_per_second", exact=True).first.wait_for()
        tab.locator("input[placeholder^='Filter tags']").fill("final/steps")  # only cards in view are drawn
        value = tab.locator("scalar-card").get_by_text(str(told.result.steps), exact=True)
        value.locator("visible=true").first.wait_for()
        assert tab.foreign == []


def test_tensorboards_profiler_reads_the_trace(told: Told, tmp_path: Path) -> None:
    """Its plugin draws with a script from elsewhere, so that it is asked for what it read, and not looked at."""
    if importlib.util.find_spec("torch_tb_profiler") is None:
        pytest.skip("torch-tb-profiler is not installed: that it reads our traces is NOT tested here")
    with serving("tensorboard.main", "--logdir", str(told.logs), folder=tmp_path) as origin:

        def asked(what: str, **query: str) -> dict:
            with urlopen(f"{origin}/data/plugin/pytorch_profiler/{what}?{urlencode(query)}", timeout=60) as answer:
                return json.loads(answer.read())

        end = time.monotonic() + PATIENCE
        while asked("runs") == {"runs": [], "loading": True} and time.monotonic() < end:
            time.sleep(0.5)
        assert asked("runs")["runs"] == [NAME]
        (worker,) = asked("workers", run=NAME, view="Overview")
        (span,) = asked("spans", run=NAME, worker=worker)
        table = asked("operation/table", run=NAME, worker=worker, span=str(span), group_by="Operation")
        names = {row["name"] for row in table["data"]}
        assert {"aten::addmm", "aten::copy_", "scaletut::data", "scaletut::optimiser"} & names, names


def test_mlflow_shows_the_run(told: Told, tab, tmp_path: Path) -> None:
    store = f"sqlite:///{told.database}"
    with serving("mlflow", "ui", "--backend-store-uri", store, "--workers", "1", folder=tmp_path) as origin:
        tab.goto(f"{origin}/#/experiments/1/runs")
        tab.get_by_text(NAME).first.wait_for()
        tab.goto(f"{origin}/#/experiments/1/runs/{told.run}")
        tab.get_by_text("training/loss").first.wait_for()
        shown = tab.inner_text("body")
        assert NAME in shown
        assert str(told.result.history[-1].loss) in shown
        assert "batch_size" in shown
        assert tab.foreign == []  # nothing is sent or fetched

"""A search inside a plan: on held-out images alone, the same wherever it is interrupted, and told with its trials."""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from sweep_cases import PLAN, opened, plan, recorded

from scaletut import cli
from scaletut.errors import ParameterError, ScaletutError
from scaletut.sweep import Event, RunSpec, Searcher, Store, SweepError, SweepPlan

# More trials than the ten that Optuna draws before it learns from outcomes.
SEARCH = {"trials": 16, "values": {"lr": [0.001, 10, "log"], "momentum": [0.5, 0.95]}}


ECHO = """
import json, sys, time
print(json.dumps({"kind": "ready"}), flush=True)
for line in sys.stdin:
    time.sleep(0.3 * json.loads(line)["seed"])
    print(json.dumps({"kind": "done"}), flush=True)
"""  # a worker that trains nothing


def searching(**changes: object) -> SweepPlan:
    return plan(**{"widths": [0.0625], "examples": [64], "hold_out": 500, "search": SEARCH, **changes})


def bowl(spec: RunSpec) -> float:
    """A loss with its lowest point at lr = 0.1 and momentum = 0.8."""
    values = dict(spec.recipe)
    return 1.5 + math.log10(values["lr"] / 0.1) ** 2 + 4 * (values["momentum"] - 0.8) ** 2


def finish(searcher: Searcher, loss: Callable[[RunSpec], float | None] = bowl) -> int:
    """Run all that the searcher wants, as if training gave `loss`; how many runs that were."""
    count = 0
    while runs := searcher.more():
        count += len(runs)
        for run in runs:
            searcher.store.write(run, recorded(run, loss(run)))
    return count


def values_of(searcher: Searcher) -> list[dict[str, float]]:
    return [trial.values for trials in searcher.trials() for trial in trials]


# --- refused before the first run, with or without Optuna -----------------------------------------


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"hold_out": 0}, "never on the test set"),
        ({"search": {**SEARCH, "trails": 3}}, "did you mean 'trials'"),
        ({"search": {**SEARCH, "trials": 0}}, "trials"),
        ({"search": {**SEARCH, "values": {}}}, "values"),
        ({"search": {**SEARCH, "values": {"lrr": [0.1, 1]}}}, "what can is .*lr"),
        ({"search": {**SEARCH, "values": {"batch_size": [16, 64]}}}, "cannot be searched"),
        ({"search": {**SEARCH, "values": {"lr": [1, 0.1]}}}, "low below high"),
        ({"search": {**SEARCH, "values": {"lr": [0, 1, "log"]}}}, "above 0"),
        ({"search": {**SEARCH, "values": {"lr": [0.1, 1, "lin"]}}}, "low, high, log"),
        ({"search": {**SEARCH, "values": {"lr": ["small", "large"]}}}, "a range"),
        ({"search": {**SEARCH, "values": {"optimizer": ["sgd", "mun"]}}}, "some of sgd"),
        ({"search": {**SEARCH, "values": {"momentum": [0.5, 2]}}}, "share from 0"),
        ({"search": SEARCH, "recipe": {"lr": 0.1}}, "one of the two"),
        ({"search": {**SEARCH, "trials": 10_000}, "seeds": list(range(50))}, "split the plan"),
    ],
)
def test_a_search_that_cannot_be_made_is_refused_whole(changes: dict, says: str) -> None:
    with pytest.raises(ParameterError, match=says):
        searching(**changes)


def test_numbers_that_yaml_takes_for_text_are_numbers() -> None:
    assert searching(search={"trials": 1, "values": {"lr": ["1e-3", 1, "log"]}}).search.values["lr"][0] == 1e-3


def test_without_optuna_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ScaletutError, match=r"scaletut\[search\]"):
        Searcher(searching(), opened(tmp_path))


def test_a_storage_without_a_search_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _sweep(tmp_path, PLAN, "--storage", "sqlite:///x.db") == 2
    assert "no search" in capsys.readouterr().err


# --- the search itself ----------------------------------------------------------------------------

needs_optuna = pytest.mark.skipif(
    __import__("importlib.util").util.find_spec("optuna") is None,
    reason="Optuna is not installed: the search is NOT tested here; pip install 'scaletut[search]'",
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Searcher:
    """A search that was never interrupted."""
    pytest.importorskip("optuna")
    searcher = Searcher(searching(), opened(tmp_path_factory.mktemp("whole")))
    assert finish(searcher) == 16
    return searcher


@needs_optuna
def test_it_learns_where_the_lowest_loss_lies(tmp_path: Path) -> None:
    searcher = Searcher(searching(search={**SEARCH, "trials": 32}), opened(tmp_path))
    finish(searcher)
    (found,) = searcher.found()
    (trials,) = searcher.trials()
    assert (found.tried, found.without_loss, found.at_edge) == (32, 0, ())
    assert found.best.loss == min(trial.loss for trial in trials) < 1.55  # 4 in 100 sets drawn at random are so low
    assert len({tuple(trial.values.values()) for trial in trials}) == 32
    assert statistics.median(trial.loss for trial in trials[-10:]) < 2.2  # of sets drawn at random it is 2.56


@needs_optuna
def test_interrupted_anywhere_it_suggests_what_it_would_have(
    tmp_path: Path, whole: Searcher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new searcher for every outcome, and deaths in the midst of suggesting and of telling."""
    store = opened(tmp_path)
    monkeypatch.setattr(Searcher, "_suggest", _dying(Searcher._suggest, 2, 16))
    monkeypatch.setattr(Searcher, "_tell", _dying(Searcher._tell, 5, 15))
    for _ in range(60):
        try:
            runs = Searcher(searching(), store).more()
        except KeyboardInterrupt:
            continue
        if not runs:
            break
        store.write(runs[-1], recorded(runs[-1], bowl(runs[-1])))
    assert values_of(Searcher(searching(), store)) == values_of(whole)


def _dying(method: Callable, *at: int) -> Callable:
    calls = iter(range(1, 1000))

    def dies(*arguments: object) -> None:
        if next(calls) in at:
            raise KeyboardInterrupt
        method(*arguments)

    return dies


@needs_optuna
def test_a_lost_database_is_made_again_from_the_records(whole: Searcher, tmp_path: Path) -> None:
    store = opened(tmp_path)
    for path in whole.store.folder.glob("*.json"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    again = Searcher(searching(), store)
    assert again.more() == []
    assert values_of(again) == values_of(whole)


@needs_optuna
def test_more_trials_go_on_and_other_ranges_begin_anew(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert finish(Searcher(searching(search={**SEARCH, "trials": 3}), store)) == 3
    longer = Searcher(searching(search={**SEARCH, "trials": 6}), store)
    assert longer.begun() == 3
    assert finish(longer) == 3
    other = searching(search={"trials": 3, "values": {"lr": [0.01, 1, "log"]}})
    assert Searcher(other, store).begun() == 0


@needs_optuna
def test_each_combination_has_its_own_search_over_all_seeds(tmp_path: Path) -> None:
    two = searching(widths=[0.0625, 0.125], seeds=[0, 1], search={**SEARCH, "trials": 2})
    searcher = Searcher(two, opened(tmp_path))
    assert searcher.runs == 8
    assert finish(searcher, lambda spec: 1 + spec.seed + 10 * spec.width) == 8
    assert [(one.spec.width, one.tried, one.best.loss) for one in searcher.found()] == [
        (0.0625, 2, pytest.approx(2.125)),  # the mean of the seeds' losses
        (0.125, 2, pytest.approx(2.75)),
    ]
    rows = list(searcher.rows())
    assert rows[0] == ["width", "examples", "epochs", "flops", "trial", "lr", "momentum", "loss"]
    assert [row[-1] for row in rows[1:]] == ["2.125", "2.125", "2.75", "2.75"]


@needs_optuna
def test_trials_without_a_loss_are_counted_and_never_best(tmp_path: Path) -> None:
    searcher = Searcher(searching(search={"trials": 8, "values": {"lr": [0.001, 10, "log"]}}), opened(tmp_path))
    while runs := searcher.more():
        for run in runs:
            rate = dict(run.recipe)["lr"]
            status = "diverged" if rate > 1 else "failed" if rate < 0.01 else "finished"
            searcher.store.write(run, recorded(run, rate if status == "finished" else None, status))
    (found,) = searcher.found()
    assert found.tried == 8
    assert found.without_loss == sum(not 0.01 <= trial.values["lr"] <= 1 for trial in searcher.trials()[0]) > 0
    assert found.best.loss == min(
        trial.values["lr"] for trial in searcher.trials()[0] if 0.01 <= trial.values["lr"] <= 1
    )


@needs_optuna
def test_a_search_whose_runs_all_fail_ends(tmp_path: Path) -> None:
    searcher = Searcher(searching(search={**SEARCH, "trials": 5}), opened(tmp_path))
    while runs := searcher.more():
        for run in runs:
            searcher.store.write(run, recorded(run, None, "failed"))
    (found,) = searcher.found()
    assert (found.best, found.tried, found.without_loss) == (None, 5, 5)


@needs_optuna
def test_trials_that_suggest_the_same_are_run_once(tmp_path: Path) -> None:
    values = {"flip": ["none", "random"]}
    searcher = Searcher(searching(search={"trials": 4, "values": values}), opened(tmp_path))
    runs = searcher.more()
    assert len({run.key for run in runs}) == len(runs) <= 2
    assert len(searcher.trials()[0]) == 4


@needs_optuna
def test_a_best_value_at_an_end_of_its_range_is_told(tmp_path: Path) -> None:
    values = {"crop": [0, 4], "flip": ["none", "random"]}
    searcher = Searcher(searching(search={"trials": 6, "values": values}), opened(tmp_path))
    finish(searcher, lambda spec: 9.0 - dict(spec.recipe)["crop"])
    (found,) = searcher.found()
    assert all(isinstance(trial.values["crop"], int) for trial in searcher.trials()[0])
    assert found.at_edge == (("crop",) if found.best.values["crop"] == 4 else ())
    assert found.best.values["crop"] == 4


@needs_optuna
def test_a_journal_holds_the_same_search_and_two_sweeps_share_it(tmp_path: Path, whole: Searcher) -> None:
    shared = f"journal:{tmp_path / 'search.log'}"
    first = Searcher(searching(), opened(tmp_path / "a"), shared)
    runs = first.more()
    second = Searcher(searching(), opened(tmp_path / "b"), shared)
    others = second.more()
    assert not {run.key for run in runs} & {run.key for run in others}  # nobody runs what the other has begun
    for run in runs:
        first.store.write(run, recorded(run, bowl(run)))
    assert finish(first) + len(runs) == 12  # of the 16, the other has 4
    assert values_of(first)[:4] == values_of(whole)[:4]


@needs_optuna
@pytest.mark.parametrize(
    "url", ["postgresql://me:secret@127.0.0.1:1/x", "no url //me:secret@x", "sqlite:////no/such/folder/x.db"]
)
def test_a_storage_that_cannot_be_used_is_one_line_without_the_password(tmp_path: Path, url: str) -> None:
    with pytest.raises(SweepError, match="--storage") as caught:
        Searcher(searching(), opened(tmp_path), url)
    assert "secret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_worker_waits_for_the_next_round_instead_of_being_started_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers, rounds of a long and a short run: the one that is done first is kept."""
    from scaletut.sweep import local, run_local

    monkeypatch.setattr(local, "WORKER", ("-c", ECHO))
    started, start = [], local._Pool.start
    monkeypatch.setattr(local._Pool, "start", lambda pool: (started.append(1), start(pool)))
    rounds = [plan(widths=[width], examples=[64], seeds=[0, 1]).runs() for width in (0.25, 0.5, 1)]
    events: list[Event] = []
    more = lambda: rounds.pop() if rounds else []  # noqa: E731
    run_local([], opened(tmp_path), workers=2, listen=events.append, more=more)
    done = [event.spec.seed for event in events if event.kind == "done"]
    assert sorted(done) == [0, 0, 0, 1, 1, 1]
    assert len(started) == 2


@needs_optuna
def test_the_command_searches_and_tells_what_it_found_in_how_many_trials(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = {**PLAN, "widths": [0.125], "examples": [64], "hold_out": 500}
    content["search"] = {"trials": 2, "at_once": 2, "values": {"lr": [0.01, 0.3, "log"]}}
    assert _sweep(tmp_path, content, "--dry-run") == 0
    assert "2 runs, 2 to do" in capsys.readouterr().out
    assert _sweep(tmp_path, content) == 0
    told = capsys.readouterr().out
    assert "best of 2 trials: lr = " in told
    records = Store(tmp_path / "runs").records()
    assert len(records) == 2
    assert {record.parameters["hold_out"] for record in records} == {500}
    assert (tmp_path / "runs" / "search.csv").read_text(encoding="utf-8").count("\n") == 3
    assert cli.main(["watch", str(tmp_path / "runs"), "--once"]) == 0
    assert "lowest at width 0.125" in capsys.readouterr().out
    assert _sweep(tmp_path, content) == 2
    assert "--resume" in capsys.readouterr().err
    assert _sweep(tmp_path, content, "--resume") == 0
    assert [line for line in capsys.readouterr().out.splitlines() if "best of" in line] == [
        line for line in told.splitlines() if "best of" in line
    ]


def _sweep(folder: Path, content: dict, *options: str) -> int:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return cli.main(["sweep", str(path), "--out", str(folder / "runs"), *options])

"""The planner: targets are read and judged, the search goes on where it was cut off, and nothing is trained in vain."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from scaletut.compress import driver
from scaletut.compress.driver import Bench
from scaletut.compress.planner import Limit, Space, Target, search
from scaletut.data import load
from scaletut.errors import DataError, ParameterError, ScaletutError
from scaletut.models import build
from scaletut.records import Value

GIVEN = {"latency": 8e-3, "bytes": 800_000}  # of the eager network in the tests below


@pytest.mark.parametrize(
    ("read", "text", "found", "share"),
    [
        (Limit.latency, "2x", 3e-3, 0.75),
        (Limit.latency, "4ms", 3e-3, 0.75),
        (Limit.latency, " 500 us", 1e-3, 2.0),
        (Limit.bytes, "8x", 200_000, 2.0),
        (Limit.bytes, "0.4MB", 200_000, 0.5),
    ],
)
def test_targets_are_read_as_people_write_them(read, text: str, found: float, share: float) -> None:
    given = GIVEN["latency" if read == Limit.latency else "bytes"]
    assert read(text).share(found, given) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "x", "0x", "-2x", "nanx", "infx", "3", "3 parsecs", "0ms", "2xx"])
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(ParameterError, match="such as"):
        Limit.latency(text)
    with pytest.raises(ParameterError, match="such as"):
        Limit.bytes(text)
    with pytest.raises(ParameterError, match="max_drop"):
        Target(Limit(2, True), max_drop=-0.1)


def test_a_miss_is_told_with_its_size() -> None:
    target = Target(Limit(2, True), Limit(8, True), max_drop=0.5)
    latency, bytes_, drop = target.misses({"latency": 1.25, "bytes": 1.1}, 0.75)
    assert "25%" in latency
    assert "10%" in bytes_
    assert "0.25 more than the 0.5 allowed" in drop
    assert target.misses({"latency": 1.0, "bytes": 0.3}, 0.5) == ()


class World:
    """In place of `compress`: pruned by s the latency is 4 (1 - s) ms, halved by int8, and the drop 10 s^2 points."""

    def __init__(self) -> None:
        self.trained: list[str] = []
        self.shaped: list[str] = []
        self.kill_at = ""
        self.least, self.most = 0.0, 1.0  # shares that can be removed

    def __call__(self, net, steps, bench, *, reference=None, exported=None):
        recipe = ",".join(map(str, steps))
        if "cp" in recipe:
            raise DataError("cp cannot be exported")
        (self.trained if bench.epochs else self.shaped).append(recipe)
        if self.kill_at and bench.epochs and len(self.trained) == int(self.kill_at):
            raise KeyboardInterrupt
        share = sum(step.value for step in steps if step.name == "prune")
        if share and not self.least <= share <= self.most:
            raise ParameterError(f"share {share} cannot be reached")
        eight_bits = any(step.name == "int8" for step in steps)
        latency, size = 4e-3 * (1 - share) / (1 + eight_bits), 800_000 * (1 - share) / (1 + 3 * eight_bits)
        made = self.stage(latency, int(size), 10 * share**2 + 0.1 * eight_bits)
        return self.stage(**GIVEN, drop=0.0), self.stage(4e-3, 800_000, 0.0), made

    @staticmethod
    def stage(latency: float, bytes: int, drop: float):
        timed = SimpleNamespace(seconds=Value(latency, "s"))
        figures = {"accuracy": Value(90 - drop, "%"), "drop": Value(drop, "points")}
        return SimpleNamespace(latency={1: timed}, bytes=bytes, program=None, **figures)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()
    monkeypatch.setattr(driver, "compress", made)
    return made


@pytest.fixture(scope="module")
def parts():
    data = load("zipf10", n_train=120, n_test=10).train
    train, scored = data.split(20, seed=0)
    return build("resnet8", width=0.5), train, scored


def bench(parts, tmp_path) -> Bench:
    return Bench(parts[1], parts[2], ((0.5,) * 3, (0.25,) * 3), tmp_path / "programs")


SPACE = Space(cuts=("", "prune"))


def test_the_mildest_recipe_that_reaches_the_target_is_found(world: World, parts, tmp_path) -> None:
    """6 times faster needs int8 and a share of at least 1/3, of which 0.4 is the first that leaves a margin."""
    target = Target(Limit(6, True), max_drop=5)
    found = search(parts[0], bench(parts, tmp_path), target, tmp_path / "s.db", trials=4, space=SPACE)
    assert found.best == found.nearest
    assert found.best.recipe in ("prune=0.4,finetune=1,int8", "prune=0.4,distil=1,int8")
    assert found.best.drop == pytest.approx(10 * 0.4**2 + 0.1)
    assert found.best.shares["latency"] == pytest.approx(0.9)
    assert all(one.drop >= found.best.drop for one in found.trials if one.state == "measured")


def test_nothing_is_trained_that_misses_the_target_before(world: World, parts, tmp_path) -> None:
    found = search(parts[0], bench(parts, tmp_path), Target(Limit(12, True)), tmp_path / "s.db", trials=5, space=SPACE)
    missed = [one for one in found.trials if one.state == "missed"]
    assert "int8" in [one.recipe for one in missed]
    assert all(one.shares["latency"] > 1 and one.drop is None for one in missed)
    assert not {one.recipe for one in missed} & set(world.trained)
    assert len(world.trained) == len(set(world.trained)), "a recipe was trained twice"
    assert len(world.shaped) == len(set(world.shaped)), "a shape was timed twice"


def test_cuts_that_cannot_be_carried_out_do_not_hide_those_that_can(world: World, parts, tmp_path) -> None:
    world.least, world.most = 0.3, 0.7
    space = Space(cuts=("prune",), training=("finetune",), ends=("int8",))

    def first(latency: float):
        target = Target(Limit(latency, True), max_drop=9)
        return search(parts[0], bench(parts, tmp_path), target, tmp_path / "s.db", trials=1, space=space).trials[0]

    assert (first(5).state, first(5).recipe) == ("measured", "prune=0.3,finetune=1,int8")
    assert (first(8).state, first(8).recipe) == ("measured", "prune=0.55,finetune=1,int8")
    assert (first(99).state, first(99).recipe) == ("missed", "prune=0.7,finetune=1,int8")


def test_each_way_is_tried_once_and_then_there_is_nothing_left(world: World, parts, tmp_path) -> None:
    space = Space(cuts=("", "prune"), training=("finetune",))
    found = search(parts[0], bench(parts, tmp_path), Target(Limit(1.5, True)), tmp_path / "s.db", trials=9, space=space)
    assert len(found.trials) == 4  # nothing or pruned, in float or in int8
    assert len({one.recipe for one in found.trials}) == 4
    assert [one.number for one in found.trials] == [0, 1, 2, 3]


def test_a_target_out_of_reach_is_told_with_what_comes_nearest(world: World, parts, tmp_path) -> None:
    found = search(parts[0], bench(parts, tmp_path), Target(Limit(100, True)), tmp_path / "s.db", trials=4, space=SPACE)
    assert found.best is None
    assert found.nearest.shares["latency"] == min(one.shares["latency"] for one in found.trials)
    tight = search(
        parts[0], bench(parts, tmp_path), Target(Limit(6, True), max_drop=0.2), tmp_path / "s.db", trials=4, space=SPACE
    )
    assert tight.best is None
    reach = [one.drop for one in tight.trials if one.state == "measured" and one.shares["latency"] <= 1]
    assert tight.nearest.drop == min(reach)


@pytest.mark.parametrize("at", [1, 3])
def test_a_search_that_was_cut_off_ends_as_one_that_was_not(world: World, parts, tmp_path, at: int) -> None:
    def run(name: str):
        target = Target(Limit(3, True), max_drop=5)
        return search(parts[0], bench(parts, tmp_path), target, tmp_path / f"{name}.db", trials=5, space=SPACE)

    whole = run("whole")
    world.trained.clear()
    world.kill_at = str(at)
    with pytest.raises(KeyboardInterrupt):
        run("cut")
    world.kill_at = ""
    assert run("cut").trials == whole.trials


def test_more_trials_go_on_and_other_questions_stay_apart(world: World, parts, tmp_path) -> None:
    def run(trials: int, latency: float = 3.0):
        target = Target(Limit(latency, True), max_drop=5)
        return search(parts[0], bench(parts, tmp_path), target, tmp_path / "s.db", trials=trials, space=SPACE)

    few = run(4)
    many = run(5)
    assert many.trials[:4] == few.trials
    assert len(many.trials) == 5
    calls = len(world.shaped)
    assert run(2, 2.0).trials[0].number == 0
    assert len(world.shaped) > calls
    calls = len(world.shaped)
    assert run(5).trials == many.trials
    assert len(world.shaped) == calls  # all was known


def test_a_recipe_that_fails_is_a_trial_with_its_reason(world: World, parts, tmp_path) -> None:
    space = Space(cuts=("cp", "prune"), ends=("int8",))
    found = search(parts[0], bench(parts, tmp_path), Target(Limit(2, True)), tmp_path / "s.db", trials=4, space=space)
    failed = [one for one in found.trials if one.state == "failed"]
    assert failed
    assert all("cannot be exported" in one.why and "cp" in one.recipe for one in failed)
    assert found.best is not None


def test_what_is_refused(world: World, parts, tmp_path) -> None:
    place = bench(parts, tmp_path)
    with pytest.raises(ParameterError, match="nothing to search"):
        search(parts[0], place, Target(max_drop=1), tmp_path / "s.db")
    with pytest.raises(ParameterError, match="trials"):
        search(parts[0], place, Target(Limit(2, True)), tmp_path / "s.db", trials=0)
    (tmp_path / "no.db").write_text("this is no database, and was one never")
    with pytest.raises(ScaletutError, match=r"no\.db cannot be used"):
        search(parts[0], place, Target(Limit(2, True)), tmp_path / "no.db", trials=1)


def test_two_searches_in_one_study_do_not_meet(world: World, parts, tmp_path) -> None:
    def second(_tried, _stages) -> None:
        with pytest.raises(ScaletutError, match="another process"):
            search(parts[0], bench(parts, tmp_path), Target(Limit(2, True)), tmp_path / "s.db", trials=1, space=SPACE)

    target = Target(Limit(2, True))
    search(parts[0], bench(parts, tmp_path), target, tmp_path / "s.db", trials=1, space=SPACE, listen=second)


def test_the_study_is_plain_sqlite(world: World, parts, tmp_path) -> None:
    search(parts[0], bench(parts, tmp_path), Target(Limit(2, True)), tmp_path / "s.db", trials=2, space=SPACE)
    with sqlite3.connect(tmp_path / "s.db") as database:
        (ended,) = database.execute("select count(*) from trials where state != 'WAITING'").fetchone()
    assert ended == 2


def test_what_decides_a_trial_decides_its_study(parts, tmp_path) -> None:
    from scaletut.compress.planner import _Search

    def name(**changes) -> str:
        target = changes.pop("target", Target(Limit(2, True)))
        made = replace(bench(parts, tmp_path), **changes)
        return _Search(parts[0], made, target, tmp_path / "s.db", SPACE, print)._name()

    others = [name(seed=1), name(epochs=2.0), name(scored=parts[1]), name(target=Target(Limit(3, True)))]
    assert len({name(), *others}) == 5
    assert name(folder=tmp_path / "elsewhere", report=np.maximum) == name()

"""Search for the recipe that reaches a latency or a size and costs the least accuracy; resumable, in one SQLite file.

A trial is a way to compress: which cuts, which training after them, which end. Latency and bytes follow from the cuts
alone, so the mildest cut that reaches the target is found first, by halving and without training, in seconds a step;
only that one is trained. Which way is tried next is suggested by Optuna's tree-structured Parzen estimator (J. Bergstra
et al., "Algorithms for Hyper-Parameter Optimization", NeurIPS 2011).
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from scaletut.compress.recipe import Step, complete, parse, untrained
from scaletut.errors import ParameterError, ScaletutError
from scaletut.files import digest_json
from scaletut.sizes import size_in_bytes, time_in_seconds

if TYPE_CHECKING:
    from torch import nn

    from scaletut.compress.driver import Bench, Stage
    from scaletut.compress.program import Program

State = Literal["measured", "missed", "failed"]
OUTCOME = "outcome"  # attribute of a trial in the study
START = 4  # trials before suggestions follow from what was found
BEYOND = 1000.0  # more than any drop
FEW = 100  # images that an untrained program is scored on, which nobody reads
MARGIN = 0.97  # share of what is allowed that a program must keep to before it is trained: timings differ so much


@dataclass(frozen=True)
class Limit:
    """At most `value` seconds or bytes; with `relative`, at most 1 / `value` of what the network as given takes."""

    value: float
    relative: bool = False

    def share(self, found: float, given: float) -> float:
        """`found` as a share of what is allowed: above 1 it is missed. `given`: of the network as given."""
        return found * self.value / given if self.relative else found / self.value

    @classmethod
    def latency(cls, text: str) -> Limit:
        """From `2x` (twice as fast) or `3ms`. ParameterError for another form, or nothing above 0."""
        return cls._of(text, time_in_seconds, "a latency such as 2x or 3ms")

    @classmethod
    def bytes(cls, text: str) -> Limit:
        """From `8x` (an eighth of the bytes) or `1.5MB`. ParameterError for another form, or nothing above 0."""
        return cls._of(text, size_in_bytes, "a size such as 8x or 1.5MB")

    @classmethod
    def _of(cls, text: str, read: Callable[[str], float], wanted: str) -> Limit:
        relative = text.strip().lower().endswith("x")
        try:
            value = float(text.strip()[:-1]) if relative else float(read(text))
        except (ValueError, ParameterError):
            value = math.nan
        if not 0 < value < math.inf:
            raise ParameterError(f"{text!r} is not {wanted}: give a number above 0 with its unit, or a factor with x")
        return cls(value, relative)


@dataclass(frozen=True)
class Target:
    """What a program must reach.

    Attributes:
        latency: of one image; None asks for nothing.
        bytes: on disk; None asks for nothing.
        max_drop: percentage points that it may lose against the network as given, on the scored images.
    """

    latency: Limit | None = None
    bytes: Limit | None = None
    max_drop: float = math.inf

    def __post_init__(self) -> None:
        if not self.max_drop >= 0:
            raise ParameterError(f"max_drop is {self.max_drop}: give percentage points, 0 or more")

    def shares(self, found: Stage, given: Stage) -> dict[str, float]:
        """Latency and bytes as shares of what is allowed, those that are asked for. given: the network, eager."""
        shares = {}
        if self.latency:
            shares["latency"] = self.latency.share(found.latency[1].seconds.value, given.latency[1].seconds.value)
        if self.bytes:
            shares["bytes"] = self.bytes.share(found.bytes, given.bytes)
        return shares

    def misses(self, shares: Mapping[str, float], drop: float | None) -> tuple[str, ...]:
        """What is missed and by how much, in words; `drop` in points, None where it was not measured."""
        found = [
            f"{name} {share:.2f} times the target ({share - 1:+.0%})" for name, share in shares.items() if share > 1
        ]
        if drop is not None and drop > self.max_drop:
            found.append(f"drop {drop:.2f} points, {drop - self.max_drop:.2f} more than the {self.max_drop:g} allowed")
        return tuple(found)


@dataclass(frozen=True)
class Space:
    """Ways to compress: one of `cuts`, one of `training` after it, one of `ends`.

    Attributes:
        cuts: names of cutting steps, several joined by `+`; empty for none. How strong the first of them must be
            follows from the target, for the others one of `energies` is suggested.
        training: names of training steps that follow a cut.
        ends: steps that end the recipe, several joined by `+`; empty for none.
        shares: of channels or weights that a cut may remove, from mild to strong.
        energies: that a factorisation may keep, from mild to strong.
    """

    cuts: tuple[str, ...] = ("", "prune", "tucker", "prune+tucker")
    training: tuple[str, ...] = ("finetune", "distil")
    ends: tuple[str, ...] = ("", "int8")
    shares: tuple[float, ...] = tuple(round(0.1 + 0.05 * step, 2) for step in range(15))  # 0.1 to 0.8
    energies: tuple[float, ...] = (0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5)

    def suggest(self, trial: Any, epochs: float) -> Way:
        """What an Optuna trial picks."""
        names = [name for name in trial.suggest_categorical("cut", self.cuts).split("+") if name]
        others = [Step(name, trial.suggest_categorical(f"{name}_strength", self.strengths(name))) for name in names[1:]]
        after = [Step(trial.suggest_categorical("training", self.training), epochs)] if names and epochs else []
        end = trial.suggest_categorical("end", self.ends)
        after += parse(end.replace("+", ",")) if end else ()
        return Way(names[0] if names else "", self.strengths(names[0]) if names else (), (*others, *after), epochs)

    def strengths(self, name: str) -> tuple[float, ...]:
        """Numbers behind a cutting step, from mild to strong."""
        return self.shares if name in ("prune", "weights") else self.energies

    def picks(self, epochs: float) -> list[dict[str, Any]]:
        """All that `suggest` can be made of, in the order in which they are tried while nothing is known.

        The ends alone come first, since they need no training, and then the cuts with the last end.
        """
        found = []
        for cut, end in itertools.product(self.cuts, reversed(self.ends)):
            names = [name for name in cut.split("+") if name]
            choices = {f"{name}_strength": self.strengths(name) for name in names[1:]}
            if names and epochs:
                choices["training"] = self.training
            for values in itertools.product(*choices.values()):
                found.append({"cut": cut, **dict(zip(choices, values, strict=True)), "end": end})
        return sorted(found, key=lambda pick: (pick["cut"] != "", pick["end"] != self.ends[-1]))


@dataclass(frozen=True)
class Way:
    """A recipe but for the strength of its first cut.

    Attributes:
        cut: name of the first step; empty when nothing is cut.
        strengths: its possible numbers, from mild to strong.
        rest: the steps after it.
        epochs: of training that is put in where it lacks.
    """

    cut: str
    strengths: tuple[float, ...]
    rest: tuple[Step, ...]
    epochs: float

    def steps(self, strength: int) -> tuple[Step, ...]:
        """The recipe at one of the strengths, by its place."""
        cut = (Step(self.cut, self.strengths[strength]),) if self.cut else ()
        return complete((*cut, *self.rest), self.epochs)


@dataclass(frozen=True)
class Tried:
    """One trial.

    Attributes:
        number: from 0.
        recipe: as `recipe.parse` reads it; empty for the program of the network as given.
        state: `measured`; `missed`, when even its strongest cut misses the target, so that it was not trained; or
            `failed`.
        why: it failed.
        accuracy, drop: in % and points, None unless measured.
        latency: median in seconds of one image; None if it failed.
        bytes: on disk; None if it failed.
        shares: latency and bytes as shares of what is allowed.
    """

    number: int
    recipe: str
    state: State
    why: str = ""
    accuracy: float | None = None
    drop: float | None = None
    latency: float | None = None
    bytes: int | None = None
    shares: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        target: that was asked for.
        trials: in their order.
        best: the one with the least drop of those that reach the target and lose no more than allowed; of equal ones
            the fastest. None if there is none. The least of several drops is a little too good: score it again.
        folder: where the programs and weights of the trials are; see `driver.files`.
        nearest: the best, or else what comes nearest: of those that reach latency and bytes the one with the least
            drop, or else the one that misses them by the least.
    """

    target: Target
    folder: Path
    trials: tuple[Tried, ...]
    best: Tried | None
    nearest: Tried | None


def search(
    net: nn.Module,
    bench: Bench,
    target: Target,
    study: Path | str,
    *,
    trials: int = 20,
    space: Space = Space(),
    listen: Callable[[Tried, Sequence[Stage]], None] = lambda _tried, _stages: None,
) -> Found:
    """Try recipes until `trials` are done, those that the study holds from before included.

    What is suggested follows from the arguments alone, not from where a search was interrupted: a trial that was cut
    off is taken up again, and its training from where it was.

    Args:
        net: from `build` or `load_weights`; it is not touched.
        bench: `scored` should be held out of `train`, and not the test set, since the choice is made on it.
        target: latency or bytes at least.
        study: SQLite file; searches with other arguments share it without seeing each other.
        trials: in all; there are fewer when the space has no more.
        space: what is tried.
        listen: told each trial that has ended, with its stages (none when nothing was measured).

    Raises:
        ParameterError: nothing to reach, a space that is empty, or trials below 1.
        ScaletutError: Optuna is absent, the study cannot be used, or another process searches in it.
    """
    if target.latency is None and target.bytes is None:
        raise ParameterError("there is nothing to search for: give a target latency or a target of bytes")
    if trials < 1:
        raise ParameterError(f"trials is {trials}: give 1 or more")
    return _Search(net, replace(bench, resume=True), target, Path(study), space, listen).run(trials)


class _Search:
    def __init__(
        self, net: nn.Module, bench: Bench, target: Target, path: Path, space: Space, listen: Callable[..., None]
    ) -> None:
        try:
            import optuna
        except ImportError:
            raise ScaletutError("the search needs Optuna; pip install 'scaletut[compress]'") from None
        self.optuna, self.net, self.bench, self.target = optuna, net, bench, target
        self.path, self.space, self.listen = path, space, listen
        self.exported: Program | None = None
        self.shapes: dict[tuple[Step, ...], tuple[Stage, dict[str, float]]] = {}
        optuna.logging.set_verbosity(optuna.logging.ERROR)

    def run(self, trials: int) -> Found:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        name = self._name()
        self.bench = replace(self.bench, folder=self.bench.folder / name)  # another search's programs stay its own
        with _held(self.path), self._faults():
            self.study = self.optuna.create_study(
                storage=f"sqlite:///{self.path.resolve()}", study_name=name, load_if_exists=True
            )
            self._take_up()
            while len(self._ended()) < trials and self._trial():
                pass
        return self._found()

    def _name(self) -> str:
        """Of all that decides what a trial gives."""
        from scaletut.models.weights import weights_digest

        bench = self.bench
        told = {
            "net": weights_digest(self.net.state_dict()),
            "data": [bench.train.digest, bench.scored.digest],
            "bench": [bench.epochs, bench.seed, bench.threads, bench.recipe.to_dict() if bench.recipe else None],
            "options": [repr(sorted(bench.options.items())), repr(sorted(bench.distillation.items()))],
            "target": repr(self.target),
            "space": asdict(self.space),
        }
        return digest_json(told)[:16]

    def _take_up(self) -> None:
        """A trial that a kill or Ctrl-C cut off is tried again, first."""
        for trial in self.study.get_trials(deepcopy=False, states=(self.optuna.trial.TrialState.RUNNING,)):
            self.study.tell(trial.number, state=self.optuna.trial.TrialState.FAIL)
            if trial.params:
                self.study.enqueue_trial(trial.params)

    def _told(self) -> list[Any]:
        """Trials that have an outcome; not those that were cut off, or suggested a second time."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if OUTCOME in trial.user_attrs]

    def _ended(self) -> list[Tried]:
        return [Tried(**trial.user_attrs[OUTCOME]) for trial in self._told()]

    def _trial(self) -> bool:
        """Try one more way; False when none is left."""
        told, states = self._told(), self.optuna.trial.TrialState
        tried = [one.params for one in told]
        left = [pick for pick in self.space.picks(self.bench.epochs) if pick not in tried]
        if not left:
            return False
        waiting = self.study.get_trials(deepcopy=False, states=(states.WAITING,))
        if not waiting and len(tried) < START:
            self.study.enqueue_trial(left[0])
        seed = int(digest_json([self.bench.seed, len(told)])[:8], 16)  # a stream a trial: resuming repeats none
        self.study.sampler = self.optuna.samplers.TPESampler(seed=seed, n_startup_trials=START)
        trial = self.study.ask()
        way = self.space.suggest(trial, self.bench.epochs)
        if trial.params in tried:
            self.study.tell(trial, state=states.FAIL)
            self.study.enqueue_trial(left[0])
            trial = self.study.ask()
            way = self.space.suggest(trial, self.bench.epochs)
        outcome, stages = self._tried(len(told), way)
        trial.set_user_attr(OUTCOME, asdict(outcome))
        if outcome.shares:
            self.study.tell(trial, _cost(outcome))
        else:
            self.study.tell(trial, state=states.FAIL)
        self.listen(outcome, stages)
        return True

    def _tried(self, number: int, way: Way) -> tuple[Tried, Sequence[Stage]]:
        from scaletut.compress.driver import compress

        steps = way.steps(-1) if way.cut else way.steps(0)
        try:
            steps, stage, shares = self._mildest(way)
            recipe = ",".join(map(str, steps))
            if any(share > 1 for share in shares.values()):
                return _outcome(number, recipe, "missed", stage, shares), ()
            stages = compress(self.net, steps, self.bench, exported=self.exported)
        except ScaletutError as error:
            return Tried(number, ",".join(map(str, steps)), "failed", str(error)), ()
        return _outcome(number, recipe, "measured", stages[-1], self.target.shares(stages[-1], stages[0])), stages

    def _mildest(self, way: Way) -> tuple[tuple[Step, ...], Stage, dict[str, float]]:
        """The recipe of the mildest cut that keeps to the target with a margin, or else of the strongest, untrained."""
        low, high, milder = 0, max(len(way.strengths) - 1, 0), False
        while low < high:
            middle = (low + high) // 2
            try:
                within = max(self._untrained(way.steps(middle))[1].values()) <= MARGIN
                milder = milder or not within
            except ParameterError:  # so strong that layers would vanish, if a milder one could be carried out; else so
                within = milder  # mild that nothing can go
            low, high = (low, middle) if within else (middle + 1, high)
        for place in range(low, 0, -1):
            with contextlib.suppress(ParameterError):
                return way.steps(place), *self._untrained(way.steps(place))
        return way.steps(0), *self._untrained(way.steps(0))

    def _untrained(self, steps: Sequence[Step]) -> tuple[Stage, dict[str, float]]:
        """What `steps` leave without their training, which changes neither latency nor bytes."""
        from scaletut.compress.driver import compress

        shape = untrained(steps)
        if shape not in self.shapes:
            few = self.bench.scored.take(range(min(FEW, len(self.bench.scored))))
            loose = {name: {**self.bench.options.get(name, {}), "tolerance": 1.0} for name in ("int8", "dynamic")}
            plain = replace(
                self.bench,
                epochs=0.0,
                scored=few,
                folder=self.bench.folder / "untrained",
                options={**self.bench.options, **loose},  # an untrained network may change its mind at any rounding
            )
            stages = compress(self.net, shape, plain, exported=self.exported)
            self.exported = stages[1].program
            self.shapes[shape] = stages[-1], self.target.shares(stages[-1], stages[0])
        return self.shapes[shape]

    def _found(self) -> Found:
        trials = tuple(self._ended())
        measured = [one for one in trials if one.state == "measured"]
        there = sorted(
            (one for one in measured if not self.target.misses(one.shares, None)),
            key=lambda one: (one.drop, one.latency),
        )
        good = [one for one in there if one.drop <= self.target.max_drop]
        others = sorted((one for one in trials if one.shares), key=lambda one: max(one.shares.values()))
        nearest = next(iter([*good, *there, *others]), None)
        return Found(self.target, self.bench.folder, trials, good[0] if good else None, nearest)

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """A study that cannot be used is one line, whichever of the libraries below raises."""
        from optuna.exceptions import OptunaError
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (OptunaError, SQLAlchemyError) as error:
            why = " ".join(str(error.__cause__ or error).split())[:200]
            raise ScaletutError(f"the study {self.path.name} cannot be used ({why}): give another file") from None


def _outcome(number: int, recipe: str, state: State, stage: Stage, shares: Mapping[str, float]) -> Tried:
    tried = Tried(number, recipe, state, latency=stage.latency[1].seconds.value, bytes=stage.bytes, shares=dict(shares))
    if state == "missed":
        return tried
    return replace(tried, accuracy=stage.accuracy.value, drop=stage.drop.value)


def _cost(tried: Tried) -> float:
    """What the search lowers: the drop in points, or for a trial that misses latency or bytes more than any drop."""
    over = max(tried.shares.values())
    return tried.drop if over <= 1 and tried.drop is not None else BEYOND * max(1.0, over)


@contextlib.contextmanager
def _held(study: Path) -> Iterator[None]:
    """Keep other searches out of the study. The lock is the system's: it goes with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # Windows: two searches at once would take up each other's trials there
        yield
        return
    with open(study.with_name(f"{study.name}.lock"), "a", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ScaletutError(
                f"another process searches in {study.name}: wait for it, or give another file"
            ) from None
        yield

"""A search for the values of a recipe inside a plan: trials that Optuna suggests, run and kept like any other run."""

from __future__ import annotations

import math
import platform
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import wraps
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from scaletut.errors import ParameterError, ScaletutError
from scaletut.files import digest_json

if TYPE_CHECKING:
    from scaletut.sweep.plan import RunSpec, SweepPlan
    from scaletut.sweep.store import Store

DATABASE = "search.db"
FIXED = ("epochs", "batch_size")  # the plan gives these itself
OWNER = "folder"  # which sweep a trial belongs to, where several share a storage
EDGE = 0.05  # of a range, counted in logarithms where it is one: a best value this near to an end says: search wider


class Search(BaseModel):
    """Which values of the recipe to search, for each combination of width, examples and length by itself.

    * `trials`: sets of values tried for each combination, each with all the plan's seeds;
    * `values`: a recipe's value and its range: `[low, high]`, `[low, high, log]`, or the names to choose from;
    * `at_once`: trials suggested together, before the outcome of any of them is known; more of them keep more
      workers busy and each learns from fewer. It decides the search, the number of workers does not;
    * `seed`: of the suggestions.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    trials: int = Field(ge=1, le=10_000)
    values: Mapping[str, tuple[float | str, ...]] = Field(min_length=1)
    at_once: int = Field(4, ge=1)
    seed: int = Field(0, ge=0)

    @field_validator("values")
    @classmethod
    def _ranges(cls, values: Mapping[str, tuple[float | str, ...]]) -> dict[str, tuple[float | str, ...]]:
        return {name: _range(name, tuple(map(_number, given))) for name, given in values.items()}


@dataclass(frozen=True)
class Trial:
    """One set of values for one combination of the plan.

    `loss`: mean over the seeds on the held-out images, in nats; infinite where a run diverged, None where one failed
    or is still to be run. `specs`: its runs, one a seed.
    """

    number: int
    values: dict[str, Any]
    loss: float | None
    specs: tuple[RunSpec, ...]


@dataclass(frozen=True)
class Found:
    """The outcome of a search for one combination of the plan (`spec`: its first run, without the values).

    `best` is None where no trial has a loss. Its loss is the lowest of `tried` on one set of held-out images,
    so it is a little too low: a number to quote needs new seeds or the test set.
    `at_edge` names the values that lie at an end of their range.
    """

    spec: RunSpec
    best: Trial | None
    tried: int
    without_loss: int
    at_edge: tuple[str, ...]


def check_search(plan: SweepPlan, where: str = "plan") -> None:
    """Raise ParameterError where a plan's search cannot be made: no held-out images, or values that no recipe has."""
    from scaletut.train.recipe import Recipe

    if not plan.hold_out:
        raise ParameterError(
            f"{where}: search: values are chosen on images that are held out of training, never on the test set; "
            "give hold_out, such as hold_out: 5000"
        )
    kinds = {
        name: kind for name, kind in typing.get_type_hints(Recipe).items() if kind is not bool and name not in FIXED
    }
    for name, given in plan.search.values.items():
        if name not in kinds:
            raise ParameterError(f"{where}: search: {name} cannot be searched; what can is {', '.join(sorted(kinds))}")
        if name in plan.recipe:
            raise ParameterError(f"{where}: search: recipe gives {name} too; leave it out of one of the two")
        names = typing.get_args(kinds[name]) if typing.get_origin(kinds[name]) is typing.Literal else ()
        if bool(names) != _is_choice(given) or (names and not set(given) <= set(names)):
            wanted = f"some of {', '.join(names)}" if names else "a range, such as [0.01, 1, log]"
            raise ParameterError(f"{where}: search: {name} needs {wanted}")
        for one in given if names else given[:2]:
            Recipe(**{**dict(plan.recipe), name: one})


def _storage_faults(method: Callable[..., Any]) -> Callable[..., Any]:
    """A storage that fails is one line, whichever of the libraries below raises."""

    @wraps(method)
    def guarded(self: Searcher, *arguments: Any) -> Any:
        from optuna.exceptions import OptunaError
        from sqlalchemy.exc import SQLAlchemyError

        from scaletut.sweep.store import SweepError

        try:
            return method(self, *arguments)
        except (OptunaError, SQLAlchemyError, ImportError, OSError) as error:
            why = _masked(" ".join(str(error.__cause__ or error).split()))[:200]
            raise SweepError(
                f"the search's storage {self.where} cannot be used ({why}); free some space or mend it, "
                "or give another with --storage"
            ) from None

    return guarded


class Searcher:
    """All searches of a plan. `more` is for `run_local` and `run_on_ray`; `found` tells what came out.

    What is suggested follows from the plan alone: not from the number of workers, nor from where a search was
    interrupted. Every run is a record in `store` under its key, and one that is there is not run again.

    storage: URL of a database that Optuna can use (`postgresql://...`), or `journal:FILE`, an appended file that a
    network file system can hold; empty: SQLite in the store's folder.
    Raises ScaletutError when Optuna is absent, SweepError when the storage cannot be used.
    """

    def __init__(self, plan: SweepPlan, store: Store, storage: str = "") -> None:
        try:
            import optuna
        except ImportError:
            raise ScaletutError(
                "this plan searches, and Optuna is not installed; pip install 'scaletut[search]'"
            ) from None
        self.optuna, self.plan, self.store = optuna, plan, store
        self.where = _masked(storage) or str(store.folder / DATABASE)
        self.owner = f"{platform.node()}:{store.folder.resolve()}"
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.studies = self._open(storage)

    @_storage_faults
    def _open(self, storage: str) -> list[tuple[tuple[RunSpec, ...], Any]]:
        if storage.startswith("journal:"):
            backend = self.optuna.storages.journal.JournalFileBackend(storage.removeprefix("journal:"))
            opened = self.optuna.storages.JournalStorage(backend)
        else:
            opened = self.optuna.storages.RDBStorage(storage or f"sqlite:///{self.store.folder.resolve() / DATABASE}")
        return [
            (specs, self.optuna.create_study(storage=opened, study_name=self._name(specs), load_if_exists=True))
            for specs in combinations(self.plan.runs())
        ]

    def _name(self, specs: Sequence[RunSpec]) -> str:
        """Of what decides the suggestions: a plan with more trials goes on, one with other ranges begins anew."""
        search = self.plan.search
        content = [spec.key for spec in specs], dict(search.values), search.at_once, search.seed
        return f"{self.plan.name}-{digest_json(content)[:16]}"

    @property
    def runs(self) -> int:
        """How many runs the whole search takes."""
        return self.plan.search.trials * sum(len(specs) for specs, _ in self.studies)

    @_storage_faults
    def begun(self) -> int:
        """Trials that the storage holds already."""
        return sum(len(self._trials(study)) for _, study in self.studies)

    @_storage_faults
    def more(self) -> list[RunSpec]:
        """Take in the outcomes that are there, and give the runs that are wanted next; none when all is done."""
        while True:
            open_trials = [trial for specs, study in self.studies for trial in self._round(specs, study)]
            wanted = dict.fromkeys(spec for trial in open_trials for spec in trial.specs)  # two may suggest the same
            missing = self.store.missing(wanted)
            if missing or not open_trials:
                return missing

    @_storage_faults
    def trials(self) -> list[list[Trial]]:
        """All trials, a list for each combination of the plan."""
        return [[self._trial(specs, one) for one in self._trials(study)] for specs, study in self.studies]

    def found(self) -> list[Found]:
        """The best values for each combination of the plan."""
        groups = zip(self.studies, self.trials(), strict=True)
        return [_found(specs[0], trials, self.plan.search) for (specs, _), trials in groups]

    def rows(self) -> Iterator[list[str]]:
        """A table of all trials, its heading first; an empty loss says that there is none."""
        names = sorted(self.plan.search.values)
        yield ["width", "examples", "epochs", "flops", "trial", *names, "loss"]
        for trial in (trial for group in self.trials() for trial in group):
            spec = trial.specs[0]
            place = [f"{x:.10g}" for x in (spec.width, spec.examples, spec.epochs, spec.flops, trial.number)]
            yield [*place, *(str(trial.values[name]) for name in names), f"{trial.loss:.10g}" if _scored(trial) else ""]

    # --- one study

    def _round(self, specs: Sequence[RunSpec], study: Any) -> list[Trial]:
        """Tell the study a round that has ended, and suggest the next one; the trials that are open.

        A round is suggested whole before any of it is told, and told whole before the next is suggested: so an
        interruption, wherever it comes, leaves the study with what it would have known.
        """
        search, still_open = self.plan.search, self._open_trials(specs, study)
        lacking = self._lacking(study)
        if still_open and not lacking and not self.store.missing(spec for trial in still_open for spec in trial.specs):
            for trial in still_open:
                self._tell(study, trial)
            still_open = []
        if not still_open:
            lacking = search.at_once
        if not lacking:
            return still_open
        there = len(self._trials(study))
        for place in range(there, min(there + lacking, search.trials)):
            self._suggest(study, place)
        return self._open_trials(specs, study)

    def _lacking(self, study: Any) -> int:
        """Trials that a kill kept out of this sweep's running round."""
        search, there = self.plan.search, self._trials(study)
        return min(-sum(map(self._mine, there)) % search.at_once, search.trials - len(there))

    def _mine(self, one: Any) -> bool:
        return one.user_attrs.get(OWNER, self.owner) == self.owner

    def _suggest(self, study: Any, place: int) -> None:
        seed = int(digest_json([self.plan.search.seed, place])[:8], 16)  # a stream a trial: resuming repeats none
        # Streams of their own keep the trials of a round apart; to count open ones as bad (`constant_liar`) cost more
        # than it gave: over 12 searches of a bowl, 32 trials in fours, the median excess was 0.010 instead of 0.004.
        study.sampler = self.optuna.samplers.TPESampler(seed=seed)
        study.ask(self._distributions()).set_user_attr(OWNER, self.owner)

    def _tell(self, study: Any, trial: Trial) -> None:
        failed = self.optuna.trial.TrialState.FAIL if trial.loss is None else None
        study.tell(trial.number, trial.loss, state=failed, skip_if_finished=True)

    def _trials(self, study: Any) -> list[Any]:
        """Those that were suggested whole: a kill may have come between."""
        names = set(self.plan.search.values)
        return [one for one in study.get_trials(deepcopy=False) if set(one.params) == names]

    def _open_trials(self, specs: Sequence[RunSpec], study: Any) -> list[Trial]:
        running = [one for one in self._trials(study) if one.state == self.optuna.trial.TrialState.RUNNING]
        return [self._trial(specs, one) for one in running if self._mine(one)]

    def _trial(self, specs: Sequence[RunSpec], one: Any) -> Trial:
        runs = tuple(with_values(spec, one.params) for spec in specs)
        return Trial(one.number, dict(one.params), self._loss(runs), runs)

    def _loss(self, runs: Sequence[RunSpec]) -> float | None:
        from scaletut.records import read_record

        if self.store.missing(runs):
            return None
        records = [read_record(self.store.path(run)) for run in runs]
        if any(record.parameters["status"] == "failed" for record in records):
            return None
        losses = [record.values["loss"].value if "loss" in record.values else math.inf for record in records]
        return math.fsum(losses) / len(losses)

    def _distributions(self) -> dict[str, Any]:
        from scaletut.train.recipe import Recipe

        kinds = {field.name: field.type for field in fields(Recipe)}
        made = self.optuna.distributions
        result = {}
        for name, given in self.plan.search.values.items():
            if _is_choice(given):
                result[name] = made.CategoricalDistribution(given)
            elif kinds[name] == "int":
                result[name] = made.IntDistribution(int(given[0]), int(given[1]), log=len(given) == 3)
            else:
                result[name] = made.FloatDistribution(given[0], given[1], log=len(given) == 3)
        return result


def _masked(text: str) -> str:
    """Without a URL's user and password: what is told ends on screens and in logs."""
    return re.sub(r"//[^@/]*@", "//***@", text)


def combinations(specs: Sequence[RunSpec]) -> list[tuple[RunSpec, ...]]:
    """Runs that differ in their seed alone, together, in the order of `specs`."""
    groups: dict[RunSpec, list[RunSpec]] = {}
    for spec in specs:
        groups.setdefault(replace(spec, seed=0), []).append(spec)
    return [tuple(group) for group in groups.values()]


def with_values(spec: RunSpec, values: Mapping[str, Any]) -> RunSpec:
    """The run with these values in its recipe."""
    return replace(spec, recipe=tuple(sorted({**dict(spec.recipe), **values}.items())))


def _found(spec: RunSpec, trials: Sequence[Trial], search: Search) -> Found:
    scored = [trial for trial in trials if _scored(trial)]
    best = min(scored, key=lambda trial: trial.loss, default=None)
    edge = tuple(name for name, given in search.values.items() if best and _at_edge(best.values[name], given))
    return Found(spec, best, len(trials), len(trials) - len(scored), edge)


def _scored(trial: Trial) -> bool:
    return trial.loss is not None and math.isfinite(trial.loss)


def _at_edge(value: Any, given: tuple[float | str, ...]) -> bool:
    if _is_choice(given):
        return False
    scale = math.log if len(given) == 3 else float
    low, high = scale(given[0]), scale(given[1])
    return not EDGE <= (scale(value) - low) / (high - low) <= 1 - EDGE


def _is_choice(given: Sequence[float | str]) -> bool:
    return isinstance(given[0], str)


def _number(given: float | str) -> float | str:
    """YAML takes 1e-3 for a text."""
    try:
        return float(given)
    except ValueError:
        return given


def _range(name: str, given: tuple[float | str, ...]) -> tuple[float | str, ...]:
    if given and all(isinstance(one, str) for one in given):
        if len(set(given)) < max(2, len(given)):
            raise ValueError(f"{name} needs two different names or more to choose from")
        return given
    *ends, scale = given if len(given) == 3 else (*given, "linear")
    numbers = len(ends) == 2 and all(isinstance(end, float) and math.isfinite(end) for end in ends)
    if not numbers or scale not in ("log", "linear") or (len(given) == 3 and scale != "log"):
        raise ValueError(f"{name} needs [low, high] or [low, high, log]")
    if not ends[0] < ends[1] or (scale == "log" and ends[0] <= 0):
        raise ValueError(f"{name} needs low below high, and above 0 for log")
    return given

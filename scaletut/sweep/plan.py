"""A plan of many runs: a typed document, validated whole before the first run, and what it expands to."""

from __future__ import annotations

import difflib
import itertools
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    ValidationError,
    field_validator,
    model_validator,
)

from scaletut.errors import ParameterError
from scaletut.files import digest_files, digest_json
from scaletut.sweep.search import Search, check_search

MOST_RUNS = 100_000
ALL_EXAMPLES = 50_000  # how many "all" is taken for where only an order of cost is wanted
ROOMS = ("data", "models", "train")  # the library's rooms that decide how a run ends
STEPS_AN_EPOCH, SMALLEST_BATCH, LARGEST_BATCH = 40, 64, 512


class WidthRule(BaseModel):
    """How the rates follow the width: rate × (width / `reference`) ^ `exponent`, and why.

    A rate that is held fixed while the network grows is a choice too, and bends the law that is fitted to the runs;
    so the exponent has to be named, 0 included, and `reason` has to say where it comes from.
    `head_exponent` is that of the last layer's rate, where it differs from the others'.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    exponent: float = Field(ge=-2, le=2)
    head_exponent: float | None = Field(None, ge=-2, le=2)
    reference: float = Field(gt=0)
    reason: str = Field(min_length=10)

    def factors(self, width: float) -> tuple[float, float]:
        """Of the body's rates and of the head's."""
        head = self.exponent if self.head_exponent is None else self.head_exponent
        return (width / self.reference) ** self.exponent, (width / self.reference) ** head


class SweepPlan(BaseModel):
    """Every combination of widths × examples × epochs (or budgets) × seeds, on one network and one data source.

    A grid holds corners that are not wanted, so `pairs` may name the (width, examples) that are.

    * `name`: dotted lower-case, the experiment of the records;
    * `data`: a source (`scaletut.data.load`); `label_noise`: share of training labels replaced at random;
    * `side`: pixels to which images are shrunk (0: as they are);
    * `preset`: network and recipe (`scaletut.train.presets`); `recipe` replaces single values of it;
    * `widths`: factors on the preset's channels; `examples`: training images (0: all of them);
      or `pairs` of the two;
    * `epochs`: passes, or `flops`: training FLOPs a run, from which the passes follow; give one of the two;
    * `seeds`: of weights, order, augmentation and the choice of training images;
    * `hold_out`: training images that are scored in the place of the test set (0: the test set);
    * `scored`: how many of those are scored at most (0: all);
    * `lr_rule`: how the rates follow the width;
    * `batch`: images a step; 0 takes the power of two that gives about 40 steps an epoch, from 64 to 512;
    * `search`: values of the recipe to search on the held-out images (`Search`).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*(\.[a-z0-9_]+)*$")
    data: str = "cifar10"
    label_noise: float = Field(0.0, ge=0, lt=1)
    side: int = Field(0, ge=0)
    preset: str = "fast"
    recipe: Mapping[str, Any] = Field(default_factory=dict)
    widths: tuple[float, ...] = Field((1.0,), min_length=1)
    examples: tuple[int, ...] = Field((0,), min_length=1)
    pairs: tuple[tuple[PositiveFloat, NonNegativeInt], ...] = ()
    epochs: tuple[float, ...] = ()
    flops: tuple[float, ...] = ()
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    hold_out: int = Field(0, ge=0)
    scored: int = Field(0, ge=0)
    lr_rule: WidthRule
    batch: int = Field(0, ge=0)
    search: Search | None = None

    @field_validator("widths", "examples", "epochs", "flops", "seeds")
    @classmethod
    def _different(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if len(set(values)) != len(values):
            raise ValueError("names a value twice; name each once")
        if any(not math.isfinite(value) or value < 0 for value in values):
            raise ValueError("holds a number below 0 or one that is not finite")
        return values

    @field_validator("widths", "epochs", "flops")
    @classmethod
    def _positive(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if any(value == 0 for value in values):
            raise ValueError("holds a 0; give numbers above 0")
        return values

    @model_validator(mode="after")
    def _one_length(self) -> SweepPlan:
        if bool(self.epochs) == bool(self.flops):
            raise ValueError("give either epochs or flops, and not both: one follows from the other")
        sizes = (self.widths, self.examples, self.epochs or self.flops, self.seeds)
        count = math.prod(len(values) for values in sizes) * (self.search.trials if self.search else 1)
        if count > MOST_RUNS:
            raise ValueError(f"{count:,} runs are more than {MOST_RUNS:,}; split the plan")
        return self

    def sizes(self) -> tuple[tuple[float, int], ...]:
        """The (width, examples) of the plan."""
        return self.pairs or tuple(itertools.product(self.widths, self.examples))

    def runs(self) -> list[RunSpec]:
        """All runs, cheapest first where that can be told from width, examples and epochs."""
        budget = "epochs" if self.epochs else "flops"
        lengths = self.epochs or self.flops
        code = training_code_digest()
        shared = {
            "plan": self.name, "data": self.data, "label_noise": self.label_noise, "side": self.side,
            "preset": self.preset, "recipe": tuple(sorted(self.recipe.items())), "hold_out": self.hold_out,
            "scored": self.scored, "batch": self.batch, "code": code,
        }  # fmt: skip
        combined = itertools.product(self.sizes(), lengths, self.seeds)
        specs = [
            RunSpec(
                **shared, width=width, examples=examples, seed=seed,
                **dict(zip(("rate_factor", "head_factor"), self.lr_rule.factors(width), strict=True)),
                **{"epochs": 0.0, "flops": 0.0, budget: length},
            )
            for (width, examples), length, seed in combined
        ]  # fmt: skip
        return sorted(specs, key=lambda spec: spec.work)


@dataclass(frozen=True)
class RunSpec:
    """One run: everything that decides its outcome. `epochs` or `flops` is 0, the other gives its length.

    `halved`: the batch was halved once, because the run did not fit into memory.
    """

    plan: str
    data: str
    label_noise: float
    side: int
    preset: str
    recipe: tuple[tuple[str, Any], ...]
    width: float
    examples: int
    epochs: float
    flops: float
    seed: int
    hold_out: int
    scored: int
    batch: int
    rate_factor: float
    head_factor: float
    code: str
    halved: bool = False

    @property
    def key(self) -> str:
        """Digest of the whole configuration and of the library's training code: 20 hexadecimal digits.

        The plan's name is left out, so that two plans share the runs that they have in common,
        and so is `halved`, which is an outcome.
        """
        content = {name: value for name, value in asdict(self).items() if name not in ("plan", "halved")}
        return digest_json(content)[:20]

    @property
    def work(self) -> float:
        """In proportion to the run's FLOPs, as far as its specification tells; "all" examples count as CIFAR-10's."""
        return self.flops or self.width**2 * (self.examples or ALL_EXAMPLES) * self.epochs

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for records and for the pipe to a worker."""
        return {**asdict(self), "recipe": dict(self.recipe)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RunSpec:
        """The inverse of `to_dict`."""
        return cls(**{**values, "recipe": tuple(sorted(values["recipe"].items()))})


def automatic_batch(examples: int) -> int:
    """The power of two that gives about 40 steps an epoch, from 64 to 512 images.

    Fewer images need smaller batches: the rates were chosen for runs of some hundred steps.
    """
    return min(LARGEST_BATCH, max(SMALLEST_BATCH, 2 ** round(math.log2(max(examples, 1) / STEPS_AN_EPOCH))))


@cache
def training_code_digest() -> str:
    """Digest of the library's source that decides a run; an edit elsewhere makes no run stale."""
    package = Path(__file__).resolve().parents[1]
    files = [path for room in ROOMS for path in (package / room).rglob("*.py")]
    return digest_json(digest_files(package, files))[:16]


def load_plan(path: Path | str) -> SweepPlan:
    """Read a plan from YAML. Raises ParameterError, in one line, for a file or a value that is not a plan's."""
    import yaml

    path = Path(path)
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParameterError(
            f"the plan {path} cannot be read ({error.strerror}); give the path of a YAML file"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} is not YAML ({' '.join(str(error).split())[:160]})") from None
    if not isinstance(content, dict):
        raise ParameterError(f"{path} holds no plan; it should start like  name: my_sweep")
    return checked_plan(content, str(path))


def checked_plan(content: Mapping[str, Any], where: str = "plan") -> SweepPlan:
    """A plan from plain values, its preset and recipe checked too; ParameterError names the first fault."""
    from scaletut.train.presets import preset

    try:
        plan = SweepPlan(**{name: _tuple(value) for name, value in content.items()})
    except ValidationError as error:
        raise ParameterError(f"{where}: {_first_fault(error)}") from None
    except TypeError as error:
        raise ParameterError(f"{where}: {error}") from None
    _check_recipe(plan, where)
    if plan.search:
        check_search(plan, where)
    preset(plan.preset)
    return plan


def _tuple(value: Any) -> Any:
    return tuple(_tuple(item) for item in value) if isinstance(value, list) else value


def _first_fault(error: ValidationError) -> str:
    fault = error.errors()[0]
    place = ".".join(str(part) for part in fault["loc"]) or "the plan"
    if fault["type"] == "extra_forbidden":
        *outer, name = fault["loc"]
        model = {"lr_rule": WidthRule, "search": Search}[outer[0]] if outer else SweepPlan
        near = difflib.get_close_matches(name, model.model_fields, 1, 0.0)[0]
        return f"{place} is not a field of a plan; did you mean {near!r}?"
    return f"{place}: {fault['msg'].removeprefix('Value error, ')}"


def _check_recipe(plan: SweepPlan, where: str) -> None:
    from dataclasses import fields

    from scaletut.train.recipe import Recipe

    known = {field.name for field in fields(Recipe)} - {"epochs", "batch_size"}
    for name in plan.recipe:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1, 0.0)[0]
            raise ParameterError(f"{where}: recipe.{name} is not a value of a recipe; did you mean {near!r}?")
    try:
        Recipe(**dict(plan.recipe))
    except TypeError as error:
        raise ParameterError(f"{where}: recipe: {error}") from None

"""What is to be done to a network, as a line of text: `prune=0.5,finetune=2,int8`. No torch here."""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scaletut.errors import ParameterError

Role = Literal["cut", "training", "graph", "simulation", "program"]
LAST: tuple[Role, ...] = ("simulation", "program")  # nothing follows these


@dataclass(frozen=True)
class Kind:
    """One kind of step.

    Attributes:
        about: what it does, in a few words.
        role: `cut` makes the network smaller and less accurate, `training` makes up for it, `graph` computes the same
            in another way, `simulation` and `program` end a recipe.
        value: name of the number behind the step; empty where there is none.
        low, high: the number lies between them; `high` itself is not taken, nor is `low`.
        optional: the number may be left out.
    """

    about: str
    role: Role
    value: str = ""
    low: float = 0.0
    high: float = 1.0
    optional: bool = False


EPOCHS = {"role": "training", "value": "epochs", "high": 10_000.0, "optional": True}
KINDS: dict[str, Kind] = {
    "weights": Kind("set the smallest weights to zero", "cut", "share"),
    "prune": Kind("remove channels", "cut", "share"),
    "tucker": Kind("Tucker-2 convolutions", "cut", "energy"),
    "cp": Kind("CP convolutions", "cut", "energy"),
    "svd": Kind("linear layers and pointwise convolutions of low rank", "cut", "energy"),
    "finetune": Kind("train on the labels", **EPOCHS),
    "distil": Kind("train on the labels and on what the network as given says", **EPOCHS),
    "fold": Kind("fold batch norms into the layers before them", "graph"),
    "qat": Kind("train with the rounding of int8", **EPOCHS),
    "int8": Kind("8-bit weights and activations, calibrated on training images", "program"),
    "dynamic": Kind("8-bit weights, activations rounded as they come", "program"),
    "w4": Kind("4-bit weights, simulated", "simulation"),
}


@dataclass(frozen=True)
class Step:
    """One step of a recipe: its name, a key of `KINDS`, and the number behind it, None where there is none.

    `str` writes it as `parse` reads it.
    Raises ParameterError for an unknown name, or a number that is missing, not wanted or out of range.
    """

    name: str
    value: float | None = None

    def __post_init__(self) -> None:
        if self.name not in KINDS:
            nearest = difflib.get_close_matches(self.name.lower(), KINDS, 1, 0.0)[0]
            raise ParameterError(
                f"there is no step {self.name!r}: did you mean {nearest!r}? known are {', '.join(KINDS)}"
            )
        kind = KINDS[self.name]
        if self.value is None:
            if kind.value and not kind.optional:
                raise ParameterError(f"{self.name} needs its {kind.value}: write {self.name}={_example(kind)}")
        elif not kind.value:
            raise ParameterError(f"{self.name} takes no number: leave ={self.value:g} out")
        elif not kind.low < self.value < kind.high:
            raise ParameterError(
                f"{self} is out of range: the {kind.value} lies above {kind.low:g} and below {kind.high:g}, "
                f"such as {self.name}={_example(kind)}"
            )

    def __str__(self) -> str:
        return self.name if self.value is None else f"{self.name}={self.value:g}"

    @property
    def role(self) -> Role:
        """What kind of change it is; see `Kind`."""
        return KINDS[self.name].role


def parse(text: str) -> tuple[Step, ...]:
    """The steps of a recipe such as `prune=0.5,finetune=2,int8`; spaces do not count.

    Raises:
        ParameterError: a step that `Step` refuses, a step that is no `name` or `name=number`, or an order that cannot
            be carried out (see `check_order`).
    """
    steps = tuple(_step(part) for part in text.split(",")) if text.strip() else ()
    if not steps:
        raise ParameterError("the recipe is empty: write steps with commas between, such as prune=0.5,finetune=2,int8")
    return check_order(steps)


def check_order(steps: Sequence[Step]) -> tuple[Step, ...]:
    """`steps` as given, when they can follow one another so.

    Raises:
        ParameterError: something follows a step that ends a recipe, a network is trained for int8 and not brought to
            it, or channels are removed and layers split after the training for int8 or the folding of the norms; or
            zeros are asked for that the training for int8 would not keep.
    """
    if any(step.name == "weights" for step in steps) and any(step.name == "qat" for step in steps):
        raise ParameterError("qat does not keep the zeros of weights: take finetune or distil after weights, then int8")
    for step, following in itertools.pairwise(steps):
        if step.role in LAST:
            raise ParameterError(f"{following} cannot follow {step}, which ends a recipe: put {step.name} last")
        if step.name == "qat" and following.name != "int8":
            raise ParameterError(f"{following} cannot follow {step}, which trains for int8: put int8 right behind it")
        if step.name == "fold" and following.role in ("cut", "training") and following.name != "qat":
            raise ParameterError(f"{following} cannot follow fold, which takes the norms away: put fold behind it")
    if steps and steps[-1].name == "qat":
        raise ParameterError(f"{steps[-1]} trains for int8, which does not follow: add ,int8")
    return tuple(steps)


def complete(steps: Sequence[Step], epochs: float) -> tuple[Step, ...]:
    """`steps` with every number in its place, and with the training that a cut needs.

    A training step without a number gets `epochs`; behind cuts that no training follows a `finetune` of `epochs` is put
    in, also before `qat`, whose rate is too low to make up for a cut. With `epochs` 0 nothing is put in.

    Raises:
        ParameterError: `epochs` is negative or not finite, or 0 where a step needs it.
    """
    if not 0 <= epochs < KINDS["finetune"].high:
        raise ParameterError(f"epochs is {epochs:g}: give 0 for no fine-tuning, or more")
    done: list[Step] = []
    for step in steps:
        if step.role == "training" and step.value is None:
            step = Step(step.name, epochs)
        ends = step.role in ("graph", *LAST) or step.name == "qat"
        if epochs and ends and done and done[-1].role == "cut":
            done.append(Step("finetune", epochs))
        done.append(step)
    if epochs and done and done[-1].role == "cut":
        done.append(Step("finetune", epochs))
    return check_order(done)


def untrained(steps: Sequence[Step]) -> tuple[Step, ...]:
    """`steps` without those that train: what they leave has the same latency and the same bytes."""
    return tuple(step for step in steps if step.role != "training")


def slug(steps: Sequence[Step | str]) -> str:
    """`steps` as a part of a record's name: `prune0p5_finetune2_int8`."""
    text = "_".join(str(step) for step in steps)
    return re.sub(r"[^a-z0-9_]", "", text.lower().replace(".", "p").replace("=", ""))


def _step(part: str) -> Step:
    name, equals, number = (one.strip() for one in part.partition("="))
    if not name:
        raise ParameterError("the recipe has an empty step: write steps with single commas between")
    if not equals:
        return Step(name)
    value = _number(number)
    if name in KINDS and math.isnan(value):
        raise ParameterError(f"{name}={number} is no step: behind = stands a number, such as 0.5")
    return Step(name, value)


def _number(text: str) -> float:
    """The number, or NaN for what is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _example(kind: Kind) -> str:
    return {"share": "0.5", "energy": "0.9", "epochs": "1"}[kind.value]

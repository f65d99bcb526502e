"""The parameters of each chapter: one pydantic model a chapter, at most eight plain literals.

A model says for each parameter its type, unit, range and default, and what each profile puts in its place
when the reader leaves it zero or empty.
To add a chapter: write its model here, and enter it in `CHAPTERS`.
"""

from __future__ import annotations

import math
import re
import types
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args, get_origin

from annotated_types import Ge, Le
from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic.fields import FieldInfo

from scaletut.errors import ParameterError

ProfileName = Literal["quick", "laptop", "gpu"]
PROFILES: tuple[ProfileName, ...] = get_args(ProfileName)
MOST_PARAMETERS = 8


def parameter(
    default: Any,
    text: str,
    *,
    unit: str = "",
    low: float | None = None,
    high: float | None = None,
    values: str = "",
) -> Any:
    """A field of a chapter's model: its default, meaning, unit, and range (`low` to `high`, both included).

    values: for text, what it may hold, in words.
    """
    return Field(default, description=text, ge=low, le=high, json_schema_extra={"unit": unit, "values": values})


class Chapter(BaseModel):
    """Base of the chapters' models: strict types, no unknown names, never changed after validation."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    title: ClassVar[str] = ""
    by_profile: ClassVar[Mapping[str, Mapping[str, Any]]] = types.MappingProxyType({})
    # Beginnings of the names of values that follow from times, where their units do not tell it.
    of_machine: ClassVar[tuple[str, ...]] = ()

    profile: ProfileName = parameter("laptop", "data and budget", values="quick, laptop or gpu")

    def resolved(self) -> Any:
        """This model with each zero or empty parameter replaced by its profile's value, validated again."""
        own = self.by_profile.get(self.profile, {})
        taken = {name: value for name, value in own.items() if not getattr(self, name)}
        return type(self).model_validate({**self.model_dump(), **taken})


# --- validators that chapters share ------------------------------------------------


def known_source(data: str) -> str:
    """`data` if it names an image set (`cifar10`, `zipf10[:options]`, `folder:PATH`, an npz) or is empty."""
    from scaletut.data.sources import kind_of

    if not data:
        return data
    try:
        kind, rest = kind_of(data)
    except ParameterError:
        raise ValueError(f"{data!r} is not an image set") from None
    return _known_options(data, rest) if kind == "zipf10" else data


def _known_options(data: str, options: str) -> str:
    from scaletut.data.zipf import parse

    try:
        parse(options)
    except ParameterError as error:
        raise ValueError(str(error)) from None
    return data


def label_sets(text: str) -> str:
    """`text` if it is empty or names of human label sets and shares in (0, 1), each once, with commas between."""
    from scaletut.data.cifar10n import WRONG

    words = [word.strip() for word in text.split(",")] if text else []
    for word in words:
        if word not in WRONG and not 0 < _number(word) < 1:
            raise ValueError(f"{word!r} is none of {', '.join(WRONG)} and no share above 0 and below 1")
    if len(set(words)) != len(words):
        raise ValueError(f"{text!r} names a set of labels twice")
    return ",".join(words)


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return math.nan


def rising_counts(text: str) -> str:
    """`text` if it is empty or whole numbers above zero, rising, with commas between."""
    words = text.split(",") if text else []
    if not all(word.strip().isdecimal() for word in words):
        raise ValueError(f"{text!r} is not whole numbers with commas between")
    counts = [int(word) for word in words]
    if any(count < 1 for count in counts) or counts != sorted(set(counts)):
        raise ValueError(f"{text!r} must be positive and rise")
    return text.replace(" ", "")


# --- what a field says about itself ------------------------------------------------


def field_type(field: FieldInfo) -> type:
    """The plain type of a parameter: str, int, float or bool (a `Literal` of words is str)."""
    if get_origin(field.annotation) is Literal:
        return type(get_args(field.annotation)[0])
    return field.annotation if isinstance(field.annotation, type) else str


def field_choices(field: FieldInfo) -> tuple[Any, ...]:
    """The values of a `Literal` parameter; empty for all others."""
    return get_args(field.annotation) if get_origin(field.annotation) is Literal else ()


def field_bounds(field: FieldInfo) -> tuple[Any, Any]:
    """(lowest, highest) allowed value, None where there is no bound."""
    low = next((m.ge for m in field.metadata if isinstance(m, Ge)), None)
    high = next((m.le for m in field.metadata if isinstance(m, Le)), None)
    return low, high


def field_unit(field: FieldInfo) -> str:
    """The unit of a parameter; empty when it has none."""
    extra = field.json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""


def field_range(field: FieldInfo) -> str:
    """The allowed values in words: `0 to 200`, `quick, laptop or gpu`, `n,n,...`."""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and extra.get("values"):
        return str(extra["values"])
    low, high = field_bounds(field)
    return " to ".join(str(bound) for bound in (low, high) if bound is not None)


def field_comment(schema: type[Chapter], name: str) -> str:
    """What the comment behind a parameter must tell: unit, range, and that zero or empty is the profile's."""
    field = schema.model_fields[name]
    text = ", ".join(part for part in (field_unit(field), field_range(field)) if part)
    if not has_profile_values(schema, name):
        return text
    return f"{text}; {'empty' if field_type(field) is str else '0'}: the profile's"


def has_profile_values(schema: type[Chapter], name: str) -> bool:
    """Whether zero or empty stands for a value of the profile's own."""
    return any(name in values for values in schema.by_profile.values())


def parameters_cell(schema: type[Chapter]) -> str:
    """The source of the parameters cell that fits the model, ready to paste into the notebook."""
    lines = [f"{name} = {field.default!r}".replace("'", '"') for name, field in schema.model_fields.items()]
    width = max(len(line) for line in lines)
    comments = [field_comment(schema, name) for name in schema.model_fields]
    return "\n".join(f"{line:<{width}}  # {comment}" for line, comment in zip(lines, comments, strict=True))


# --- the chapters ------------------------------------------------------------------


class Finetune(Chapter):
    """Parameters of the chapter on fine-tuning a convolutional net."""

    title = "Fine-tune a CNN on CIFAR-10"
    by_profile = types.MappingProxyType(
        {
            "quick": {
                "data": "zipf10:classes=equal",
                "train_examples": 2000,
                "epochs": 2,
                "width": 16,
                "seeds": 3,
                "label_budgets": "2,50",
            },
            "laptop": {
                "data": "cifar10",
                "train_examples": 10000,
                "epochs": 4,
                "width": 16,
                "seeds": 3,
                "label_budgets": "10,50,200,1000,5000",
            },
            "gpu": {
                "data": "cifar10",
                "train_examples": 50000,
                "epochs": 12,
                "width": 64,
                "seeds": 5,
                "label_budgets": "10,50,200,1000,5000",
            },
        }
    )

    data: str = parameter("", "image set", values="cifar10, zipf10, zipf10:option=value,... or folder:PATH")
    train_examples: int = parameter(0, "size of the training set", unit="images", low=0, high=50000)
    epochs: int = parameter(0, "passes of a training run", unit="epochs", low=0, high=200)
    width: int = parameter(0, "channels of the first group", unit="channels", low=0, high=256)
    seeds: int = parameter(0, "independent runs behind each mean", unit="runs", low=0, high=20)
    label_budgets: str = parameter("", "labels a class to adapt with", unit="labels a class", values="n,n,...")
    seed: int = parameter(0, "first seed", low=0, high=2**31 - 1)

    _known_source = field_validator("data")(known_source)

    @field_validator("label_budgets")
    @classmethod
    def _rising_counts(cls, text: str) -> str:
        return rising_counts(text)

    @property
    def budgets(self) -> tuple[int, ...]:
        """`label_budgets` as numbers."""
        return tuple(int(word) for word in self.label_budgets.split(",") if word)


class Cleaning(Chapter):
    """Parameters of the chapter on cleaning a data set."""

    title = "Clean a data set"
    by_profile = types.MappingProxyType(
        {
            "quick": {
                "data": "zipf10:classes=equal,patterns=600,duplicates=20,near_duplicates=100,blurred=20",
                "labels": "0.4",
                "train_examples": 1000,
                "epochs": 6,
                "width": 16,
                "seeds": 2,
            },
            "laptop": {
                "data": "cifar10",
                "labels": "worst,random1,aggregate",
                "train_examples": 3000,
                "epochs": 5,
                "width": 16,
                "seeds": 5,
            },
            "gpu": {
                "data": "cifar10",
                "labels": "worst,random1,aggregate",
                "train_examples": 40000,
                "epochs": 10,
                "width": 32,
                "seeds": 5,
            },
        }
    )

    data: str = parameter("", "image set", values="cifar10, zipf10, zipf10:option=value,... or folder:PATH")
    labels: str = parameter("", "labels to clean", values="worst, random1, aggregate or shares, with commas between")
    train_examples: int = parameter(0, "images to train on", unit="images", low=0, high=50000)
    epochs: int = parameter(0, "passes of a training run", unit="epochs", low=0, high=200)
    width: int = parameter(0, "channels of the first group", unit="channels", low=0, high=256)
    seeds: int = parameter(0, "independent runs behind each mean", unit="runs", low=0, high=20)
    seed: int = parameter(0, "first seed", low=0, high=2**31 - 1)

    _known_source = field_validator("data")(known_source)

    @field_validator("labels")
    @classmethod
    def _known_labels(cls, labels: str) -> str:
        return label_sets(labels)


class Labels(Chapter):
    """Parameters of the chapter on labels, augmentation and choice of data."""

    title = "Labels, augmentation and choice of data"
    by_profile = types.MappingProxyType(
        {
            "quick": {
                "data": "zipf10:classes=equal,patterns=200",
                "train_examples": 800,
                "epochs": 4,
                "width": 8,
                "side": 16,
                "seeds": 2,
            },
            "laptop": {
                "data": "cifar10",
                "train_examples": 3000,
                "epochs": 6,
                "width": 8,
                "side": 16,
                "seeds": 5,
            },
            "gpu": {
                "data": "cifar10",
                "train_examples": 40000,
                "epochs": 16,
                "width": 32,
                "side": 32,
                "seeds": 5,
            },
        }
    )

    data: str = parameter("", "image set", values="cifar10, zipf10, zipf10:option=value,... or folder:PATH")
    train_examples: int = parameter(0, "images to choose from", unit="images", low=0, high=50000)
    epochs: int = parameter(0, "passes of a training run", unit="epochs", low=0, high=200)
    width: int = parameter(0, "channels of the first group", unit="channels", low=0, high=256)
    side: int = parameter(0, "height and width that images are shrunk to", unit="pixels", low=0, high=32)
    seeds: int = parameter(0, "independent runs behind each mean", unit="runs", low=0, high=20)
    seed: int = parameter(0, "first seed", low=0, high=2**31 - 1)

    _known_source = field_validator("data")(known_source)

    @field_validator("side")
    @classmethod
    def _halvings(cls, side: int) -> int:
        if side not in (0, 8, 16, 32):
            raise ValueError(f"{side} pixels cannot be had by halving 32; use 8, 16 or 32")
        return side


class Fitting(Chapter):
    """Parameters of the chapter on fitting scaling laws."""

    title = "Fit a scaling law"
    by_profile = types.MappingProxyType(
        {
            "quick": {"table": "simulated", "draws": 300, "simulations": 8},
            "laptop": {"table": "published", "draws": 4000, "simulations": 500},
            "gpu": {"table": "published", "draws": 4000, "simulations": 500},
        }
    )

    table: str = parameter("", "runs to fit", values="published, simulated, or a CSV")
    download: bool = parameter(False, "fetch the published table when it is not here", values="True or False")
    drop_highest: int = parameter(5, "highest losses to leave out", unit="runs", low=0, high=1000)
    delta: float = parameter(1e-3, "Huber's threshold", unit="log residual", low=1e-6, high=1.0)
    draws: int = parameter(0, "bootstrap resamples", unit="resamples", low=0, high=100_000)
    simulations: int = parameter(0, "simulated tables a noise law", unit="tables", low=0, high=10_000)
    seed: int = parameter(0, "first seed", low=0, high=2**31 - 1)


class Spending(Chapter):
    """Parameters of the chapter on spending a compute budget."""

    title = "Spend a compute budget"
    by_profile = types.MappingProxyType(
        {
            profile: {"table": table, "flops": 5.88e23, "served": 1e13, "scarcity": 0.1, "draws": draws}
            for profile, table, draws in (
                ("quick", "simulated", 300), ("laptop", "published", 1000), ("gpu", "published", 1000)
            )
        }
    )  # fmt: skip

    table: str = parameter("", "runs to plan from", values="published, simulated, or a CSV")
    download: bool = parameter(False, "fetch the published table when it is not here", values="True or False")
    flops: float = parameter(0.0, "the budget", unit="FLOP", low=0.0, high=1e32)
    served: float = parameter(0.0, "tokens served after training", unit="tokens", low=0.0, high=1e20)
    scarcity: float = parameter(0.0, "distinct data, of what the plan asks for", unit="share", low=0.0, high=1.0)
    draws: int = parameter(0, "bootstrap resamples", unit="resamples", low=0, high=100_000)
    seed: int = parameter(0, "first seed", low=0, high=2**31 - 1)


class Predict(Chapter):
    """Parameters of the chapter on predicting a large run from small ones."""

    title = "Predict, then verify"
    by_profile = types.MappingProxyType(
        {
            profile: {"runs": runs, "draws": draws, "workers": 1}
            for profile, runs, draws in (("quick", "new", 100), ("laptop", "book", 1000), ("gpu", "book", 1000))
        }
    )

    runs: str = parameter("", "the book's recorded runs, or new ones", values="book or new")
    data: str = parameter("", "image set of new runs", values="as for `scaletut sweep`; empty: the plan's")
    yours: str = parameter("", "folder of a sweep of your own, drawn beside", values="a folder")
    workers: int = parameter(0, "processes that train new runs", unit="processes", low=0, high=256)
    draws: int = parameter(0, "bootstrap resamples", unit="resamples", low=0, high=100_000)
    seed: int = parameter(0, "of the resamples", low=0, high=2**31 - 1)

    @field_validator("runs")
    @classmethod
    def _known_runs(cls, runs: str) -> str:
        if runs not in ("", "book", "new"):
            raise ValueError(f"{runs!r} is not a choice of runs; use book or new")
        return runs

    _known_source = field_validator("data")(known_source)


class Tuning(Chapter):
    """Parameters of the chapter on tuning one device."""

    title = "Tuning one device"
    of_machine = ("gain_", "of_bound", "ridge", "memory_share", "layout_saves")
    by_profile = types.MappingProxyType(
        {
            "quick": {
                "data": "zipf10",
                "networks": "resnet8",
                "images": 600,
                "epochs": 1.0,
                "budget": 40,
                "seeds": 3,
                "memory": "100MB",
            },
            "laptop": {
                "data": "cifar10",
                "networks": "resnet8,fast,tutorial",
                "images": 2000,
                "epochs": 2.0,
                "budget": 60,
                "seeds": 3,
                "memory": "1GB",
            },
            "gpu": {
                "data": "cifar10",
                "networks": "fast,resnet20,resnet18",
                "images": 50_000,
                "epochs": 4.0,
                "budget": 300,
                "seeds": 5,
                "memory": "8GB",
            },
        }
    )

    data: str = parameter("", "image set", values="cifar10, zipf10, folder:PATH or an npz file")
    networks: str = parameter("", "networks or presets, the first is looked at closely", values="name,name,...")
    images: int = parameter(0, "training images", unit="images", low=0, high=1_000_000)
    epochs: float = parameter(0.0, "of a training that is scored", unit="epochs", low=0, high=1000)
    budget: int = parameter(0, "that a tuning may take", unit="seconds", low=0, high=86_400)
    seeds: int = parameter(0, "trainings of each setting", unit="seeds", low=0, high=100)
    memory: str = parameter("", "that a batch is solved for", values="such as 500MB or 12GB")

    _known_source = field_validator("data")(known_source)

    @field_validator("networks")
    @classmethod
    def _known_networks(cls, networks: str) -> str:
        names = [name.strip() for name in networks.split(",")] if networks else []
        if len(set(names)) != len(names) or any(not re.fullmatch(r"[\w.:-]+", name) for name in names):
            raise ValueError(f"{networks!r} is not names with commas between, each once")
        return ",".join(names)

    @field_validator("memory")
    @classmethod
    def _amount(cls, memory: str) -> str:
        if memory and not re.fullmatch(r"\d+(\.\d+)? ?[KMGT]?i?B", memory, re.IGNORECASE):
            raise ValueError(f"{memory!r} is not an amount of memory such as 500MB or 12GB")
        return memory


class Parallel(Chapter):
    """Parameters of the chapter on more than one process."""

    title = "More than one process"
    of_machine = ("bubble_", "gain", "step_ratio", "peak_off_")
    by_profile = types.MappingProxyType(
        {
            "quick": {"network": "resnet8", "batch_size": 32, "steps": 4, "rounds": 3, "processes": 2},
            "laptop": {"network": "resnet20", "batch_size": 128, "steps": 8, "rounds": 9, "processes": 2},
            "gpu": {"network": "resnet18", "batch_size": 1024, "steps": 8, "rounds": 15, "processes": 2},
        }
    )

    network: str = parameter("", "what is timed", values="a name of scaletut.models")
    batch_size: int = parameter(0, "of all processes together", unit="images", low=0, high=65536)
    steps: int = parameter(0, "of the runs that are compared", unit="steps", low=0, high=10_000)
    rounds: int = parameter(0, "readings of each time", unit="readings", low=0, high=1000)
    processes: int = parameter(0, "that train together", unit="processes", low=0, high=64)
    seed: int = parameter(0, "of weights and batches", low=0, high=2**31 - 1)


class Compress(Chapter):
    """Parameters of the chapter on making a network small."""

    title = "Making it small"
    of_machine = ("faster_",)
    by_profile = types.MappingProxyType(
        {
            "quick": {
                "data": "zipf10:classes=equal,patterns=200",
                "network": "resnet8",
                "images": 640,
                "epochs": 3.0,
                "seeds": 1,
                "trials": 2,
            },
            "laptop": {
                "data": "cifar10",
                "network": "resnet8",
                "images": 2500,
                "epochs": 6.0,
                "seeds": 3,
                "trials": 6,
            },
            "gpu": {
                "data": "cifar10",
                "network": "resnet20",
                "images": 45_000,
                "epochs": 12.0,
                "seeds": 3,
                "trials": 30,
            },
        }
    )

    data: str = parameter("", "image set", values="cifar10, zipf10, folder:PATH or an npz file")
    network: str = parameter("", "what is made small", values="a name of scaletut.models, or a preset")
    images: int = parameter(0, "training images", unit="images", low=0, high=1_000_000)
    epochs: float = parameter(0.0, "of a training from scratch", unit="epochs", low=0, high=1000)
    seeds: int = parameter(0, "trainings behind each mean", unit="seeds", low=0, high=20)
    trials: int = parameter(0, "of the search for a combination", unit="trials", low=0, high=1000)
    seed: int = parameter(0, "first seed", low=0, high=2**31 - 1)

    _known_source = field_validator("data")(known_source)


class Serving(Chapter):
    """Parameters of the chapter on serving a network."""

    title = "Serving it"
    of_machine = ("gain_", "inside", "batch_")
    by_profile = types.MappingProxyType(
        {
            profile: {
                "data": data,
                "network": "resnet20",
                "images": images,
                "epochs": epochs,
                "seconds": seconds,
                "rounds": rounds,
            }
            for profile, data, images, epochs, seconds, rounds in (
                ("quick", "zipf10", 300, 2, 1.2, 1),
                ("laptop", "cifar10", 2000, 5, 8.0, 3),
                ("gpu", "cifar10", 20_000, 10, 10.0, 5),
            )
        }
    )

    data: str = parameter("", "image set", values="cifar10, zipf10, folder:PATH or an npz file")
    network: str = parameter("", "what is served, twice as wide as usual", values="a name of scaletut.models")
    images: int = parameter(0, "to train on", unit="images", low=0, high=1_000_000)
    epochs: int = parameter(0, "passes of the training", unit="epochs", low=0, high=200)
    seconds: float = parameter(0.0, "of each measured load", unit="seconds", low=0.0, high=3600.0)
    rounds: int = parameter(0, "measurements of each load", unit="rounds", low=0, high=100)
    seed: int = parameter(0, "of weights, batches and arrivals", low=0, high=2**31 - 1)

    _known_source = field_validator("data")(known_source)


CHAPTERS: Mapping[str, type[Chapter]] = types.MappingProxyType(
    {
        "finetune": Finetune,
        "cleaning": Cleaning,
        "labels": Labels,
        "fitting": Fitting,
        "spending": Spending,
        "predict": Predict,
        "tuning": Tuning,
        "parallel": Parallel,
        "compress": Compress,
        "serving": Serving,
    }
)

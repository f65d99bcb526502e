"""Where a training step's time goes: the steps of `fit`, seen by torch.profiler, read from the trace it writes."""

from __future__ import annotations

import contextlib
import copy
import json
import math
import os
import platform
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile, record_function

from scaletut.data import ImageSet
from scaletut.errors import DataError, ParameterError
from scaletut.files import atomic_write
from scaletut.train import Execution, Recipe, execution
from scaletut.train.device import synchronise
from scaletut.train.loop import Run

RUN, STEP, DATA, OPTIMISER = (f"scaletut::{name}" for name in ("run", "step", "data", "optimiser"))
REGIONS = {DATA: "data", OPTIMISER: "optimiser"}
DEVICE_WORK = ("kernel", "gpu_memcpy", "gpu_memset")
SMALL = 50.0  # microseconds; calling an operator from Python costs some of them
OTHER, OVERHEAD = "other", "overhead"
# Operators that only call another one, look at memory in another way, or find some: their time is overhead.
BOOKKEEPING = re.compile(
    r"(conv2d|_?convolution|batch_norm|_batch_norm_impl_index|layer_norm|group_norm|linear|matmul|relu_?|dropout|"
    r"cross_entropy_loss|nll_loss_nd|select|t|to|_to_copy|clone|contiguous|item|_local_scalar_dense|"
    r"(empty|new_|view|as_strided|slice|detach|expand|permute|transpose|unsqueeze|squeeze|reshape|resize|alias|split|"
    r"narrow|flatten|unflatten|set_|resolve_|is_|zeros|ones|full|result_type|lift|unbind|chunk|movedim).*)"
)
# Kinds of work by the operator's name, the first that fits.
KINDS = {
    "convolution": re.compile(r".*conv.*"),
    "norm": re.compile(r".*(batch|layer|group|instance)_norm.*"),
    "matrix product": re.compile(r"(_?addmm|bmm|baddbmm|mm|mv|dot|mkldnn_linear|linear|matmul|.*attention|_int_mm).*"),
    "copy": re.compile(
        r"(copy_|_to_copy|clone|contiguous|Memcpy|cat|stack|fill_|zero_|index|gather|scatter|roll|flip|.*_pad).*"
    ),
    "elementwise": re.compile(
        r"(add|sub|mul|div|neg|exp|log$|sqrt|rsqrt|pow|abs|sign|clamp|where|masked|lerp|_foreach|_fused|"
        r".*(relu|gelu|silu|sigmoid|tanh|threshold|dropout)).*"
    ),
}
BYTES = {"double": 8, "long": 8, "long int": 8, "float": 4, "int": 4, "c10::BFloat16": 2, "c10::Half": 2}


@dataclass(frozen=True)
class Operator:
    """An operator's work in one step: its kind, calls a step, seconds a step by itself."""

    name: str
    kind: str
    calls: float
    seconds: float


@dataclass(frozen=True)
class Profile:
    """Where one training step's time goes, a mean over the steps of a trace.

    Attributes:
        steps: how many were seen.
        seconds: of one step under the profiler.
        plain_seconds: of one step without it, median; the difference is the profiler's own. 0 where unknown.
        kinds: seconds a step by kind of work: `convolution`, `matrix product`, `norm`, `elementwise`, `copy` (changes
            of layout and of number format, gathering), `other` (pooling, sums, the loss), `optimiser`, `data`, and
            `overhead`: what none of these explains. On a CPU that is Python, autograd and allocation, on a GPU the
            time in which it does nothing.
        small: operators that took less than 50 microseconds, a step.
        small_seconds: what these took.
        operators: all of them, the longest first, those of data and optimiser included.
        copied_bytes: read and written by copies between tensors, a step, those of the data included.
        layout_bytes: of these, where the two tensors differ in their memory layout. What oneDNN or cuDNN reorder
            inside a convolution is part of the convolution.
        execution: device, number format and layout.
        trace: the file that it was read from; None when that was temporary.
    """

    steps: int
    seconds: float
    plain_seconds: float
    kinds: Mapping[str, float]
    small: float
    small_seconds: float
    operators: tuple[Operator, ...]
    copied_bytes: float
    layout_bytes: float
    execution: str = ""
    trace: Path | None = None

    def share(self, *kinds: str) -> float:
        """Of the step's time, 0 to 1."""
        return sum(self.kinds.get(kind, 0.0) for kind in kinds) / self.seconds

    def top(self, number: int = 10) -> tuple[Operator, ...]:
        """The operators that take longest."""
        return self.operators[:number]


def profile_steps(
    model: nn.Module,
    train: ImageSet,
    recipe: Recipe,
    how: Execution | None = None,
    *,
    steps: int = 5,
    warm_up: int = 2,
    seed: int = 0,
    trace: Path | str | None = None,
    logdir: Path | str | None = None,
) -> Profile:
    """Profile the steps that `fit` would take with a copy of `model`; `model` itself is left as it was.

    Args:
        model: the network.
        train: images; the batches are drawn as `fit` draws them.
        recipe: how to train.
        how: device, number format, layout; by default what `fit` takes.
        steps: measured (> 0), once without the profiler and once with it.
        warm_up: steps before either.
        seed: as for `fit`.
        trace: file for the Chrome trace (`chrome://tracing`, ui.perfetto.dev); written whole or not at all.
        logdir: folder of TensorBoard's logs to put the trace in too, under the name that its profiler plugin reads.

    Raises:
        ParameterError: no steps, or a device that torch.profiler does not see into (MPS).
    """
    how = how or execution("", recipe.precision, recipe.channels_last)
    if steps < 1 or warm_up < 0:
        raise ParameterError(f"steps={steps} and warm_up={warm_up}: give 1 step or more, and 0 or more to warm up")
    if how.device.type not in ("cpu", "cuda"):
        raise ParameterError(
            f"torch.profiler sees only the calls made to {how.device.type}, not its work; profile on cpu or cuda"
        )
    run = Run(copy.deepcopy(model), train, recipe, seed, None, None, how)
    run.optimizers = [_Marked(optimizer) for optimizer in run.optimizers]
    run.steps = max(run.steps, warm_up + 2 * steps)  # past its end a schedule has no rates
    batches = run.batches.endless()
    with torch.random.fork_rng(devices=[how.device] if how.device.type == "cuda" else []):
        run.model.train()
        for _ in range(warm_up):
            _step(run, batches)
        plain = median(_timed(run, batches) for _ in range(steps))
        with tempfile.TemporaryDirectory() as folder:
            written = _record(run, batches, steps, Path(folder) / "trace.json")
            found = replace(read_trace(written), plain_seconds=plain, execution=how.name)
            content = written.read_bytes()
    for path in _places(trace, logdir):
        atomic_write(path, content)
    return replace(found, trace=Path(trace) if trace else None)


def read_trace(path: Path | str) -> Profile:
    """The profile in a Chrome trace that `profile_steps` wrote, here or on another machine.

    Where the trace holds work of a GPU, its times are those of the GPU, under the operators that asked for them.

    Raises:
        DataError: the file is no such trace.
    """
    try:
        events = json.loads(Path(path).read_text(encoding="utf-8"))["traceEvents"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path} is not a Chrome trace ({type(error).__name__}); give one that profile_steps wrote"
        ) from error
    spans = [event for event in events if event.get("ph") == "X"]
    runs = [event for event in spans if event["name"] == RUN]
    steps = sum(event["name"] == STEP for event in spans if event.get("cat") == "user_annotation")
    if not runs or not steps:
        raise DataError(f"{path} has no training step in it; give a trace that profile_steps wrote")
    return _summary(spans, runs[0]["dur"] / 1e6, steps)


# --- the steps


class _Marked:
    """An optimiser whose steps are named in the trace."""

    def __init__(self, optimizer: Any) -> None:
        self.inner = optimizer

    @property
    def param_groups(self) -> list[dict]:
        return self.inner.param_groups

    def step(self) -> None:
        with record_function(OPTIMISER):
            self.inner.step()


def _step(run: Run, batches: Iterator[Any]) -> None:
    with record_function(STEP):
        with record_function(DATA):
            images, labels = next(batches)
        run.train_step(images, labels)


def _timed(run: Run, batches: Iterator[Any]) -> float:
    synchronise(run.how.device)
    started = time.perf_counter()
    _step(run, batches)
    synchronise(run.how.device)
    return time.perf_counter() - started


def _record(run: Run, batches: Iterator[Any], steps: int, path: Path) -> Path:
    """Run `steps` under the profiler and write their trace."""
    activities = [ProfilerActivity.CPU]
    if run.how.device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    profiler = profile(activities=activities, record_shapes=True)
    with _without_chatter():
        profiler.start()
    with record_function(RUN):
        for _ in range(steps):
            _step(run, batches)
        synchronise(run.how.device)
    with _without_chatter():
        profiler.stop()
        profiler.export_chrome_trace(str(path))
    return path


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """Kineto tells its start, its stop and the lack of a GPU on the process's stderr, below Python and unasked."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _places(trace: Path | str | None, logdir: Path | str | None) -> list[Path]:
    """Where the trace is to be kept; TensorBoard's plugin looks for the ending, and takes the rest for the worker."""
    places = [Path(trace)] if trace else []
    if logdir:
        places.append(Path(logdir) / f"{platform.node()}_{os.getpid()}.{time.time_ns() // 10**6}.pt.trace.json")
    return places


# --- the trace


@dataclass(frozen=True)
class _Task:
    """A piece of work: its kind, microseconds by itself (`alone`) and with all that it called (`span`).

    `works`: it does something itself. What does not still takes time, which counts where it lies in a region.
    """

    name: str
    kind: str
    alone: float
    span: float
    works: bool


def _tasks(spans: list[dict]) -> list[_Task]:
    """The work of the GPU where there is any, else that of the CPU."""
    calls = _calls(spans)
    kernels = [event for event in spans if event.get("cat") in DEVICE_WORK]
    if not kernels:
        return [
            _Task(_plain(event), region or _kind(event), alone, event["dur"], bool(_kind(event)))
            for event, region, alone in calls
        ]
    asked = {event["args"].get("External id"): (_plain(event), region) for event, region, _ in calls}
    tasks = []
    for event in kernels:
        name, region = asked.get(event["args"].get("External id"), (_plain(event), ""))
        tasks.append(_Task(name, region or _work(name), event["dur"], event["dur"], True))
    return tasks


def _calls(spans: list[dict]) -> list[tuple[dict, str, float]]:
    """Each call on a CPU: its event, the region that it lies in, microseconds by itself."""
    threads: dict[Any, list[dict]] = defaultdict(list)
    for event in spans:
        if event.get("cat") in ("cpu_op", "user_annotation"):
            threads[event["tid"]].append(event)
    found: list[list[Any]] = []  # event, region, microseconds of the calls inside
    for events in threads.values():
        around: list[list[Any]] = []
        for event in sorted(events, key=lambda one: (one["ts"], -one["dur"])):
            while around and around[-1][0]["ts"] + around[-1][0]["dur"] <= event["ts"]:
                around.pop()
            if around:
                around[-1][2] += event["dur"]
            region = REGIONS.get(event["name"]) or (around[-1][1] if around else "")
            around.append([event, region, 0.0])
            found.append(around[-1])
    return [(event, region, event["dur"] - inside) for event, region, inside in found]


def _plain(event: dict) -> str:
    return event["name"].removeprefix("aten::").split(" ")[0]


def _kind(event: dict) -> str:
    """What kind of work an operator does itself, "" for none."""
    name = _plain(event)
    return _work(name) if event["name"].startswith("aten::") and not BOOKKEEPING.fullmatch(name) else ""


def _work(name: str) -> str:
    return next((kind for kind, pattern in KINDS.items() if pattern.fullmatch(name)), OTHER)


def _summary(spans: list[dict], seconds: float, steps: int) -> Profile:
    tasks = _tasks(spans)
    kinds: dict[str, float] = defaultdict(float)
    by_name: dict[tuple[str, str], list[float]] = defaultdict(list)
    for task in tasks:
        if task.kind:
            kinds[task.kind] += task.alone / 1e6 / steps
        if task.works:
            by_name[task.name, task.kind].append(task.alone / 1e6 / steps)
    kinds[OVERHEAD] = max(0.0, seconds / steps - sum(kinds.values()))
    small = [task.span for task in tasks if task.works and task.span < SMALL]
    operators = [Operator(name, kind, len(times) / steps, sum(times)) for (name, kind), times in by_name.items()]
    copies = [event for event in spans if event["name"] == "aten::copy_"]
    return Profile(
        steps=steps,
        seconds=seconds / steps,
        plain_seconds=0.0,
        kinds=dict(sorted(kinds.items(), key=lambda item: -item[1])),
        small=len(small) / steps,
        small_seconds=sum(small) / 1e6 / steps,
        operators=tuple(sorted(operators, key=lambda operator: -operator.seconds)),
        copied_bytes=sum(map(_copied, copies)) / steps,
        layout_bytes=sum(_copied(event) for event in copies if _changes_layout(event)) / steps,
    )


def _copied(event: dict) -> float:
    """Bytes that a copy reads and writes."""
    shapes, types = (event["args"].get(key, [])[:2] for key in ("Input Dims", "Input type"))
    return sum(math.prod(shape) * BYTES.get(kind, 1) for shape, kind in zip(shapes, types, strict=True))


def _changes_layout(event: dict) -> bool:
    (to, source), strides = event["args"].get("Input Dims", [[], []])[:2], event["args"].get("Input Strides", [])[:2]
    return to == source and len(strides) == 2 and strides[0] != strides[1] and 0 not in strides[1]


# --- what to do about it


@dataclass(frozen=True)
class Advice:
    """Something to try, and why: what was `seen` of the step's time (0 to 1), and the `reason` that it may help."""

    seen: str
    share: float
    advice: str
    reason: str


@dataclass(frozen=True)
class Rule:
    """Advice that applies where `share` of a profile exceeds `above`."""

    seen: str
    share: Callable[[Profile], float]
    above: float
    advice: str
    reason: str


RULES = (
    Rule(
        "making batches", lambda seen: seen.share("data"), 0.1,
        "keep the images in memory as uint8 and cut batches out of them (scaletut.data.Batches); loader workers only "
        "where files must be decoded",
        "the step waits for its batch, and processes that hand tensors over cost more than cutting them out",
    ),
    Rule(
        "copies", lambda seen: seen.share("copy"), 0.1,
        "channels_last for network and images, and images already in the type of the matrix products",
        "a convolution whose input lies in another layout or type has it copied first, in every step",
    ),
    Rule(
        "operators under 50 microseconds, and what lies between operators",
        lambda seen: seen.small_seconds / seen.seconds + seen.share(OVERHEAD), 0.25,
        "a larger batch, a fused optimiser, or torch.compile",
        "calling an operator costs the same however little it does",
    ),
    Rule(
        "the optimiser", lambda seen: seen.share("optimiser"), 0.1,
        "fused=True where there is such a kernel, or a larger batch",
        "its work goes by parameters and not by images, and unfused it reads and writes each of them several times",
    ),
    Rule(
        "norms and elementwise operators", lambda seen: seen.share("norm", "elementwise"), 0.35,
        "half precision where the hardware computes it, torch.compile, or fewer and wider layers",
        "they move many bytes for few FLOPs, so memory limits them: fewer bytes, or fewer passes over them",
    ),
    Rule(
        "convolutions and matrix products", lambda seen: seen.share("convolution", "matrix product"), 0.7,
        "see how far they are from the roof (scaletut roofline MODEL); then half precision, or a smaller network",
        "the arithmetic itself takes the time, and no change around it will help much",
    ),
)  # fmt: skip


def advise(seen: Profile) -> tuple[Advice, ...]:
    """What the profile suggests, the largest share first. Suggestions: each is to be measured before it is kept."""
    fitting = [(rule, rule.share(seen)) for rule in RULES]
    told = [Advice(rule.seen, share, rule.advice, rule.reason) for rule, share in fitting if share > rule.above]
    return tuple(sorted(told, key=lambda one: -one.share))

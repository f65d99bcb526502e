"""A setting in a process of its own: threads, allocator and compiled code cannot be taken back in one process."""

from __future__ import annotations

import contextlib
import importlib
import logging
import multiprocessing
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from scaletut.data import ImageSet, load
from scaletut.errors import ParameterError, ScaletutError
from scaletut.models import build
from scaletut.records import peak_memory
from scaletut.resources.setting import Setting
from scaletut.train import Recipe
from scaletut.train.device import synchronise
from scaletut.train.loop import Run
from scaletut.train.presets import PRESETS, make_network

LONG_STEP = 0.5  # seconds; one such step is warm-up enough
GRACE = 10.0  # seconds that a process has to end by itself


@dataclass(frozen=True)
class Task:
    """What is to be trained, in words that another process understands.

    Attributes:
        network: a name of `scaletut.models.names()`, or of a preset, or `module:function` of your own; the function is
            called with `num_classes` and gives a network.
        recipe: how it is trained; its batch size is where the search starts.
        data: source of images, as for `scaletut.data.load`.
        images: so many of the training images; 0 for all.
        seed: of weights and batches.
        width: factor on the network's channels.
    """

    network: str
    recipe: Recipe
    data: str = "zipf10"
    images: int = 0
    seed: int = 0
    width: float | None = None

    def train_set(self) -> ImageSet:
        """The training images."""
        train = load(self.data).train
        return train.split(len(train) - self.images, seed=0)[0] if 0 < self.images < len(train) else train

    def build(self, train: ImageSet) -> nn.Module:
        """The network, its weights drawn from the seed."""
        if self.network in PRESETS:
            return make_network(replace(PRESETS[self.network], width=self.width), train, self.seed)
        if ":" in self.network:
            return self._own(len(train.class_names))
        return build(self.network, num_classes=len(train.class_names), width=self.width, seed=self.seed)

    def _own(self, classes: int) -> nn.Module:
        module, _, name = self.network.partition(":")
        try:
            make = getattr(importlib.import_module(module), name)
        except (ImportError, AttributeError) as error:
            raise ParameterError(
                f"network {self.network!r} cannot be found ({error}): give `module:function`, importable from here"
            ) from error
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            return make(num_classes=classes)


@dataclass(frozen=True)
class Ready:
    """A trial that can be timed.

    Attributes:
        first_step_seconds: compilation is in it.
        step_seconds: of a later one.
        batch_size: images that a step really takes: a batch larger than the data set is the data set.
        flops_per_image: of training, 2 a multiply-add.
    """

    first_step_seconds: float
    step_seconds: float
    batch_size: int
    flops_per_image: float


class TrialFailed(ScaletutError):
    """A setting cannot be run here; the message says why."""


class Trial:
    """A training run in a process of its own that does so many steps when asked, and waits in between."""

    def __init__(self, task: Task, setting: Setting, device: str = "") -> None:
        self.setting = setting
        self._pipe, theirs = _context().Pipe()
        self._process = _context().Process(target=_serve, args=(theirs, task, setting, device), daemon=False)
        self._process.start()
        theirs.close()

    def ready(self, within: float = float("inf")) -> Ready:
        """Wait until the first steps are done. Raises TrialFailed when the setting cannot be run, or not so soon."""
        if within < float("inf") and not self._pipe.poll(within):
            self._process.kill()
            raise TrialFailed(f"was not ready after {within:.0f} s")
        return self._answer()

    def time(self, steps: int) -> float:
        """Seconds that `steps` steps take."""
        self._pipe.send(steps)
        return self._answer()

    def peak_bytes(self) -> int:
        """Peak memory of the run so far; see `_Session.peak_bytes`."""
        self._pipe.send("peak")
        return self._answer()

    def close(self) -> None:
        """End the process."""
        with contextlib.suppress(OSError):
            self._pipe.send(None)
        self._process.join(GRACE)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()

    def _answer(self) -> Any:
        try:
            answer = self._pipe.recv()
        except (EOFError, ConnectionResetError):
            self._process.join(GRACE)
            code = self._process.exitcode
            raise TrialFailed(
                f"its process ended with code {code}" + (", usually for want of memory" if code == -9 else "")
            ) from None
        if isinstance(answer, TrialFailed):
            raise answer
        return answer


def apart(job: Callable[..., Any], *arguments: Any) -> Any:
    """`job(*arguments)` in a process of its own; what it raises is raised here as TrialFailed."""
    pipe, theirs = _context().Pipe()
    process = _context().Process(target=_once, args=(theirs, job, arguments), daemon=False)
    process.start()
    theirs.close()
    try:
        answer = pipe.recv()
    except EOFError:
        process.join(GRACE)
        raise TrialFailed(f"the process of {job.__name__} ended with code {process.exitcode}") from None
    except BaseException:
        process.kill()
        raise
    finally:
        process.join(GRACE)
        pipe.close()
    if isinstance(answer, TrialFailed):
        raise answer
    return answer


def _context() -> Any:
    """Processes forked from a server that has imported torch but started none of its threads: they start at once."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "torch._dynamo"])  # the FLOP counter imports it, in two seconds
    return context


def _once(pipe: Connection, job: Callable[..., Any], arguments: tuple) -> None:
    try:
        answer = job(*arguments)
    except KeyboardInterrupt:
        return
    except Exception as error:
        answer = _failure(error)
    pipe.send(answer)


def _serve(pipe: Connection, task: Task, setting: Setting, device: str) -> None:
    """The process of a trial: steps on demand, until the other side hangs up."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # a compiler without CUDA is no news
    try:
        session = _Session(task, setting, device)
        pipe.send(session.ready)
        while (order := pipe.recv()) is not None:
            pipe.send(session.peak_bytes() if order == "peak" else session.timed(order))
    except (KeyboardInterrupt, EOFError):
        return
    except Exception as error:
        pipe.send(_failure(error))


def _failure(error: Exception) -> TrialFailed:
    text = str(error).strip() or type(error).__name__
    return TrialFailed(text.splitlines()[0][:200])


class _Session:
    """A run of `fit`, step by step, with the data path of the setting."""

    def __init__(self, task: Task, setting: Setting, device: str) -> None:
        self.idle_bytes = resident_bytes()
        how = setting.apply(device)
        train = task.train_set()
        model = task.build(train)
        if how.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(how.device)
        self.run = Run(model, train, setting.recipe(task.recipe), task.seed, None, None, how)
        self.run.model.train()
        self.batches = batches_of(self.run, train, setting)
        forget_peak()  # of reading the data
        first = self.timed(1)
        if first < LONG_STEP:
            self.timed(1)
        self.ready = Ready(first, self.timed(1), min(setting.batch_size, len(train)), self.run.flops_per_image)

    def timed(self, steps: int) -> float:
        synchronise(self.run.how.device)
        started = time.perf_counter()
        for _ in range(steps):
            self.run.train_step(*next(self.batches))
        synchronise(self.run.how.device)
        return time.perf_counter() - started

    def peak_bytes(self) -> int:
        """Peak of the allocator on CUDA; elsewhere what the process grew by, its images included."""
        if self.run.how.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.run.how.device)
        return max(0, peak_resident_bytes() - self.idle_bytes)


def batches_of(run: Run, train: ImageSet, setting: Setting) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end, by the setting's way to load them."""
    return run.batches.endless() if setting.data == "memory" else _loaded(run, train, setting)


def _loaded(run: Run, train: ImageSet, setting: Setting) -> Iterator[tuple[Tensor, Tensor]]:
    """The same without end from a DataLoader, placed as the network wants them."""
    loader, how = _loader(run, train, setting), run.how
    while True:
        for images, labels in loader:
            yield images.to(how.device, how.dtype, memory_format=how.layout), labels.to(how.device)


class Pictures(Dataset):
    """Images as torchvision's own data sets give them: one PIL image at a time, transformed by its transforms."""

    def __init__(self, data: ImageSet, recipe: Recipe, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        from torchvision import transforms

        self.data = data
        side = data.images.shape[1]
        random = [transforms.RandomCrop(side, padding=recipe.crop)] if recipe.crop else []
        random += [transforms.RandomHorizontalFlip()] if recipe.flip != "none" else []
        self.transform = transforms.Compose([*random, transforms.ToTensor(), transforms.Normalize(mean, std)])

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.data.images[row])), int(self.data.labels[row])


def _loader(run: Run, train: ImageSet, setting: Setting) -> DataLoader:
    pictures = Pictures(train, run.recipe, *run.normalisation)
    return DataLoader(
        pictures,
        batch_size=min(setting.batch_size, len(train)),
        shuffle=True,
        drop_last=True,
        num_workers=setting.workers,
        persistent_workers=setting.workers > 0,
        # The platform's own way to start processes, which a plain script would have; this process has the server's.
        multiprocessing_context=multiprocessing.get_all_start_methods()[0] if setting.workers else None,
    )


def forget_peak() -> None:
    """Start anew with the peak of this process's memory, where the system can (Linux, proc(5))."""
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def resident_bytes() -> int:
    """Memory of this process now; 0 where the system does not tell."""
    return _status("VmRSS")


def peak_resident_bytes() -> int:
    """Largest memory of this process so far."""
    return _status("VmHWM") or peak_memory() or 0


def _status(name: str) -> int:
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith(name):
                return int(line.split()[1]) * 1024
    return 0

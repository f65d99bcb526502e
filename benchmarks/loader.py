"""Images per second and core: `scaletut.data.Batches` beside `DataLoader` with torchvision's transforms.

Each does the same job (crop with 4 pixels of padding, flip, normalise, batches of float32) on the same images,
in this process, with one thread and no workers.
Rounds are interleaved and the first is a warm-up.
Medians are taken of images per CPU-second, which other processes disturb less than images per second of wall time.

    python benchmarks/loader.py [--data cifar10] [--images 10000] [--rounds 7] [--batch 500] [--least 10]

Exits 1 when the ratio to `DataLoader` with the classic transforms is below `--least`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
import torchvision
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms
from torchvision.transforms import v2
from tqdm import tqdm

from scaletut.data import Augment, Batches, ImageSet, channel_statistics, load

PAD = 4
PEER = "DataLoader, PIL, transforms"


class Pictures(Dataset):
    """The images as torchvision's own data sets give them: one PIL image at a time, transformed."""

    def __init__(self, data: ImageSet, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.data, self.transform = data, transform

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.data.images[row])), int(self.data.labels[row])


def contenders(data: ImageSet, batch: int) -> dict[str, Callable[[int], Iterator[Any]]]:
    """By name, a function from the number of an epoch to its batches."""
    mean, std = (one.tolist() for one in channel_statistics(data))
    classic = [transforms.RandomCrop(32, padding=PAD), transforms.RandomHorizontalFlip()]
    classic += [transforms.ToTensor(), transforms.Normalize(mean, std)]
    new = [v2.RandomCrop(32, padding=PAD), v2.RandomHorizontalFlip(), v2.ToImage()]
    new += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)]
    peers = {PEER: transforms.Compose(classic), f"{PEER} v2": v2.Compose(new)}
    loaders = {name: DataLoader(Pictures(data, one), batch, shuffle=True) for name, one in peers.items()}
    ours = {
        f"scaletut, flip={flip}, {str(dtype).removeprefix('torch.')}": Batches(
            data, batch_size=batch, augment=Augment(crop=PAD, flip=flip), dtype=dtype
        )
        for flip in ("random", "alternate")
        for dtype in (torch.float32, torch.bfloat16)
    }
    return {name: lambda epoch, one=one: iter(one) for name, one in loaders.items()} | {
        name: one.epoch for name, one in ours.items()
    }


def measure(runs: dict[str, Callable[[int], Iterator[Any]]], rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Images per CPU-second and per second of each run in each round after the warm-up."""
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in runs}
    with tqdm(total=(rounds + 1) * len(runs), unit="run") as bar:
        for number in range(rounds + 1):
            for name, epoch in runs.items():
                bar.set_description(name)
                wall, cpu = time.perf_counter(), time.process_time()
                images = sum(len(labels) for _, labels in epoch(number))
                cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
                if number:
                    rates[name].append((images / cpu, images / wall))
                bar.update()
    return rates


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", default="zipf10", help="source, as in scaletut.data.load (default: zipf10)")
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--batch", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--least", type=float, default=10, help="ratio to reach (default: 10)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = load(options.data, n_train=options.images).train
    rates = measure(contenders(data, options.batch), options.rounds)
    base = median(cpu for cpu, _ in rates[PEER])
    print(
        f"{len(data)} images of {data.name}, batches of {options.batch}, one thread, medians of {options.rounds} rounds"
    )
    print(f"torch {torch.__version__}, torchvision {torchvision.__version__}\n")
    print(f"{'':40}{'images per CPU-s':>18}{'(least – most)':>22}{'images/s':>12}{'ratio':>9}")
    ratios = {}
    for name, pairs in rates.items():
        cpu, wall = zip(*pairs, strict=True)
        ratios[name] = median(cpu) / base
        spread = f"({min(cpu):,.0f} – {max(cpu):,.0f})"
        print(f"{name:40}{median(cpu):>18,.0f}{spread:>22}{median(wall):>12,.0f}{ratios[name]:>9.1f}")
    reached = min(ratio for name, ratio in ratios.items() if name.startswith("scaletut"))
    verdict = "reached" if reached >= options.least else "MISSED"
    print(f"\nleast ratio of scaletut's: {reached:.1f}, asked for {options.least:g}: {verdict}")
    return 0 if reached >= options.least else 1


if __name__ == "__main__":
    sys.exit(main())

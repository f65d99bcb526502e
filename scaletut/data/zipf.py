"""`zipf10`: images generated from a seed, whose learning curve is known in closed form."""

from __future__ import annotations

import difflib
import io
import math
import zlib
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Literal

import numpy as np

from scaletut.data.imageset import ImageSet, TrainTest, Truth
from scaletut.errors import ParameterError

CLASSES = 10
CLASS_NAMES = ("alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa")
N_TRAIN, N_TEST = 4_000, 2_000  # default sizes
SIDE = 32  # pixels
MAX_SHIFT = 3  # pixels, each way
GRID = 6  # a pattern is a random GRID x GRID colour grid, smoothly enlarged
CONTRAST = 55.0  # standard deviation of a pattern, grey levels
GAIN = 0.2  # each colour channel of an image is multiplied by 1 - GAIN to 1 + GAIN
PIXEL_NOISE = 12.0  # standard deviation, grey levels
BLOCK = 256  # images made at a time: their float32 working copies stay near the cache
NEAR_DUPLICATE_KINDS = ("shift", "recolour", "mirror", "rescale", "jpeg")
QUALITY_FAULTS = ("blurred", "blank", "dark", "bright", "noisy")
BLANK_NOISE = 2.0  # standard deviation, grey levels
EXPOSURE_STOPS = (2.0, 3.0)  # a stop is a factor of 2
NOISE_GAIN = (3.0, 5.0)  # times PIXEL_NOISE

Vote = Literal["majority", "first"]
Part = Literal["train", "test"]


@dataclass(frozen=True)
class ZipfLaw:
    """The law that `zipf10` is drawn from, and what follows from it.

    Sub-pattern k = 1 … `patterns` has probability p_k ∝ k^-(1 + `a`) and belongs to one of ten classes.
    With `classes="equal"` the law holds within each class and the classes are equally frequent:
    p = j^-(1 + a) / (10 Z), j = 1 … `patterns` / 10, each value ten times.
    With probability `noise` a training label is replaced by one of the nine wrong ones, each equally likely.

    Compare Hutter 2021, "Learning Curve Theory" (arXiv:2102.04074), and Michaud et al. 2023,
    "The Quantization Model of Neural Scaling" (arXiv:2303.13506).
    """

    a: float = 0.5
    patterns: int = 2000
    noise: float = 0.0
    classes: Literal["mixed", "equal"] = "mixed"

    def __post_init__(self) -> None:
        _require(0 < self.a <= 3, f"a={self.a} must be above 0 and at most 3")
        _require(
            CLASSES <= self.patterns <= 20_000 and self.patterns % CLASSES == 0,
            f"patterns={self.patterns} must be a multiple of 10 from 10 to 20000",
        )
        _require(0 <= self.noise <= 0.5, f"noise={self.noise} is a share of labels, 0 to 0.5")
        _require(self.classes in ("mixed", "equal"), f"classes={self.classes!r} must be mixed or equal")

    @cached_property
    def probabilities(self) -> np.ndarray:
        """p_k, float64 (patterns,), falling, sums to 1."""
        copies = CLASSES if self.classes == "equal" else 1
        rank = np.arange(1, self.patterns // copies + 1, dtype=np.float64)
        weights = np.repeat(rank ** -(1 + self.a), copies)
        return weights / weights.sum()

    @property
    def decay(self) -> float:
        """The exponent with which `expected_error` falls in n while patterns are many: a / (1 + a)."""
        return self.a / (1 + self.a)

    def tail_mass(self, m: int) -> float:
        """Probability of all patterns but the `m` most frequent; falls as m^-a.

        A learner that holds only these m errs on (1 - 1/10) of it at best, however many examples it sees.
        """
        return float(self.probabilities[m:].sum())

    def expected_error(self, n: int, vote: Vote = "majority", test_noise: float = 0.0) -> float:
        """Expected test error, 0..1, of the learner `pattern_memory` after `n` independent training images. Exact.

        Without label noise a pattern is known once seen and guessed among ten classes before:
        E(n) = (1 - 1/10) Σ p_k (1 - p_k)^n, which both votes give.

        With label noise q and clean test labels, let e(c) be the chance to be wrong on a pattern seen c times.
        The number of sightings is binomial, so E(n) = Σ_k p_k Σ_c Bin(c; n, p_k) e(c), with e(0) = 9/10.

        * "first" keeps the first label it was given: e(c) = q for c > 0, hence
          E(n) = Σ p_k [(9/10) (1 - p_k)^n + q (1 - (1 - p_k)^n)], which falls to the floor q.
        * "majority" takes the most frequent label, ties broken at random: e(c) is a multinomial sum (`vote_error`),
          e(1) = e(2) = q, and falls to 0.

        `test_noise` t: test labels wrong by the same rule turn an error E into E (1 - t / 9) + (1 - E) t, at least t.
        """
        p = self.probabilities
        unseen = np.exp(n * np.log1p(-p))
        if vote == "first" or self.noise == 0:
            error = p @ ((1 - 1 / CLASSES) * unseen + self.noise * (1 - unseen))
        elif vote == "majority":
            error = 0.0
            chance = unseen  # Bin(c; n, p) by recursion in c; it underflows to 0 only where all terms are negligible
            for c, wrong in enumerate(vote_error(self.noise)[: n + 1]):
                error += wrong * (p @ chance)
                chance = chance * ((n - c) / (c + 1)) * (p / (1 - p))
        else:
            raise ParameterError(f"unknown vote {vote!r}; use majority or first")
        return float(error * (1 - test_noise / (CLASSES - 1)) + (1 - error) * test_noise)


def vote_error(noise: float) -> np.ndarray:
    """Chance that a majority vote of c noisy labels is wrong, c = 0, 1, … until it is below 1e-10: float64 (c,).

    A label is right with probability 1 - q, else one of nine wrong ones. The vote is right when m labels are right,
    no wrong class has more than m, and, if t of them have just m, the fair draw among t + 1 falls on the right one.
    With r = c - m wrong labels, by the exponential generating function of nine counts,
    P(right | c) = Σ_m C(c, m) (1 - q)^m (q / 9)^r r! [x^r] Σ_t C(9, t) / (t + 1) (x^m / m!)^t (Σ_{j<m} x^j / j!)^(9-t).
    The length comes from Chernoff's bound P(wrong | c) ≤ 9 (1 - (√(1-q) - √(q/9))²)^c.
    """
    others, q = CLASSES - 1, noise
    ratio = 1 - (np.sqrt(1 - q) - np.sqrt(q / others)) ** 2
    longest = 1 if q == 0 else int(np.ceil(np.log(others / 1e-10) / -np.log(ratio)))
    factorial = np.cumprod(np.concatenate([[1.0], np.arange(1.0, longest + 1)]))
    series = 1 / factorial
    right = np.zeros(longest + 1)
    right[0] = 1 / CLASSES
    for m in range(1, longest + 1):
        r = np.arange(longest - m + 1)
        fewer = np.where(r < m, series[r], 0)  # one wrong class with fewer than m labels
        equal = np.where(r == m, series[r], 0)  # one with just m
        powers = [(r == 0).astype(float)]  # of `fewer`, as far as r goes
        for _ in range(others):
            powers.append(np.convolve(powers[-1], fewer)[: len(r)])
        total, tied = np.zeros(len(r)), powers[0]
        for ties in range(others + 1):
            total += math.comb(others, ties) / (ties + 1) * np.convolve(tied, powers[others - ties])[: len(r)]
            tied = np.convolve(tied, equal)[: len(r)]
        right[m + r] += factorial[m + r] / factorial[m] * (1 - q) ** m * (q / others) ** r * total
    return np.clip(1 - right, 0, 1)


def pattern_memory(
    pattern: np.ndarray, labels: np.ndarray, query: np.ndarray, *, seed: int, vote: Vote = "majority"
) -> np.ndarray:
    """The reference learner: remembers the labels seen with each pattern and guesses for one it has not seen.

    `pattern`, `labels` int64 (n,): those of the training images (`data.truth.pattern`, `data.labels`).
    `query` int64 (m,): patterns of the test images.
    Returns predictions int64 (m,). Ties and guesses are drawn once a pattern.
    """
    size = int(max(pattern.max(initial=0), query.max(initial=0))) + 1
    if vote == "first":
        _, first = np.unique(pattern, return_index=True)
        pattern, labels = pattern[first], labels[first]
    votes = np.bincount(pattern * CLASSES + labels, minlength=size * CLASSES).reshape(size, CLASSES)
    return (votes + np.random.default_rng(seed).random(votes.shape)).argmax(axis=1)[query]


@dataclass(frozen=True)
class Faults:
    """What is planted in the training set: whole numbers are images, numbers below 1 a share of them.

    * `duplicates`: exact copies of other images, pixels and label;
    * `near_duplicates`: copies that were shifted, recoloured, mirrored, rescaled or JPEG-compressed, in turn;
    * `blurred`: smoothed until the pixel noise is gone;
    * `blank`: one colour, with the faint noise of a covered lens;
    * `dark`, `bright`: exposed two to three stops too short, or too long;
    * `noisy`: overlaid with three to five times the usual pixel noise.

    No image is changed twice and no copy has a changed original. Label noise belongs to the law, not here.
    """

    duplicates: float = 0
    near_duplicates: float = 0
    blurred: float = 0
    blank: float = 0
    dark: float = 0
    bright: float = 0
    noisy: float = 0

    def counts(self, n: int) -> list[int]:
        """Images of each kind in a set of `n`, in the order of the fields."""
        counts = []
        for field in fields(self):
            value = getattr(self, field.name)
            _require(
                0 <= value < 1 or (value >= 1 and value % 1 == 0),
                f"{field.name}={value} must be a whole number of images, or a share of them from 0 to below 1",
            )
            counts.append(round(value * n) if value < 1 else int(value))
        _require(sum(counts) <= n // 2, f"{sum(counts)} of {n} images to be changed; plant at most half")
        return counts


def zipf10(options: str = "", *, seed: int = 0, n_train: int | None = None, n_test: int | None = None) -> TrainTest:
    """Generate the embedded data set; `options` as in "a=0.5,patterns=2000,noise=0.1,duplicates=20".

    Options are the fields of `ZipfLaw` and `Faults`; sizes default to `N_TRAIN` and `N_TEST`.
    `seed` fixes the patterns, their classes and both draws; a smaller set is the beginning of a larger one of the same
    seed as long as no faults are planted. The test set is clean and drawn independently from the same law.
    Both sets carry `truth.pattern`, `truth.clean_labels` and `truth.law`.

    Exact copies bring no new pattern: without label noise the law is then met at n less the number of copies.
    Raises `ParameterError` for an unknown option, naming the nearest, or a value out of range.
    """
    law, faults = parse(options)
    n_train, n_test = (N_TRAIN if n_train is None else n_train), (N_TEST if n_test is None else n_test)
    _require(n_train > 0 and n_test > 0, f"n_train={n_train} and n_test={n_test} must be 1 or more")
    _require(seed >= 0, f"seed={seed} must be 0 or more")
    canvas = _patterns(law, seed)
    train = _plant(_draw(law, canvas, n_train, seed, "train"), faults, seed)
    return TrainTest(train, _draw(law, canvas, n_test, seed, "test"))


def parse(options: str) -> tuple[ZipfLaw, Faults]:
    """Read `name=value,…`; see `zipf10`."""
    known = {field.name: (kind, field.type) for kind in (ZipfLaw, Faults) for field in fields(kind)}
    given: dict[type, dict[str, object]] = {ZipfLaw: {}, Faults: {}}
    for part in filter(None, options.split(",")):
        name, _, text = (piece.strip() for piece in part.partition("="))
        near = max(known, key=lambda one: difflib.SequenceMatcher(None, name, one).ratio())
        _require(name in known, f"no option {name!r}; did you mean {near}? There are {', '.join(known)}")
        kind, declared = known[name]
        _require(name not in given[kind], f"option {name} is given twice; keep one")
        try:
            given[kind][name] = {"float": float, "int": int}.get(declared, str)(text)
        except ValueError:
            raise ParameterError(f"zipf10: {name}={text} is not a number (type {declared}); write {name}=1") from None
    return ZipfLaw(**given[ZipfLaw]), Faults(**given[Faults])


def sample(law: ZipfLaw, n: int, seed: int, part: Part) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Patterns, clean labels and given labels of `n` images, int64 (n,) each, without making the images.

    The given labels of "test" are the clean ones.
    """
    cumulative = np.cumsum(law.probabilities)
    uniform = _stream(seed, part, "pattern").random(n)
    pattern = np.searchsorted(cumulative / cumulative[-1], uniform, side="right")
    clean = pattern_classes(law, seed)[pattern]
    if part == "test":
        return pattern, clean, clean
    # One number decides both whether a label is wrong and which of the nine wrong ones it is.
    u = _stream(seed, part, "labels").random(n)
    step = 1 + (u / law.noise * (CLASSES - 1)).astype(np.int64) if law.noise else np.zeros(n, np.int64)
    return pattern, clean, np.where(u < law.noise, (clean + step) % CLASSES, clean)


def pattern_classes(law: ZipfLaw, seed: int) -> np.ndarray:
    """The class of each pattern, int64 (patterns,): each ten in a row are dealt to the ten classes at random."""
    deals = np.tile(np.arange(CLASSES, dtype=np.int64), (law.patterns // CLASSES, 1))
    return _stream(seed, "law", "classes").permuted(deals, axis=1).ravel()


def _patterns(law: ZipfLaw, seed: int) -> np.ndarray:
    """Random smooth colour patterns with a margin to shift in, uint8 (patterns, 38, 38, 3)."""
    size = SIDE + 2 * MAX_SHIFT
    at = np.linspace(0, GRID - 1, size)[:, None] - np.arange(GRID)
    enlarge = np.exp(-(at**2) / (2 * 0.6**2)).astype(np.float32)
    enlarge /= enlarge.sum(axis=1, keepdims=True)
    grid = _stream(seed, "law", "patterns").standard_normal((law.patterns, GRID, GRID, 3), np.float32)
    tall = np.tensordot(grid, enlarge, (1, 1))  # (patterns, GRID, 3, size), lines last
    result = np.empty((law.patterns, size, size, 3), np.uint8)
    for first in range(0, law.patterns, BLOCK):
        smooth = np.tensordot(tall[first : first + BLOCK], enlarge, (1, 1))  # (b, 3, lines, columns)
        smooth -= smooth.mean(axis=(1, 2, 3), keepdims=True)
        smooth *= CONTRAST / smooth.std(axis=(1, 2, 3), keepdims=True)
        result[first : first + BLOCK] = np.clip(smooth + 128, 0, 255).transpose(0, 2, 3, 1)
    return result


def _draw(law: ZipfLaw, canvas: np.ndarray, n: int, seed: int, part: Part) -> ImageSet:
    """`n` images of the law, each a pattern shifted, recoloured and overlaid with pixel noise."""
    pattern, clean, labels = sample(law, n, seed, part)
    shift = _stream(seed, part, "shift").integers(0, 2 * MAX_SHIFT + 1, (n, 2))
    gain = _stream(seed, part, "gain").uniform(1 - GAIN, 1 + GAIN, (n, 3)).astype(np.float32)
    noise = _stream(seed, part, "noise")
    windows = np.lib.stride_tricks.sliding_window_view(canvas, (SIDE, SIDE, 3), axis=(1, 2, 3))[:, :, :, 0]
    per_level = np.float32(PIXEL_NOISE * np.sqrt(12) / 256)  # uniform noise: a byte a value is quick to draw
    images = np.empty((n, SIDE, SIDE, 3), np.uint8)
    for first in range(0, n, BLOCK):
        rows = slice(first, min(first + BLOCK, n))
        size = (rows.stop - first, SIDE, 3 * SIDE)
        block = windows[pattern[rows], shift[rows, 0], shift[rows, 1]].reshape(size).astype(np.float32)
        block *= np.tile(gain[rows], SIDE)[:, None]
        grain = noise.integers(0, 256, size, np.uint8).astype(np.float32)
        grain *= per_level
        block += grain
        block -= per_level * 127.5 - 0.5  # centre the noise, and round where the cast would cut
        images[rows] = np.clip(block, 0, 255, out=block).reshape(-1, SIDE, SIDE, 3)
    truth = Truth(pattern=pattern, clean_labels=clean, law=law)
    return ImageSet(images, labels, CLASS_NAMES, "zipf10", truth)


def _plant(data: ImageSet, faults: Faults, seed: int) -> ImageSet:
    """`data` with the faults in it, each listed in `truth`."""
    exact, near, *spoilt = faults.counts(len(data))
    if not exact + near + sum(spoilt):
        return data
    order = _stream(seed, "train", "faults").permutation(len(data))
    ends = np.cumsum([exact + near, spoilt[0], exact + near, *spoilt[1:]])
    copies, blurs, originals, *others = np.split(order[: ends[-1]], ends[:-1])
    source = np.arange(len(data))
    source[copies] = originals
    images = data.images[source]
    duplicate_of, near_duplicate_of = np.full((2, len(data)), -1, np.int64)
    duplicate_of[copies[:exact]] = originals[:exact]
    near_duplicate_of[copies[exact:]] = originals[exact:]
    kind = np.full(len(data), "", dtype="U8")
    draw = _stream(seed, "train", "near duplicates")
    for number, row in enumerate(copies[exact:]):
        kind[row] = NEAR_DUPLICATE_KINDS[number % len(NEAR_DUPLICATE_KINDS)]
        images[row] = _altered(images[row], kind[row], draw)
    poor = dict(zip(QUALITY_FAULTS, (blurs, *others), strict=True))
    for fault, rows in poor.items():
        images[rows] = _spoilt(images[rows], fault, _stream(seed, "train", fault))
    truth = replace(
        data.truth,
        pattern=data.truth.pattern[source],
        clean_labels=data.truth.clean_labels[source],
        duplicate_of=duplicate_of,
        near_duplicate_of=near_duplicate_of,
        near_duplicate_kind=kind,
        **{fault: np.isin(np.arange(len(data)), rows) for fault, rows in poor.items()},
    )
    return replace(data, images=images, labels=data.labels[source], truth=truth)


def _altered(image: np.ndarray, kind: str, draw: np.random.Generator) -> np.ndarray:
    """A near-duplicate of an image, uint8 (h, w, 3) both."""
    height, width = image.shape[:2]
    if kind == "shift":
        y, x = draw.choice([0, 1, 3, 4], 2)  # 1 or 2 pixels along both axes
        return np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="edge")[y : y + height, x : x + width]
    if kind == "recolour":
        return np.clip(image * draw.uniform(0.85, 1.15, 3) + draw.uniform(-12, 12, 3), 0, 255).astype(np.uint8)
    if kind == "mirror":
        return image[:, ::-1]
    from PIL import Image  # not needed for anything else here

    picture = Image.fromarray(image)
    if kind == "rescale":
        inner = (2, 2, width - 2, height - 2)
        return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC, box=inner))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=60)
    return np.asarray(Image.open(file))


def _spoilt(images: np.ndarray, fault: str, draw: np.random.Generator) -> np.ndarray:
    """Images of poor quality made of good ones, uint8 (n, h, w, 3) both."""
    each = (len(images), 1, 1, 1)
    if fault == "blurred":
        return _blurred(images)
    if fault == "blank":
        result = draw.uniform(20, 235, (len(images), 1, 1, 3)) + draw.normal(0, BLANK_NOISE, images.shape)
    elif fault == "dark":
        result = images * 2 ** -draw.uniform(*EXPOSURE_STOPS, each)
    elif fault == "bright":
        result = images * 2 ** draw.uniform(*EXPOSURE_STOPS, each)
    else:
        result = images + draw.normal(0, 1, images.shape) * PIXEL_NOISE * draw.uniform(*NOISE_GAIN, each)
    return np.clip(np.rint(result), 0, 255).astype(np.uint8)


def _blurred(images: np.ndarray) -> np.ndarray:
    """Images smoothed by the binomial filter (1 4 6 4 1) / 16 along both axes, twice; uint8 (n, h, w, 3) both."""
    result = images.astype(np.float32)
    for axis in (1, 2, 1, 2):
        side = result.shape[axis]
        padded = np.pad(result, [(2, 2) if a == axis else (0, 0) for a in range(4)], mode="reflect")
        taps = (padded.take(range(first, first + side), axis) for first in range(5))
        result = sum(weight * tap for weight, tap in zip((1, 4, 6, 4, 1), taps, strict=True)) / 16
    return np.rint(result).astype(np.uint8)


def _stream(seed: int, *names: str) -> np.random.Generator:
    """An independent stream of random numbers for each purpose, so that one may grow without shifting the others."""
    return np.random.default_rng([seed, zlib.crc32(" ".join(names).encode())])


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ParameterError(f"zipf10: {otherwise}")

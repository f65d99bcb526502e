"""Copies of images: exact by content, near by the fine detail they share or by how far they stand out.

No single distance separates near duplicates from look-alikes: a plain sky is close to hundreds of others, and two
photographs of one thing agree in all but their grain. A copy is told by either of two things:

* it is *closer than grain allows*: what is left between the two images, after the best shift, gain and offset, is less
  than the grain of one of them, while two separate shots differ by the grain of both;
* it *stands out*: it is much more alike than the image's next neighbours are, by more than second neighbours ever
  stand out in the same set.

Candidates come from two short descriptions of each image, compared block by block without a matrix of all pairs: its
layout finds copies that were recoloured, compressed, mirrored or enlarged, its grain those that were moved.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import count

import numpy as np
from scipy import fft
from scipy.linalg import eigh
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from scaletut.errors import DataError, ParameterError

SIDE = 32  # pixels; images of another size are brought to it
REACH = 4  # pixels that a copy may be moved, each way
OVERLAP = SIDE - REACH  # pixels of two images that are compared after the shift
INNER = 28  # pixels that fill the image in the enlarged view
DIMENSIONS = 64  # numbers kept of each description: enough to rank neighbours, at a tenth of the work
FITTED = 5_000  # images that the descriptions are fitted to
BLOCK_BYTES = 1 << 26  # similarities held at a time by each thread
PAIRS = 64  # compared in detail at a time: their working copies stay in the cache
NEXT = slice(2, 7)  # ranks of the neighbours that a partner has to stand out from; room for two further copies
COEFFICIENTS = OVERLAP**2 * np.array([[3 / 4], [3 / 16], [1 / 16]])  # of each octave, finest first
WEIGHTS = np.array([0.0, 1.0, 0.25])  # the finest is the yardstick, and what compression takes away
FLOOR = 5.0  # grey levels²: differences that a smooth or blurred image may have without grain
CLOSE = 2.85  # nats; chosen on two generated sets and on altered CIFAR-10 images, none above 5,000 images
STANDS_OUT = 2.5  # nats, at least; small sets have no tail to learn from
TAIL = (0.75, 0.95)  # quantiles that the tail of the second neighbours' gaps is fitted to
FALSE_PAIRS = 0.1  # of them that the threshold lets us expect in a set
LUMA = np.array([0.299, 0.587, 0.114], np.float32)

Progress = Callable[[float], None]
View = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class DuplicatePairs:
    """Near duplicates, best first.

    `first` < `second` int64 (m,): rows of the images. `score` float64 (m,), multiples of the threshold, falling.
    `threshold`: the lowest score that counts; `reason`: where it comes from.
    """

    first: np.ndarray
    second: np.ndarray
    score: np.ndarray
    threshold: float
    reason: str

    def __len__(self) -> int:
        return len(self.score)


def exact_duplicates(images: np.ndarray) -> np.ndarray:
    """Pairs of rows with equal pixels, int64 (m, 2): each copy with the first image of its content.

    `images`: uint8 (n, height, width, 3).
    """
    first: dict[bytes, int] = {}
    pairs = [(first.setdefault(image.tobytes(), row), row) for row, image in enumerate(images)]
    return np.array([pair for pair in pairs if pair[0] != pair[1]], np.int64).reshape(-1, 2)


def near_duplicates(
    images: np.ndarray, *, most: int | None = None, seed: int = 0, progress: Progress | None = None
) -> DuplicatePairs:
    """Pairs of images that show the same picture: saved again, moved, mirrored, recoloured or rescaled a little.

    Of images with equal pixels only the first takes part; `exact_duplicates` has the others.

    Args:
        images: uint8 (n, height, width, 3), all splits together.
        most: return this many best pairs instead of those at or above the threshold.
        seed: of the sample that the descriptions are fitted to.
        progress: called with the share done, 0 to 1.

    Returns:
        The pairs with a score of 1 or more, each once. Both measures are divided by their thresholds, and the better
        one is the score. Either counts the gap of that image of the two that has the smaller one.

    Time grows as n², memory as n: about 4 kB an image beside the images themselves, and 0.1 GB.
    Raises DataError for images of another type or shape, ParameterError for `most` below 1.
    """
    checked(images)
    if most is not None and most < 1:
        raise ParameterError(f"most={most} pairs asked for; give 1 or more, or None for all above the threshold")
    single = np.setdiff1d(np.arange(len(images)), exact_duplicates(images)[:, 1])
    if len(single) < 2:
        return DuplicatePairs(*np.empty((2, 0), np.int64), np.empty(0), 1.0, "fewer than two different images")
    distinct = standard(images if len(single) == len(images) else images[single])
    pairs = _candidates(distinct, distinct, own=True, seed=seed, progress=progress)
    ends = np.concatenate([pairs.query, pairs.partner])
    usual, _ = _neighbourhood(ends, np.tile(pairs.closeness, 2), len(single))
    close = 3 * pairs.closeness - np.maximum(usual[pairs.query], usual[pairs.partner])  # the gap, and closeness twice
    usual, second = _neighbourhood(ends, np.tile(pairs.likeness, 2), len(single))
    gap = pairs.likeness - np.maximum(usual[pairs.query], usual[pairs.partner])
    least = _tail(second - usual)
    score = np.maximum(close / CLOSE, gap / least)
    order = np.argsort(-score, kind="stable")
    order = order[: np.count_nonzero(score >= 1) if most is None else most]
    ends = single[np.stack([pairs.query[order], pairs.partner[order]])]
    return DuplicatePairs(ends.min(axis=0), ends.max(axis=0), score[order], 1.0, _reason(least))


def nearest_partner(
    queries: np.ndarray, references: np.ndarray, *, seed: int = 0, progress: Progress | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """For each query the reference that is most likely its copy, int64 (q,), and the pair's score float64 (q,), nats.

    `queries`, `references`: uint8 (q, h, w, 3) and (r, h, w, 3). The score is the
    gap in likeness, which photographs are ranked by best; it needs no grain.
    Raises DataError for images of another type or shape, ParameterError where there is no reference.
    """
    checked(queries), checked(references)
    if not len(references):
        raise ParameterError("no references; give the images to look among")
    if not len(queries):
        return np.empty(0, np.int64), np.empty(0)
    pairs = _candidates(standard(queries), standard(references), own=False, seed=seed, progress=progress, more=2)
    order = np.lexsort((-pairs.likeness, pairs.query))
    query, first = np.unique(pairs.query[order], return_index=True)
    best = order[first]  # every query has candidates, so `query` is 0, 1, …
    usual, _ = _neighbourhood(pairs.query, pairs.likeness, len(queries))
    return pairs.partner[best], pairs.likeness[best] - usual[query]


def groups(pairs: DuplicatePairs, n: int) -> np.ndarray:
    """The family of each of `n` images, int64 (n,), named by its first row: `pairs` join images into families."""
    edges = coo_array((np.ones(len(pairs), np.int8), (pairs.first, pairs.second)), shape=(n, n))
    _, family = connected_components(edges, directed=False)
    _, first = np.unique(family, return_index=True)
    return first[family].astype(np.int64)


def checked(images: np.ndarray) -> None:
    """Raise DataError unless `images` is uint8 (n, height, width, 3)."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise DataError(f"images are {images.dtype} {images.shape}; needed is uint8 (n, height, width, 3)")


def standard(images: np.ndarray) -> np.ndarray:
    """Images of `SIDE` x `SIDE` pixels, uint8: shrunk by averaging, or enlarged, where they are not."""
    n, height, width = images.shape[:3]
    if (height, width) == (SIDE, SIDE):
        return images
    from PIL import Image

    size, box = (SIDE, SIDE), Image.Resampling.BOX
    resized = [np.asarray(Image.fromarray(image).resize(size, box)) for image in images]
    return np.stack(resized) if n else np.empty((0, SIDE, SIDE, 3), np.uint8)


# --- views: how one image may have become another; of colour (n, 32, 32, 3) or grey (n, 32, 32) images ---


def _plain(images: np.ndarray) -> np.ndarray:
    return images


def _mirrored(images: np.ndarray) -> np.ndarray:
    return images[:, :, ::-1]


def _enlarged(images: np.ndarray) -> np.ndarray:
    """The middle `INNER` x `INNER` pixels brought to full size by cubic convolution, uint8 as the images."""
    lines = np.tensordot(images.astype(np.float32), ENLARGE, (1, 1))  # the new lines come last
    pixels = np.moveaxis(np.tensordot(lines, ENLARGE, (1, 1)), (-2, -1), (1, 2))
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8)


def _cubic(inner: int) -> np.ndarray:
    """Weights float32 (`SIDE`, `SIDE`) that enlarge the middle `inner` pixels: Keys' cubic convolution, a = -1/2."""
    at = (np.arange(SIDE) + 0.5) * inner / SIDE - 0.5 + (SIDE - inner) / 2
    t = np.abs(at[:, None] - np.arange(SIDE))
    near, far = (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2
    weights = np.where(t <= 1, near, np.where(t < 2, far, 0))
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


ENLARGE = _cubic(INNER)
_fade = np.hanning(SIDE + 2)[1:-1].astype(np.float32) ** 0.5
FADE = _fade[:, None] * _fade
SYMMETRIC = (_plain, _mirrored)  # comparing i in this view with j is comparing j with i


# --- candidates and their comparison ---------------------------------------------------------


@dataclass(frozen=True)
class _Pairs:
    query: np.ndarray  # int64 (p,)
    partner: np.ndarray  # int64 (p,)
    closeness: np.ndarray  # float64 (p,), nats, in the better view where there are several
    likeness: np.ndarray  # float64 (p,), nats, in the same view


def _candidates(
    queries: np.ndarray,
    references: np.ndarray,
    *,
    own: bool,
    seed: int,
    progress: Progress | None,
    more: int = 1,
) -> _Pairs:
    """The nearest references of each query in each view, compared in detail; each pair once.

    own: queries are the references, no image is its own partner, and (i, j) is the pair (j, i).
    more: this many times the neighbours of `SEARCHES`.
    """
    n = len(references)
    tell = progress or (lambda share: None)
    sample = references[np.sort(np.random.default_rng(seed).permutation(n)[:FITTED])]
    descriptions = [_Description.of(sample, describe) for describe in (_layout, _grain)]
    there = [description(references, _plain) for description in descriptions]
    grey = _grey(references)
    parts = []
    for number, (view, neighbours) in enumerate(SEARCHES):
        ahead = partial(_ahead, tell, number / len(SEARCHES), 1 / len(SEARCHES))
        plain = own and view is _plain
        asked = there if plain else [description(queries, view) for description in descriptions]
        keys = []
        for mine, theirs, k in zip(asked, there, neighbours, strict=True):
            if k:
                found = _nearest(mine, theirs, more * k, own, lambda share, say=ahead: say(0.6 * share))
                keys.append(_key(found, n, own and view in SYMMETRIC))
        query, partner = np.divmod(np.unique(np.concatenate(keys)), n)
        seen = grey if plain else _grey(queries, view)
        closeness, likeness = _in_detail(seen, grey, query, partner, lambda share, say=ahead: say(0.6 + 0.4 * share))
        for mine, theirs in zip(asked, there, strict=True):
            likeness += _separation(_cosines(mine, theirs, query, partner), 0.02)
        parts.append(_Pairs(query, partner, closeness, likeness))
    return _once(_Pairs(*map(np.concatenate, zip(*map(_columns, parts), strict=True))), n, own)


def _ahead(tell: Progress, done: float, part: float, share: float) -> None:
    tell(done + part * share)


def _columns(pairs: _Pairs) -> tuple[np.ndarray, ...]:
    return pairs.query, pairs.partner, pairs.closeness, pairs.likeness


def _key(found: np.ndarray, n: int, symmetric: bool) -> np.ndarray:
    """One number a comparison of a query with what it found (q, k); symmetric: (i, j) and (j, i) have the same."""
    query = np.repeat(np.arange(len(found)), found.shape[1])
    partner = found.ravel()
    if symmetric:
        query, partner = np.minimum(query, partner), np.maximum(query, partner)
    return query * n + partner


def _cosines(mine: np.ndarray, theirs: np.ndarray, query: np.ndarray, partner: np.ndarray) -> np.ndarray:
    blocks = zip(_blocks(query, 1 << 14), _blocks(partner, 1 << 14), strict=True)
    return np.concatenate([np.einsum("pd,pd->p", mine[q], theirs[p]) for q, p in blocks])


def _separation(correlation: np.ndarray, least: float) -> np.ndarray:
    """-log(1 + least - correlation): a difference in it is a ratio of distances, and exact copies stay finite."""
    return -np.log(1 + least - correlation)


def _once(pairs: _Pairs, n: int, own: bool) -> _Pairs:
    """Each pair in its closest view."""
    query, partner = pairs.query, pairs.partner
    if own:
        query, partner = np.minimum(query, partner), np.maximum(query, partner)
    order = np.argsort(-pairs.closeness, kind="stable")
    _, first = np.unique((query * n + partner)[order], return_index=True)
    kept = order[first]
    return _Pairs(query[kept], partner[kept], pairs.closeness[kept], pairs.likeness[kept])


def _neighbourhood(image: np.ndarray, value: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each image's comparisons the usual value and the second best, float64 (n,) each.

    Usual is the median at the ranks `NEXT`, so that a third and fourth copy do not hide the others.
    With fewer neighbours the furthest one stands for those that are missing.
    """
    order = np.lexsort((-value, image))
    ranked = value[order]
    start = np.searchsorted(image[order], np.arange(n + 1))
    last = np.maximum(start[1:] - 1, 0)
    at = np.minimum(start[:-1, None] + np.arange(NEXT.start, NEXT.stop), last[:, None])
    return np.median(ranked[at], axis=1), ranked[np.minimum(start[:-1] + 1, last)]


def _tail(second: np.ndarray) -> float:
    """The gap that `FALSE_PAIRS` second neighbours of a set would reach, nats.

    Second neighbours are seldom copies, and their gaps fall off about exponentially: the scale is
    (upper - lower) / log(ratio of the masses beyond the two quantiles of `TAIL`). Copies that come in threes and
    fours lie beyond the upper one and do not count, as long as they are fewer than 5 %.
    """
    low, high = np.quantile(second, TAIL)
    scale = (high - low) / np.log((1 - TAIL[0]) / (1 - TAIL[1]))
    beyond = (1 - TAIL[1]) * len(second)
    return max(STANDS_OUT, float(high + scale * np.log(max(beyond / FALSE_PAIRS, 1.0))))


def _reason(least: float) -> str:
    return (
        f"a score of 1 is closeness, twice, plus its gap of {CLOSE} nats, which separates planted copies from chance "
        f"pairs on generated images, or a gap in likeness of {least:.2f} nats, beyond which the tail of the second "
        f"neighbours' gaps lets us expect {FALSE_PAIRS} chance pairs in this set"
    )


# --- detail --------------------------------------------------------------------------------------


def _in_detail(
    asked: np.ndarray, there: np.ndarray, query: np.ndarray, partner: np.ndarray, tell: Progress
) -> np.ndarray:
    """Closeness and likeness of the pairs (`query`, `partner`), float64 (2, p); `asked`, `there` grey uint8."""
    result = np.empty((2, len(query)))
    starts = range(0, len(query), PAIRS)
    done = count(1)

    def compare(first: int) -> None:
        rows = slice(first, first + PAIRS)
        one, other = asked[query[rows]], there[partner[rows]]
        result[:, rows] = _compared(one.astype(np.float32), other.astype(np.float32))
        tell(next(done) / len(starts))

    _on_all_cores(compare, starts)
    return result


def _compared(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Closeness and likeness of grey images float32 (p, 32, 32), pair by pair, at their best shift: float64 (2, p).

    The overlap is split by Haar's averages of 2 x 2 pixels into two octaves and a coarse rest.
    In each, c is the correlation, and r the mean square per coefficient that the best gain and offset leave of the
    stronger image; g is the mean square of the finest octave, most of which is grain in a photograph.

    * closeness, Σ weight log((g + `FLOOR`) / (r + `FLOOR`)): below zero for separate shots of one thing, which leave
      the grain of both, and well above for copies;
    * likeness, -Σ log(1.01 - c): higher the more alike, whatever the grain; the cosines of the descriptions join it.
    """
    down, right = _shift(one, other)
    y, x = (REACH - down) // 2, (REACH - right) // 2
    a, b = _window(one, y, x), _window(other, y + down, x + right)
    pixels = _moments(a, b)
    a, b = _halved(a), _halved(b)
    quads = 4 * _moments(a, b)
    sixteens = 16 * _moments(_halved(a), _halved(b))
    octaves = np.stack([pixels - quads, quads - sixteens, sixteens])
    product, strength = octaves[:, 0], np.maximum(octaves[:, 1], octaves[:, 2])
    correlation = product / np.sqrt((octaves[:, 1] + 100) * (octaves[:, 2] + 100))  # flat images correlate with none
    left = strength * (1 - correlation**2) / COEFFICIENTS
    grain = strength[0] / COEFFICIENTS[0]
    closeness = WEIGHTS @ np.log((grain + FLOOR) / (left + FLOOR))
    return np.stack([closeness, _separation(correlation, 0.01).sum(axis=0)])


def _moments(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sums of ab, a² and b² over each pair's pixels, means taken off: float64 (3, p)."""
    a, b = (x.reshape(len(x), -1) for x in (a, b))
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    return np.stack([np.einsum("np,np->n", u, v) for u, v in ((a, b), (a, a), (b, b))]).astype(np.float64)


def _shift(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far `other` lies below and to the right of `one`, int64 (p,) each: the peak of the phase correlation.

    The phase is softened (power 0.7): the pure one listens to noise as much as to structure.
    """
    cross = _spectrum(other) * np.conj(_spectrum(one))
    cross /= (np.abs(cross) + 1e3) ** 0.7
    reach = np.arange(-REACH, REACH + 1)
    peaks = fft.irfft2(cross, s=(SIDE, SIDE))[:, reach[:, None], reach].reshape(len(cross), -1)
    down, right = np.divmod(peaks.argmax(axis=1), len(reach))
    return down - REACH, right - REACH


def _spectrum(grey: np.ndarray) -> np.ndarray:
    """Fourier transform of grey images without mean, faded out at the border: complex64 (n, 32, 17)."""
    return fft.rfft2((grey - grey.mean(axis=(1, 2), keepdims=True)) * FADE)


def _window(grey: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """`OVERLAP` x `OVERLAP` pixels of each image from its line y and column x on."""
    windows = np.lib.stride_tricks.sliding_window_view(grey, (OVERLAP, OVERLAP), axis=(1, 2))
    return windows[np.arange(len(grey)), y, x]


def _halved(grey: np.ndarray) -> np.ndarray:
    """Averages of 2 x 2 pixels."""
    rows = grey[:, ::2] + grey[:, 1::2]
    return (rows[:, :, ::2] + rows[:, :, 1::2]) / 4


# --- descriptions --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Description:
    """Unit vectors: principal components of what `describe` gives, each weighted by its variance^-1/4.

    Plain components listen to a few coarse ones alone, whitened ones to noise; this is halfway.
    """

    describe: View
    mean: np.ndarray
    projection: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray, describe: View) -> _Description:
        raw = describe(images)
        mean = raw.mean(axis=0)
        top = (max(0, raw.shape[1] - DIMENSIONS), raw.shape[1] - 1)
        variance, vectors = eigh((raw - mean).T @ (raw - mean) / len(raw), subset_by_index=top)
        weight = np.maximum(variance, 1e-6 * variance[-1] + 1e-12) ** -0.25
        return cls(describe, mean, (vectors * weight).astype(np.float32))

    def __call__(self, images: np.ndarray, view: View) -> np.ndarray:
        """float32 (n, `DIMENSIONS`)."""
        return np.concatenate([_unit((self.describe(view(x)) - self.mean) @ self.projection) for x in _blocks(images)])


def _layout(images: np.ndarray) -> np.ndarray:
    """Averages of 2 x 2 pixels without each channel's mean, unit vectors float32 (n, 768)."""
    half = SIDE // 2
    small = images.reshape(len(images), half, 2, half, 2, 3).mean(axis=(2, 4), dtype=np.float32)
    small -= small.mean(axis=(1, 2), keepdims=True)
    return _unit(small.reshape(len(images), -1))


def _grain(images: np.ndarray) -> np.ndarray:
    """Square roots of the amplitudes of the grey image's spectrum, float32 (n, 544): the same wherever it is moved."""
    amplitude = np.sqrt(np.abs(_spectrum(images @ LUMA))).reshape(len(images), -1)
    return amplitude - amplitude.mean(axis=1, keepdims=True)


def _grey(images: np.ndarray, view: View = _plain) -> np.ndarray:
    """Luma in a view, uint8 (n, 32, 32)."""
    return np.concatenate([np.rint(view(x) @ LUMA).astype(np.uint8) for x in _blocks(images)])


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)


# --- neighbours ----------------------------------------------------------------------------------

# In which views, and for how many neighbours by layout and by grain. The grain alone stays when a copy is moved.
SEARCHES: tuple[tuple[View, tuple[int, int]], ...] = ((_plain, (6, 4)), (_mirrored, (3, 0)), (_enlarged, (3, 0)))


def _nearest(asked: np.ndarray, there: np.ndarray, k: int, own: bool, tell: Progress) -> np.ndarray:
    """The `k` references of the largest cosine (fewer where there are fewer), in no order: rows int64 (q, k)."""
    n = len(there)
    k = min(k, n - own)
    result = np.empty((len(asked), k), np.int64)
    size = int(np.clip(BLOCK_BYTES // (4 * n), 16, 1024))
    starts = range(0, len(asked), size)
    done = count(1)

    def search(first: int) -> None:
        at = slice(first, min(first + size, len(asked)))
        alike = asked[at] @ there.T
        if own:
            alike[np.arange(at.stop - first), np.arange(first, at.stop)] = -np.inf
        result[at] = _largest(alike, k)
        tell(next(done) / len(starts))

    _on_all_cores(search, starts)
    return result


def _largest(values: np.ndarray, k: int, group: int = 64) -> np.ndarray:
    """Columns of the k largest of each row, int64 (b, k). Exact: they lie in the k groups with the largest maxima."""
    b, n = values.shape
    strides = n // group
    if strides <= 2 * k:
        return np.argpartition(-values, k - 1, axis=1)[:, :k]
    maxima = values[:, : strides * group].reshape(b, group, strides).max(axis=1)
    chosen = np.argpartition(-maxima, k - 1, axis=1)[:, :k]
    columns = (chosen[:, :, None] + strides * np.arange(group)).reshape(b, -1)
    rest = np.broadcast_to(np.arange(strides * group, n), (b, n - strides * group))
    columns = np.concatenate([columns, rest], axis=1)
    place = np.argpartition(-np.take_along_axis(values, columns, axis=1), k - 1, axis=1)[:, :k]
    return np.take_along_axis(columns, place, axis=1)


def _on_all_cores(work: Callable, parts) -> None:
    """Call `work` on each part. numpy lets go of the interpreter inside its loops, so threads run side by side."""
    with ThreadPoolExecutor(max(1, min(8, os.cpu_count() or 1))) as pool:
        for _ in pool.map(work, parts):
            pass


def _blocks(x: np.ndarray, size: int = 2048) -> Iterator[np.ndarray]:
    return (x[first : first + size] for first in range(0, max(len(x), 1), size))

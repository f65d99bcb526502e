"""Copies of images: exact by content, near by how far they stand out from the next neighbours.

No single distance separates near duplicates from look-alikes: a plain sky is close to hundreds of others.
What a copy has and a look-alike has not is a *gap*: its partner is much closer than the next neighbours are.
So each image's nearest neighbours are found by a coarse description (colour, outline, grain), block by block and
without a matrix of all pairs; the most promising are compared in detail, moved by a few pixels and mirrored; and the
score of a pair is the sum, over five comparisons, of how far it stands out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy import fft
from scipy.ndimage import uniform_filter
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from scaletut.errors import DataError, ParameterError

SIDE = 32  # pixels; images of another size are brought to it
NEIGHBOURS = 6  # candidates an image and search: the partner, and what it has to stand out from
COLOUR_SIDE, OUTLINE_SIDE = 8, 16  # pixels of the shrunken images
DIMENSIONS = 64  # numbers kept of each part of a description: enough to rank neighbours, and a third of the work
FITTED = 20_000  # images that the projections are computed from
QUERIES = 1024  # at a time: their similarities to 60,000 images are 250 MB
CHUNK = 64  # similarities of which only the largest is looked at first
INNER = 28  # pixels: a copy may be enlarged by an eighth, or be what another image was enlarged to
OUTLYING = 4.0  # robust deviations of an amplitude of the grain beyond which it does not count for more
REACH = 3  # pixels that a copy may be moved, each way
PROMISING = 0.25  # share of the images whose candidates are compared in detail
PAIRS = 2048  # compared in detail at a time
COARSE, FINE = 9, 3  # pixels: structure up to this size is compared as colour, up to that as grain
COMPARISONS = 4  # colour, outline, structure, grain
STANDS_OUT = 3.5  # robust deviations; in generated sets one chance pair in a thousand images reaches it
FLOOR = -0.5  # units below zero that count: a copy that was moved stands out in half of the comparisons only
REASON = (
    f"as much as a pair that stands out from the next neighbours by {STANDS_OUT} of this set's robust deviations "
    f"in each of {COMPARISONS} comparisons"
)

Progress = Callable[[float], None]


@dataclass(frozen=True)
class DuplicatePairs:
    """Near duplicates, best first.

    `first` < `second` int64 (m,): rows of the images. `score` float64 (m,), falling.
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


def near_duplicates(images: np.ndarray, *, seed: int = 0, progress: Progress | None = None) -> DuplicatePairs:
    """Pairs of images that show the same picture: saved again, moved, mirrored, recoloured or rescaled a little.

    Args:
        images: uint8 (n, height, width, 3), all splits together; exact copies are found too.
        seed: of the random projection.
        progress: called with the share done, 0 to 1.

    Returns:
        The pairs whose score lies above what chance pairs of this set reach; see `DuplicatePairs.reason`.

    Memory grows with n alone: about 20 kB an image, and 0.3 kB an image for each of the blocks at work.
    Raises DataError for images of another type or shape.
    """
    checked(images)
    if len(images) < 3:
        return DuplicatePairs(*np.empty((2, 0), np.int64), np.empty(0), np.inf, "fewer than three images")
    pairs = _candidates(images, images, own=True, seed=seed, progress=progress)
    return _decided(pairs, len(images))


def nearest_partner(queries: np.ndarray, references: np.ndarray, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """For each query the reference that is most likely its copy, int64 (q,), and the pair's score float64 (q,).

    `queries`, `references`: uint8 (q, h, w, 3) and (r, h, w, 3). Every query is compared in detail.
    Raises DataError for images of another type or shape, ParameterError for fewer than two references.
    """
    checked(queries), checked(references)
    if len(references) < 2:
        raise ParameterError(f"{len(references)} references; give two or more to stand out from")
    pairs = _candidates(queries, references, own=False, seed=seed, promising=1.0)
    order = np.lexsort((-pairs.score, pairs.query))
    query, first = np.unique(pairs.query[order], return_index=True)
    partner, score = np.zeros(len(queries), np.int64), np.full(len(queries), -np.inf)
    partner[query], score[query] = pairs.partner[order][first], pairs.score[order][first]
    return partner, score


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


# --- candidates and their comparison -----------------------------------------------------


@dataclass(frozen=True)
class _Pairs:
    query: np.ndarray  # int64 (p,)
    partner: np.ndarray  # int64 (p,)
    score: np.ndarray  # float64 (p,)


def _candidates(
    queries: np.ndarray,
    references: np.ndarray,
    *,
    own: bool,
    seed: int,
    promising: float = PROMISING,
    progress: Progress | None = None,
) -> _Pairs:
    """Candidate pairs with their scores. own: queries are the references, and no image is its own partner."""
    tell = progress or (lambda share: None)
    base = standard(references)
    asked = base if own else standard(queries)
    describe = _Description.of(base, seed)
    there = describe(base)
    partner, close = [], []
    for number, (view, parts) in enumerate(SEARCHES):
        mine = describe(view(asked))
        chosen = [mine[part] for part in parts], [there[part] for part in parts]
        rows = _nearest(*chosen, own, lambda share, k=number: tell(0.2 * (k + share)))
        partner.append(rows)
        close.append([_closeness(mine[part], there[part], rows) for part in (COLOUR, OUTLINE)])
    partners = np.stack(partner, axis=1)  # (q, searches, k)
    standing = _standing(np.stack([np.stack(part, axis=1) for part in zip(*close, strict=True)]))
    hopeful = np.sort(_hopeful(standing.sum(axis=0).max(axis=(1, 2)), promising))
    detail = _details(asked, base, hopeful, partners[hopeful], lambda share: tell(0.8 + 0.2 * share))
    total = standing[:, hopeful].sum(axis=0) + _standing(detail).sum(axis=0)
    query = np.repeat(hopeful, partners[0].size)
    return _Pairs(query, partners[hopeful].ravel(), total.ravel().astype(np.float64))


def _hopeful(standing: np.ndarray, share: float) -> np.ndarray:
    """Rows of the `share` of images whose best candidate stands out most; a few thousand at least."""
    count = min(len(standing), max(4000, int(np.ceil(share * len(standing)))))
    return np.argpartition(-standing, count - 1)[:count]


def _standing(close: np.ndarray) -> np.ndarray:
    """How far each candidate stands out, in units of what is usual in this set: (comparisons, q, searches, k).

    A candidate stands out from its image's usual neighbours: of the searches the one whose median candidate is
    closest. In the units used the best gaps of the images have median 0 and robust deviation 1; beyond that only
    the logarithm counts, so that no single comparison decides.
    """
    usual = np.median(close, axis=-1, keepdims=True).max(axis=-2, keepdims=True)
    gaps = close - usual
    best = gaps.max(axis=(-1, -2))
    middle = np.median(best, axis=-1)
    spread = 1.4826 * np.median(np.abs(best - middle[:, None]), axis=-1)
    units = (gaps - middle[:, None, None, None]) / np.maximum(spread, 1e-6)[:, None, None, None]
    return np.where(units > 0, np.log1p(np.maximum(units, 0)), np.maximum(units, FLOOR))


def _decided(pairs: _Pairs, n: int) -> DuplicatePairs:
    """Each pair once with its better score, and only those above the level of chance."""
    low, high = np.minimum(pairs.query, pairs.partner), np.maximum(pairs.query, pairs.partner)
    order = np.argsort(-pairs.score, kind="stable")
    _, once = np.unique((low * n + high)[order], return_index=True)
    kept = order[np.sort(once)]
    threshold = COMPARISONS * float(np.log1p(STANDS_OUT))
    kept = kept[pairs.score[kept] >= threshold]
    return DuplicatePairs(low[kept], high[kept], pairs.score[kept], threshold, REASON)


# --- descriptions ------------------------------------------------------------------------


def standard(images: np.ndarray) -> np.ndarray:
    """Images of `SIDE` x `SIDE` pixels, uint8: shrunk by averaging, or enlarged, where they are not."""
    n, height, width = images.shape[:3]
    if (height, width) == (SIDE, SIDE):
        return images
    from PIL import Image

    size, box = (SIDE, SIDE), Image.Resampling.BOX
    return np.stack([np.asarray(Image.fromarray(image).resize(size, box)) for image in images]).reshape(
        n, SIDE, SIDE, 3
    )


@dataclass(frozen=True)
class _Description:
    """Three parts, each a unit vector of `DIMENSIONS` numbers: colour, outline, grain."""

    projections: tuple[np.ndarray, ...]
    grain_middle: np.ndarray
    grain_scale: np.ndarray

    @classmethod
    def of(cls, images: np.ndarray, seed: int) -> _Description:
        draw = np.random.default_rng(seed)
        some = images[np.sort(draw.permutation(len(images))[:FITTED])]
        spectra = _grain(some)
        middle = np.median(spectra, axis=0)  # robust: a few blurred images, which have no grain, must not set the scale
        scale = 1.4826 * np.median(np.abs(spectra - middle), axis=0) + 1e-3
        random = draw.standard_normal((spectra.shape[1], DIMENSIONS)).astype(np.float32)
        parts = [_components(part(some)) for part in (_colour, _outline)]
        return cls((*parts, random), middle, scale)

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """Unit vectors float32 (n, d) of each part."""
        result: list[list[np.ndarray]] = [[], [], []]
        for block in _blocks(images, 4096):
            grain = np.clip((_grain(block) - self.grain_middle) / self.grain_scale, -OUTLYING, OUTLYING)
            raw = (_colour(block), _outline(block), grain)
            for out, part, projection in zip(result, raw, self.projections, strict=True):
                out.append(_unit(part @ projection))
        return [np.concatenate(part) for part in result]


def _colour(images: np.ndarray) -> np.ndarray:
    """Shrunken images without their mean, unit vectors (n, 192)."""
    flat = _shrunk(images, COLOUR_SIDE).reshape(len(images), -1)
    return _unit(flat - flat.mean(axis=1, keepdims=True))


def _outline(images: np.ndarray) -> np.ndarray:
    """Differences of neighbouring pixels of the shrunken grey image, unit vectors (n, 480)."""
    grey = _shrunk(images, OUTLINE_SIDE).mean(axis=3)
    across, down = np.diff(grey, axis=2), np.diff(grey, axis=1)
    return _unit(np.concatenate([across.reshape(len(grey), -1), down.reshape(len(grey), -1)], axis=1))


def _grain(images: np.ndarray) -> np.ndarray:
    """Logarithm of the amplitudes of the finest detail, (n, 544): the same wherever the image is moved to."""
    spectrum = np.abs(fft.rfft2(_residual(_grey(images), FINE), axes=(1, 2)))
    return np.log(spectrum + 1).reshape(len(images), -1)


def _shrunk(images: np.ndarray, side: int) -> np.ndarray:
    step = SIDE // side
    return images.reshape(len(images), side, step, side, step, 3).mean(axis=(2, 4), dtype=np.float32)


def _grey(images: np.ndarray) -> np.ndarray:
    return images.mean(axis=3, dtype=np.float32)


def _residual(planes: np.ndarray, size: int) -> np.ndarray:
    """What is left of (n, h, w) when the mean over `size` x `size` pixels is taken away, faded out at the border."""
    fade = np.ones(SIDE, np.float32)
    fade[:3], fade[-3:] = (0.25, 0.5, 0.75), (0.75, 0.5, 0.25)
    return (planes - uniform_filter(planes, (0, size, size), mode="nearest")) * (fade[:, None] * fade)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-6)


def _components(x: np.ndarray) -> np.ndarray:
    """The `DIMENSIONS` principal directions of (n, d), not centred, for cosines are to be kept: (d, DIMENSIONS)."""
    _, vectors = np.linalg.eigh(x.T @ x)
    return np.ascontiguousarray(vectors[:, ::-1][:, :DIMENSIONS])


def _blocks(x: np.ndarray, size: int) -> Iterator[np.ndarray]:
    return (x[first : first + size] for first in range(0, len(x), size))


def _mirrored(images: np.ndarray) -> np.ndarray:
    return images[:, :, ::-1]


def _enlarged(images: np.ndarray) -> np.ndarray:
    """The middle of each image, `INNER` x `INNER` pixels, brought to full size by linear interpolation."""
    at = (np.arange(SIDE) + 0.5) * INNER / SIDE - 0.5 + (SIDE - INNER) / 2
    low = np.clip(np.floor(at).astype(int), 0, SIDE - 2)
    share = (at - low).astype(np.float32)
    x = images.astype(np.float32)
    x = x[:, low] * (1 - share)[:, None, None] + x[:, low + 1] * share[:, None, None]
    x = x[:, :, low] * (1 - share)[:, None] + x[:, :, low + 1] * share[:, None]
    return np.rint(x).astype(np.uint8)


def _plain(images: np.ndarray) -> np.ndarray:
    return images


COLOUR, OUTLINE, GRAIN = range(3)
# In which view an image looks for its copy, and by which parts of the description.
# The grain alone stays what it is when a copy is moved.
SEARCHES = (
    (_plain, (COLOUR, OUTLINE)),
    (_plain, (GRAIN,)),
    (_mirrored, (COLOUR, OUTLINE)),
    (_enlarged, (COLOUR, OUTLINE)),
)


# --- neighbours --------------------------------------------------------------------------


def _nearest(queries: list[np.ndarray], references: list[np.ndarray], own: bool, tell: Progress) -> np.ndarray:
    """The `NEIGHBOURS` references of the largest sum of cosines, best first: rows int64 (q, k).

    Exact: the k largest lie in the k chunks with the largest maxima.
    """
    asked, there = np.concatenate(queries, axis=1), np.concatenate(references, axis=1)
    n, k = len(there), min(NEIGHBOURS, len(there) - own)
    padding = max(-n % CHUNK, CHUNK * k - n)
    columns = np.ascontiguousarray(np.pad(there, ((0, padding), (0, 0))).T)
    rows = np.empty((len(asked), k), np.int64)
    for first in range(0, len(asked), QUERIES):
        at = slice(first, min(first + QUERIES, len(asked)))
        alike = asked[at] @ columns
        alike[:, n:] = -np.inf
        if own:
            alike[np.arange(at.stop - first), np.arange(first, at.stop)] = -np.inf
        rows[at] = _largest(alike, k)
        tell(at.stop / len(asked))
    return rows


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Columns of the k largest of each row (b, chunks * CHUNK), largest first."""
    chunks = values.reshape(len(values), -1, CHUNK)
    maxima = chunks.max(axis=2)
    chosen = np.argpartition(-maxima, k - 1, axis=1)[:, :k]
    some = np.take_along_axis(chunks, chosen[:, :, None], axis=1).reshape(len(values), -1)
    place = np.argsort(-some, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(chosen, place // CHUNK, axis=1) * CHUNK + place % CHUNK


def _closeness(asked: np.ndarray, there: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """How close each query's candidates are, -log(1 - cosine), float32 (q, k): a gap in it is a ratio of distances."""
    result = np.empty(rows.shape, np.float32)
    for first in range(0, len(asked), 4096):
        at = slice(first, first + 4096)
        cosine = np.einsum("qd,qkd->qk", asked[at], there[rows[at]])
        result[at] = _separation(cosine)
    return result


def _separation(correlation: np.ndarray) -> np.ndarray:
    """-log(1 - correlation): a difference in it is a ratio of distances, and exact copies stay finite."""
    return -np.log(np.maximum(1 - correlation, 1e-4))


# --- detail ------------------------------------------------------------------------------


def _details(
    asked: np.ndarray, base: np.ndarray, hopeful: np.ndarray, partner: np.ndarray, tell: Progress
) -> np.ndarray:
    """Closeness of colour structure and of grain at the best shift: float32 (2, len(hopeful), searches, k).

    The candidates of a search are compared with the view of the image that was searched with.
    """
    k = partner.shape[2]
    result = np.empty((2, *partner.shape), np.float32)
    size = max(1, PAIRS // k)
    for first in range(0, len(hopeful), size):
        at = slice(first, min(first + size, len(hopeful)))
        for number, (view, _) in enumerate(SEARCHES):
            unique, inverse = np.unique(partner[at, number], return_inverse=True)
            spectra = _spectra(view(asked[hopeful[at]])), _spectra(base[unique])
            for kind, (mine, theirs) in enumerate(zip(*spectra, strict=True)):
                best = _best_shift(np.repeat(mine, k, axis=0), theirs[inverse.ravel()])
                result[kind, at, number] = _separation(best).reshape(-1, k)
        tell(at.stop / len(hopeful))
    return result


def _spectra(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Spectra of colour structure, complex64 (n, 3, h, w'), and of grain (n, 1, h, w'), each of energy one."""
    colour = [_residual(images[..., channel].astype(np.float32), COARSE) for channel in range(3)]
    return _normed(np.stack(colour, axis=1)), _normed(_residual(_grey(images), FINE)[:, None])


def _normed(planes: np.ndarray) -> np.ndarray:
    energy = np.sqrt(np.square(planes).sum(axis=(1, 2, 3), keepdims=True))
    return fft.rfft2(planes / np.maximum(energy, 1.0), axes=(2, 3))


def _best_shift(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The largest correlation over shifts of up to `REACH` pixels, summed over channels: (p,)."""
    cross = (one * np.conj(other)).sum(axis=1)
    at_shift = fft.irfft2(cross, s=(SIDE, SIDE), axes=(1, 2))
    near = np.r_[0 : REACH + 1, SIDE - REACH : SIDE]
    return at_shift[:, near][:, :, near].reshape(len(cross), -1).max(axis=1)

"""Low rank: a layer as a chain of thinner ones that together do nearly the same.

A matrix becomes a product of two (truncated SVD: the best of its rank, Eckart and Young 1936). A convolution becomes
1x1, k x k, 1x1 (Tucker-2), or 1x1, k x 1, 1 x k channel by channel, 1x1 (CP).

Sources: Y. Kim, E. Park, S. Yoo, T. Choi, L. Yang, D. Shin, "Compression of Deep Convolutional Neural Networks for
Fast and Low Power Mobile Applications", ICLR 2016 (Tucker-2); V. Lebedev, Y. Ganin, M. Rakhuba, I. Oseledets,
V. Lempitsky, "Speeding-up Convolutional Neural Networks Using Fine-tuned CP-Decomposition", ICLR 2015 (CP); X. Zhang,
J. Zou, K. He, J. Sun, "Accelerating Very Deep Convolutional Networks for Classification and Detection", IEEE TPAMI
2016 (the k x k and the 1x1 convolution).
"""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from scaletut.errors import DataError, ParameterError
from scaletut.models.adapters import head_name
from scaletut.models.build import NetSpec
from scaletut.models.resnet import Projection
from scaletut.models.surgery import add_step, set_layer

Method = Literal["tucker", "cp", "svd"]
METHODS: tuple[Method, ...] = get_args(Method)
ENERGIES = tuple(round(0.3 + 0.01 * step, 2) for step in range(70))  # what rank_for_latency chooses from: 0.30 to 0.99
CP_SWEEPS = 50  # rounds of alternating least squares at most
CP_TOLERANCE = 1e-4  # they end when the relative error falls by less
CP_RIDGE = 1e-8  # added to the normal equations: else they may be singular, and huge components cancel each other


@dataclass(frozen=True)
class RankTrial:
    """One energy that `rank_for_latency` tried, and the seconds that its network took."""

    energy: float
    seconds: float


@dataclass(frozen=True)
class RankSearch:
    """What `rank_for_latency` found.

    Attributes:
        net: the network of the largest energy within the target.
        energy: that energy.
        seconds: its measured latency.
        trials: all that were tried, in order.
    """

    net: nn.Module
    energy: float
    seconds: float
    trials: tuple[RankTrial, ...]


# --- one layer


def svd_linear(layer: nn.Linear, rank: int) -> nn.Sequential:
    """A linear layer as two: W = (U S^1/2) (S^1/2 V^T), cut to the `rank` largest singular values.

    Exact, up to rounding, at full rank. Cost: rank * (inputs + outputs) instead of inputs * outputs.

    Args:
        layer: it is not touched.
        rank: 1 to min(inputs, outputs).

    Returns:
        Linear(inputs, rank) without bias, Linear(rank, outputs) with the layer's bias.

    Raises:
        ParameterError: a rank out of range.
    """
    _check_rank(rank, min(layer.weight.shape))
    up, down = _halves(_array(layer.weight), rank)
    return _chain(
        layer,
        _linear(down),
        _linear(up, layer.bias),
    )


def svd_conv(layer: nn.Conv2d, rank: int) -> nn.Sequential:
    """A convolution as two: k x k to `rank` channels, then 1x1, by the SVD of its kernel as a matrix (out, in * k * k).

    The same contract as `svd_linear`; full rank is min(out, in * k * k).

    Raises:
        ParameterError: a rank out of range, or a grouped convolution.
    """
    weight = _array(_plain(layer).weight)
    _check_rank(rank, min(weight.shape[0], weight[0].size))
    up, down = _halves(weight.reshape(len(weight), -1), rank)
    first = _conv(down.reshape(rank, *weight.shape[1:]), layer, stride=layer.stride, padding=layer.padding)
    return _chain(layer, *_before(layer), first, _pointwise(up, layer.bias))


def tucker(layer: nn.Conv2d, ranks: tuple[int, int]) -> nn.Sequential:
    """A convolution as three: 1x1 to `ranks[0]` channels, k x k to `ranks[1]`, 1x1 to the outputs (Tucker-2).

    Only the channels' two modes are cut; the core is found by higher-order orthogonal iteration (tensorly). Exact, up
    to rounding, at full ranks. For a 1x1 convolution, which is a matrix, the two ranks had better be equal.

    Args:
        layer: without groups; it is not touched.
        ranks: of the inputs (1 to min(in, out * k * k)) and of the outputs (1 to min(out, in * k * k)).

    Raises:
        ParameterError: a rank out of range, or a grouped convolution.
        DataError: tensorly is absent.
    """
    weight = _array(_plain(layer, "svd_conv").weight)
    outputs, inputs = weight.shape[:2]
    positions = weight[0, 0].size
    _check_rank(ranks[0], min(inputs, outputs * positions))
    _check_rank(ranks[1], min(outputs, inputs * positions))
    partial_tucker = _tensorly().decomposition.partial_tucker
    (core, (up, down)), _ = partial_tucker(weight, rank=(ranks[1], ranks[0]), modes=[0, 1], init="svd")
    middle = _conv(core, layer, stride=layer.stride, padding=layer.padding)
    return _chain(layer, *_before(layer), _pointwise(down.T), middle, _pointwise(up, layer.bias))


def cp(layer: nn.Conv2d, rank: int, *, seed: int = 0) -> nn.Sequential:
    """A convolution as four: 1x1 to `rank` channels, k x 1 and 1 x k channel by channel, 1x1 to the outputs (CP).

    The kernel becomes a sum of `rank` products of four vectors, found by alternating least squares (tensorly) from a
    random start, so the result is a local optimum. At rank in * k * k the sum is exact up to rounding, which components
    that cancel each other amplify: in float32 the kernel is met to a relative error below 1e-3.

    Args:
        layer: without groups; it is not touched.
        rank: 1 to in * k * k.
        seed: of the start.

    Raises:
        ParameterError: a rank out of range, or a grouped convolution.
        DataError: tensorly is absent.
    """
    weight = _array(_plain(layer, "svd_conv").weight)
    _check_rank(rank, weight[0].size)
    return _cp_chain(layer, _cp_factors(weight, rank, seed))


# --- a network


def factorise(
    net: nn.Module,
    *,
    method: Method = "tucker",
    energy: float = 0.9,
    layers: Iterable[str] | None = None,
    round_to: int = 8,
    seed: int = 0,
) -> nn.Module:
    """Factorise the layers of a network at ranks that keep `energy`, where that saves multiply-adds.

    Energy is the share of a weight's sum of squares that its best approximation keeps: squared singular values for
    SVD and for each mode of Tucker, 1 less the squared relative error for CP. Linear layers and 1x1 convolutions are
    matrices and go by SVD whatever the method. Grouped convolutions, the classifier and filters that the design holds
    frozen stay as they are.

    Args:
        net: it is not touched.
        method: for k x k convolutions: `tucker`, `cp`, or `svd`.
        energy: to be kept (above 0, up to 1).
        layers: dotted paths of the layers to try; None tries all.
        round_to: ranks are rounded up to multiples of this, within the full rank.
        seed: of the start of CP.

    Returns:
        A copy with chains in place of layers. Its last step tells the ranks and the multiply-adds of each, per output
        position, before and after.

    Raises:
        ParameterError: an argument out of range, a layer that is not there or cannot be factorised, or no layer for
            which it saves anything.
        DataError: tensorly is absent.
    """
    new = _factorised(net, method, energy, layers, round_to, seed)
    if new is None:
        raise ParameterError(
            f"at energy {energy:g} no layer is cheaper as a chain by {method}: give less energy, or another method"
        )
    return new


def rank_for_latency(
    net: nn.Module,
    target: float,
    latency: Callable[[nn.Module], float],
    *,
    method: Method = "tucker",
    energies: Iterable[float] = ENERGIES,
    layers: Iterable[str] | None = None,
    round_to: int = 8,
    seed: int = 0,
    progress: Callable[[RankTrial], None] | None = None,
) -> RankSearch:
    """The largest energy whose network is fast enough, by halving the list of energies.

    Latency is taken to rise with energy; where measurements are too noisy for that, the energy found is one that met
    the target but perhaps not the largest.

    Args:
        net: it is not touched.
        target: seconds (> 0).
        latency: measures the seconds of a network, such as the median latency of its exported program.
        method: see `factorise`, as for `layers`, `round_to` and `seed`.
        energies: to choose from. At one at which nothing is saved, the network as it is stands for the answer.
        progress: called after each trial.

    Raises:
        ParameterError: even the smallest energy is too slow, a target that is not above 0, or no energies.
    """
    ladder, layers = sorted(set(energies)), None if layers is None else tuple(layers)
    if not target > 0 or not ladder:
        raise ParameterError(f"target is {target} and there are {len(ladder)} energies: give seconds above 0, and some")
    trials: list[RankTrial] = []
    best: tuple[nn.Module, RankTrial] | None = None
    low, high = 0, len(ladder)  # every energy below `low` met the target, every one from `high` on did not
    while low < high:
        middle = (low + high) // 2
        candidate = _factorised(net, method, ladder[middle], layers, round_to, seed) or copy.deepcopy(net)
        trials.append(RankTrial(ladder[middle], latency(candidate)))
        if progress is not None:
            progress(trials[-1])
        if trials[-1].seconds <= target:
            best, low = (candidate, trials[-1]), middle + 1
        else:
            high = middle
    if best is None:
        fastest = min(trials, key=lambda trial: trial.seconds)
        raise ParameterError(
            f"no energy down to {ladder[0]:g} meets {target:.3g} s: the fastest network takes {fastest.seconds:.3g} s, "
            f"at energy {fastest.energy:g}; give a longer target, or prune first"
        )
    return RankSearch(best[0], best[1].energy, best[1].seconds, tuple(trials))


# --- which ranks


def _factorised(
    net: nn.Module, method: Method, energy: float, layers: Iterable[str] | None, round_to: int, seed: int
) -> nn.Module | None:
    """A copy with chains where they save multiply-adds; None where they do nowhere."""
    if method not in METHODS:
        raise ParameterError(f"there is no method {method!r}: take one of {', '.join(METHODS)}")
    if not 0 < energy <= 1 or round_to < 1:
        raise ParameterError(f"energy is {energy} and round_to is {round_to}: give a share up to 1, and 1 or more")
    new, done = copy.deepcopy(net), {}
    for name, layer in _candidates(net, layers):
        chain, ranks = _thinned(layer, method, energy, round_to, seed)
        before, after = _cost([layer]), _cost(chain)
        if ranks and after < before:
            set_layer(new, name, chain)
            done[name] = {"ranks": ranks, "macs": [before, after]}
    if not done:
        return None
    step = {"step": "factorise", "method": method, "energy": energy, "layers": done}
    return add_step(new, step)


def _candidates(net: nn.Module, layers: Iterable[str] | None) -> list[tuple[str, nn.Module]]:
    """Ungrouped convolutions and linear layers, without the classifier and what the design holds frozen."""
    spec = getattr(net, "spec", None)
    fixed = {f"{head_name(net)}.weight", *(spec.frozen if isinstance(spec, NetSpec) else ())}
    found = {
        name: layer
        for name, layer in net.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear)) and getattr(layer, "groups", 1) == 1
        if f"{name}.weight" not in fixed
    }
    wanted = list(found) if layers is None else list(layers)
    for name in wanted:
        if name not in found:
            nearest = difflib.get_close_matches(name, found, 1, 0.0)
            raise ParameterError(f"there is no layer '{name}' that could be factorised; the nearest is {nearest}")
    return [(name, found[name]) for name in wanted]


def _thinned(
    layer: nn.Module, method: Method, energy: float, round_to: int, seed: int
) -> tuple[nn.Sequential, list[int]]:
    """The layer as a chain of the smallest ranks that keep `energy`, and these ranks (none where that is too dear)."""
    weight = _array(layer.weight)
    outputs = len(weight)
    if isinstance(layer, nn.Linear) or weight[0, 0].size == 1 or method == "svd":
        rank = _rank(weight.reshape(outputs, -1), energy, round_to)
        return (svd_linear if isinstance(layer, nn.Linear) else svd_conv)(layer, rank), [rank]
    if method == "tucker":
        inner = _rank(weight.swapaxes(0, 1).reshape(weight.shape[1], -1), energy, round_to)
        outer = _rank(weight.reshape(outputs, -1), energy, round_to)
        return tucker(layer, (inner, outer)), [inner, outer]
    return _thinned_cp(layer, weight, energy, round_to, seed)


def _thinned_cp(
    layer: nn.Conv2d, weight: np.ndarray, energy: float, round_to: int, seed: int
) -> tuple[nn.Sequential, list[int]]:
    """By halving the ranks that save anything: the energy kept rises with the rank, but for the luck of the start."""
    dear = _cost([layer]) / _cost(_cp_chain(layer, [np.zeros((size, 1)) for size in weight.shape]))
    ranks = range(round_to, min(int(dear), weight[0].size) + 1, round_to)
    low, high, best = 0, len(ranks), None
    while low < high:
        middle = (low + high) // 2
        factors = _cp_factors(weight, ranks[middle], seed)
        lost = np.linalg.norm(np.einsum("or,ir,yr,xr->oiyx", *factors, optimize=True) - weight)
        if lost**2 <= (1 - energy) * np.sum(weight**2):
            best, high = factors, middle
        else:
            low = middle + 1
    if best is None:
        return nn.Sequential(layer), []
    return _cp_chain(layer, best), [best[0].shape[1]]


def _rank(matrix: np.ndarray, energy: float, round_to: int) -> int:
    """The smallest rank whose largest singular values hold `energy` of the sum of squares, rounded up."""
    squares = np.linalg.svd(matrix, compute_uv=False) ** 2
    kept = np.cumsum(squares) / max(squares.sum(), np.finfo(float).tiny)
    rank = int(np.searchsorted(kept, energy - 1e-12)) + 1
    return min(-(-rank // round_to) * round_to, *matrix.shape)


def _cost(chain: Iterable[nn.Module]) -> int:
    """Multiply-adds for one position of the chain's output; layers before a stride work at more positions."""
    total, positions = 0, 1
    for layer in reversed(list(chain)):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            total += positions * layer.weight.numel()
            strides = getattr(layer, "stride", (1, 1))
            positions *= strides[0] * strides[1] * getattr(layer, "every", 1) ** 2
    return total


# --- parts of a chain


def _chain(layer: nn.Module, *parts: nn.Module) -> nn.Sequential:
    """The parts in the place of `layer`: on its device, in its type and mode, trained where it is trained."""
    chain = nn.Sequential(*parts).to(layer.weight).train(layer.training)
    return chain.requires_grad_(layer.weight.requires_grad)


def _before(layer: nn.Conv2d) -> list[nn.Module]:
    """The padding that TensorFlow's convolutions do apart, as in EfficientNet-Lite0."""
    padding = getattr(layer, "static_padding", None)
    return [nn.ZeroPad2d(padding.padding)] if isinstance(padding, nn.ZeroPad2d) else []


def _linear(weight: np.ndarray, bias: Tensor | None = None) -> nn.Linear:
    new = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None)
    return _filled(new, weight, bias)


def _pointwise(weight: np.ndarray, bias: Tensor | None = None) -> nn.Conv2d:
    """A 1x1 convolution by a matrix (out, in)."""
    new = nn.Conv2d(weight.shape[1], weight.shape[0], 1, bias=bias is not None)
    return _filled(new, weight[:, :, None, None], bias)


def _conv(kernel: np.ndarray, like: nn.Conv2d, **geometry: Any) -> nn.Conv2d:
    """A convolution without bias by a kernel (out, in, k, k); in the place of a projection, a projection."""
    outputs, inputs = kernel.shape[:2]
    if isinstance(like, Projection):
        return _filled(Projection(inputs, outputs, like.every), kernel)
    return _filled(nn.Conv2d(inputs, outputs, kernel.shape[2:], dilation=like.dilation, bias=False, **geometry), kernel)


def _cp_chain(layer: nn.Conv2d, factors: list[np.ndarray]) -> nn.Sequential:
    up, down, vertical, horizontal = factors  # (out, R), (in, R), (k, R), (k, R)
    (above, aside), (step_down, step_aside), rank = layer.padding, layer.stride, up.shape[1]
    tall = nn.Conv2d(rank, rank, (len(vertical), 1), (step_down, 1), (above, 0), groups=rank, bias=False)
    wide = nn.Conv2d(rank, rank, (1, len(horizontal)), (1, step_aside), (0, aside), groups=rank, bias=False)
    return _chain(
        layer,
        *_before(layer),
        _pointwise(down.T),
        _filled(tall, vertical.T[:, None, :, None]),
        _filled(wide, horizontal.T[:, None, None, :]),
        _pointwise(up, layer.bias),
    )


@torch.no_grad()
def _filled(layer: Any, weight: np.ndarray, bias: Tensor | None = None) -> Any:
    layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
    if bias is not None:
        layer.bias.copy_(bias)
    return layer


def _halves(matrix: np.ndarray, rank: int) -> tuple[np.ndarray, np.ndarray]:
    """matrix = up @ down at best, (out, rank) and (rank, in); the singular values are shared evenly between them."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    root = np.sqrt(values[:rank])
    return left[:, :rank] * root, root[:, None] * right[:rank]


def _cp_factors(weight: np.ndarray, rank: int, seed: int) -> list[np.ndarray]:
    """Factors (size of the mode, rank) of the four modes; each component's length is shared evenly between them."""
    size = np.linalg.norm(weight)
    if not size:
        return [np.zeros((length, rank)) for length in weight.shape]
    weights, factors = _tensorly().decomposition.parafac(
        weight / size,
        rank,
        init="random",
        random_state=seed,
        n_iter_max=CP_SWEEPS,
        tol=CP_TOLERANCE,
        l2_reg=CP_RIDGE,
    )
    weights = weights * size
    lengths = [np.linalg.norm(factor, axis=0) for factor in factors]
    even = (np.abs(weights) * np.prod(lengths, axis=0)) ** (1 / len(factors))
    balanced = [factor * (even / np.maximum(length, 1e-300)) for factor, length in zip(factors, lengths, strict=True)]
    return [balanced[0] * np.sign(weights), *balanced[1:]]


def _array(weight: Tensor) -> np.ndarray:
    return weight.detach().double().cpu().numpy()


def _plain(layer: nn.Conv2d, instead: str = "") -> nn.Conv2d:
    if layer.groups != 1:
        raise ParameterError(
            f"a convolution of {layer.groups} groups cannot be factorised here: its filters are thin already"
        )
    if instead and isinstance(layer, Projection):
        raise ParameterError(f"a projection is a matrix at each pixel: factorise it by {instead}()")
    return layer


def _check_rank(rank: int, full: int) -> None:
    if not 1 <= rank <= full:
        raise ParameterError(f"rank {rank} is out of range: give 1 to {full}, the full rank of this layer")


def _tensorly() -> ModuleType:
    try:
        import tensorly
        import tensorly.decomposition
    except ImportError as error:
        raise DataError(
            "tensorly is not installed, which factorises kernels: run  pip install 'scaletut[compress]'"
        ) from error
    return tensorly

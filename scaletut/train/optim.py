"""Optimisers by parameter kind, rate schedules, averaged weights."""

from __future__ import annotations

import math
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn

from scaletut.errors import ParameterError
from scaletut.train.device import fast_bf16
from scaletut.train.recipe import Recipe


def parameter_kinds(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Trainable parameters by kind: `filter` (convolutions), `head` (other matrices), `vector` (biases, norms).

    Raises:
        ParameterError: there are none.
    """
    kinds: dict[str, list[nn.Parameter]] = {"filter": [], "head": [], "vector": []}
    for parameter in model.parameters():
        if parameter.requires_grad:
            kind = "filter" if parameter.ndim == 4 else "head" if parameter.ndim >= 2 else "vector"
            kinds[kind].append(parameter)
    if not any(kinds.values()):
        raise ParameterError("the network has no trainable parameter: unfreeze some before training")
    return kinds


def _as_matrix(tensor: Tensor) -> Tensor:
    """(out, in, h, w) as (out, in*h*w), sharing memory in either layout; the column order does not matter to Muon."""
    if tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1).flatten(1)
    return tensor.flatten(1)


NEWTON_SCHULZ = (3.4445, -4.775, 2.0315)  # coefficients and number of steps as torch.optim.Muon has them
NEWTON_SCHULZ_STEPS, TINY = 5, 1e-7


def orthogonalised(matrix: Tensor) -> Tensor:
    """U Vᵀ of `matrix` = U S Vᵀ, roughly, by Newton and Schulz's iteration in the matrix's own type.

    torch's Muon does the same in bfloat16, which a processor without such instructions only emulates.
    Source: Jordan et al. 2024, as for `FilterMuon`.
    """
    a, b, c = NEWTON_SCHULZ
    tall = matrix.size(0) > matrix.size(1)
    x = matrix.T if tall else matrix
    x = x / x.norm().clamp(min=TINY)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class FilterMuon:
    """torch's Muon, which takes matrices only, on the filters of convolutions.

    `full`: the products in the filters' own type (`orthogonalised`), not in bfloat16.
    Source: K. Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
    """

    def __init__(self, filters: Iterable[nn.Parameter], recipe: Recipe, *, full: bool = False) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise ParameterError(
                f"optimizer='muon' needs torch 2.9 or newer and this is {torch.__version__}; "
                "upgrade torch or use optimizer='sgd'"
            )
        self.filters, self.full = list(filters), full
        self.matrices = [nn.Parameter(_as_matrix(f.data)) for f in self.filters]
        self.normalise = recipe.normalise_filters
        self.inner = torch.optim.Muon(
            self.matrices,
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=True,
            weight_decay=0.0 if recipe.normalise_filters else recipe.weight_decay,
        )

    @property
    def param_groups(self) -> list[dict]:
        return self.inner.param_groups

    @torch.no_grad()
    def step(self) -> None:
        for bank, matrix in zip(self.filters, self.matrices, strict=True):
            if self.normalise:
                matrix.mul_(math.sqrt(len(matrix)) / matrix.norm())
            layout = torch.channels_last if bank.is_contiguous(memory_format=torch.channels_last) else None
            gradient = bank.grad.contiguous(memory_format=layout) if layout else bank.grad.contiguous()
            matrix.grad = _as_matrix(gradient)
        if self.full:
            self.step_in_full()
        else:
            self.inner.step()
        self.inner.zero_grad()  # these gradients would live on through the next step otherwise

    def step_in_full(self) -> None:
        """torch's rule, its state and its rates; only the orthogonalisation is done in full precision."""
        for group in self.inner.param_groups:
            for matrix in group["params"]:
                state, gradient, momentum = self.inner.state[matrix], matrix.grad, group["momentum"]
                moving = state.setdefault("momentum_buffer", torch.zeros_like(gradient))
                moving.lerp_(gradient, 1 - momentum)
                update = orthogonalised(gradient.lerp(moving, momentum))
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.sub_(update, alpha=group["lr"] * math.sqrt(max(1, matrix.size(0) / matrix.size(1))))

    def state_dict(self) -> dict:
        return self.inner.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.inner.load_state_dict(state)


def _muon(filters: list[nn.Parameter], recipe: Recipe, fast: bool) -> FilterMuon:
    return FilterMuon(filters, recipe, full=fast and not fast_bf16(filters[0].device))


def make_optimizers(model: nn.Module, recipe: Recipe, *, fused: bool = False) -> list:
    """One optimiser a family of rules; each parameter group keeps its peak rate under `peak`.

    `fused`: SGD and Adam in one kernel; Muon has none, and does its products in float32 where bf16 is emulated.
    """
    kinds = parameter_kinds(model)
    rates = {"filter": recipe.lr, "head": recipe.head_lr or recipe.lr, "vector": recipe.vector_lr or recipe.lr}
    use_muon = recipe.optimizer == "muon" and bool(kinds["filter"])
    groups = [
        {"params": members, "lr": rates[kind], "weight_decay": 0.0 if kind == "vector" else recipe.weight_decay}
        for kind, members in kinds.items()
        if members and not (use_muon and kind == "filter")
    ]
    optimizers: list = [_muon(kinds["filter"], recipe, fused)] if use_muon else []
    if groups:
        if recipe.optimizer in ("sgd", "muon"):
            nesterov = recipe.momentum > 0
            rule = partial(torch.optim.SGD, momentum=recipe.momentum, nesterov=nesterov)
        else:
            rule = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[recipe.optimizer]
        optimizers.append(rule(groups, lr=recipe.lr, fused=fused or None))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def rate_share(step: int, total: int, recipe: Recipe) -> float:
    """The rate of step `step` (from 0) of `total`, as a share of the peak."""
    done = (step + 1) / total
    if recipe.schedule == "constant":
        return 1.0
    if recipe.warmup and done <= recipe.warmup:
        return done / recipe.warmup
    left = (total - step) / (total * (1 - recipe.warmup) + 1)  # ends one step above zero: no step is wasted
    left = min(1.0, left)
    return left if recipe.schedule == "one_cycle" else 0.5 * (1 - math.cos(math.pi * left))


class WeightAverage:
    """Exponential moving average of all floating point state, with a window of `horizon` steps (Polyak averaging)."""

    def __init__(self, model: nn.Module, horizon: float) -> None:
        self.decay = 1 - 1 / max(1.0, horizon)
        self.state = {name: value.detach().clone() for name, value in _float_state(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        for name, value in _float_state(model).items():
            self.state[name].lerp_(value, 1 - self.decay)


def _float_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in model.state_dict().items() if value.is_floating_point()}

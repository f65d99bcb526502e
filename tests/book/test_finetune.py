"""The chapter on fine-tuning, proven from outside: what its cells define is held against independent references."""

from __future__ import annotations

import ast
import re
import sys
import types
from dataclasses import replace
from pathlib import Path

import chapter_cells
import numpy as np
import pytest
import torch
from chapter_cells import cell_with, code_of, prose_of
from torch import nn
from torch.nn import functional as F

from scaletut.chapters import schemas
from scaletut.models import CifarResNet, LoRA, count_parameters

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "finetune.ipynb"


COMMON = {"nn": nn, "F": F, "np": np, "torch": torch, "replace": replace}  # what earlier cells have defined


@pytest.fixture(scope="module")
def cells() -> list[str]:
    return code_of("finetune")


@pytest.fixture(scope="module")
def prose() -> str:
    return prose_of("finetune")


def definitions(source: str, **names: object) -> types.SimpleNamespace:
    return chapter_cells.definitions(source, **{**COMMON, **names})


def results(source: str, **names: object) -> dict[str, object]:
    return chapter_cells.results(source, **{**COMMON, **names})


# --- the residual net --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [8, 20, 32])
def test_the_residual_net_is_the_librarys_also_when_trained(cells: list[str], depth: int) -> None:
    block = definitions(cell_with(cells, "class Block"))
    ours = definitions(cell_with(cells, "def residual_net"), Block=block.Block).residual_net(depth, 7)
    theirs = CifarResNet(depth, 7)
    assert count_parameters(ours) == count_parameters(theirs)
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 3, 6, 1])
    for net in (ours.train(), theirs.train()):  # batch statistics move, gradients flow through every layer
        F.cross_entropy(net(images), labels).backward()
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    for one, other in zip(ours.buffers(), theirs.buffers(), strict=True):
        torch.testing.assert_close(one, other)


def test_copied_in_another_order_the_nets_differ(cells: list[str]) -> None:
    """The chapter's proof by copied weights would notice a wrong assignment of tensors."""
    block = definitions(cell_with(cells, "class Block"))
    ours = definitions(cell_with(cells, "def residual_net"), Block=block.Block).residual_net(8, 10).eval()
    theirs = CifarResNet(8, 10).eval()
    ours.load_state_dict(dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True)))
    first = ours[3]
    first.conv1.weight.data, first.conv2.weight.data = first.conv2.weight.data, first.conv1.weight.data
    images = torch.randn(2, 3, 32, 32)
    assert (ours(images) - theirs(images)).abs().max() > 1e-3


# --- metrics -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def by_hand(cells: list[str]) -> dict[str, object]:
    """What the chapter's own lines make of random logits; class 4 is never predicted."""
    rng = np.random.default_rng(5)
    logits = rng.normal(size=(400, 5)) * 2
    logits[:, 4] = -12
    labels = rng.integers(0, 5, 400)
    logits[np.arange(400), labels] += 1.5 * (labels < 4)
    run = types.SimpleNamespace(predict=lambda data: logits)
    space: dict[str, object] = {
        "runs": {"speed net": [run]},
        "test": types.SimpleNamespace(labels=labels),
        "K": 5,
        "print": lambda *words: None,
    }
    for text in ("powers = ", "by_hand = {", "np.add.at(confusion", "gaps = "):
        space = results(cell_with(cells, text), **space)
    return space


def test_metrics_by_hand_are_scikit_learns(by_hand: dict[str, object]) -> None:
    from sklearn import metrics

    labels, guess, q = by_hand["labels"], by_hand["guess"], by_hand["q"]
    found = by_hand["by_hand"]
    assert found["accuracy"] == pytest.approx(metrics.accuracy_score(labels, guess))
    assert found["cross_entropy"] == pytest.approx(metrics.log_loss(labels, q))
    assert (by_hand["confusion"] == metrics.confusion_matrix(labels, guess)).all()
    expected = metrics.precision_recall_fscore_support(labels, guess, zero_division=0)
    for name, values in zip(("precision", "recall", "f1"), expected, strict=False):
        np.testing.assert_allclose(found[name], values, err_msg=name)


def test_calibration_error_by_hand_is_the_definition(by_hand: dict[str, object]) -> None:
    """Guo et al. 2017, equation 3, written as a loop over half-open bins."""
    confidence, right = by_hand["confidence"], by_hand["guess"] == by_hand["labels"]
    error = 0.0
    for bin_number in range(15):
        inside = (confidence > bin_number / 15) & (confidence <= (bin_number + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    assert by_hand["by_hand"]["calibration_error"] == pytest.approx(error)


def test_the_floor_of_a_smoothed_loss_is_reached_by_the_target_alone(cells: list[str]) -> None:
    recipe = types.SimpleNamespace(label_smoothing=0.2)
    fast, train = types.SimpleNamespace(recipe=recipe), types.SimpleNamespace(num_classes=10)
    found = results(cell_with(cells, "floor = "), FAST=fast, train=train, print=lambda *words: None)
    logits = torch.tensor(np.log(found["target"]))[None]

    def loss(z: torch.Tensor) -> float:
        return F.cross_entropy(z, torch.tensor([0]), label_smoothing=0.2).item()

    assert loss(logits) == pytest.approx(found["floor"])
    rng = torch.Generator().manual_seed(0)
    assert all(loss(logits + 0.1 * torch.randn(1, 10, generator=rng)) > found["floor"] for _ in range(100))


def test_wilsons_interval_is_scipys(cells: list[str]) -> None:
    from scipy.stats import binomtest

    from scaletut.records import Value

    wilson = definitions(cell_with(cells, "def wilson"), Value=Value).wilson
    for right, n in ((0, 20), (7, 20), (730, 1000), (20, 20)):
        expected = binomtest(right, n).proportion_ci(method="wilson")
        value = wilson(100 * right / n, n)
        assert (value.low, value.high) == pytest.approx((100 * expected.low, 100 * expected.high), abs=0.01)


# --- transfer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        ([60, 70, 80], [50, 60, 70], float("nan")),  # never
        ([50, 60, 70], [60, 60, 60], 10),  # from the first count on, or before
        ([60, 60, 60], [50, 70, 80], 10 * 10**0.5),  # half way on the logarithmic axis
        ([60, 60, 60], [60, 70, 80], 10),  # level at the first count, ahead right after it
        ([60, 60, 60], [50, 57.5, 62.5], 100 * 10**0.5),
    ],
)
def test_crossings_are_where_the_lines_cross(
    cells: list[str], first: list[float], second: list[float], expected: float
) -> None:
    crossing = definitions(cell_with(cells, "def crossing")).crossing
    assert crossing([10, 100, 1000], first, second) == pytest.approx(expected, nan_ok=True)


def test_lora_by_hand_trains_to_the_librarys_gradients(cells: list[str]) -> None:
    """Outputs could agree by luck of a value; gradients of A and B agree only if the formula does."""
    A = torch.randn(4, 32, 3, 3, requires_grad=True)
    B = torch.randn(64, 4, 1, 1, requires_grad=True)
    conv, x = nn.Conv2d(32, 64, 3, padding=1), torch.randn(2, 32, 8, 8)
    line = next(line for line in cell_with(cells, "adapted = conv").splitlines() if line.startswith("adapted = "))
    results(line, conv=conv, x=x, A=A, B=B)["adapted"].square().sum().backward()
    layer = LoRA(conv, rank=4)
    layer.down.weight.data, layer.up.weight.data = A.data.clone(), B.data.clone()
    layer(x).square().sum().backward()
    torch.testing.assert_close(layer.down.weight.grad, A.grad, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(layer.up.weight.grad, B.grad, rtol=1e-3, atol=1e-2)


# --- equal time --------------------------------------------------------------------------------------------------


def test_a_recipe_gets_the_epochs_that_fit_into_the_time(cells: list[str]) -> None:
    from scaletut.train.presets import PRESETS

    rates = iter([10.0, 2000.0])  # the first trial is slow, since everything is set up in it: the second counts
    trials = []

    def run_preset(preset: object, train: object, seed: int) -> object:
        trials.append(preset)
        return types.SimpleNamespace(images_per_second=next(rates))

    p = types.SimpleNamespace(epochs=4, seed=0)
    names = {"run_preset": run_preset, "p": p, "train": range(5000)}
    fitted = definitions(cell_with(cells, "def length"), **names).length(PRESETS["tutorial"], 30)
    assert fitted.recipe.epochs == pytest.approx(2000 * 30 / 5000)
    assert [trial.recipe.epochs for trial in trials] == [0.4, 0.4]
    assert replace(fitted.recipe, epochs=1) == replace(PRESETS["tutorial"].recipe, epochs=1)  # nothing else moved


# --- set-up ------------------------------------------------------------------------------------------------------


class Shell:
    """Stands for IPython: notes what %pip is asked to do, with {names} filled in as IPython does."""

    def __init__(self, space: dict[str, object]) -> None:
        self.space, self.calls = space, []

    def run_line_magic(self, magic: str, line: str, *_: object, **__: object) -> None:
        self.calls.append((magic, line.format(**self.space)))


def run_setup(cells: list[str], monkeypatch: pytest.MonkeyPatch, *, colab: bool, absent: tuple[str, ...] = ()) -> list:
    """Run the set-up cell as IPython would; returns the magics that it called."""
    import importlib.util

    from IPython.core.inputtransformer2 import TransformerManager

    present = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else present(name))
    if colab:
        monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    else:
        monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    space: dict[str, object] = {}
    shell = Shell(space)
    space["get_ipython"] = lambda: shell
    exec(compile(TransformerManager().transform_cell(cells[0]), "<set-up>", "exec"), space)
    return shell.calls


def test_setup_does_nothing_where_all_is_installed(cells: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_setup(cells, monkeypatch, colab=False) == []


def test_setup_installs_one_quoted_requirement_in_colab(cells: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SCALETUT_WHEEL", raising=False)
    ((magic, line),) = run_setup(cells, monkeypatch, colab=True)
    assert magic == "pip"
    requirement = re.fullmatch(r'install --quiet "(.*)"', line).group(1)
    assert requirement == "scaletut[transfer] @ git+https://github.com/scale-measured/scale-measured"


def test_setup_takes_a_wheel_of_the_checkout_if_told(
    cells: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheel = tmp_path / "a folder" / "scaletut-1-py3-none-any.whl"
    monkeypatch.setenv("SCALETUT_WHEEL", str(wheel))
    ((_, line),) = run_setup(cells, monkeypatch, colab=True)
    assert line == f'install --quiet "scaletut[transfer] @ {wheel.as_uri()}"'


def test_what_colab_installs_cannot_move_torch() -> None:
    """No requirement of the core or of the extra `transfer` names torch or a package built for one torch."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["transfer"]]
    assert wanted
    assert not [one for one in wanted if re.match(r"torch|torchvision|triton|scaletut", one)]


def test_setup_stops_with_an_instruction(cells: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    absent = ("efficientnet_lite_pytorch", "sklearn")
    with pytest.raises(ModuleNotFoundError, match=r"sklearn, efficientnet_lite_pytorch; run  pip install '.*\['?train"):
        run_setup(cells, monkeypatch, colab=False, absent=absent)


# --- parameters, numbers, claims ---------------------------------------------------------------------------------


def test_the_parameters_cell_is_the_models_own(cells: list[str]) -> None:
    assert schemas.parameters_cell(schemas.Finetune) in cells


def kept_names(cells: list[str]) -> list[str]:
    """Patterns of the names under which the chapter notes numbers."""
    calls = [node for source in cells if "%pip" not in source for node in ast.walk(ast.parse(source))]
    names = [call.args[0] for call in calls if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "keep"]
    patterns = []
    for name in names:
        parts = name.values if isinstance(name, ast.JoinedStr) else [name]
        patterns.append("".join(re.escape(part.value) if isinstance(part, ast.Constant) else r"\w+" for part in parts))
    return patterns + re.findall(r'^numbers\["(\w+)"\]', "\n".join(cells), re.MULTILINE)


def test_every_number_that_the_text_links_to_is_measured_by_the_chapter(cells: list[str], prose: str) -> None:
    """Found before a recording of many minutes, not after it."""
    linked = set(re.findall(r"\]\(#finetune\.(\w+)\)", prose))
    names = [*kept_names(cells), "run_minutes", "run_peak_memory"]
    assert len(linked) >= 10
    assert not [name for name in sorted(linked) if not any(re.fullmatch(pattern, name) for pattern in names)]


def test_takeaways_end_with_evidence(prose: str) -> None:
    takeaways = re.findall(r"^> \*\*Takeaway\.\*\*\n((?:> .*\n?)+)", prose, re.MULTILINE)
    assert len(takeaways) >= 6
    bare = [text for text in takeaways if "](#finetune." not in text and "same function" not in text]
    assert not bare


def test_claims_are_many_and_none_is_made_twice(cells: list[str]) -> None:
    calls = [node for source in cells if "%pip" not in source for node in ast.walk(ast.parse(source))]
    checks = [c for c in calls if isinstance(c, ast.Call) and ast.unparse(c.func) == "claims.check"]
    texts = [ast.literal_eval(check.args[0]) for check in checks]
    assert 7 <= len(texts) == len(set(texts)) <= 12
    assert all(text.endswith(".") and len(text.split()) > 8 for text in texts)
    constant = [ast.unparse(check.args[1]) for check in checks if isinstance(check.args[1], ast.Constant)]
    assert not constant  # a claim that is True by decree

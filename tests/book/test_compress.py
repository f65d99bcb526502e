"""The chapter *Making it small*: its links, its claims, and what its cells compute by hand."""

from __future__ import annotations

import copy
import json
import re
import textwrap
from typing import Any

import numpy as np
import pytest
import torch
from chapter_cells import ROOT, cell_with, code_of, definitions, prose_of, results
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from scaletut import compress
from scaletut.chapters import schemas
from scaletut.errors import RecordError, ScaletutError
from scaletut.models import build
from scaletut.records import Value


def recorded(name: str = "compress.json") -> dict[str, Any]:
    return json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def cells() -> list[str]:
    return code_of("compress")


def test_links_lead_to_numbers_that_the_chapter_keeps() -> None:
    linked = set(re.findall(r"\]\(#compress\.(\w+)\)", prose_of("compress")))
    assert len(linked) >= 25
    assert linked <= {*recorded()["values"], "run_minutes", "run_peak_memory"}


def test_code_and_claims_fit_the_page(cells: list[str]) -> None:
    settings = cell_with(cells, 'network = ""')  # written by `scaletut params`
    others = [source for source in cells if source != settings]
    assert not [line for source in others for line in source.splitlines() if len(line) > 75]
    assert max(map(len, recorded()["claims"])) <= 70


def test_the_same_claims_hold_at_both_profiles() -> None:
    claims = recorded()["claims"]
    assert len(claims) >= 10
    assert claims == recorded("quick/compress.json")["claims"]
    assert all(claims.values())


def test_what_trains_was_recorded_over_seeds_with_an_interval() -> None:
    values = recorded()["values"]
    compared = (
        "prune_left", "rounds_gain", "pruned_over_thin", "int8_cost", "aware_gain", "tucker_left", "teacher_gain",
        "teacher_paid",
    )  # fmt: skip
    for name in compared:
        one = values[name]
        assert one["n"] >= 3, name
        assert one["low"] <= one["value"] <= one["high"], name


def test_the_receipt_does_not_judge_what_follows_from_times() -> None:
    ratios = [name for name in recorded()["values"] if name.startswith("faster_")]
    assert len(ratios) >= 6
    assert schemas.Compress.of_machine == ("faster_",)


def test_zeros_by_hand_are_the_librarys(cells: list[str]) -> None:
    by_hand = definitions(cell_with(cells, "def smallest_to_zero("), copy=copy, nn=nn).smallest_to_zero
    net = build("tutorial", seed=0)
    library = compress.prune_weights(net, 0.6, scope="layer")
    for (name, mine), its in zip(by_hand(net, 0.6).named_parameters(), library.parameters(), strict=True):
        assert torch.equal(mine, its), name


def test_the_narrow_chain_is_the_wide_one_with_channels_held_at_zero(cells: list[str]) -> None:
    torch.manual_seed(3)
    space: dict[str, Any] = {"torch": torch, "nn": nn, "copy": copy, "some": torch.randn(4, 3, 9, 9), "print": print}
    for text in ("stay = first.weight", "thin = nn.Sequential(", "for name, entry in bn.state_dict()", "masked = "):
        space = results(cell_with(cells, text), **space)
    assert space["thin"][0].out_channels == 4
    spoiled = copy.deepcopy(space["masked"])
    spoiled[3].weight.data[:, space["stay"][0]] = 0
    assert not torch.allclose(space["thin"](space["some"]), spoiled(space["some"]), atol=1e-4)


def test_the_norm_goes_into_the_convolution(cells: list[str]) -> None:
    space: dict[str, Any] = {"torch": torch, "nn": nn, "copy": copy, "p": schemas.Compress()}
    space = results(cell_with(cells, "_ = norm(conv("), **space)
    space = results(cell_with(cells, "one_layer = copy.deepcopy(conv)"), **space)
    some = torch.randn(2, 3, 9, 9)
    assert torch.allclose(space["one_layer"](some), space["norm"](space["conv"](some)), atol=1e-5)


def test_a_grid_a_channel_keeps_to_half_its_step(cells: list[str]) -> None:
    rounded = definitions(cell_with(cells, "def rounded("), np=np).rounded
    w = np.random.default_rng(0).normal(size=(6, 5, 3, 3)) * np.geomspace(0.01, 1, 6)[:, None, None, None]
    steps = np.abs(w).max(axis=(1, 2, 3), keepdims=True) / 127
    assert (np.abs(rounded(w, (1, 2, 3)) - w) <= steps / 2 + 1e-12).all()
    assert np.square(rounded(w, (1, 2, 3)) - w).mean() < np.square(rounded(w, (0, 1, 2, 3)) - w).mean()


def test_the_rounding_passes_gradients(cells: list[str]) -> None:
    fake = definitions(cell_with(cells, "def fake("), torch=torch).fake
    leaf = torch.tensor([0.24, -0.9], requires_grad=True)
    fake(leaf, 0.1).square().sum().backward()
    assert torch.allclose(leaf.grad, 2 * torch.tensor([0.2, -0.9]), atol=1e-6)


def test_the_teachers_loss_by_hand_is_the_librarys(cells: list[str]) -> None:
    taught = definitions(cell_with(cells, "def taught("), F=F).taught
    teacher, labels = build("tutorial", seed=1).eval(), torch.arange(4) % 10
    images, student = torch.randn(4, 3, 32, 32), torch.randn(4, 10)
    for temperature, share in ((4.0, 0.9), (1.0, 0.3)):
        goal = compress.Distillation(teacher, temperature=temperature, weight=share)
        with torch.no_grad():
            mine = taught(student, teacher(images), labels, temperature, share)
        assert torch.isclose(mine, goal(images, student, labels))


def test_below_the_rank_on_paper_a_chain_is_cheaper_and_at_it_not(cells: list[str]) -> None:
    most_rank = definitions(cell_with(cells, "def most_rank("), np=np).most_rank
    layer = nn.Conv2d(24, 40, 3, padding=1)

    def cost(chain: nn.Module) -> int:
        return sum(part.weight.numel() for part in chain if isinstance(part, nn.Conv2d))

    limits = most_rank(24, 40, 3)
    svd, cp = int(limits["matrix"]), int(limits["CP"])
    dense = layer.weight.numel()
    assert cost(compress.svd_conv(layer, svd)) <= dense < cost(compress.svd_conv(layer, svd + 1))
    assert cost(compress.cp(layer, cp)) <= dense < cost(compress.cp(layer, cp + 1))


@pytest.mark.parametrize(
    ("gain", "word"),
    [
        (Value(1, "points", 0.5, 1.5, 3), "better"),
        (Value(-1, "points", -1.5, -0.5, 3), "worse"),
        (Value(1, "points", -0.5, 2.5, 3), "no difference that these seeds show"),
        (Value(1, "points"), "no difference that these seeds show"),
    ],
)
def test_a_verdict_needs_an_interval_off_zero(cells: list[str], gain: Value, word: str) -> None:
    assert definitions(cell_with(cells, "def verdict(")).verdict(gain) == word


def test_printed_differences_are_held_against_their_rows(cells: list[str]) -> None:
    import pandas as pd

    table = results(cell_with(cells, "printed = pd.DataFrame(["), pd=pd)["printed"]
    wrong = table[(table.difference - table.printed).abs() > 0.005]
    assert list(wrong.index) == ["HRank", "DepGraph"]  # as methods' own rows give them
    assert np.ptp(table["own base"]) == pytest.approx(1.13)


def test_the_section_at_full_scale_says_when_records_cannot_be_read(
    cells: list[str], capsys: pytest.CaptureFixture
) -> None:
    from types import SimpleNamespace

    def broken(*_: Any, **__: Any) -> list:
        raise RecordError("a record was altered; restore it")

    names = {
        "compress": compress, "find_records": broken, "ScaletutError": ScaletutError, "textwrap": textwrap,
        "chapters": SimpleNamespace(book_root=lambda: ROOT), "print": print,
    }  # fmt: skip
    found = results(cell_with(cells, "recorded = compress.points("), **names)
    assert len(found["recorded"]) == 0
    assert "a record was altered" in capsys.readouterr().out


@pytest.mark.parametrize("options", [{"seeds": 21}, {"epochs": -1.0}, {"trials": -1}, {"data": "nowhere"}])
def test_parameters_out_of_range_are_refused(options: dict) -> None:
    with pytest.raises(ValidationError):
        schemas.Compress(**options)

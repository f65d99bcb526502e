"""Recipes: what is read is what is written, and what cannot be carried out is refused before anything runs."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scaletut.compress.recipe import KINDS, Step, check_order, complete, parse, slug, untrained
from scaletut.errors import ParameterError


def text(steps) -> str:
    return ",".join(map(str, steps))


@given(st.lists(st.tuples(st.sampled_from(["prune", "tucker", "svd", "weights", "distil"]), st.integers(1, 99))))
def test_what_is_written_is_read_again(parts) -> None:
    steps = tuple(Step(name, number / 100) for name, number in parts)
    if steps:
        assert parse(text(steps)) == steps


def test_spaces_do_not_count_and_steps_may_have_no_number() -> None:
    assert parse(" prune = 0.5 ,finetune, int8 ") == (Step("prune", 0.5), Step("finetune"), Step("int8"))


@pytest.mark.parametrize(
    ("recipe", "why"),
    [
        ("", "empty"),
        ("prune=0.5,,int8", "empty step"),
        ("prnue=0.5", "did you mean 'prune'"),
        ("prnue=x", "did you mean 'prune'"),
        ("INT8", "did you mean 'int8'"),
        ("prune", "needs its share: write prune=0.5"),
        ("tucker", "needs its energy: write tucker=0.9"),
        ("prune=0", "out of range"),
        ("prune=1", "out of range"),
        ("prune=-0.5", "out of range"),
        ("svd=1e400", "out of range"),
        ("prune=nan", "number"),
        ("prune=half", "number"),
        ("prune=0.5=3", "number"),
        ("int8=3", "takes no number"),
        ("finetune=0", "out of range"),
        ("int8,prune=0.5", "cannot follow int8"),
        ("w4,int8", "cannot follow w4"),
        ("dynamic,int8", "cannot follow dynamic"),
        ("qat=1", "add ,int8"),
        ("qat=1,dynamic", "put int8 right behind"),
        ("qat=1,fold,int8", "put int8 right behind"),
        ("fold,prune=0.5", "put fold behind"),
        ("weights=0.5,finetune=1,qat=1,int8", "does not keep the zeros"),
        ("fold,finetune=1", "put fold behind"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_in_one_line(recipe: str, why: str) -> None:
    with pytest.raises(ParameterError, match=why) as refused:
        parse(recipe)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("recipe", "epochs", "whole"),
    [
        ("prune=0.5,int8", 2, "prune=0.5,finetune=2,int8"),
        ("prune=0.5,tucker=0.9,fold,int8", 1, "prune=0.5,tucker=0.9,finetune=1,fold,int8"),
        ("prune=0.5", 1, "prune=0.5,finetune=1"),
        ("prune=0.5,int8", 0, "prune=0.5,int8"),
        ("prune=0.5,distil,int8", 3, "prune=0.5,distil=3,int8"),
        ("prune=0.5,qat=2,int8", 1, "prune=0.5,finetune=1,qat=2,int8"),
        ("qat,int8", 2, "qat=2,int8"),
        ("distil=0.5,prune=0.2,finetune=2", 1, "distil=0.5,prune=0.2,finetune=2"),
        ("int8", 1, "int8"),
    ],
)
def test_cuts_are_trained_after_unless_told_otherwise(recipe: str, epochs: float, whole: str) -> None:
    assert text(complete(parse(recipe), epochs)) == whole


def test_training_without_a_number_needs_epochs() -> None:
    with pytest.raises(ParameterError, match="out of range"):
        complete(parse("finetune"), 0)
    with pytest.raises(ParameterError, match="epochs"):
        complete(parse("int8"), -1)


def test_what_training_leaves_out_and_what_it_is_called() -> None:
    steps = parse("prune=0.5,distil=2,fold,int8")
    assert text(untrained(steps)) == "prune=0.5,fold,int8"
    assert slug(steps) == "prune0p5_distil2_fold_int8"
    assert slug(["eager"]) == "eager"


def test_every_kind_can_stand_in_a_recipe() -> None:
    for name, kind in KINDS.items():
        step = Step(name, 0.5 if kind.value else None)
        steps = [step, Step("int8")] if name == "qat" else [step]
        assert check_order(steps) == tuple(steps)


def test_reading_a_recipe_needs_no_torch() -> None:
    code = "import sys; from scaletut.compress.recipe import parse; parse('int8'); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

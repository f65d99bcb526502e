"""The chapter on labels, augmentation and choice of data, proven from outside against independent references."""

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
from chapter_cells import cell_with, code_of, prose_of
from pydantic import ValidationError
from scipy.special import softmax

from scaletut.chapters import schemas
from scaletut.data import ImageSet

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "notebooks" / "labels.ipynb"


COMMON = {"np": np, "replace": replace}  # what earlier cells have defined


@pytest.fixture(scope="module")
def cells() -> list[str]:
    return code_of("labels")


@pytest.fixture(scope="module")
def prose() -> str:
    return prose_of("labels")


def definitions(source: str, **names: object) -> types.SimpleNamespace:
    return chapter_cells.definitions(source, **{**COMMON, **names})


def results(source: str, **names: object) -> dict[str, object]:
    return chapter_cells.results(source, **{**COMMON, **names})


# --- what the cells define ---------------------------------------------------------------------------------------


def test_shrunk_pixels_are_means_of_squares(cells: list[str]) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), np.uint8)
    data = ImageSet(images, np.zeros(3, np.int64), ("a",), "noise")
    shrunk = definitions(cell_with(cells, "def shrunk"), p=types.SimpleNamespace(side=8)).shrunk(data)
    assert shrunk.images.shape == (3, 8, 8, 3)
    assert shrunk.images[1, 2, 5, 0] == round(float(images[1, 8:12, 20:24, 0].mean()))


def test_the_law_by_hand_finds_the_parameters_it_was_made_from(cells: list[str]) -> None:
    sizes, rng = [100, 400, 1600, 6400], np.random.default_rng(0)
    truth = 0.1 + 0.5 * (np.array(sizes) / 100) ** -0.6
    base = {n: list(100 * (1 - e * np.exp(rng.normal(0, 0.002, 3)))) for n, e in zip(sizes, truth, strict=True)}
    found = results(
        cell_with(cells, "by_hand = least_squares"), SIZES=sizes, base=base, p=types.SimpleNamespace(seeds=3)
    )
    np.testing.assert_allclose(np.exp(found["by_hand"][:2]), [0.1, 0.5], rtol=0.05)
    assert found["by_hand"][2] == pytest.approx(0.6, abs=0.03)


def people(cells: list[str], n: int, seed: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    labels = np.random.default_rng(seed).integers(0, 6, n)
    made = results(cell_with(cells, "PEOPLE = {"), K=6)["PEOPLE"]
    answers = definitions(cell_with(cells, "def answers"), PEOPLE=made).answers
    return labels, answers(labels, seed), made


def test_the_three_people_err_as_their_matrices_say(cells: list[str]) -> None:
    labels, votes, made = people(cells, 60_000, 1)
    for answer, matrix in zip(votes.T, made.values(), strict=True):
        counts = np.zeros((6, 6))
        np.add.at(counts, (labels, answer), 1)
        np.testing.assert_allclose(counts / counts.sum(1, keepdims=True), matrix, atol=0.025)
        np.testing.assert_allclose(matrix.sum(axis=1), 1)


def test_ten_lines_of_dawid_and_skene_are_the_librarys(cells: list[str]) -> None:
    from scaletut.audit.votes import dawid_skene

    labels, votes, _ = people(cells, 3000, 2)
    q = results(cell_with(cells, "for _ in range(60)"), K=6, votes=votes)["q"]
    ours = dawid_skene(votes, 6)
    np.testing.assert_allclose(q, ours.probabilities, atol=0.05)
    assert (q.argmax(1) == labels).mean() > 0.85


def test_margin_by_hand_is_the_gap_of_the_two_largest(cells: list[str]) -> None:
    logits = np.random.default_rng(3).normal(size=(50, 4)) * 2
    run = types.SimpleNamespace(predict=lambda data: logits)
    names = {"plain": {(5, 0): run}, "SIZES": [5], "p": types.SimpleNamespace(seed=0), "pool": None, "print": str}
    torn = results(cell_with(cells, "torn = 1"), doubt=lambda logits: 0, **names)["torn"]
    ranked = np.sort(softmax(logits, axis=1), axis=1)
    np.testing.assert_allclose(1 - torn, ranked[:, -1] - ranked[:, -2])


@pytest.mark.parametrize("rule", ["margin", "diversity"])
def test_a_campaign_never_asks_for_what_it_knows(cells: list[str], rule: str) -> None:
    from scaletut.audit.select import doubt, k_center

    space = np.random.default_rng(4).normal(size=(60, 3))

    class Pool:
        def __len__(self) -> int:
            return 60

        def take(self, rows: np.ndarray) -> np.ndarray:
            return np.asarray(rows)

    run = types.SimpleNamespace(predict=lambda rows: space[rows])
    names = {"pool": Pool(), "doubt": doubt, "k_center": k_center, "features": lambda run, images: space}
    known = np.arange(0, 60, 4)
    new = definitions(cell_with(cells, "def chosen"), **names).chosen(rule, run, known, 20)
    assert len(np.unique(new)) == 20
    assert not np.intersect1d(new, known).size
    if rule == "margin":  # each is in more doubt than all that stay
        stay = np.setdiff1d(np.arange(60), np.concatenate([new, known]))
        assert doubt(space)[new].min() >= doubt(space)[stay].max()


def test_difficulty_by_hand_is_the_length_of_the_error(cells: list[str]) -> None:
    rng = np.random.default_rng(5)
    logits, labels = rng.normal(size=(40, 3)), rng.integers(0, 3, 40)
    names = {"first": types.SimpleNamespace(predict=lambda pool: logits), "K": 3, "el2n": lambda *_: 0}
    pool = types.SimpleNamespace(labels=labels)
    found = results(cell_with(cells, "by_hand = np.linalg.norm"), pool=pool, **names)["by_hand"]
    expected = [np.linalg.norm(row - np.eye(3)[k]) for row, k in zip(softmax(logits, axis=1), labels, strict=True)]
    np.testing.assert_allclose(found, expected)


@pytest.mark.parametrize(
    ("leads", "expected"),
    [
        ([-4, -2, 2, 4], 0.5),  # half way between the second share and the third
        ([-1, 1, -1, 3], 0.65),  # for good, not for a while
        ([1, 2, 3, 4], 0.2),  # ahead from the first share on
        ([-4, -3, -2, -1], float("nan")),  # never
    ],
)
def test_turnover_is_where_the_lead_turns(cells: list[str], leads: list[float], expected: float) -> None:
    turnover = definitions(cell_with(cells, "def turnover")).turnover
    assert turnover((0.2, 0.4, 0.6, 0.8), np.array(leads, float)) == pytest.approx(expected, nan_ok=True)


def test_pruned_sets_take_the_steps_of_the_whole(cells: list[str]) -> None:
    seen = []
    pool = ImageSet(np.zeros((100, 4, 4, 3), np.uint8), np.arange(100) % 5, tuple("abcde"), "blank")

    def run_preset(preset: object, images: ImageSet, s: int) -> None:
        seen.append(len(images) * preset.recipe.epochs / preset.recipe.batch_size)

    from scaletut.audit.select import keep
    from scaletut.train.presets import PRESETS

    names = {"p": types.SimpleNamespace(epochs=6, width=8), "FAST": PRESETS["fast"], "run_preset": run_preset}
    sized = definitions(cell_with(cells, "def sized"), **names).sized
    names |= {"sized": sized, "PLAIN": PRESETS["fast"].recipe, "test": None}
    trained = definitions(cell_with(cells, "def trained"), **names).trained
    names |= {"trained": trained, "accuracy": lambda run: 0, "keep": keep}
    pruned = definitions(cell_with(cells, "def pruned"), **names).pruned
    for share in (0.2, 0.4, 0.6, 0.8):
        pruned(pool, np.arange(100.0), "easiest", share, 0)
    np.testing.assert_allclose(seen, 100 * 3 / 16)


# --- set-up ------------------------------------------------------------------------------------------------------


def run_setup(cells: list[str], monkeypatch: pytest.MonkeyPatch, *, colab: bool, absent: tuple[str, ...] = ()) -> list:
    """Run the set-up cell as IPython would; returns what %pip was asked to do."""
    import importlib.util

    from IPython.core.inputtransformer2 import TransformerManager

    present, calls = importlib.util.find_spec, []
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else present(name))
    monkeypatch.delenv("SCALETUT_WHEEL", raising=False)
    if colab:
        monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
    else:
        monkeypatch.delitem(sys.modules, "google.colab", raising=False)
    space: dict[str, object] = {}
    shell = types.SimpleNamespace(run_line_magic=lambda magic, line, *_, **__: calls.append(line.format(**space)))
    space["get_ipython"] = lambda: shell
    exec(compile(TransformerManager().transform_cell(cells[0]), "<set-up>", "exec"), space)
    return calls


def test_setup_installs_in_colab_alone_and_stops_with_an_instruction(
    cells: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_setup(cells, monkeypatch, colab=False) == []
    (line,) = run_setup(cells, monkeypatch, colab=True)
    assert line == 'install --quiet "scaletut @ git+https://github.com/scale-measured/scale-measured"'
    with pytest.raises(ModuleNotFoundError, match=r"missing: sklearn; run  pip install '.*\['?train"):
        run_setup(cells, monkeypatch, colab=False, absent=("sklearn",))


# --- parameters, numbers, claims ---------------------------------------------------------------------------------


def test_the_parameters_cell_is_the_models_own(cells: list[str]) -> None:
    assert schemas.parameters_cell(schemas.Labels) in cells


def test_sides_are_what_halving_gives() -> None:
    for side in (0, 8, 16, 32):
        assert schemas.Labels(side=side).side == side
    with pytest.raises(ValidationError, match="use 8, 16 or 32"):
        schemas.Labels(side=24)


def kept_names(cells: list[str]) -> list[str]:
    """Patterns of the names under which the chapter notes numbers."""
    calls = [node for source in cells if "%pip" not in source for node in ast.walk(ast.parse(source))]
    calls = [node for node in calls if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "keep_value"]
    patterns = [r"(crop|flip|rotation|scaling|cutout|mixup|all_six)_\d+"]  # the name of a gain is put together before
    for name in (call.args[0] for call in calls if not isinstance(call.args[0], ast.Name)):
        parts = name.values if isinstance(name, ast.JoinedStr) else [name]
        patterns.append("".join(re.escape(part.value) if isinstance(part, ast.Constant) else r"\w+" for part in parts))
    return patterns + re.findall(r'^numbers\["(\w+)"\]', "\n".join(cells), re.MULTILINE)


def test_every_number_that_the_text_links_to_is_measured_by_the_chapter(cells: list[str], prose: str) -> None:
    linked = set(re.findall(r"\]\(#labels\.(\w+)\)", prose))
    names = [*kept_names(cells), "run_minutes", "run_peak_memory"]
    assert len(linked) >= 15
    assert not [name for name in sorted(linked) if not any(re.fullmatch(pattern, name) for pattern in names)]


def test_takeaways_end_with_evidence(prose: str) -> None:
    takeaways = re.findall(r"^> \*\*Takeaway\.\*\*\n((?:> .*\n?)+)", prose, re.MULTILINE)
    assert len(takeaways) >= 6
    assert not [text for text in takeaways if "](#labels." not in text]


def test_claims_are_many_and_none_is_made_twice(cells: list[str]) -> None:
    calls = [node for source in cells if "%pip" not in source for node in ast.walk(ast.parse(source))]
    texts = [
        ast.literal_eval(call.args[0])
        for call in calls
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "claims.check"
    ]
    assert len(texts) >= 12
    assert len(texts) == len(set(texts))


def test_the_licence_of_the_human_labels_is_told_where_they_are_used(prose: str) -> None:
    assert "CC BY-NC" in prose

"""The chapter *More than one process*: its arithmetic on paper, its links, its claims."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from chapter_cells import ROOT, cell_with, code_of, definitions, prose_of, results

from scaletut.errors import ParameterError
from scaletut.resources import published_peak
from scaletut.resources.parallel import Cluster, Link, exchange_seconds


def recorded(name: str = "parallel.json") -> dict[str, Any]:
    return json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def cells() -> list[str]:
    return code_of("parallel")


@pytest.fixture(scope="module")
def clusters(cells: list[str]) -> dict[str, Cluster]:
    given = {"published_peak": published_peak, "Link": Link, "Cluster": Cluster}
    return results(cell_with(cells, "clusters = {"), **given)["clusters"]


def test_at_the_least_batch_a_gpu_keeps_ninety_percent(cells: list[str], clusters: dict[str, Cluster]) -> None:
    least = definitions(cell_with(cells, "def least("), clusters=clusters, replace=replace).least
    for name, cluster in clusters.items():
        for workers in (8, 1024):
            step = cluster.step(workers, 1e9, 6e9 * least(name, workers))
            assert step.efficiency == pytest.approx(0.9)


def test_where_exchange_and_compute_are_equal_they_are(cells: list[str], clusters: dict[str, Cluster]) -> None:
    equal = definitions(cell_with(cells, "def equal("), clusters=clusters, exchange_seconds=exchange_seconds).equal
    for name, cluster in clusters.items():
        step = cluster.step(64, 1e9, 6e9 * equal(name, 64))
        assert step.communication == pytest.approx(step.compute)


def test_the_figures_efficiency_rises_with_the_batch(cells: list[str], clusters: dict[str, Cluster]) -> None:
    efficiencies = definitions(cell_with(cells, "def efficiencies("), clusters=clusters).efficiencies
    for name in clusters:
        values = efficiencies(name, 1024, [64, 512, 4096, 32768])
        assert values == sorted(values)
        assert values[0] < 90 < values[-1] == 100


def test_a_refusal_is_its_first_line(cells: list[str]) -> None:
    def refused() -> None:
        raise ParameterError("one\ntwo")

    refusal = definitions(cell_with(cells, "def refusal("), ParameterError=ParameterError).refusal
    assert refusal(refused) == "one"


def test_what_runs_in_other_processes_brings_its_imports(cells: list[str]) -> None:
    """Functions for `on_ranks` see nothing of the notebook: every name they read is their own, or Python's."""
    import builtins

    for name in ("drift", "equality", "costs", "mortal", "pipelines"):
        function = getattr(definitions(cell_with(cells, f"def {name}(")), name)
        pending, read = [function.__code__], set()
        while pending:
            code = pending.pop()
            read |= {one for one in code.co_names if _is_global(code, one)}
            pending += [constant for constant in code.co_consts if hasattr(constant, "co_code")]
        assert not [one for one in read if not hasattr(builtins, one)], name


def _is_global(code: Any, name: str) -> bool:
    import dis

    return any(step.opname == "LOAD_GLOBAL" and step.argval == name for step in dis.get_instructions(code))


def test_links_lead_to_numbers_that_the_chapter_keeps() -> None:
    linked = set(re.findall(r"\]\(#parallel\.(\w+)\)", prose_of("parallel")))
    assert len(linked) >= 20
    assert linked <= {*recorded()["values"], "run_minutes", "run_peak_memory"}


def test_code_and_claims_fit_the_page(cells: list[str]) -> None:
    """The site's column holds 75 characters of code at 1,280 pixels; a claim stands behind its verdict."""
    assert not [line for source in cells for line in source.splitlines() if len(line) > 75]
    assert max(map(len, recorded()["claims"])) <= 70


def test_the_same_claims_hold_at_both_profiles() -> None:
    assert recorded()["claims"] == recorded("quick/parallel.json")["claims"]
    assert all(recorded()["claims"].values())


def test_what_no_gpu_has_confirmed_is_said() -> None:
    prose = prose_of("parallel")
    assert "not yet run on any" in prose
    assert "No GPU has confirmed" in prose

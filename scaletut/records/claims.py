"""Claims: what a chapter found, as statements that a program can find false."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from scaletut.errors import CheckFailed, RecordError
from scaletut.records.formatting import format_value
from scaletut.records.record import Value, as_boolean, check_name

HOLDS, FAILS = "holds", "FAILS"
_WIDTH = 88  # characters a line of a displayed table


@dataclass(frozen=True)
class Claim:
    """One statement, whether it held, by how much (in `unit`), and a remark on the margin."""

    text: str
    passed: bool
    margin: float | None = None
    unit: str = ""
    note: str = ""


@dataclass(frozen=True)
class Display:
    """Lines of plain text. A notebook shows them as they are and stores no other form of them,
    so that what nbval compares is exactly what the reader sees.
    """

    lines: tuple[str, ...]

    def __repr__(self) -> str:
        return "\n".join(self.lines)


class Claims:
    """The claims of one experiment, in the order in which they are checked."""

    def __init__(self, experiment: str) -> None:
        check_name(experiment, "experiment")
        self.experiment = experiment
        self._claims: dict[str, Claim] = {}

    def check(self, text: str, passed: bool, margin: float | None = None, note: str = "", *, unit: str = "") -> bool:
        """State `text` and whether it held; returns `passed`.

        passed: True or False (also numpy's), the comparison itself; an array or a number is refused.
        margin: distance from failing, in `unit`; finite. It is shown by `margins`, never by `table`.
        A failed claim does not stop the chapter: it shows as FAILS, and `require` raises.
        Raises RecordError for an empty or repeated text, a `passed` that is no boolean, a margin not finite.
        """
        text = " ".join(text.split())
        if not text:
            raise RecordError("a claim without words was checked; say what was found in one sentence")
        if text in self._claims:
            raise RecordError(f"the claim {text!r} was checked twice; word the second one differently, or drop it")
        number = None if margin is None else Value(margin, unit).value
        claim = Claim(text, as_boolean(passed, text), number, unit, note)
        self._claims[text] = claim
        return claim.passed

    def __iter__(self) -> Iterator[Claim]:
        return iter(self._claims.values())

    def __len__(self) -> int:
        return len(self._claims)

    @property
    def results(self) -> dict[str, bool]:
        """Text of each claim and whether it held, as a record stores it."""
        return {claim.text: claim.passed for claim in self}

    def table(self) -> Display:
        """`holds` or `FAILS` and the claim, a line each: the same at every profile where all hold."""
        self._need_some()
        return Display(tuple(_line(HOLDS if claim.passed else FAILS, claim.text) for claim in self))

    def margins(self) -> Display:
        """By how much each claim held or failed, for those that gave a margin; differs from run to run."""
        self._need_some()
        shown = [(format_value(Value(c.margin, c.unit)), c) for c in self if c.margin is not None]
        width = max((len(margin) for margin, _ in shown), default=0)
        lines = (_line(f"{margin:>{width}}", c.text + (f" ({c.note})" if c.note else "")) for margin, c in shown)
        return Display(tuple(lines) or ("no claim gave a margin",))

    def require(self) -> None:
        """Raise CheckFailed naming the claims that failed, if any did."""
        self._need_some()
        failed = [claim.text for claim in self if not claim.passed]
        if failed:
            raise CheckFailed(
                f"{len(failed)} of {len(self)} claims of {self.experiment} failed: {'; '.join(failed)}; "
                "mend the experiment, or withdraw the claim"
            )

    def _need_some(self) -> None:
        if not self._claims:
            raise RecordError(f"{self.experiment} claims nothing; call check(text, passed) before showing the table")


def _line(mark: str, text: str) -> str:
    indent = " " * (len(mark) + 2)
    return textwrap.fill(f"{mark}  {text}", _WIDTH, subsequent_indent=indent, break_long_words=False)

"""Numbers in prose held against the ledger.

**A measured number** is a number followed by a measuring unit
(%, points, time, bytes, floating-point operations, rates a second, energy, power, nats, × as a ratio),
or a decimal with two places or more in a sentence that names a metric (accuracy, loss, F1, ...).
It must stand in a link to its row of the ledger, `[93.1 %](#finetune.fast.accuracy)`.

It may stand bare only where it is not measured here, and the text shows that:

* in code (a span or a block), in math, in a comment, in the options of a directive;
* in a link to another site, or in a sentence with a citation (`{cite}`): somebody else's number;
* marked as given: `[10 %]{.given}`, or `<span class="given">10 %</span>` where attributes are not read (Colab);
* as the level of an interval: "95 % interval", "95 % confidence", "95 % bootstrap interval".

Numbers in words and numbers without a measuring unit (50 labels, 8 epochs, 32 × 32 pixels) are not looked at.
"""

from __future__ import annotations

import difflib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaletut.errors import RecordError
from scaletut.files import atomic_write
from scaletut.records.formatting import canonical, guess_form
from scaletut.records.ledger import APART, Ledger
from scaletut.records.markdown import CITED, Link, blank, links, mask_opaque, prose_of
from scaletut.records.record import read_record

GENERATED = ("book/ledger.md", "book/receipt.md")  # written from the records themselves
_MARK = '`[10 %]{.given}`, or `<span class="given">10 %</span>` in a notebook'


@dataclass(frozen=True)
class Fault:
    """Something that a check found: where, what is wrong, and what to do about it."""

    file: str
    place: str  # "line 12" or "cell 5, line 3"; empty when it is the file as a whole
    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.file}{', ' if self.place else ''}{self.place}: {self.message}; {self.remedy}"


def prose_pages(root: Path | str = ".") -> list[Path]:
    """Pages whose numbers are held against the ledger: README, CONTRIBUTING, the book's pages, the chapters."""
    root = Path(root)
    pages = [
        root / "README.md",
        root / "CONTRIBUTING.md",
        *sorted(root.glob("book/**/*.md")),
        *sorted(root.glob("notebooks/*.ipynb")),
    ]
    skipped = {root / name for name in GENERATED}
    return [page for page in pages if page.exists() and page not in skipped and "_build" not in page.parts]


def check_prose(paths: Iterable[Path | str], ledger: Ledger, write: bool = False) -> list[Fault]:
    """Faults of the numbers in `paths` (.md pages, and the markdown cells of .ipynb notebooks).

    A link's text must be one of the ledger's forms for its key, its key must have a record,
    and a measured number must not stand bare; see the module's text for the rule.
    write: first refresh the text of stale links, in place, in the form that they have,
    also in the text twin `text/<name>.py` beside a notebook; nothing else in a file changes.
    """
    faults: list[Fault] = []
    for path in map(Path, paths):
        try:
            if write:
                refresh(path, ledger)
            for place, text in _prose(path):
                faults += _check_text(path, place, text, ledger)
        except RecordError as error:
            faults.append(_file_fault(path, error))
    return faults


def check_records(folder: Path | str = "results") -> list[Fault]:
    """Faults of the records under `folder`: altered or invalid files, failed claims, runs that cannot be joined."""
    faults: list[Fault] = []
    records = []
    for path in sorted(Path(folder).rglob("*.json")):
        try:
            record = read_record(path)
        except RecordError as error:
            faults.append(_file_fault(path, error))
            continue
        for claim in (text for text, held in record.claims.items() if not held):
            what = f"in this run the claim {claim!r} failed"
            faults.append(Fault(str(path), "", what, "mend or withdraw the claim, and run it again"))
        if path.relative_to(folder).parts[0] not in APART:
            records.append(record)
    try:
        Ledger.of(records)
    except RecordError as error:
        faults.append(_file_fault(Path(folder), error))
    return faults


def _file_fault(path: Path, error: RecordError) -> Fault:
    """A fault of a file as a whole; the last clause of an error says what to do."""
    message, _, remedy = str(error).removeprefix(f"{path} ").rpartition("; ")
    return Fault(str(path), "", message, remedy)


def refresh(path: Path | str, ledger: Ledger) -> list[Path]:
    """Bring the texts of evidence links in one file (and a notebook's text twin) up to date; the files changed."""
    path = Path(path)
    twin = path.parent / "text" / f"{path.stem}.py"
    files = [path, twin] if path.suffix == ".ipynb" and twin.exists() else [path]
    return [file for file in files if _refresh_file(file, ledger)]


# --- the rule -----------------------------------------------------------------------------------------------

_NUMBER = r"\d[\d,]*(?:\.\d+)?(?:\)?\s?[×x]\s?10[\^{⁻⁰¹²³⁴⁵⁶⁷⁸⁹-][}\d⁰¹²³⁴⁵⁶⁷⁸⁹-]*)?"
_SPREAD = rf"(?:\s?±\s?{_NUMBER}|\s?\({_NUMBER}\s?(?:to|[–-])\s?{_NUMBER}\))?"
_RANGE = rf"(?:{_NUMBER}\s?(?:[–—/-]|to|and|or)\s?)?"
_UNIT = r"""(?:[\s*_-]|&nbsp;|&thinsp;){0,4}(?:
    \\?% | (?:percent|per\ cent)\b | (?:percentage[\s-])?points?\b
  | (?:seconds?|secs?|milliseconds?|minutes?|mins?|hours?|ms|[µμu]s|ns|min|s|h)\b
  | (?:images?|imgs?|examples?|samples?|tokens?|steps?|iterations?|it)\s?(?:/|per|an?)\s?(?:s|sec|second)\b
  | (?:[kKMGT]i?B|bytes|megabytes?|gigabytes?)\b
  | [kMGTPE]?(?:FLOPs?|MACs?)(?:/s)?\b
  | (?:k?Wh|kJ|mJ|J|mW|kW|W|watts?|joules?|nats?)\b
  | ×(?!\s?\d)
)"""
_MEASURED = re.compile(rf"(?<![\w.,/#-])[-−+~≈]?{_RANGE}{_NUMBER}{_SPREAD}{_UNIT}", re.VERBOSE)
_DECADE = re.compile(r"\d*0s")  # "the 1990s", "in the 80s": not seconds
_DECIMAL = re.compile(r"(?<![\w.,/#-])[-−+~≈]?(?:0\.\d{2,}|(?P<large>\d+\.\d{2,}))(?![\w%]|\.\d)")
_METRIC = re.compile(r"\b(?:accurac|error|loss|entrop|precision|recall|F1|AUC|ECE|calibration|perplexit)", re.I)
_LOSS = re.compile(r"\b(?:loss|entrop|perplexit)", re.I)
_LEVEL = re.compile(
    r"\b(?:68|80|90|95|99)\s?%"
    r"(?:[\s-]+(?:two-sided|Student(?:['’]s)?|\*?t\*?|bootstrap|confidence|credible|prediction|percentile|Wilson))*"
    r"[\s-]+(?:intervals?|confidence|bands?|limits?)\b"
)
_SENTENCE_END = re.compile(
    r"(?<=[.!?])(?<!e\.g\.)(?<!i\.e\.)(?<!al\.)(?<!cf\.)(?<!vs\.)(?<!Fig\.)(?<!Eq\.)[\"'”’)*_]*\s+"
    r"|\n\s*\n|\n(?=\s*(?:[-*+]|\d+[.)])\s)|\n(?=\s*\|)"
)


def measured_numbers(text: str) -> list[tuple[int, str]]:
    """(offset, number) of each measured number that stands bare in `text`, a page or cell of MyST markdown."""
    masked = prose_of(text)
    found: list[tuple[int, str]] = []
    for start, sentence in _sentences(masked):
        if CITED not in sentence:
            found += [(start + offset, number) for offset, number in _numbers_in(sentence)]
    return found


def _numbers_in(sentence: str) -> list[tuple[int, str]]:
    sentence = _LEVEL.sub(blank, sentence)
    hits = [(m.start(), m.group()) for m in _MEASURED.finditer(sentence) if not _DECADE.fullmatch(m.group())]
    if _METRIC.search(sentence):
        rest = _MEASURED.sub(blank, sentence)
        lossy = bool(_LOSS.search(sentence))
        hits += [(m.start(), m.group()) for m in _DECIMAL.finditer(rest) if lossy or not m["large"]]
    return sorted((start, " ".join(number.split())) for start, number in hits)


def _sentences(text: str) -> Iterator[tuple[int, str]]:
    start = 0
    for end in _SENTENCE_END.finditer(text):
        yield start, text[start : end.start()]
        start = end.end()
    yield start, text[start:]


def _check_text(path: Path, place: str, text: str, ledger: Ledger) -> list[Fault]:
    found: list[tuple[int, str, str]] = []
    for link in evidence_links(text, ledger):
        if fault := _link_fault(link, ledger):
            found.append((link.start, *fault))
    for offset, number in measured_numbers(text):
        found.append((offset, f"the measured number {number} stands bare", _remedy(number, ledger)))
    return [Fault(str(path), _place(place, text, offset), *what) for offset, *what in sorted(found)]


def _link_fault(link: Link, ledger: Ledger) -> tuple[str, str] | None:
    key = _key_of(link.target, ledger)
    shown = " ".join(link.text.split())
    if key not in ledger:
        near = difflib.get_close_matches(key, ledger, n=2, cutoff=0.5)
        return (
            f"[{shown}]({link.target}) leads to no record",
            f"nearest: {', '.join(near)}" if near else "run the experiment and commit its record, or drop the number",
        )
    forms = ledger.forms(key)
    if _bare(link.text) in forms.values():
        return None
    fresh = forms.get(guess_form(_bare(link.text), ledger[key].unit), forms["value"])
    return (
        f"[{shown}]({link.target}) is not what the ledger says",
        f"write [{fresh}]({link.target}) (`scaletut check --write` does it)",
    )


def _remedy(number: str, ledger: Ledger) -> str:
    keys = [key for key in ledger if canonical(number) in ledger.forms(key).values()]
    example = f"[{number}](#{keys[0] if len(keys) == 1 else 'experiment.name'})"
    return f"link it to its record, `{example}`, or mark a number that was chosen: {_MARK}"


def _place(place: str, text: str, offset: int) -> str:
    line = f"line {text.count(chr(10), 0, offset) + 1}"
    return f"{place}, {line}" if place else line


# --- links --------------------------------------------------------------------------------------------------

_LEDGER_PAGE = re.compile(r"(?:^|/)ledger(?:\.html|\.md)?#(.+)$")


def evidence_links(text: str, ledger: Ledger) -> list[Link]:
    """Links of `text` that lead, or should lead, to a row of the ledger."""
    return [link for link in links(text) if _is_evidence(link, ledger)]


def _is_evidence(link: Link, ledger: Ledger) -> bool:
    """A key or something dotted like one; or a measured number that leads elsewhere within the book."""
    key = _key_of(link.target, ledger)
    if key in ledger or _LEDGER_PAGE.search(link.target):
        return True
    if link.target.startswith("#") and "." in key:
        return True
    outside = re.match(r"[a-z][a-z0-9+.-]*:", link.target)
    return not outside and bool(_numbers_in(mask_opaque(link.text)))


def _key_of(target: str, ledger: Ledger) -> str:
    if page := _LEDGER_PAGE.search(target):
        anchor = page.group(1)
        return next((entry.key for entry in ledger.values() if anchor == entry.anchor), anchor)
    return target[1:] if target.startswith("#") else target


def _bare(text: str) -> str:
    """The text of a link without emphasis around it."""
    return canonical(text.strip().strip("*"))


# --- files --------------------------------------------------------------------------------------------------


def _prose(path: Path) -> Iterator[tuple[str, str]]:
    """(place, text) of each piece of prose of a file."""
    if path.suffix == ".ipynb":
        notebook = _notebook(_read(path))
        for number, cell in enumerate(notebook["cells"], 1):
            if cell.get("cell_type") == "markdown":
                yield f"cell {number}", _joined(cell["source"])
    elif path.suffix == ".md":
        yield "", _read(path)
    else:
        raise RecordError("it is neither a page (.md) nor a notebook (.ipynb); check only these")


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise RecordError(f"it cannot be read ({why}); write it again as UTF-8 text, or drop it") from error


def _notebook(text: str) -> dict[str, Any]:
    try:
        notebook = json.loads(text)
        cells = notebook["cells"]
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError(f"it is not a notebook ({error}); restore it from git") from error
    if not isinstance(cells, list):
        raise RecordError("it is not a notebook (its cells are no list); restore it from git")
    return notebook


def _joined(source: str | list[str]) -> str:
    return source if isinstance(source, str) else "".join(source)


def refreshed(text: str, ledger: Ledger) -> str:
    """`text` with the texts of stale evidence links replaced, in the form they have; unknown keys stay."""
    for link in reversed(evidence_links(text, ledger)):
        key = _key_of(link.target, ledger)
        if key not in ledger or _link_fault(link, ledger) is None:
            continue
        forms = ledger.forms(key)
        stars = re.match(r"\**", link.text.strip()).group()  # type: ignore[union-attr]
        new = forms.get(guess_form(_bare(link.text), ledger[key].unit), forms["value"])
        text = f"{text[: link.start]}{stars}{new}{stars}{text[link.end :]}"
    return text


def _refresh_file(path: Path, ledger: Ledger) -> bool:
    old = _read(path)
    handlers = {".md": refreshed, ".ipynb": _refreshed_notebook, ".py": _refreshed_twin}
    new = handlers[path.suffix](old, ledger) if path.suffix in handlers else old
    if new != old:
        atomic_write(path, new)
    return new != old


def _refreshed_notebook(text: str, ledger: Ledger) -> str:
    notebook = _notebook(text)
    changed = False
    for cell in notebook["cells"]:
        if cell.get("cell_type") != "markdown":
            continue
        old = _joined(cell["source"])
        new = refreshed(old, ledger)
        if new != old:
            changed = True
            cell["source"] = new if isinstance(cell["source"], str) else new.splitlines(keepends=True)
    return _layout(text)(notebook) if changed else text


def _layout(text: str) -> Callable[[Any], str]:
    """The way of writing JSON that gives back `text` exactly, so that a refresh changes nothing else."""
    stored = json.loads(text)
    for indent, ascii_only, end in itertools.product((1, 2, 4, None), (False, True), ("\n", "")):

        def dump(value: Any, indent: int | None = indent, ascii_only: bool = ascii_only, end: str = end) -> str:
            return json.dumps(value, indent=indent, ensure_ascii=ascii_only) + end

        if dump(stored) == text:
            return dump
    raise RecordError(
        "it is not laid out as Jupyter writes it, so it cannot be refreshed without other changes; "
        "open and save it once"
    )


_CELL = re.compile(r"^# %%")


def _refreshed_twin(text: str, ledger: Ledger) -> str:
    """A py:percent twin: the comment lines of its markdown cells."""
    lines, result, cell = text.split("\n"), [], []
    in_markdown = False
    for line in [*lines, "# %%"]:
        comment = line == "#" or line.startswith("# ")
        if in_markdown and comment and not _CELL.match(line):
            cell.append(line[2:])
            continue
        if cell:
            result += ["#" + (f" {prose}" if prose else "") for prose in refreshed("\n".join(cell), ledger).split("\n")]
            cell = []
        result.append(line)
        if _CELL.match(line):
            in_markdown = "[markdown]" in line
    return "\n".join(result[:-1])

"""Structural checks of a chapter: what every notebook must have before a reader meets it.

Each check is a function from a `Chapter`-notebook to findings; a finding says what is wrong and what to do.
"""

from __future__ import annotations

import ast
import json
import re
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scaletut.chapters import pairs, schemas
from scaletut.chapters.schemas import CHAPTERS, MOST_PARAMETERS
from scaletut.files import digest_json

MOST_LINES = 6  # median lines of a code cell; comments, empty lines and folded cells not counted
LEAST_EXERCISES = 3
LEAST_ALT = 12  # characters: less does not describe a figure
_IMAGES = ("image/png", "image/jpeg", "image/svg+xml")
_STAMP = "scaletut"  # key of the notebook's metadata that holds the digests of its stored outputs


@dataclass(frozen=True)
class Finding:
    """A fault: the file, the number of the cell (from 1; 0: the whole file), what is wrong and what to do."""

    path: str
    cell: int
    message: str

    def __str__(self) -> str:
        return f"{self.path}{f' cell {self.cell}' if self.cell else ''}: {self.message}"


def check_notebook(path: Path, root: Path) -> list[Finding]:
    """All structural faults of one chapter."""
    book = pairs.read_notebook(path)
    name = path.relative_to(root).as_posix()
    return [Finding(name, cell, text) for check in CHECKS for cell, text in check(book, path)]


Faults = Iterator[tuple[int, str]]


# --- the checks --------------------------------------------------------------------


def _title(book: Any, path: Path) -> Faults:
    first = book.cells[0] if book.cells else None
    if first is None or first.cell_type != "markdown" or not first.source.startswith("# "):
        yield 1, "the first cell must be the title, a line that starts with `# `"


def _known_chapter(book: Any, path: Path) -> Faults:
    if path.stem not in CHAPTERS:
        yield 0, f"no parameter model for {path.stem!r}; add one to scaletut/chapters/schemas.py"


def _setup(book: Any, path: Path) -> Faults:
    code = [cell.source for _, cell in _code(book)]
    if not code or "google.colab" not in code[0]:
        yield 0, "the first code cell must be the set-up: it installs on Colab only (`google.colab`)"


def _parameters(book: Any, path: Path) -> Faults:
    tagged = [(number, cell) for number, cell in _code(book) if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        yield 0, f"it has {len(tagged)} cells tagged `parameters`; exactly one is allowed, papermill uses the first"
        return
    number, cell = tagged[0]
    schema = CHAPTERS.get(path.stem)
    if schema is None:
        return
    try:
        found = _literals(cell.source)
    except ValueError as error:
        yield number, str(error)
        return
    if len(found) > MOST_PARAMETERS:
        yield number, f"{len(found)} parameters; keep at most {MOST_PARAMETERS}"
    wanted = {name: field.default for name, field in schema.model_fields.items()}
    if list(found) != list(wanted):
        yield number, f"parameters {', '.join(found)}, but the model has {', '.join(wanted)}, in this order"
    comments = _comments(cell.source)
    for name in (name for name in found if name in wanted):
        if found[name] != wanted[name] or type(found[name]) is not type(wanted[name]):
            yield number, f"{name} = {found[name]!r}, but the model's default is {wanted[name]!r}"
        field = schema.model_fields[name]
        if not all(part in comments[name] for part in (schemas.field_unit(field), schemas.field_range(field))):
            yield number, f"the comment of {name} must tell unit and range: # {schemas.field_comment(schema, name)}"


def _settings(book: Any, path: Path) -> Faults:
    if not any(re.search(rf'settings\(\s*"{path.stem}"', cell.source) for _, cell in _code(book)):
        yield 0, f'no cell validates the parameters; call chapters.settings("{path.stem}", ...) behind them'


def _outputs_stored(book: Any, path: Path) -> Faults:
    counts = [cell.execution_count for _, cell in _code(book)]
    if counts != list(range(1, len(counts) + 1)):
        yield 0, f"cells were not all run once from the top; `scaletut record {path.stem}` stores clean outputs"
    for number, cell in _code(book):
        if any(output.output_type == "error" for output in cell.outputs):
            yield number, "an error is stored as output; mend the cell and record the chapter again"
        if "site-packages" in json.dumps(cell.outputs):
            yield number, "a library's warning, with a path of this machine, is stored as output; mend what it warns of"
    stored = book.metadata.get(_STAMP, {}).get("cells")
    if stored is None:
        yield 0, f"its outputs are not those of a recorded run; make them with `scaletut record {path.stem}`"
        return
    now = stamp(book)["cells"]
    for number, cell in _code(book):
        source, outputs = stored.get(cell.id, ["", ""])
        if outputs != now[cell.id][1]:
            yield number, f"stored outputs were stripped or altered; `scaletut record {path.stem}` makes them again"
        elif source != now[cell.id][0]:
            yield number, f"the code is not what made the outputs; `scaletut record {path.stem}` runs it again"


def _figures(book: Any, path: Path) -> Faults:
    for number, cell in _code(book):
        if not any(set(_IMAGES) & set(output.get("data", {})) for output in cell.outputs):
            continue
        alt = cell.metadata.get("mystnb", {}).get("image", {}).get("alt", "")
        if len(str(alt).strip()) < LEAST_ALT:
            yield number, 'figure without alt text; add the cell metadata mystnb: {"image": {"alt": "what it shows"}}'
    for number, cell in enumerate(book.cells, 1):
        texts = [cell.source] if cell.cell_type == "markdown" else _html(cell)
        if any(_bare_image(text) for text in texts):
            yield number, "image without alt text; write ![what it shows](file), or alt= in the tag"


def _claims(book: Any, path: Path) -> Faults:
    tables = [(n, cell) for n, cell in _code(book) if re.search(r"claims\w*\.table\(", cell.source)]
    if not tables:
        yield 0, "no claims table; end the chapter with claims.table()"
    for number, cell in tables:
        if not re.search(r"^# *NBVAL_CHECK_OUTPUT", cell.source, re.MULTILINE):
            yield number, "the claims table is not compared; begin its cell with # NBVAL_CHECK_OUTPUT"
        if "FAILS" in json.dumps(cell.outputs):
            yield number, "a stored claim FAILS; mend it or withdraw it"


def _record_cell(book: Any, path: Path) -> Faults:
    if not any(re.search(r"\b(save|write)_record\(", cell.source) for _, cell in _code(book)):
        yield 0, "no record cell; end the chapter with chapters.save_record(record)"


def _exercises(book: Any, path: Path) -> Faults:
    starts = [n for n, cell in enumerate(book.cells, 1) if _is_exercise(cell)]
    if len(starts) < LEAST_EXERCISES:
        yield 0, f"{len(starts)} exercises; give {LEAST_EXERCISES} or more, each with a folded solution"
    for start, end in zip(starts, [*starts[1:], len(book.cells) + 1], strict=True):
        span = book.cells[start : end - 1]
        if not any(_is_folded(cell) for cell in span):
            yield start, "exercise without a folded solution; tag its code cell hide-cell or hide-input"


def _short_cells(book: Any, path: Path) -> Faults:
    sizes = [len(_code_lines(cell.source)) for _, cell in _code(book) if not _is_folded(cell)]
    if sizes and statistics.median(sizes) > MOST_LINES:
        yield 0, f"code cells have {statistics.median(sizes):g} lines (median); keep them to {MOST_LINES} or fewer"


def _twin(book: Any, path: Path) -> Faults:
    if fault := pairs.drift(path):
        yield 0, fault


CHECKS: tuple[Callable[[Any, Path], Faults], ...] = (
    _title,
    _known_chapter,
    _setup,
    _parameters,
    _settings,
    _outputs_stored,
    _figures,
    _claims,
    _record_cell,
    _exercises,
    _short_cells,
    _twin,
)


# --- the table of contents ---------------------------------------------------------

GENERATED = ("book/ledger", "book/receipt", "book/api/")  # written by `make book`, so not in a clone


def check_contents(root: Path) -> list[Finding]:
    """Every page and chapter is in `_toc.yml` once, and everything that is in it exists."""
    listed = _toc_files(root)
    findings = [
        Finding("_toc.yml", 0, f"{name} is listed twice") for name in sorted(set(listed)) if listed.count(name) > 1
    ]
    pages = [*root.glob("notebooks/*.ipynb"), *root.glob("book/**/*.md")]
    present = {page.relative_to(root).with_suffix("").as_posix() for page in pages}
    for name in sorted(present - set(listed)):
        if not name.startswith(GENERATED) and "/_" not in name:
            findings.append(Finding("_toc.yml", 0, f"{name} is missing, so no reader finds it; list it"))
    for name in sorted(set(listed) - present):
        if not name.startswith(GENERATED):
            findings.append(Finding("_toc.yml", 0, f"{name} is listed but there is no such page"))
    return findings


def _toc_files(root: Path) -> list[str]:
    import yaml

    toc = yaml.safe_load((root / "_toc.yml").read_text(encoding="utf-8"))
    found: list[str] = []

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            found.extend(str(node[key]) for key in ("root", "file") if key in node)
            for child in node.values():
                walk(child)
        elif isinstance(node, list):
            for child in node:
                walk(child)

    walk(toc)
    return [name.removesuffix(".md").removesuffix(".ipynb") for name in found]


# --- the stamp of a recorded run ---------------------------------------------------


def stamp(book: Any) -> dict[str, Any]:
    """Digests of each code cell: cell id -> [code, outputs]; comments and layout of the code do not count."""
    cells = {cell.id: [_code_digest(cell.source), digest_json(cell.outputs)[:16]] for _, cell in _code(book)}
    return {"cells": cells}


def not_as_recorded(book: Any) -> list[int]:
    """Numbers (from 1) of the code cells whose code or outputs differ from the stamp, or that it does not know."""
    stored, now = book.metadata.get(_STAMP, {}).get("cells", {}), stamp(book)["cells"]
    return [number for number, cell in _code(book) if stored.get(cell.id) != now[cell.id]]


def put_stamp(book: Any) -> None:
    """Note in the notebook's metadata what its outputs are, so that a later change of them is seen."""
    book.metadata[_STAMP] = stamp(book)


def _code_digest(source: str) -> str:
    try:
        return digest_json(ast.dump(ast.parse(source)))[:16]
    except SyntaxError:  # %magic
        return digest_json(source)[:16]


# --- reading cells -----------------------------------------------------------------


def _code(book: Any) -> list[tuple[int, Any]]:
    return [(number, cell) for number, cell in enumerate(book.cells, 1) if cell.cell_type == "code"]


def _code_lines(source: str) -> list[str]:
    return [line for line in source.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _literals(source: str) -> dict[str, Any]:
    """name -> value of a cell of plain assignments; ValueError for anything else in it."""
    found: dict[str, Any] = {}
    for node in ast.parse(source).body:
        target = node.targets[0] if isinstance(node, ast.Assign) and len(node.targets) == 1 else None
        if not isinstance(node, ast.Assign) or not isinstance(target, ast.Name):
            raise ValueError(f"line {node.lineno} is not `name = literal`; a parameters cell holds nothing else")
        try:
            value = ast.literal_eval(node.value)
        except ValueError:
            raise ValueError(f"{target.id} is not a plain literal") from None
        if not isinstance(value, (bool, int, float, str)):
            raise ValueError(f"{target.id} is a {type(value).__name__}, not a plain number, word or truth value")
        if target.id in found:
            raise ValueError(f"{target.id} is set twice")
        found[target.id] = value
    return found


def _comments(source: str) -> dict[str, str]:
    """name -> the comment behind its assignment, "" when there is none."""
    lines = source.splitlines()
    assignments = [node for node in ast.parse(source).body if isinstance(node, ast.Assign)]
    return {
        node.targets[0].id: lines[node.end_lineno - 1][node.end_col_offset :].partition("#")[2].strip()
        for node in assignments
        if isinstance(node.targets[0], ast.Name) and node.end_lineno and node.end_col_offset
    }


def _html(cell: Any) -> list[str]:
    return ["".join(output.data["text/html"]) for output in cell.outputs if "text/html" in output.get("data", {})]


def _bare_image(text: str) -> bool:
    """Whether `text` holds a Markdown image or an <img> tag without a description."""
    tags = re.findall(r"<img\b[^>]*>", text, re.IGNORECASE)
    return bool(re.search(r"!\[\s*\]\(", text)) or any(not re.search(r"alt=[\"'][^\"']+", tag) for tag in tags)


def _is_exercise(cell: Any) -> bool:
    marks = r"^(#+ Exercise\b|[`:]{3,}\{exercise(-start)?\})"
    return cell.cell_type == "markdown" and bool(re.search(marks, cell.source, re.MULTILINE))


def _is_folded(cell: Any) -> bool:
    return cell.cell_type == "code" and bool({"hide-cell", "hide-input"} & set(cell.metadata.get("tags", [])))

"""API pages from the docstrings: `{api-room} scaletut.data` documents every name in that room's `__all__`.

The docstrings of the library are Markdown, so they are parsed as such; signatures go through Sphinx's Python domain,
which gives search entries, an index and links between types.
A type that is neither of this library nor imported by the module that names it stays unresolved and fails the build.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import inspect
import io
import re
import sys
import textwrap
import tokenize
import typing
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.docutils import SphinxDirective
from sphinx.util.inspect import stringify_signature
from sphinx.util.nodes import make_refnode

LIBRARY = "scaletut"
FENCE = "`" * 5
logger = logging.getLogger(__name__)

_SECTION = re.compile(r"^(Args|Arguments|Attributes|Returns|Yields|Raises|Example|Examples|Note|Notes):\s*$")
_ENTRY = re.compile(r"^(\*{0,2}\w[\w, `*.]*?)(?: \([^)]*\))?: (.*)$")


# --- docstrings ---------------------------------------------------------------------------------------------------


def markdown(docstring: str) -> str:
    """A docstring as Markdown: named sections become lists, dollars outside code stay dollars."""
    out: list[str] = []
    lines = inspect.cleandoc(docstring).splitlines()
    while lines:
        line = lines.pop(0)
        section = _SECTION.match(line)
        if section is None:
            out.append(line)
            continue
        block = []
        while lines and (not lines[0].strip() or lines[0][0] == " "):
            block.append(lines.pop(0))
        out += ["", f"*{section[1]}*", "", *_entries(textwrap.dedent("\n".join(block))), ""]
    return "\n".join(_keep_dollars(line) for line in out)


def _entries(block: str) -> list[str]:
    """`name: text` with indented continuation lines as a bullet list; any other block as it is."""
    lines = block.strip("\n").splitlines()
    if not lines or not _ENTRY.match(lines[0]):
        return lines
    entries = [_ENTRY.match(line) if line[:1] != " " else None for line in lines]
    return [
        f"* `{entry[1].strip('`')}`: {entry[2]}" if entry else f"  {line.strip()}"
        for line, entry in zip(lines, entries, strict=False)
    ]


def _keep_dollars(line: str) -> str:
    parts = re.split(r"(`+[^`]*`+)", line)
    return "".join(part if part.startswith("`") else part.replace("$", r"\$") for part in parts)


# --- what a name is -----------------------------------------------------------------------------------------------


@functools.cache
def _tree(module: str) -> ast.Module:
    return ast.parse(inspect.getsource(importlib.import_module(module)))


@functools.cache
def foreign_names(module: str) -> frozenset[str]:
    """Names that a module of the library imports from other projects: their pages are not at hand offline."""
    found = set()
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Import):
            found |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] != LIBRARY and not node.level:
            found |= {alias.asname or alias.name for alias in node.names}
    return frozenset(found)


def field_comments(cls: type) -> dict[str, str]:
    """The trailing comment of each field line of a dataclass."""
    source = textwrap.dedent(inspect.getsource(cls))
    lines: dict[int, str] = {}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            lines[token.start[0]] = token.string.lstrip("# ")
    body = ast.parse(source).body[0].body  # type: ignore[attr-defined]
    return {
        node.target.id: lines[node.end_lineno or 0]
        for node in body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.end_lineno in lines
    }


def data_comment(module: str, name: str) -> str:
    """The comment lines above, or behind, the assignment of a public constant."""
    lines = inspect.getsource(importlib.import_module(module)).splitlines()
    for number, line in enumerate(lines):
        if re.match(rf"{name}\b\s*(:[^=]*)?=", line):
            above = []
            while number > 0 and lines[number - 1].startswith("#"):
                number -= 1
                above.insert(0, lines[number].lstrip("# "))
            return " ".join(above) or (line.split("  # ", 1)[1] if "  # " in line else "")
    return ""


def home_of(module: ModuleType, name: str) -> str:
    """The module in which a re-exported constant is assigned."""
    for node in ast.walk(_tree(module.__name__)):
        if isinstance(node, ast.ImportFrom) and node.module and name in {a.asname or a.name for a in node.names}:
            return node.module
    return module.__name__


# --- pages --------------------------------------------------------------------------------------------------------


def describe(module: ModuleType, name: str) -> Iterator[str]:
    """Markdown that documents one public name."""
    thing = getattr(module, name)
    if inspect.isclass(thing):
        yield from _describe_class(name, thing)
    elif callable(thing) and hasattr(thing, "__module__") and not typing.get_origin(thing):
        yield from _directive("function", name + _signature(thing), _docstring(thing, f"{module.__name__}.{name}"))
    else:
        yield from _describe_data(module, name, thing)


def _describe_class(name: str, cls: type) -> Iterator[str]:
    body = [_docstring(cls, f"{cls.__module__}.{name}")]
    fields = list(dataclasses.fields(cls)) if dataclasses.is_dataclass(cls) else []
    pydantic = getattr(cls, "model_fields", None)
    if fields:
        body += ["", *_field_table(cls, fields)]
    elif pydantic:
        body += ["", *_model_table(pydantic)]
    for member, value in vars(cls).items():
        if member.startswith(("_", "model_")) or member in {field.name for field in fields}:
            continue
        body += ["", *list(_describe_member(cls, member, value))]
    kind = "exception" if issubclass(cls, BaseException) else "class"
    plain = pydantic or kind == "exception"
    yield from _directive(kind, name if plain else name + _signature(cls), "\n".join(body))


def _describe_member(cls: type, member: str, value: Any) -> Iterator[str]:
    options = []
    if isinstance(value, (classmethod, staticmethod)):
        options = [f":{type(value).__name__}:"]
        value = value.__func__
    if isinstance(value, (property, functools.cached_property)):
        function = value.fget if isinstance(value, property) else value.func
        returns = function.__annotations__.get("return")
        options += [f":type: {returns}"] if isinstance(returns, str) else []
        yield from _directive("property", member, inspect.getdoc(value) or "", options, fence="`" * 4)
    elif inspect.isfunction(value):
        bound = "classmethod" in "".join(options) or ":staticmethod:" not in options
        yield from _directive(
            "method", member + _signature(value, drop_first=bound), inspect.getdoc(value) or "", options, fence="`" * 4
        )


def _describe_data(module: ModuleType, name: str, thing: Any) -> Iterator[str]:
    home = home_of(module, name)
    value = str(thing).replace("typing.", "") if typing.get_origin(thing) else repr(thing)
    shown = value if len(value) <= 160 else f"{type(thing).__name__} of {len(thing)}"
    text = data_comment(home, name)
    yield from _directive("data", name, f"{text}\n\n`{shown}`")


def _directive(
    kind: str, signature: str, docstring: str, options: list[str] | None = None, fence: str = FENCE
) -> list[str]:
    return [f"{fence}{{py:{kind}}} {signature}", *(options or []), "", *markdown(docstring).splitlines(), fence, ""]


def _docstring(thing: Any, name: str) -> str:
    text = thing.__doc__
    generated = (
        inspect.isclass(thing) and dataclasses.is_dataclass(thing) and (text or "").startswith(f"{thing.__name__}(")
    )
    if not text or generated:
        logger.warning("%s is public and has no docstring", name, type="api", subtype="docstring")
        return ""
    return inspect.cleandoc(text)


def _signature(thing: Any, drop_first: bool = False) -> str:
    signature = inspect.signature(thing)
    parameters = list(signature.parameters.values())[1 if drop_first else 0 :]
    aliases = private_aliases(thing.__module__)
    parameters = [one.replace(annotation=_expand(one.annotation, aliases)) for one in parameters]
    signature = signature.replace(return_annotation=_expand(signature.return_annotation, aliases))
    parameters = [
        one.replace(default=_Default(one.default)) if one.default is not one.empty else one for one in parameters
    ]
    signature = signature.replace(parameters=parameters)
    if inspect.isclass(thing):
        signature = signature.replace(return_annotation=inspect.Signature.empty)
    return stringify_signature(signature, unqualified_typehints=True)


def private_aliases(module: str) -> dict[str, str]:
    """Short names for types, such as `Flip = Literal[...]`, that are not public: a signature shows what they mean."""
    values = vars(importlib.import_module(module))
    public = getattr(importlib.import_module(".".join(module.split(".")[:2])), "__all__", ())
    return {
        name: str(value).replace("typing.", "").replace("collections.abc.", "")
        for name, value in values.items()
        if typing.get_origin(value) and name not in public
    }


def _expand(annotation: Any, aliases: dict[str, str]) -> Any:
    if not isinstance(annotation, str):
        return annotation
    return re.sub(r"\b[A-Za-z_]\w*\b", lambda word: aliases.get(word[0], word[0]), annotation)


class _Default:
    """A default value whose text can be parsed again: objects show their name, sentinels an ellipsis."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __repr__(self) -> str:
        text = getattr(self.value, "__name__", None) or repr(self.value)
        return "..." if "<" in text or " at 0x" in text else text


def _field_table(cls: type, fields: list[dataclasses.Field[Any]]) -> list[str]:
    comments = field_comments(cls)
    rows = [
        (field.name, _expand(_type_text(field.type), private_aliases(cls.__module__)), comments.get(field.name, ""))
        for field in fields
        if field.repr or field.init
    ]
    return _table(rows) if any(comment for *_, comment in rows) else []


def _model_table(fields: dict[str, Any]) -> list[str]:
    return _table([(name, _type_text(field.annotation), field.description or "") for name, field in fields.items()])


def _type_text(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", "") or str(annotation)
    text = str(annotation) if typing.get_origin(annotation) else text
    return text.replace("typing.", "")


def _table(rows: list[tuple[str, str, str]]) -> list[str]:
    lines = ["| field | type | meaning |", "|---|---|---|"]
    for name, kind, meaning in rows:
        lines.append(f"| `{name}` | `{kind}` | {meaning} |".replace(" | None`", " or None`").replace("\\", ""))
    return [re.sub(r"`[^`]*`", lambda code: code[0].replace("|", r"\|"), line) for line in lines]


class ApiRoom(SphinxDirective):
    """Document every public name of one room of the library."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        module = importlib.import_module(self.arguments[0])
        names = getattr(module, "__all__", None)
        if names is None and not hasattr(module, "__path__"):  # a single file: what it defines itself
            names = [
                name
                for name, thing in vars(module).items()
                if getattr(thing, "__module__", "") == module.__name__ and not name.startswith("_")
            ]
        if not names:
            logger.warning("%s has no __all__: nothing to document", module.__name__, location=self.get_location())
            return []
        lines = [f"{FENCE}{{py:module}} {module.__name__}", FENCE, "", *markdown(module.__doc__ or "").splitlines(), ""]
        for name in sorted(names, key=lambda one: (not one[:1].isupper(), one.lower())):
            lines += describe(module, name)
        self._remember_sources(module.__name__)
        holder = nodes.container(classes=["api"])
        source = self.get_source_info()[0]
        self.state.nested_parse(StringList(lines, source), self.content_offset, holder)
        return holder.children

    def _remember_sources(self, room: str) -> None:
        """Rebuild the page when a file of the room changes; remember which types come from other projects."""
        foreign = self.env.metadata.setdefault(self.env.docname, {}).setdefault("foreign", set())
        for name, module in list(sys.modules.items()):
            if (name == room or name.startswith(room + ".")) and getattr(module, "__file__", None):
                self.env.note_dependency(module.__file__)
                foreign |= foreign_names(name)


def resolve_type(
    app: Sphinx, env: BuildEnvironment, node: nodes.Element, contnode: nodes.Element
) -> nodes.Element | None:
    """Find a type by its short name among the documented ones; leave types of other projects as plain text."""
    if node.get("refdomain") != "py":
        return None
    target = node["reftarget"]
    objects = env.domaindata["py"]["objects"]
    matches = {
        name: entry for name, entry in objects.items() if name == target or name.endswith(f".{target.split('.')[-1]}")
    }
    tops = {name: entry for name, entry in matches.items() if name.count(".") <= 2}
    if len(tops) == 1:
        ((name, entry),) = tops.items()
        return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, name)
    if target.split(".")[0] in env.metadata.get(node["refdoc"], {}).get("foreign", ()):
        return contnode
    return None


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("api-room", ApiRoom)
    app.connect("missing-reference", resolve_type)
    return {"version": "1", "parallel_read_safe": False, "parallel_write_safe": True}

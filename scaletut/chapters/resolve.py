"""Parameters from words to a validated, resolved model; a refusal is one line and names the nearest valid."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from scaletut.chapters import schemas
from scaletut.chapters.schemas import CHAPTERS, PROFILES, Chapter
from scaletut.errors import ParameterError

PROFILE_VARIABLE = "SCALETUT_PROFILE"
_KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
_SOURCES = ("cifar10", "zipf10", "folder:PATH")


def settings(chapter: str, **parameters: Any) -> Any:
    """The chapter's parameters, validated, with the profile's values in place of zero and empty ones.

    chapter: its name, such as "finetune". parameters: plain literals, as in the notebook's parameters cell.
    The environment variable SCALETUT_PROFILE replaces the profile when that is left at its default.
    Returns the chapter's frozen pydantic model.
    Raises ParameterError, one line, for an unknown name, a wrong type or a value out of range.
    """
    schema = schema_of(chapter)
    default = schema.model_fields["profile"].default
    chosen = parameters.get("profile", default)
    if chosen == default:
        chosen = environment_profile() or default
    model = validated(schema, chapter, {**parameters, "profile": chosen})
    return model.resolved()


def schema_of(chapter: str) -> type[Chapter]:
    """The model of `chapter`; ParameterError names the nearest chapter when there is none of it."""
    if chapter not in CHAPTERS:
        raise ParameterError(f"there is no chapter {chapter!r}{_nearest(chapter, CHAPTERS)}; see `scaletut chapters`")
    return CHAPTERS[chapter]


def environment_profile() -> str:
    """The profile that SCALETUT_PROFILE names, "" when it is not set; ParameterError when it names none."""
    name = os.environ.get(PROFILE_VARIABLE, "")
    if name and name not in PROFILES:
        raise ParameterError(f"{PROFILE_VARIABLE}={name} is none of {_listed(PROFILES)}{_nearest(name, PROFILES)}")
    return name


def validated(schema: type[Chapter], chapter: str, parameters: Mapping[str, Any]) -> Chapter:
    """The model of `parameters`, not yet resolved; ParameterError says in one line all that is wrong."""
    try:
        return schema.model_validate(dict(parameters))
    except ValidationError as error:
        faults = [_explain(schema, chapter, dict(fault)) for fault in error.errors()]
        raise ParameterError("; ".join(faults)) from None


def parse_assignments(chapter: str, assignments: Iterable[str]) -> dict[str, Any]:
    """`name=value` words from the command line, typed as the chapter's model says."""
    schema = schema_of(chapter)
    parsed: dict[str, Any] = {}
    for assignment in assignments:
        name, value = split_assignment(assignment)
        if name in parsed:
            raise ParameterError(f"{name} is given twice; give it once")
        parsed[name] = parse_value(schema, name, value)
    return parsed


def split_assignment(assignment: str) -> tuple[str, str]:
    """`name=value` as (name, value); ParameterError when there is no `=`."""
    name, equals, value = assignment.partition("=")
    if not equals or not name.strip():
        raise ParameterError(f"{assignment!r} is not name=value; write for example `-p epochs=3`")
    return name.strip(), value.strip()


def parse_value(schema: type[Chapter], name: str, text: str) -> Any:
    """`text` as the type of parameter `name`; left as text when it does not fit, for the model to refuse."""
    field = schema.model_fields.get(name)
    if field is None:
        return text
    kind = schemas.field_type(field)
    if kind is bool:
        return {"true": True, "false": False}.get(text.lower(), text)
    try:
        return kind(text)
    except ValueError:
        return text


# --- one line a fault --------------------------------------------------------------


def _explain(schema: type[Chapter], chapter: str, fault: dict[str, Any]) -> str:
    name = str(fault["loc"][0]) if fault["loc"] else ""
    if fault["type"] == "extra_forbidden":
        return (
            f"{chapter} has no parameter {name!r}{_nearest(name, schema.model_fields)} "
            f"(it has {_listed(tuple(schema.model_fields), 'and')})"
        )
    field, given = schema.model_fields[name], fault["input"]
    allowed = schemas.field_range(field)
    if choices := schemas.field_choices(field):
        return f"{name}={given} is none of {_listed(choices)}{_nearest(str(given), choices)}"
    if fault["type"] in ("greater_than_equal", "less_than_equal"):
        span = f"{allowed} {schemas.field_unit(field)}".rstrip()
        return f"{name}={given} is out of range ({span}); nearest valid: {name}={_nearest_value(field, given)}"
    if fault["type"] == "value_error":
        hint = _nearest(str(given), _SOURCES) if name == "data" else ""
        return f"{name}: {fault['ctx']['error']}{hint}; valid: {allowed}"
    kind = _KINDS[schemas.field_type(field)]
    return f"{name}={given!r} is not {kind}; nearest valid: {name}={_nearest_value(field, given)!r} ({allowed})"


def _nearest_value(field: Any, given: Any) -> Any:
    """A valid value near `given`, else the default."""
    kind = schemas.field_type(field)
    if kind is str:
        return str(given)
    try:
        number = float(given)
        near = kind(round(number)) if kind is int else kind(number)
    except (TypeError, ValueError, OverflowError):
        return field.default
    low, high = schemas.field_bounds(field)
    near = near if low is None else max(near, low)
    return near if high is None else min(near, high)


def _nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?` with the most similar of `known`, however far it is."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.0)
    return f"; did you mean {near[0]!r}?" if near else ""


def _listed(words: tuple[str, ...], last: str = "or") -> str:
    return ", ".join(words[:-1]) + f" {last} {words[-1]}" if len(words) > 1 else words[0]

"""What a request may say: tables of fields, by which it is checked and by which OpenAPI describes it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from .problem import Problem

Kind = Literal["string", "integer", "number", "boolean", "object", "array"]
PYTHON: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "object": (dict,),
    "array": (list,),
}


@dataclass(frozen=True)
class Field:
    """One field. low, high: of a number, or of the length of a text or list. schema: more of its JSON schema."""

    name: str
    kind: Kind
    meaning: str
    required: bool = False
    choices: tuple[str, ...] = ()
    pattern: str = ""
    low: float | None = None
    high: float | None = None
    default: Any = None
    schema: Mapping[str, Any] | None = None
    nullable: bool = False

    def described(self) -> dict[str, Any]:
        """Its JSON schema."""
        kind: Any = [self.kind, "null"] if self.nullable else self.kind
        found: dict[str, Any] = {"type": kind, "description": self.meaning}
        names = {"string": ("minLength", "maxLength"), "array": ("minItems", "maxItems")}
        names["object"] = ("minProperties", "maxProperties")
        for name, limit in zip(names.get(self.kind, ("minimum", "maximum")), (self.low, self.high), strict=True):
            if limit is not None:
                found[name] = int(limit) if limit == int(limit) else limit
        if self.choices:
            found["enum"] = [*self.choices, *([None] if self.nullable else [])]
        if self.pattern:
            found["pattern"] = f"^(?:{self.pattern})$"
        if self.default is not None:
            found["default"] = self.default
        return found | dict(self.schema or {})

    def wrong(self, value: Any) -> str:
        """What is wrong with a value, as the end of a sentence, or ''."""
        if value is None and self.nullable:
            return ""
        article = "an" if self.kind[0] in "aio" else "a"
        if not isinstance(value, PYTHON[self.kind]) or (isinstance(value, bool) and self.kind != "boolean"):
            return f"is not {article} {self.kind}."
        if isinstance(value, str):
            return self._wrong_text(value)
        size: Any = len(value) if isinstance(value, list | dict) else value
        if isinstance(size, float) and not math.isfinite(size):
            return "is no number."
        if (self.low is not None and size < self.low) or (self.high is not None and size > self.high):
            low, high = ("any" if limit is None else f"{limit:g}" for limit in (self.low, self.high))
            return f"is outside {low} to {high}."
        return ""

    def _wrong_text(self, value: str) -> str:
        try:
            value.encode()
        except UnicodeEncodeError:
            return "holds half a character."
        if self.choices and value not in self.choices:
            return f"is not one of {', '.join(self.choices)}."
        if self.high is not None and len(value) > self.high:
            return f"is longer than {self.high:g} characters."
        if self.low is not None and len(value) < self.low:
            return "is empty."
        if self.pattern and not re.fullmatch(self.pattern, value):
            return f"does not look like {self.pattern}."
        return ""


def checked(fields: Sequence[Field], values: Any, where: str = "") -> dict[str, Any]:
    """The values, each of which a field allows. Raises Problem "invalid" that names the first one which is not."""
    if not isinstance(values, dict):
        raise invalid(where or "body", "is no JSON object.")
    known = {field.name: field for field in fields}
    for name, value in values.items():
        if name not in known:
            raise invalid(f"{where}{name}", f"is no field here; the fields are {', '.join(sorted(known))}.")
        if wrong := known[name].wrong(value):
            raise invalid(f"{where}{name}", wrong)
    for field in fields:
        if field.required and field.name not in values:
            raise invalid(f"{where}{field.name}", "is missing.")
    return values


def checked_query(fields: Sequence[Field], query: Mapping[str, str], but: str = "") -> dict[str, Any]:
    """The same for what stands behind the ? of an address, where every value is a text.

    but: the name of fields that are left out, such as ``but[a]=1``.
    """
    integers = {field.name for field in fields if field.kind == "integer"}
    values: dict[str, Any] = {}
    for name, text in query.items():
        if but and name.startswith(f"{but}["):
            continue
        if name in values:
            raise invalid(name, "is given twice.")
        number = re.fullmatch(r"[+-]?[0-9]{1,9}", text) if name in integers else None
        values[name] = int(text) if number else text
    return {field.name: field.default for field in fields} | checked(fields, values)


def schema_of(fields: Sequence[Field]) -> dict[str, Any]:
    """The JSON schema of an object with these fields."""
    return {
        "type": "object",
        "properties": {field.name: field.described() for field in fields},
        "required": [field.name for field in fields if field.required],
        "additionalProperties": False,
    }


def invalid(field: str, message: str) -> Problem:
    """A problem with one field of a request."""
    shown = field.encode("utf-8", "replace").decode()[:200]
    return Problem("invalid", f"{shown}: {message}", field=shown)

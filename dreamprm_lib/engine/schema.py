"""What a file or a group of settings may contain: one check of names and types for all that is read.

Types are those of the annotations, without any conversion: `1` is no truth value and `"3"` is no number.  A dataclass
gives its own fields (`form_of`); where a file has other names than we, a `Form` is written beside its reader.
"""

from collections.abc import Iterable, Mapping
from dataclasses import fields
from difflib import get_close_matches
from functools import cache
from reprlib import Repr
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from pydantic import BaseModel, ConfigDict, Strict, ValidationError, create_model
from pydantic_core import ErrorDetails

from dreamprm_lib.errors import InputError

T = TypeVar("T")
AnyForm = TypeVar("AnyForm", bound=BaseModel)
SHORT = Repr()
SHORT.maxstring = SHORT.maxother = 60


class Form(BaseModel):
    """Fields with their types; a further field is an error, unless the form says `extra="ignore"`."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


def checked(form: type[AnyForm], value: Any, where: object, noun: str = "field", secret: bool = False) -> AnyForm:
    """The value as that form.  Raises `InputError`, which begins with `where` and names all that is wrong at once:
    each field that is missing, unknown, or of another type, with its value unless that may be `secret`."""
    if not isinstance(value, Mapping):
        shown = type(value).__name__ if secret else SHORT.repr(value)
        raise InputError(f"{where}: {shown} where {noun}s with names were expected.")
    try:
        return form.model_validate(value)
    except ValidationError as error:
        found = error.errors(include_url=False, include_input=not secret)
    missing = [f"`{_path(e['loc'])}`" for e in found if e["type"] == "missing"]
    said = [_described(e, form, noun) for e in found if e["type"] != "missing"]
    if missing:
        others = f", and so {'are' if missing[2:] else 'is'} {', '.join(missing[1:])}" if missing[1:] else ""
        said.insert(0, f"the {noun} {missing[0]} is missing{others}")
    more = f"; and {len(said) - 5} more faults" if said[6:] else ""
    raise InputError(f"{where}: {'; '.join(said[:5] if more else said)}{more}.")


def row_of(kind: type[T], value: Any, where: object, noun: str = "field", secret: bool = False) -> T:
    """The dataclass of a row, its names and types checked.  Raises `InputError` as `checked` does."""
    checked(form_of(kind), value, where, noun, secret)  # type: ignore[arg-type]  # a class can be hashed
    return kind(**value)


@cache
def form_of(kind: type) -> type[Form]:
    """The form of a dataclass; a tuple of many is a list in it, as in every file."""
    hints = get_type_hints(kind, include_extras=True)
    spec: dict[str, Any] = {f.name: (_listed(hints[f.name]), f) for f in fields(kind)}
    return create_model(kind.__name__, __base__=Form, **spec)


def nearest(name: object, known: Iterable[str]) -> str:
    """What goes behind "there is no …": the known name that is like `name`, or else those that are known."""
    known = sorted(known)
    if close := get_close_matches(str(name), known, 1):
        return f" (did you mean `{close[0]}`?)"
    return f": known are {', '.join(known[:40])}{', …' * (len(known) > 40)}"


def _listed(hint: Any) -> Any:
    if get_origin(hint) is not tuple or get_args(hint)[1:] != (...,):
        return hint
    return Annotated[list[get_args(hint)[0]], Strict(False)]  # type: ignore[misc]  # not strict: a tuple is one, too


def _described(error: ErrorDetails, form: type[BaseModel], noun: str) -> str:
    """One of pydantic's errors in a sentence of ours."""
    path = _path(error["loc"])
    if error["type"] == "extra_forbidden":
        return f"there is no {noun} `{path}`" + (nearest(path, form.model_fields) if len(error["loc"]) == 1 else "")
    said = error["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    value = f" is {SHORT.repr(error['input'])}" if "input" in error else ""
    return f"the {noun} `{path}`{value}: {said}"


def _path(place: tuple[str | int, ...]) -> str:
    """`tests[0].output` for ("tests", 0, "output")."""
    return "".join(f"[{x}]" if isinstance(x, int) else f".{x}" for x in place).removeprefix(".")

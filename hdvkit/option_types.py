"""Text to a value of a Python type, and back: what may stand after the ``=`` of an option. No I/O.

====================  ===============================================================================
type                  text
====================  ===============================================================================
``bool``              ``true`` ``on`` ``yes`` ``1``, ``false`` ``off`` ``no`` ``0``
``int``               decimal or ``0x..``; with K, M, G or T (or KiB, MiB, ..) times 1024, 1024**2, ..
``float``, ``Path``   as Python reads them
``str``               itself
enum, ``Literal``     the value, or the name of the member
list, tuple, set      the items with ``;`` between them; the empty text is no item
``X | None``          ``none``, or as for X; of other unions the first member that fits
====================  ===============================================================================

Anything else has no text form and is given from Python.
"""

import re
from collections.abc import Collection, Iterable, Mapping, MutableMapping, Sequence, Set
from enum import Enum
from pathlib import PurePath
from types import EllipsisType, NoneType, UnionType
from typing import Annotated, Any, Literal, NewType, NoReturn, Union, get_args, get_origin

import attrs
import cattrs

SEPARATOR = ";"

_INTEGER = re.compile(r"([+-]?)(0x[0-9a-f]+|[0-9]+)(?:([kmgt])(?:ib)?)?", re.IGNORECASE)
_SHIFTS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_TRUE = ("true", "on", "yes", "1")
_FALSE = ("false", "off", "no", "0")
_SEQUENCES = (list, tuple, set, frozenset, Sequence, Collection, Iterable, Set)
_MAPPINGS = (dict, Mapping, MutableMapping)
_NAMES = {bool: "true|false", int: "integer", float: "number", str: "text", NoneType: "none"}


def to_value(given: object, kind: Any) -> Any:
    """Read ``given`` as a ``kind`` when it is text; pass it unchanged when it is a ``kind`` already.

    ``kind`` is an annotation. One that was never evaluated (itself a string) fits any value but no text.

    Raises:
        ValueError: The text does not mean a ``kind``.
        TypeError: The value is of another type.
    """
    if isinstance(given, str) and not isinstance(given, Enum):
        return _structure(given, kind)
    if _fits(given, kind):
        return given
    if _is_sequence(kind) and isinstance(given, list | tuple | set | frozenset):
        return _make_sequence(given, kind)
    raise TypeError(f"that is of type {type(given).__name__}")


def to_text(value: object) -> str:
    """Write what ``to_value`` reads.

    Raises:
        ValueError: The value has no text form.
    """
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case Enum():
            return str(value.value)
        case str() | int() | float() | PurePath():
            return str(value)
        case list() | tuple():
            return _join([to_text(item) for item in value])
        case set() | frozenset():
            return _join(sorted(map(to_text, value)))
    raise ValueError(f"{value!r} has no text form")


def type_name(kind: Any) -> str:
    """The type in a word for help and error messages, as in ``integer`` or ``auto|always``."""
    kind, arguments = _plain(kind), get_args(_plain(kind))
    if _is_union(kind):
        return " or ".join(map(type_name, arguments))
    if _is_literal(kind):
        return "|".join(map(str, arguments))
    if _is_sequence(kind):
        item = type_name(arguments[0]) if arguments else "text"
        return f"{item}{SEPARATOR}{item}{SEPARATOR}.."
    if _is_enum(kind):
        return "|".join(str(member.value) for member in kind)
    if isinstance(kind, type) and issubclass(kind, PurePath):
        return "path"
    return "any value" if kind in (Any, object) else _NAMES.get(kind) or _class_name(kind)


def _class_name(kind: Any) -> str:
    return getattr(get_origin(kind) or kind, "__name__", str(kind))


# What an annotation is


def _plain(kind: Any) -> Any:
    """``kind`` without the wrappers that mean nothing at run time."""
    while True:
        if isinstance(kind, NewType):
            kind = kind.__supertype__
        elif get_origin(kind) is Annotated:
            kind = get_args(kind)[0]
        else:
            return kind


def _is_union(kind: Any) -> bool:
    return get_origin(kind) in (Union, UnionType)


def _is_literal(kind: Any) -> bool:
    return get_origin(kind) is Literal


def _is_enum(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


def _is_sequence(kind: Any) -> bool:
    return (get_origin(kind) or kind) in _SEQUENCES


def _is_textless(kind: Any) -> bool:
    """Whether cattrs would read text as ``kind`` in a way that nobody who writes an option means."""
    return (
        isinstance(kind, str)
        or kind in (None, NoneType)
        or get_origin(kind) in _MAPPINGS
        or kind is dict
        or attrs.has(kind)
    )


def _fits(value: object, kind: Any) -> bool:
    kind = _plain(NoneType if kind is None else kind)
    if _is_union(kind):
        return any(_fits(value, member) for member in get_args(kind))
    if _is_literal(kind):
        return value in get_args(kind)
    if kind in (int, float) and isinstance(value, bool):
        return False  # True would pass for 1
    try:
        return isinstance(value, int | float if kind is float else get_origin(kind) or kind)
    except TypeError:
        return True  # no class (Any, a type variable, a protocol): the constructor is the judge


# Text to values


def _make_bool(text: str, _: Any) -> bool:
    if (word := text.lower()) not in _TRUE + _FALSE:
        raise ValueError(f"write {', '.join(_TRUE)} or {', '.join(_FALSE)}")
    return word in _TRUE


def _make_int(text: str, _: Any) -> int:
    if not (match := _INTEGER.fullmatch(text)):
        raise ValueError("write digits or 0x.., and K, M, G or T for multiples of 1024")
    sign, digits, unit = match.groups(default="")
    # Base 10 where there is no 0x, so that 010 is ten and not an error.
    size = int(digits, 16 if digits[:2].lower() == "0x" else 10) << _SHIFTS[unit.lower()]
    return -size if sign == "-" else size


def _structure(text: str, kind: Any) -> Any:
    # cattrs takes an enum of strings for a string, whatever is registered for enums.
    plain = _plain(kind)
    return _make_enum(text, plain) if _is_enum(plain) else _converter.structure(text, kind)


def _make_enum(text: str, kind: type[Enum]) -> Enum:
    for member in kind:
        if text == str(member.value) or text.lower() == member.name.lower():
            return member
    raise ValueError(f"write one of {type_name(kind)}")


def _make_literal(text: str, kind: Any) -> object:
    for choice in get_args(kind):
        if text == to_text(choice):
            return choice
    raise ValueError(f"write one of {type_name(kind)}")


def _make_union(text: str, kind: Any) -> Any:
    members = get_args(kind)
    if NoneType in members and text.lower() == "none":
        return None
    problems = []
    for member in [each for each in members if each is not NoneType]:
        try:
            return _structure(text, member)
        except ValueError as problem:
            problems.append(str(problem))
    raise ValueError(" or ".join(dict.fromkeys(problems)))


def _make_sequence(given: str | Collection[object], kind: Any) -> Any:
    """A list, tuple or set of converted items; a tuple where the annotation is abstract."""
    items = given if not isinstance(given, str) else given.split(SEPARATOR) if given else ()
    kinds: list[Any] = list(get_args(kind)) or [str]
    if len(kinds) == 1 or isinstance(kinds[-1], EllipsisType):
        kinds = [kinds[0]] * len(items)
    elif len(items) != len(kinds):
        raise ValueError(f"give {len(kinds)} items with {SEPARATOR!r} between them")
    made = [to_value(item, one) for item, one in zip(items, kinds, strict=True)]
    origin = get_origin(kind) or kind
    return origin(made) if origin in (list, set, frozenset) else tuple(made)


def _no_text(text: str, kind: Any) -> NoReturn:
    raise ValueError(f"only Python code can give {type_name(kind)}")


def _join(items: Sequence[str]) -> str:
    if items == [""] or any(SEPARATOR in item for item in items):
        raise ValueError(f"{items!r} has no text form: {SEPARATOR!r} stands between items")
    return SEPARATOR.join(items)


def _new_converter() -> cattrs.Converter:
    # Errors are about one value, so cattrs' reports over whole classes would only wrap them.
    made = cattrs.Converter(detailed_validation=False, structure_fallback_factory=lambda _: _no_text)
    made.register_structure_hook_func(_is_textless, _no_text)
    made.register_structure_hook_func(_is_literal, _make_literal)
    made.register_structure_hook_func(_is_sequence, _make_sequence)
    made.register_structure_hook_func(_is_union, _make_union)
    made.register_structure_hook(bytes, _no_text)
    made.register_structure_hook(bool, _make_bool)
    made.register_structure_hook(int, _make_int)
    return made


_converter = _new_converter()

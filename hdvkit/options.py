"""Options of hosts and devices: ``kind:key=value,key=value`` to a validated object, and back. No I/O.

The constructor is the schema: each of its keyword parameters is an option, with its name, type and default.
A comma inside a value is written ``,,``; how values are written is in ``hdvkit.option_types``.
Knows nothing of any host or device.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from typing import Any, Final, TypeVar

import attrs

from hdvkit.errors import HdvkitError, UsageError
from hdvkit.option_types import to_text, to_value, type_name

T = TypeVar("T")

KIND = re.compile(r"[a-z0-9][a-z0-9-]*")
_ITEM = re.compile(r"(?:[^,]|,,)+")
_REQUIRED: Final = inspect.Parameter.empty


@attrs.frozen
class Spec:
    """What a person wrote: a kind and its options, still text."""

    kind: str
    options: dict[str, str]


@attrs.frozen
class OptionHelp:
    """One option as help shows it; ``default`` is None when it is required, or when only running code knows it."""

    name: str
    type: str
    default: str | None
    required: bool
    help: str

    def __str__(self) -> str:
        default = "" if self.default is None else f", default {self.default or 'empty'}"
        return f"{self.name}={self.type}{', required' if self.required else default}"


def parse(text: str) -> Spec:
    """Split ``kind:key=value,key=value``; next, ``build`` gives the options their meaning.

    Raises:
        UsageError: The text does not have that form.
    """
    kind, _, rest = text.partition(":")
    check_kind(kind)
    options: dict[str, str] = {}
    for item in _ITEM.findall(rest):
        name, equals, value = item.replace(",,", ",").partition("=")
        if not equals:
            raise UsageError(f"{name!r} in {text!r} has no value: write {name}=VALUE, or ',,' for a comma in a value")
        check_name(name)
        if name in options:
            raise UsageError(f"option {name!r} stands twice in {text!r}: give it once")
        options[name] = value
    return Spec(kind, options)


def format(kind: str, options: Mapping[str, object]) -> str:  # noqa: A001 - read as options.format, beside parse
    """Write what ``parse`` reads.

    Raises:
        UsageError: The kind or a name is malformed, or a value has no text form.
    """
    check_kind(kind)
    items = []
    for name, value in options.items():
        check_name(name)
        try:
            items.append(f"{name}={to_text(value)}".replace(",", ",,"))
        except ValueError as problem:
            raise UsageError(f"option {name!r} of {kind} cannot be written: {problem}") from problem
    return f"{kind}:{','.join(items)}" if items else kind


def check_kind(kind: str) -> None:
    """Raise UsageError unless ``kind`` is made of lower-case letters, digits and inner ``-``."""
    if not KIND.fullmatch(kind):
        raise UsageError(f"{kind!r} is no kind: use lower-case letters, digits and '-', as in 'vfio-user'")


def check_name(name: str) -> None:
    """Raise UsageError unless ``name`` can be the name of an option."""
    if not name.isidentifier():
        raise UsageError(f"{name!r} is no option name: write KIND:NAME=VALUE,NAME=VALUE")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)``, or nothing when no known word is close."""
    close = get_close_matches(word, list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


def describe(factory: Callable[..., object]) -> list[OptionHelp]:
    """The options of ``factory`` in the order of its parameters.

    The help is ``metadata={"help": ...}`` of an attrs field.
    """
    return [option.describe() for option in _schema(factory).values()]


def build(factory: Callable[..., T], options: Mapping[str, object], what: str = "object") -> T:
    """Make what ``factory`` makes, from text or from Python values of the right type, which pass unchanged.

    Args:
        factory: An attrs class, any other class, or a function.
        options: Values by name.
        what: How messages call the result, as in ``device virtiofs``.

    Raises:
        UsageError: An option is unknown, missing or refused; the message names it, its value and the cause.
    """
    schema = _schema(factory)
    for name in options:
        if name not in schema:
            raise UsageError(f"{what} has no option {name!r}{_instead(name, schema)}")
    if missing := [option.describe() for option in schema.values() if option.required and option.name not in options]:
        raise UsageError(f"{what} needs {' and '.join(f'{option.name}=<{option.type}>' for option in missing)}")
    arguments = {name: schema[name].convert(value, what) for name, value in options.items()}
    try:
        return factory(**arguments)
    except HdvkitError:
        raise
    except (TypeError, ValueError, OSError) as problem:
        blamed = _blamed(problem, schema, arguments)
        subject = f"option {blamed!r} of {what} cannot be {options[blamed]!r}" if blamed else what
        raise UsageError(f"{subject}: {_sentence(problem)}") from problem


def _instead(name: str, schema: "Mapping[str, _Option]") -> str:
    """The option that was probably meant, or all there are."""
    if close := get_close_matches(name, list(schema), n=1):
        return f"; did you mean {schema[close[0]].describe()}?"
    return f", it has: {'; '.join(str(option.describe()) for option in schema.values()) or 'none'}"


# The schema: what a constructor takes


@attrs.frozen
class _Option:
    name: str
    kind: Any
    default: object
    field: "attrs.Attribute[Any] | None"

    @property
    def required(self) -> bool:
        return self.default is _REQUIRED

    def describe(self) -> OptionHelp:
        help_text = self.field.metadata.get("help", "") if self.field else ""
        return OptionHelp(self.name, type_name(self.kind), self._default(), self.required, help_text)

    def _default(self) -> str | None:
        if self.required or isinstance(self.default, attrs.Factory):  # type: ignore[arg-type]  # a class; the stubs say function
            return None
        try:
            return to_text(self.default)
        except ValueError:
            return repr(self.default)

    def convert(self, given: object, what: str) -> object:
        try:
            return to_value(given, self.kind)
        except (TypeError, ValueError) as problem:
            wanted = type_name(self.kind)
            raise UsageError(
                f"option {self.name!r} of {what} takes {wanted}, not {given!r}: {_sentence(problem)}"
            ) from problem


def _schema(factory: Callable[..., object]) -> dict[str, _Option]:
    fields = {}
    hints = _hints(_constructor(factory))
    if isinstance(factory, type) and attrs.has(factory):
        fields = {field.alias: field for field in attrs.fields(factory)}
        hints = _hints(factory)
    return {
        parameter.name: _option(parameter, fields.get(parameter.name), hints)
        for parameter in inspect.signature(factory).parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }


def _option(parameter: inspect.Parameter, field: "attrs.Attribute[Any] | None", hints: Mapping[str, Any]) -> _Option:
    if field is None:
        return _Option(parameter.name, hints.get(parameter.name, Any), parameter.default, None)
    kind = hints.get(field.name, Any)
    if callable(field.converter) and parameter.annotation is not _REQUIRED:
        # What a converter takes is the type of the option; what it returns is the type of the field.
        kind = _evaluated(parameter.annotation, _names(field.converter))
    return _Option(parameter.name, kind, _REQUIRED if field.default is attrs.NOTHING else field.default, field)


def _constructor(factory: Any) -> Any:
    """The function whose annotations are the types of the parameters."""
    factory = getattr(factory, "func", factory)  # functools.partial
    if isinstance(factory, type):
        return inspect.getattr_static(factory, "__init__")
    return factory if inspect.isroutine(factory) else type(factory).__call__


def _hints(owner: Any) -> dict[str, Any]:
    """Annotations of a function, or of a class and its bases, evaluated one by one."""
    hints = {}
    for part in reversed(owner.__mro__) if isinstance(owner, type) else (owner,):
        for name, hint in inspect.get_annotations(part).items():
            hints[name] = _evaluated(hint, _names(part))
    return hints


def _names(owner: object) -> dict[str, Any]:
    """What a name in an annotation of ``owner`` refers to."""
    module = sys.modules.get(getattr(owner, "__module__", None) or "")
    return dict(vars(module)) if module else {}


def _evaluated(hint: Any, names: dict[str, Any]) -> Any:
    """The type ``hint`` stands for; it stays text when only type checkers import what it names."""
    try:
        return eval(hint, names) if isinstance(hint, str) else hint
    except NameError:
        return hint


# Blame


def _blamed(problem: Exception, schema: Mapping[str, _Option], arguments: Mapping[str, object]) -> str | None:
    """The name of the option whose validator or converter raised ``problem``, if that can be told."""
    fields = {name: schema[name].field for name in arguments if schema[name].field}
    # A validator is called with the attribute it judges, so one of the frames holds it.
    trace = problem.__traceback__
    while trace is not None:
        for seen in trace.tb_frame.f_locals.values():
            if isinstance(seen, attrs.Attribute) and seen in fields.values():
                return next(name for name, field in fields.items() if field == seen)
        trace = trace.tb_next
    return next((name for name, field in fields.items() if _refuses(field, arguments[name])), None)


def _refuses(field: "attrs.Attribute[Any] | None", value: object) -> bool:
    if field is None or not callable(field.converter):
        return False
    try:
        field.converter(value)
    except (TypeError, ValueError, OSError):
        return True
    return False


def _sentence(problem: Exception) -> str:
    """The message; attrs puts the field, the type and the value behind it, where nobody wants to read them."""
    if problem.args and isinstance(problem.args[0], str):
        return problem.args[0]
    return str(problem) or type(problem).__name__

"""Judges the options of a share that are little languages, before it has any guest.

What is wrong is a sentence for whoever wrote it, the same from the command line, from ``host.add`` and from the class.
"""

from collections.abc import Callable, Sequence
from typing import Any

import attrs

from hdvkit import UsageError
from hdvkit_virtiofs.policy import globs, identity, timeouts, xattrs

Validator = Callable[[Any, "attrs.Attribute[Any]", Any], None]


def judged(judge: Callable[[Any], object]) -> Validator:
    """Says of the ValueError that ``judge`` raises which option it is about."""

    def validate(_: object, field: "attrs.Attribute[Any]", value: Any) -> None:
        try:
            judge(value)
        except ValueError as problem:
            raise UsageError(f"option {field.name!r} of device virtiofs: {problem}") from problem

    return validate


def texts(judge: Callable[[Sequence[str]], object]) -> Validator:
    """The same for several texts; one alone would pass for a sequence of letters."""

    def judge_texts(value: object) -> None:
        if not isinstance(value, list | tuple) or not all(isinstance(each, str) for each in value):
            raise ValueError(f"{value!r} is no tuple of texts; write ('...',)")
        judge(value)

    return judged(judge_texts)


def switch(value: object) -> None:
    """Raise ValueError unless ``value`` is True or False: a text would be true, whatever it says."""
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither yes nor no; write True or False")


def squash(value: object) -> None:
    """Raise ValueError unless ``value`` is None or a rule for all ids."""
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{value!r} is no text; write 'UID:GID'")
    if value is not None:
        identity.squashed(value)


def asked(value: object) -> None:
    """Raise ValueError unless ``value`` is None or can be called."""
    if value is not None and not callable(value):
        raise ValueError(f"{value!r} cannot be called; write a coroutine function that takes an Operation")


SWITCH = judged(switch)
AUTHORIZE = judged(asked)
SQUASH = judged(squash)
PATTERNS = texts(globs.Globs)
TIMEOUTS = texts(timeouts.parse_all)
TRANSLATION = texts(identity.tables)
XATTR_RULES = texts(xattrs.parse_all)

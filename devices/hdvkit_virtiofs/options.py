"""Judges the options of a share that are little languages, before it has any guest.

What is wrong is a sentence for whoever wrote it, the same from the command line, from ``host.add`` and from the class.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from hdvkit import UsageError
from hdvkit_virtiofs.policy import globs, identity, timeouts, xattrs

TAG_SIZE = 36
LONGEST_TIMEOUT = 2**32 - 1
"""Seconds a guest can be told, 136 years."""

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


def tag(value: object) -> None:
    """Raise ValueError unless a guest can be told ``value`` and a person can type it."""
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is no text; write what the guest is to mount, as in 'job'")
    encoded = value.encode(errors="replace")
    if not 1 <= len(encoded) <= TAG_SIZE or b"\0" in encoded:
        raise ValueError(f"a tag is 1 to {TAG_SIZE} bytes of UTF-8 without NUL; {value!r} has {len(encoded)}")
    if not value.isprintable():
        raise ValueError(f"a tag is something to type after mount -t virtiofs; {value!r} has control characters")


def queue_size(value: object) -> None:
    """Raise ValueError unless a ring of the smallest request or the largest of VIRTIO has so many places."""
    if isinstance(value, bool) or not isinstance(value, int) or value & (value - 1) or not 8 <= value <= 32768:
        raise ValueError(f"a queue size is a power of two from 8 to 32768; {value!r} is none")


def whole(low: int, high: int, *, optional: bool = False) -> Validator:
    """Asks for a whole number, or None if that is among the choices."""

    def judge(value: object) -> None:
        if optional and value is None:
            return
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"{value!r} is no whole number from {low} to {high}")

    return judged(judge)


def seconds(value: object) -> None:
    """Raise ValueError unless ``value`` is None or a time that a guest can be told."""
    if value is None:
        return
    fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not fits or not 0 <= value <= LONGEST_TIMEOUT:  # type: ignore[operator]  # a number, as the line above found
        raise ValueError(f"{value!r} is no number of seconds from 0 to {LONGEST_TIMEOUT}")


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


TAG = judged(tag)
QUEUE_SIZE = judged(queue_size)
SECONDS = judged(seconds)
SWITCH = judged(switch)
AUTHORIZE = judged(asked)
SQUASH = judged(squash)
PATTERNS = texts(globs.Globs)
TIMEOUTS = texts(timeouts.parse_all)
TRANSLATION = texts(identity.tables)
XATTR_RULES = texts(xattrs.parse_all)

"""Cases from tables: a function and the values of its arguments. Each runs in a new folder, and its answer is kept."""

import itertools
import json
import os
import signal
import time
import zlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import attempts

Function = Callable[..., object]
Axis = Mapping[str, object] | Iterable[object]

SECONDS = 60
"""After which a case is said to hang."""

SOMETIMES = 25
"""Cases, after which it is time for something else."""

_FIRST: set[str] = set()
_REGISTERED: dict[str, dict[str, Callable[[], object]]] = {}


def case(**axes: Axis) -> Callable[[Function], Function]:
    """Register a function once for each combination of its arguments' values.

    An axis is a list of values, which are called what they look like, or a dictionary from names to values.
    """

    def register(function: Function) -> Function:
        group = _REGISTERED.setdefault(function.__module__, {})
        for place, combination in enumerate(itertools.product(*(_named(axis) for axis in axes.values()))):
            name = " ".join((function.__name__, *(label for label, _ in combination)))
            if not place:
                _FIRST.add(name)
            arguments = dict(zip(axes, (value for _, value in combination), strict=True))
            if name in group:
                raise ValueError(f"two cases are called {name}")
            group[name] = lambda arguments=arguments: function(**arguments)
        return function

    return register


def octal(*modes: int) -> dict[str, int]:
    """An axis of modes, called as ``chmod`` calls them."""
    return {f"{mode:04o}": mode for mode in modes}


def _named(axis: Axis) -> list[tuple[str, object]]:
    return list(axis.items()) if isinstance(axis, Mapping) else [(str(value), value) for value in axis]


def counted(groups: Iterable[str]) -> dict[str, int]:
    """How many cases each group has."""
    return {group: len(_REGISTERED[group]) for group in groups}


def run(groups: Iterable[str], directory: str, results: str, *, one_of: int = 1, between: Callable[[], None]) -> None:
    """Run cases below a directory, and write their answers into a file.

    Of each table ``one_of`` so many run, the first always; the choice is the same each time. ``between`` is called
    now and then.
    """
    signal.signal(signal.SIGALRM, _hangs)
    lines = []
    for group in groups:
        begun = time.monotonic()
        chosen = [named for named in _REGISTERED[group].items() if one_of == 1 or _is_chosen(named[0], one_of)]
        for number, (name, function) in enumerate(chosen):
            answer = _answer(Path(directory, group, str(number)), function)
            lines.append(json.dumps({"group": group, "case": name, "result": answer}))
            if number % SOMETIMES == 0:
                between()
        print(f"{group}: {len(chosen)} cases, {time.monotonic() - begun:.1f} s", flush=True)
        Path(results).write_text("".join(f"{line}\n" for line in lines))


def _is_chosen(name: str, one_of: int) -> bool:
    # Not every fourth: that would be the same value of the last axis each time.
    return name in _FIRST or zlib.crc32(name.encode()) % one_of == 0


def _answer(folder: Path, function: Callable[[], object]) -> object:
    folder.mkdir(parents=True)
    folder.chmod(0o777)
    os.chdir(folder)
    os.umask(0o022)
    signal.alarm(SECONDS)
    try:
        return attempts.shown(function())
    except Exception as error:
        return f"unexpected {error!r}"
    finally:
        signal.alarm(0)
        os.chdir("/")


def _hangs(*_: object) -> None:
    raise TimeoutError("it hangs")

"""A Windows made of Wine and the official CPython, to run our tests on. For development; not in the wheel.

::

    from hdvkit_wine import Windows, compile_dll, prepare

    assets = prepare()
    compile_dll(assets.mingw, [Path("double.c")], Path("double.dll"))
    with Windows(assets) as windows:
        windows.install_dll(Path("double.dll"))
        done = windows.run(["-m", "pytest", "tests/test_memory.py"], timeout=60)
        print(done.code, done.output)

The room, from the bottom up; what fetches packages and keeps the record is that of ``hdvkit_vm``:

==============  =======================================================================================
``errors``      what can go wrong
``recipe``      what the cache is made of: packages of Debian, and a CPython by its hash
``wine``        the Wine programs: their environment, one call, the making of a prefix
``mingw``       the compiler for Windows
``project``     the working tree as Windows sees it: requirements, import paths, entry points
``wheels``      what comes from the package index: pip chooses, we unpack
``python``      puts the Windows CPython together
``provision``   ``prepare()``: brings all that together, once
``windows``     ``Windows``: one system to run Python in, alone and thrown away afterwards
``suite``       which of our tests run there, and the doubles of system DLLs they find
==============  =======================================================================================

``python -m hdvkit_wine prepare`` sets the cache up, a minute the first time and nothing afterwards; no root needed.
Environment: HDVKIT_CACHE is the folder, HDVKIT_WINE a Wine to use, HDVKIT_MINGW a compiler to use.
"""

from hdvkit_vm.errors import PrepareError

from hdvkit_wine.errors import CompileFailed, RunTimedOut, WineError
from hdvkit_wine.mingw import Mingw, compile_dll, compile_program
from hdvkit_wine.provision import Assets, prepare, prepared
from hdvkit_wine.windows import Done, Windows

__all__ = [
    "Assets",
    "CompileFailed",
    "Done",
    "Mingw",
    "PrepareError",
    "RunTimedOut",
    "Windows",
    "WineError",
    "compile_dll",
    "compile_program",
    "prepare",
    "prepared",
]

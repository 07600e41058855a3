"""A checkout's C is built when it was changed, and what cannot be built is not used."""

import os
from pathlib import Path

import pytest

import hatch_build
from benchmarks.build import compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="building C needs a compiler")

TABLE = """
from pathlib import Path
MODULE = "_part"
DECLARATIONS = "int answer(void);"
HEADER = "int answer(void);"
SOURCES = [Path(__file__).parent / "part.c"]
LIBRARIES = []
"""


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The C of the only part there is."""
    (tmp_path / "build.py").write_text(TABLE)
    (tmp_path / "part.c").write_text("int answer(void) { return 42; }\n")
    monkeypatch.setattr(hatch_build, "PARTS", [str(tmp_path / "build.py")])
    monkeypatch.delenv(hatch_build.SWITCH, raising=False)
    return tmp_path / "part.c"


def change(source: Path, text: str) -> None:
    """Write, later than what was built."""
    (built,) = hatch_build.built(source)
    later = built.stat().st_mtime_ns + 1
    source.write_text(text)
    os.utime(source, ns=(later, later))


def test_what_was_changed_is_built_again(source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hatch_build.build_in_place()
    (first,) = hatch_build.built(source)
    assert str(first) in capfd.readouterr().out
    hatch_build.build_in_place()
    assert capfd.readouterr().out == ""
    change(source, "int answer(void) { return 43; }\n")
    hatch_build.build_in_place()
    assert str(first) in capfd.readouterr().out


def test_what_does_not_compile_is_not_left_as_it_was(source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    hatch_build.build_in_place()
    change(source, "int answer(void) { return }\n")
    hatch_build.build_in_place()
    assert hatch_build.built(source) == []
    assert "hdvkit uses Python instead of C" in capfd.readouterr().err


def test_who_insists_hears_of_it(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(hatch_build.SWITCH, "1")
    source.write_text("int answer(void) { return }\n")
    with pytest.raises(Exception, match=r"[Cc]ompil"):
        hatch_build.build_in_place()

"""Names of guests and of NTFS: nothing a guest says means more than one name of one directory, and all round trips."""

import contextlib
import errno
import re
from collections.abc import Callable

import pytest
from hdvkit_virtiofs.passthrough.windows import names
from hdvkit_virtiofs.passthrough.windows.names import to_guest, to_host, to_new
from hypothesis import example, given
from hypothesis import strategies as st

WINDOWS_FORBIDS = set('"*/:<>?\\|\0') | set(map(chr, range(1, 32)))  # "Naming Files, Paths, and Namespaces"
DEVICES = ["CON", "PRN", "AUX", "NUL", *(f"{kind}{n}" for kind in ("COM", "LPT") for n in "0123456789¹²³")]

ODD = '":*?<>|\\. \x01\x1f\uf03a\uf02e\uf020\uf05c\uf043\uf001aCONconulx$1¹日🙂'

guest_names = st.text(st.sampled_from(ODD) | st.characters(exclude_characters="/\0"), min_size=1, max_size=60)
host_units = st.text(
    st.sampled_from([c for c in ODD if c not in WINDOWS_FORBIDS])
    | st.characters(exclude_characters="".join(WINDOWS_FORBIDS)),
    min_size=1,
    max_size=60,
)


def host(name: str) -> str:
    return to_host(name.encode("utf-8", "surrogatepass")).decode("utf-16-le", "surrogatepass")


def guest(name: str) -> str:
    return to_guest(name.encode("utf-16-le", "surrogatepass")).decode("utf-8", "surrogatepass")


def made_or_refused(make: Callable[[bytes], bytes], name: str, *codes: int) -> str | None:
    """The name in UTF-16, or None where it was refused with one of the codes."""
    code = 0
    try:
        return make(name.encode("utf-8", "surrogatepass")).decode("utf-16-le", "surrogatepass")
    except OSError as error:
        code = error.errno or 0
    assert code in codes
    return None


@given(guest_names)
@example("..\\..\\secret")
@example("file::$DATA")
@example("CON.")
@example("\uf043ON")
@example("nul .txt")
def test_a_guests_name_is_one_name_of_windows_and_comes_back(name: str) -> None:
    made = made_or_refused(to_host, name, errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG)
    if made is not None:
        assert WINDOWS_FORBIDS.isdisjoint(made)
        assert made not in ("", ".", "..")
        assert guest(made) == name


@given(guest_names)
@example("\uf043ON")
@example("dot\uf02e")
def test_a_guest_makes_nothing_that_win32_would_misread(name: str) -> None:
    made = made_or_refused(to_new, name, errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG)
    if made is not None:
        assert made == host(name)
        assert made[-1] not in ". "
        assert re.split(r"[ .]", made)[0].upper() not in DEVICES


@given(host_units)
@example("CON")
@example("trailing.")
@example("trailing ")
@example("private\uf03a")
@example("\uf043ON")
@example("NUL\uf02e")
def test_every_file_of_the_host_has_a_name_that_leads_to_it(units: str) -> None:
    if units in (".", ".."):
        return
    shown = guest(units)
    assert shown
    assert "/" not in shown
    assert "\0" not in shown
    assert shown not in (".", "..")
    back = made_or_refused(to_host, shown, errno.EILSEQ)
    # Halves of characters that would become one are refused; NTFS may have them side by side, nobody makes them.
    assert back in (units, None)


@given(st.lists(guest_names, min_size=2, max_size=6, unique=True))
def test_no_two_names_become_one(some: list[str]) -> None:
    made = [made_or_refused(to_host, name, errno.EINVAL, errno.EILSEQ, errno.ENAMETOOLONG) for name in some]
    kept = [name for name in made if name is not None]
    assert len(set(kept)) == len(kept)


@given(st.binary(min_size=1, max_size=40))
def test_any_bytes_are_a_name_or_refused(data: bytes) -> None:
    with contextlib.suppress(OSError):
        assert to_guest(to_host(data)) == data


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("plain", "plain"),
        ("a:b", "a\uf03ab"),  # as WSL and Cygwin have it
        ('"*<>?|\\', "\uf022\uf02a\uf03c\uf03e\uf03f\uf07c\uf05c"),
        ("\x01", "\uf001"),
        (".hidden", ".hidden"),
        ("dot.", "dot\uf02e"),
        ("space ", "space\uf020"),
        ("...", "..\uf02e"),
        ("a. ", "a.\uf020"),
        ("con", "\uf063on"),
        ("COM1.txt", "\uf043OM1.txt"),
        ("LPT³", "\uf04cPT³"),
        ("NUL .tar.gz", "\uf04eUL .tar.gz"),
        ("CONSOLE", "CONSOLE"),
        ("console.c", "console.c"),
        ("COM10", "COM10"),
        ("日本", "日本"),
    ],
)
def test_the_mapping(name: str, made: str) -> None:
    assert host(name) == made
    assert guest(made) == name


@pytest.mark.parametrize("name", ["CON", "trailing.", "trailing ", "nul.txt"])
def test_names_that_only_ntfs_itself_can_make_are_shown_moved(name: str) -> None:
    assert guest(name) != name
    assert host(guest(name)) == name


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (b"\xff", errno.EILSEQ),
        (b"\xc0\xaf", errno.EILSEQ),  # a slash, written too long
        (b"\xed\xa0\xbd\xed\xb9\x82", errno.EILSEQ),  # one character, written as two halves
        ("\uf03a".encode(), errno.EINVAL),  # would be a colon
        ("\uf05c".encode(), errno.EINVAL),
        ("\uf02e".encode(), errno.EINVAL),  # would be .
        (".\uf02e".encode(), errno.EINVAL),  # would be ..
        (b"a/b", errno.EINVAL),
        (b"a\0", errno.EINVAL),
        (b"", errno.EINVAL),
        (b".." + b"/", errno.EINVAL),
        (b"x" * 256, errno.ENAMETOOLONG),
        ("🙂".encode() * 128, errno.ENAMETOOLONG),
    ],
)
def test_refused(name: bytes, code: int) -> None:
    with pytest.raises(OSError) as caught:  # noqa: PT011 - its number says which
        to_host(name)
    assert caught.value.errno == code


def test_255_units_fit() -> None:
    assert len(to_host(b"x" * 255)) == 2 * names.LONGEST
    assert to_host("日".encode() * 255)


def test_an_unpaired_half_of_a_character_round_trips() -> None:
    units = b"x\x00\x80\xdcy\x00"
    assert to_host(to_guest(units)) == units

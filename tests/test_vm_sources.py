"""Which mirror a machine uses, from samples of apt's two file formats."""

import pytest
from hdvkit_vm.errors import PrepareError
from hdvkit_vm.sources import Mirror, Source, choose_mirror, parse_deb822, parse_list, read_sources

DEB822 = """\
# The image's own comment
Types: deb deb-src
URIs: http://mirror.example.org/debian
Suites: trixie trixie-updates
Components: main
 contrib
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: http://security.example.org/debian-security
Suites: trixie-security
Components: main
# Comments may stand between fields
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF

Types: deb-src
URIs: http://sources.example.org/debian
Suites: trixie
Components: main

Enabled: no
Types: deb
URIs: http://off.example.org/debian
Suites: trixie
Components: main
"""

ONE_LINE = """\
# deb http://old.example.org/debian bookworm main
deb [ arch=amd64 signed-by=/etc/apt/keyrings/tools.gpg ] https://tools.example.org/linux bookworm main
deb http://mirror.example.org/debian/ bookworm main contrib # all of it
deb-src http://mirror.example.org/debian/ bookworm main
deb http://security.example.org/debian-security bookworm-security main
not a source
"""


def test_deb822_stanzas():
    assert list(parse_deb822(DEB822)) == [
        Source("http://mirror.example.org/debian", suite, ("main", "contrib"), KEYS)
        for KEYS in ["/usr/share/keyrings/debian-archive-keyring.gpg"]
        for suite in ("trixie", "trixie-updates")
    ] + [Source("http://security.example.org/debian-security", "trixie-security", ("main",), "")]


def test_lines():
    assert list(parse_list(ONE_LINE)) == [
        Source("https://tools.example.org/linux", "bookworm", ("main",), "/etc/apt/keyrings/tools.gpg"),
        Source("http://mirror.example.org/debian/", "bookworm", ("main", "contrib")),
        Source("http://security.example.org/debian-security", "bookworm-security", ("main",)),
    ]


@pytest.mark.parametrize("sources", [list(parse_deb822(DEB822)), list(parse_list(ONE_LINE))])
def test_the_mirror_is_debians_own(sources):
    mirror = choose_mirror(sources)
    assert mirror.main.rstrip("/") == "http://mirror.example.org/debian"
    assert mirror.security == "http://security.example.org/debian-security"


def test_a_machine_without_security_updates_has_no_security_suite():
    mirror = choose_mirror([Source("http://mirror.example.org/debian", "stable", ("main",))])
    assert mirror.security == ""
    assert mirror.line("bookworm-security") == ""
    assert mirror.line("trixie").endswith("http://mirror.example.org/debian trixie main\n")


def test_a_security_suite_comes_from_its_own_address():
    mirror = Mirror("http://a.example.org", "http://b.example.org", "/keys.gpg")
    assert mirror.line("bookworm-security") == (
        "deb [arch=amd64 target=Packages signed-by=/keys.gpg] http://b.example.org bookworm-security main\n"
    )


@pytest.mark.parametrize(
    "source",
    [
        Source("http://mirror.example.org/ubuntu", "noble", ("main",)),
        Source("http://tools.example.org/debian", "bookworm", ("stable",)),
        Source("cdrom:[Debian]/", "bookworm", ("main",)),
    ],
)
def test_what_is_not_debian_is_refused(source):
    with pytest.raises(PrepareError, match="names no Debian mirror"):
        choose_mirror([source])


def test_only_files_that_apt_reads_are_read(tmp_path):
    (tmp_path / "a.list").write_text(ONE_LINE)
    (tmp_path / "b.sources").write_text(DEB822)
    (tmp_path / "c.list.disabled").write_text(ONE_LINE)
    sources = read_sources([*sorted(tmp_path.iterdir()), tmp_path / "missing.list"])
    assert len(sources) == 6

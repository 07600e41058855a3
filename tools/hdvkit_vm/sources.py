"""Which Debian mirror this machine uses: reads apt's own source files. Runs nothing, fetches nothing.

Both formats are read, deb822 (``*.sources``) and one line each (``*.list``). The project names no mirror of its own.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs

from hdvkit_vm.errors import PrepareError

RELEASES = (
    *("bullseye", "bookworm", "trixie", "forky", "duke", "sid"),
    *("oldoldstable", "oldstable", "stable", "testing", "unstable"),
)
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")

ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.+)")


@attrs.frozen
class Source:
    """One suite at one address, as a line of ``sources.list`` names it."""

    uri: str
    suite: str
    components: tuple[str, ...]
    signed_by: str = ""


@attrs.frozen
class Mirror:
    """Where Debian comes from on this machine. Without ``security`` there are no security suites."""

    main: str
    security: str = ""
    keyring: str = ""

    def line(self, suite: str) -> str:
        """The line of ``sources.list`` for one suite, or nothing when this machine knows no address for it."""
        uri = self.security if suite.endswith("-security") else self.main
        signed = f" signed-by={self.keyring}" if self.keyring else ""
        # Only the lists of packages: other programs teach apt to fetch much more (file lists, icons).
        return f"deb [arch=amd64 target=Packages{signed}] {uri} {suite} main\n" if uri else ""


def parse_list(text: str) -> Iterator[Source]:
    """The sources in a ``.list`` file, one a line."""
    for line in text.splitlines():
        if found := ONE_LINE.fullmatch(line.partition("#")[0].strip()):
            options = dict(re.findall(r"(\S+?)=(\S+)", found["options"] or ""))
            components = tuple(found["components"].split())
            yield Source(found["uri"], found["suite"], components, options.get("signed-by", ""))


def parse_deb822(text: str) -> Iterator[Source]:
    """The sources in a ``.sources`` file: stanzas of fields, continued by lines that start with a blank."""
    text = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    for stanza in re.split(r"\n\s*\n", text):
        pairs = re.findall(r"^([\w-]+):((?:.*)(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        fields = {name.lower(): value.split() for name, value in pairs}
        if "deb" not in fields.get("types", []) or fields.get("enabled", ["yes"])[0].lower() in ("no", "false"):
            continue
        signed_by = fields.get("signed-by", [""])
        for uri in fields.get("uris", []):
            for suite in fields.get("suites", []):
                # A key may stand in the field itself; only a file can be handed on.
                path = signed_by[0] if len(signed_by) == 1 else ""
                yield Source(uri, suite, tuple(fields.get("components", [])), path)


def read_sources(files: Iterable[Path]) -> list[Source]:
    """All sources in files that apt would read; the others apt ignores, so do we."""
    sources: list[Source] = []
    for file in files:
        if file.suffix in (".list", ".sources") and file.is_file():
            parse = parse_list if file.suffix == ".list" else parse_deb822
            with contextlib.suppress(PermissionError):  # apt as this user could not read it either
                sources.extend(parse(file.read_text(errors="replace")))
    return sources


def choose_mirror(sources: Iterable[Source]) -> Mirror:
    """The machine's Debian mirror among its sources.

    Raises:
        PrepareError: None of them is Debian's.
    """
    debian = [one for one in sources if "main" in one.components and not one.uri.startswith("cdrom:")]
    main = max((one for one in debian if one.suite in RELEASES), key=_likeness, default=None)
    if main is None:
        raise PrepareError(
            "apt's own configuration names no Debian mirror, so this is not a Debian machine or its sources are "
            "elsewhere: add a Debian suite with the component main to apt, or set HDVKIT_CACHE to a prepared cache"
        )
    guarded = [one for one in debian if re.sub(r"(-security|/updates)$", "", one.suite) in RELEASES]
    security = max((one for one in guarded if one.suite not in RELEASES), key=_likeness, default=None)
    keyring = str(KEYRING) if KEYRING.exists() else main.signed_by
    return Mirror(main.uri, security.uri if security else "", keyring)


def _likeness(source: Source) -> int:
    """Strangers also publish a suite called bookworm with a component main; Debian's own looks like this."""
    return 2 * ("debian-archive" in source.signed_by) + source.uri.rstrip("/").endswith(("/debian", "/debian-security"))

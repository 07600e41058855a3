"""What README and docs say is so: code runs, names exist, tables equal those of the code.

Run as a program it writes anew what is cut out of files or rendered from tables: ``python tests/test_docs.py``.
"""

import ast
import asyncio
import contextlib
import inspect
import io
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import click
import pytest
from hdvkit_vfio_user import VfioUserBackend
from hdvkit_virtiofs import Cache, VirtioFs

import hdvkit
from hdvkit import hookspecs, options
from hdvkit.cli import cli
from hdvkit.hosts.hdv.backend import HdvBackend
from hdvkit.observe import EventKind
from hdvkit.runtime import events, queue
from hdvkit.testing import Answer
from hdvkit.testing.backend import SimBackend
from hdvkit.virtio import Status, ring, status

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
PROSE = [
    *PAGES,
    *(ROOT / "examples").rglob("README.md"),
    *(ROOT / f"{name}.md" for name in ("CONTRIBUTING", "SECURITY")),
]
HOOKS = ["hdvkit_register_hosts", "hdvkit_register_devices", "hdvkit_observers", "hdvkit_register_commands"]
FOLDERS = "hdvkit|devices|plugins|examples|tests|docs|benchmarks|tools"
STATUS_HEAD = "| status now | the driver writes | what follows |\n|---|---|---|\n"
FENCE = re.compile(r"^```(\S*)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """One fenced block: its language, the rest of its first line, what is inside, and the line it begins at."""

    language: str
    info: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The source the block says it is: a file, or with ``name=`` a definition in one."""
        words = dict(word.split("=", 1) for word in self.info.split() if "=" in word)
        if "file" not in words:
            return None
        source = (ROOT / words["file"]).read_text(encoding="utf-8")
        return definition(source, words["name"]) if "name" in words else source


def definition(source: str, name: str) -> str:
    """The text of a class or function."""
    for node in ast.parse(source).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name:
            return f"{ast.get_source_segment(source, node)}\n"
    raise LookupError(f"nothing is called {name}")


def read(name: str) -> str:
    """One page of the docs."""
    return (DOCS / f"{name}.md").read_text(encoding="utf-8")


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a page."""
    return [
        Block(found[1], found[2].strip(), found[3], text.count("\n", 0, found.start()) + 1)
        for found in FENCE.finditer(text)
    ]


def section(text: str, title: str) -> str:
    """What stands under a heading, up to the next of its level or above."""
    found = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    assert found, f"there is no section {title!r}"
    rest = text[found.end() :]
    ends = re.search(rf"^#{{1,{len(found[1])}}} ", FENCE.sub(lambda one: "." * len(one[0]), rest), re.MULTILINE)
    return rest[: ends.start()] if ends else rest


def first_cells(text: str) -> list[str]:
    """The first column of the tables, without the backquotes."""
    return [cell.strip("` ") for cell in re.findall(r"^\| (`[^|]+`(?:, `[^|]+`)*) \|", text, re.MULTILINE)]


def ids(paths: list[Path]) -> list[str]:
    return [path.relative_to(ROOT).as_posix() for path in paths]


# Code


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_code_does_what_the_page_says(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace = ModuleType("page")
    monkeypatch.setitem(sys.modules, "page", namespace)
    asyncio.run(run_page(page, page.read_text(encoding="utf-8"), vars(namespace)))


async def run_page(page: Path, text: str, namespace: dict[str, object]) -> None:
    """Run the blocks of a page one after the other, as ``python -m asyncio`` would."""
    printed: str | None = None
    for block in blocks(text):
        if block.language == "output":
            assert printed == block.text, f"{page.name}, line {block.line}"
        elif block.language == "python" and not block.info.startswith("no-run"):
            # As many empty lines before it as the page has, so that a traceback names the line of the page.
            source = "\n" * block.line + block.text
            code = compile(source, str(page), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
            with contextlib.redirect_stdout(io.StringIO()) as out:
                running = eval(code, namespace)
                if inspect.iscoroutine(running):
                    await running
            printed = out.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_a_block_is_the_file_it_names_and_one_that_does_not_run_says_why(page: Path) -> None:
    for block in blocks(page.read_text(encoding="utf-8")):
        where = f"{page.name}, line {block.line}: write it anew with python tests/test_docs.py"
        assert block.file in (None, block.text), where
        assert block.info != "no-run", where
        if block.language == "toml":
            tomllib.loads(block.text)
        if block.language == "json":
            assert all(json.loads(line) for line in block.text.splitlines())


def test_the_tutorial_and_the_readme_hold_the_whole_example() -> None:
    source = (ROOT / "examples/hdvkit-rng/hdvkit_rng.py").read_text(encoding="utf-8")
    for page in (DOCS / "tutorial-rng.md", ROOT / "README.md"):
        assert source in [block.text for block in blocks(page.read_text(encoding="utf-8"))]


# Names


def test_every_public_name_is_explained() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in sorted(DOCS.rglob("*.md")))
    assert [name for name in hdvkit.__all__ if not re.search(rf"`[^`\n]*\b{name}\b", text)] == []


def test_every_hook_is_there_with_its_signature() -> None:
    hooks = read("hooks")
    declared = [name for name, value in vars(hookspecs).items() if hasattr(value, "hdvkit_spec")]
    assert sorted(declared) == sorted(HOOKS)
    for name in HOOKS:
        signature = str(inspect.signature(getattr(hookspecs, name))).replace("'", "")
        assert f"def {name}{signature}\n" in section(hooks, name)


def test_every_command_and_option_is_there_and_no_other() -> None:
    operate = read("operate")
    context = click.Context(cli)
    for name, command in cli.commands.items():
        text = section(operate, f"hdvkit {name}")
        usage = text.split("```")[1]
        for parameter in command.get_params(context):
            if isinstance(parameter, click.Argument):
                assert parameter.make_metavar(context).strip("[]") in usage
        assert described(text) == {one for one in spoken(command, context) if one not in {"-h", "--help"}}
        assert described(usage) == described(text)
    named = set(re.findall(r"^## hdvkit (\w+)$", operate, re.MULTILINE))
    assert named == set(cli.commands)
    everywhere = first_cells(operate.partition("\n## ")[0])
    assert {word.strip("`") for cell in everywhere for word in cell.split(", ")} == spoken(cli, context) | {"-h"}


def described(text: str) -> set[str]:
    """The options a text names."""
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", text))


def spoken(command: click.Command, context: click.Context) -> set[str]:
    """The options a command takes."""
    return {word for one in command.get_params(context) if isinstance(one, click.Option) for word in one.opts}


@pytest.mark.parametrize(
    ("kind", "factory"),
    [("virtiofs", VirtioFs), ("sim", SimBackend), ("vfio-user", VfioUserBackend), ("hdv", HdvBackend)],
)
def test_every_option_is_there_with_its_default(kind: str, factory: type) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \|", section(read("operate"), kind), re.MULTILINE)
    described = options.describe(factory)
    expected = [(one.name, "required" if one.required else f"`{one.default or 'empty'}`") for one in described]
    assert rows[: len(expected)] == expected


def test_every_event_answer_and_policy_is_there() -> None:
    operate = read("operate")
    assert first_cells(section(operate, "Events"))[-len(EventKind) :] == [str(one) for one in EventKind]
    assert set(first_cells(section(operate, "What becomes of a hostile guest"))) == {str(one) for one in Answer}
    assert {str(one) for one in Cache} <= set(first_cells(section(operate, "virtiofs")))


def test_every_variable_of_the_environment_is_there() -> None:
    shipped = [path for folder in ("hdvkit", "devices", "plugins") for path in (ROOT / folder).rglob("*.py")]
    sources = "".join(path.read_text(encoding="utf-8") for path in (*shipped, ROOT / "hatch_build.py"))
    known = set(re.findall(r"HDVKIT_[A-Z_]+[A-Z]", sources))
    assert set(first_cells(section(read("operate"), "Environment"))) == known


def test_numbers_are_those_of_the_code() -> None:
    device, design, embed = read("write-a-device"), read("design"), read("embed")
    assert f"at most {ring.MAX_CHAIN_DESCRIPTORS} descriptors and {ring.MAX_CHAIN_BYTES >> 20} MiB" in device
    assert f"After {queue.BUDGET} chains" in design
    assert f'"there is more" {queue.MAX_EMPTY_LOOKS} times' in design
    assert f"announced buffers {queue.MAX_EMPTY_LOOKS} times and had none" in read("operate")
    assert f"falls {events.BACKLOG} events behind" in embed


def test_the_status_table_is_that_of_the_code() -> None:
    assert STATUS_HEAD + status_rows() + "\n" in read("design")


def status_rows() -> str:
    """The table of ``hdvkit.virtio.status`` as Markdown."""
    return "".join(f"| {bits(row.now)} | {bits(row.written)} | {row.step.value} |\n" for row in status.TABLE)


def bits(value: Status) -> str:
    """A status in words."""
    return " + ".join(str(one.name) for one in Status if one & value) or "0"


# Places


@pytest.mark.parametrize("page", PROSE, ids=ids(PROSE))
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        place = (page.parent / name).resolve() if name else page
        assert place.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(place.read_text(encoding="utf-8")), f"{page.name} links to {target}"


def anchors(text: str) -> set[str]:
    """What the headings of a page are called in links."""
    titles = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PROSE, ids=ids(PROSE))
def test_every_path_exists(page: Path) -> None:
    named = re.findall(rf"`((?:{FOLDERS})/[\w./-]*)`", page.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists() and path not in PLANNED] == []


PLANNED: set[str] = set()  # what a map has a place for, and nobody has built


def test_the_layout_is_as_it_is() -> None:
    drawn = next(one.text for one in blocks(section(read("design"), "Layout")))
    missing = [path for path in layout(drawn) if not (ROOT / path).exists()]
    assert missing == []
    folders = {path.parent for path in (ROOT / "hdvkit").rglob("__init__.py")}
    assert {path.relative_to(ROOT).as_posix() for path in folders} <= {path.rstrip("/") for path in layout(drawn)}


def layout(drawn: str) -> Iterator[str]:
    """The paths of the drawing: names that end in ``/`` or ``.py`` at the beginning of a line."""
    folder = ""
    for line in drawn.splitlines():
        for word in re.split(r"\s{2,}", line.strip())[0].split():
            if word.endswith(("/", ".py")):
                yield word if line[0] != " " else folder + word
                folder = word if line[0] != " " else folder


def test_the_readme_shows_what_the_demo_prints() -> None:
    readme = re.sub(r"\s+", " ", (ROOT / "README.md").read_text(encoding="utf-8"))
    command = [sys.executable, "-m", "hdvkit", "demo", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    rows = re.sub(r"\d+", "0", re.sub(r" │[^│]*│[^│]*│[^│]*│ │ │ ", " ", readme))
    for step in map(json.loads, done.stdout.splitlines()):
        for word in f"{step['did']} {step['saw']}".split():
            assert re.sub(r"\d+", "0", word) in rows, f"the README does not show {step['did']}: {step['saw']}"


def test_commands_of_the_pages_exist() -> None:
    targets = set(re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PROSE:
        text = page.read_text(encoding="utf-8")
        code = "\n".join([one.text for one in blocks(text)] + re.findall(r"`([^`\n]+)`", FENCE.sub("", text)))
        assert set(re.findall(r"^make (?:\w+=\S+ )?([a-z]\w*)", code, re.MULTILINE)) <= targets, page
        commands = set(re.findall(r"^hdvkit ([a-z]\w*)", code, re.MULTILINE))
        assert commands <= set(cli.commands), page


# Form


@pytest.mark.parametrize("page", PAGES, ids=ids(PAGES))
def test_one_sentence_a_line(page: Path) -> None:
    text = re.sub(r"`[^`\n]*`", "code", FENCE.sub("", page.read_text(encoding="utf-8")))
    assert [line for line in text.splitlines() if re.search(r"[.!?][*)]* [A-Z]", line) and line[0] != "|"] == []
    assert text.startswith("# ")


def test_every_kind_is_on_the_first_page() -> None:
    installed = hdvkit.Plugins.load({"HDVKIT_LOAD_PLUGINS": "sim,hdv,vfio-user,virtiofs"})
    shown = re.findall(r"^\| \[?`([\w-]+)`", read("index"), re.MULTILINE)
    assert {*installed.hosts, *installed.devices, "rng"} == set(shown)


def refresh(page: Path) -> None:
    """Write anew what is cut out of files or rendered from tables."""
    text = page.read_text(encoding="utf-8")
    for block in blocks(text):
        if block.file is not None:
            head = f"```{block.language} {block.info}\n"
            text = text.replace(f"{head}{block.text}```", f"{head}{block.file}```")
    text = re.sub(re.escape(STATUS_HEAD) + r"(\|.*\n)*", STATUS_HEAD + status_rows(), text)
    page.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    for each in PAGES:
        refresh(each)

"""Options: the text form, the schema a constructor is, the values, and the sentences people read."""

import enum
import functools
import re
import string
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NewType

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdvkit import options
from hdvkit.errors import HostError, UsageError
from hdvkit.option_types import to_text, to_value, type_name

if TYPE_CHECKING:
    from nowhere import Unknown  # type: ignore[import-not-found]  # a name that cannot be resolved when it runs

Tag = NewType("Tag", str)


class Cache(enum.Enum):
    """A choice whose values are not its names."""

    AUTO = "auto"
    NEVER = "never-ever"


class Level(enum.StrEnum):
    """A choice that is text too."""

    LOW = "l"
    HIGH = "h"


class Operations:
    """Something that only Python can give."""


def seconds(text: str | float) -> float:
    return float(str(text).removesuffix("s"))


@attrs.define
class Share:
    """One option of every sort."""

    tag: Tag = attrs.field(metadata={"help": "how the guest names it"})
    source: Path | Operations
    limit: int = attrs.field(default=65536, validator=attrs.validators.gt(0))
    read_only: bool = False
    cache: Cache = Cache.AUTO
    mode: Literal["fast", "safe"] = "safe"
    timeout: float = attrs.field(default=1.0, converter=seconds)
    quota: int | None = None
    deny: tuple[str, ...] = ()
    sizes: list[int] = attrs.field(factory=list)
    _hidden: int = 0
    computed: int = attrs.field(init=False, default=7)


def share(**given: object) -> Share:
    return options.build(Share, {"tag": "t", "source": "/srv"} | given, "device share")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rng", options.Spec("rng", {})),
        ("rng:", options.Spec("rng", {})),
        ("rng:limit=1", options.Spec("rng", {"limit": "1"})),
        (r"virtiofs:source=C:\a b,tag=x=y", options.Spec("virtiofs", {"source": r"C:\a b", "tag": "x=y"})),
        ("x:a=,,,b=,,,,", options.Spec("x", {"a": ",", "b": ",,"})),
        ("x:a=", options.Spec("x", {"a": ""})),
    ],
)
def test_parse(text: str, expected: options.Spec) -> None:
    assert options.parse(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'' is no kind"),
        ("Rng", "'Rng' is no kind"),
        ("-rng", "'-rng' is no kind"),
        ("rng\n", r"'rng\n' is no kind"),
        ("rng:limit", "'limit' in 'rng:limit' has no value: write limit=VALUE"),
        ("fs:source=/a,b", "',,' for a comma in a value"),
        ("rng:=1", "'' is no option name"),
        ("rng:a b=1", "'a b' is no option name"),
        ("rng:a=1,a=2", "option 'a' stands twice"),
    ],
)
def test_parse_refuses(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        options.parse(text)


names = st.text(string.ascii_letters + "_", min_size=1)


@given(st.from_regex(r"[a-z0-9][a-z0-9-]*", fullmatch=True), st.dictionaries(names, st.text()))
def test_parse_reads_what_format_writes(kind: str, given: dict[str, str]) -> None:
    assert options.parse(options.format(kind, given)) == options.Spec(kind, given)


@given(
    st.builds(
        Share,
        tag=st.text(),
        source=st.builds(Path, st.text(string.ascii_letters + ",;=: /", min_size=1)),
        limit=st.integers(min_value=1),
        read_only=st.booleans(),
        cache=st.sampled_from(Cache),
        mode=st.sampled_from(["fast", "safe"]),
        timeout=st.floats(allow_nan=False),
        quota=st.none() | st.integers(),
        deny=st.lists(st.text(string.printable.replace(";", ""), min_size=1)).map(tuple),
        sizes=st.lists(st.integers()),
    )
)
def test_an_object_survives_the_way_through_text(made: Share) -> None:
    given = attrs.asdict(made, recurse=False, filter=lambda field, _: field.init and field.name != "_hidden")
    assert options.build(Share, options.parse(options.format("share", given)).options) == made


def test_format_refuses_what_parse_could_not_read() -> None:
    with pytest.raises(UsageError, match="'Rng' is no kind"):
        options.format("Rng", {})
    with pytest.raises(UsageError, match="'a b' is no option name"):
        options.format("rng", {"a b": 1})
    with pytest.raises(UsageError, match=r"option 'source' of fs cannot be written: .* has no text form"):
        options.format("fs", {"source": Operations()})
    with pytest.raises(UsageError, match="';' stands between items"):
        options.format("fs", {"deny": ["a;b"]})


@pytest.mark.parametrize(
    ("kind", "text", "expected"),
    [
        (bool, "Yes", True),
        (bool, "off", False),
        (int, "-12", -12),
        (int, "0x1F", 31),
        (int, "010", 10),
        (int, "64K", 65536),
        (int, "2mib", 2 << 20),
        (int, "0x2G", 2 << 30),
        (float, "0.5", 0.5),
        (Path, "a/b", Path("a/b")),
        (str, "none", "none"),
        (Tag, "none", "none"),
        (Any, "x", "x"),
        (Cache, "auto", Cache.AUTO),
        (Cache, "never-ever", Cache.NEVER),
        (Cache, "Never", Cache.NEVER),
        (Literal["a", 1], "1", 1),
        (int | None, "none", None),
        (str | None, "None", None),
        (int | str, "12x", "12x"),
        (Operations | Path, "/srv", Path("/srv")),
        (list[str], "", []),
        (list[int], "1;0x2", [1, 2]),
        (tuple[str, ...], "a;b", ("a", "b")),
        (tuple[int, str], "1;b", (1, "b")),
        (frozenset[str], "a;a", frozenset("a")),
        (Sequence[Cache], "auto", (Cache.AUTO,)),
        (list, "a;b", ["a", "b"]),
    ],
)
def test_text_of_a_type(kind: Any, text: str, expected: object) -> None:
    value = to_value(text, kind)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("kind", "text", "message"),
    [
        (bool, "maybe", "write true, on, yes, 1 or false, off, no, 0"),
        (int, "1_0", "write digits"),
        (int, "", "write digits"),
        (int, "12Q", "K, M, G or T"),
        (int | None, "x", "^write digits or 0x.., and K, M, G or T for multiples of 1024$"),
        (float, "x", "could not convert"),
        (Cache, "x", "write one of auto|never-ever"),
        (Literal["a", "b"], "c", "write one of a|b"),
        (tuple[int, int], "1", "give 2 items"),
        (list[int], "1;x", "write digits"),
        (Operations, "x", "only Python code can give Operations"),
        (dict[str, int], "x", "only Python code"),
        (bytes, "x", "only Python code"),
        (Share, "x", "only Python code can give Share"),
        ("Unknown", "x", "only Python code can give Unknown"),
    ],
)
def test_text_that_does_not_fit(kind: Any, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        to_value(text, kind)


def test_python_values_of_the_right_type_pass_unchanged() -> None:
    operations, sizes = Operations(), [1, 2]
    made = share(source=operations, sizes=sizes, cache=Cache.NEVER, quota=None, limit=5, timeout=2)
    assert made.source is operations
    assert made.sizes is sizes
    assert (made.cache, made.quota, made.limit, made.timeout) == (Cache.NEVER, None, 5, 2.0)


def test_a_list_is_good_enough_for_a_tuple() -> None:
    assert share(deny=["*.key", "a;b"]).deny == ("*.key", "a;b")


@pytest.mark.parametrize(
    ("name", "value"), [("limit", 1.5), ("limit", True), ("read_only", 1), ("deny", 3), ("source", 3)]
)
def test_python_values_of_another_type_are_refused(name: str, value: object) -> None:
    with pytest.raises(UsageError, match=f"option '{name}' of device share takes .*, not {value!r}: that is of type"):
        share(**{name: value})


def test_every_option_of_a_class() -> None:
    made = share(
        limit="1K", read_only="on", cache="never", mode="fast", timeout="5s", quota="2G", deny="a;b", hidden="3"
    )
    assert made == Share(Tag("t"), Path("/srv"), 1024, True, Cache.NEVER, "fast", 5.0, 2 << 30, ("a", "b"), [], 3)


def test_a_misspelt_option_is_answered_with_the_one_that_was_meant() -> None:
    with pytest.raises(UsageError) as caught:
        share(limt=1)
    assert str(caught.value) == "device share has no option 'limt'; did you mean limit=integer, default 65536?"


def test_an_unknown_option_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UsageError) as caught:
        share(help=1)
    assert str(caught.value).startswith(
        "device share has no option 'help', it has: tag=text, required; "
        "source=path or Operations, required; limit=integer, default 65536; read_only=true|false, default false; "
    )


def test_what_is_missing_is_named() -> None:
    with pytest.raises(UsageError, match=r"^device share needs tag=<text> and source=<path or Operations>$"):
        options.build(Share, {}, "device share")


def test_what_a_validator_refuses_is_told_with_name_value_and_cause() -> None:
    with pytest.raises(UsageError, match=r"^option 'limit' of device share cannot be '-1': 'limit' must be > 0: -1$"):
        share(limit="-1")


def test_what_a_converter_refuses_is_told_with_name_value_and_cause() -> None:
    with pytest.raises(UsageError, match=r"^option 'timeout' of device share cannot be 'soon': could not convert"):
        share(timeout="soon")


def test_messages_of_attrs_lose_their_tail() -> None:
    @attrs.define
    class Named:
        name: str = attrs.field(validator=attrs.validators.matches_re("[a-z]+"))

    with pytest.raises(
        UsageError, match=r"^option 'name' of object cannot be '1': 'name' must match regex '\[a-z\]\+'"
    ):
        options.build(Named, {"name": "1"})


def test_a_rule_over_several_options_blames_the_whole() -> None:
    @attrs.define
    class Range:
        low: int
        high: int

        def __attrs_post_init__(self) -> None:
            if self.low > self.high:
                raise ValueError(f"low={self.low} lies above high={self.high}")

    with pytest.raises(UsageError, match=r"^device range: low=2 lies above high=1$") as caught:
        options.build(Range, {"low": "2", "high": "1"}, "device range")
    assert isinstance(caught.value.__cause__, ValueError)


def test_the_operating_system_may_refuse_an_option_and_the_platform_is_passed_on() -> None:
    def refuse(_: object, __: object, value: str) -> None:
        if value == "host":
            raise HostError(5, "no")
        raise FileNotFoundError(2, "No such file or directory", value)

    @attrs.define
    class Folder:
        path: str = attrs.field(validator=refuse)

    with pytest.raises(UsageError, match=r"option 'path' of folder cannot be '/x': .*No such file"):
        options.build(Folder, {"path": "/x"}, "folder")
    with pytest.raises(HostError):
        options.build(Folder, {"path": "host"}, "folder")


class Plain:
    """A constructor with parameters that cannot be options."""

    def __init__(self, directory: Path, /, *names: str, size: "int" = 4, later: "Unknown | None" = None) -> None:
        raise AssertionError("never called")


class Socket:
    """A schema without attrs."""

    def __init__(self, directory: Path, *, size: "int" = 4, later: "Unknown | None" = None, **_: object) -> None:
        self.given = (directory, size, later)


def make_socket(directory: Path, size: int = 4) -> tuple[Path, int]:
    if size < 0:
        raise ValueError(f"size is {size}")
    return directory, size


class Maker:
    """An object as factory."""

    def __call__(self, size: int) -> int:
        """The size."""
        return size


def test_classes_and_functions_without_attrs_are_schemas_too() -> None:
    assert options.build(Socket, {"directory": "/run", "size": "1K"}).given == (Path("/run"), 1024, None)
    assert options.build(make_socket, {"directory": "/run"}) == (Path("/run"), 4)
    assert options.build(functools.partial(make_socket, size=3), {"directory": "/run"}) == (Path("/run"), 3)
    assert options.build(Maker(), {"size": "2"}) == 2
    assert [option.name for option in options.describe(Plain)] == ["size", "later"]
    with pytest.raises(UsageError, match=r"^host x: size is -1$"):
        options.build(make_socket, {"directory": "/run", "size": "-1"}, "host x")


def test_a_type_only_checkers_know_takes_any_value_but_no_text() -> None:
    later = Operations()
    assert options.build(Socket, {"directory": Path("/run"), "later": later}).given[2] is later
    with pytest.raises(UsageError, match=r"only Python code can give Unknown \| None"):
        options.build(Socket, {"directory": "/run", "later": "x"})


def test_inherited_options() -> None:
    @attrs.define
    class Bigger(Share):
        more: bool = attrs.field(default=False, kw_only=True)

    assert options.build(Bigger, {"tag": "t", "source": "/", "limit": "1K", "more": "yes"}).limit == 1024


def test_describe() -> None:
    described = {option.name: option for option in options.describe(Share)}
    assert list(described) == [
        *("tag", "source", "limit", "read_only", "cache", "mode", "timeout", "quota", "deny", "sizes", "hidden")
    ]
    assert described["tag"] == options.OptionHelp("tag", "text", None, True, "how the guest names it")
    assert str(described["cache"]) == "cache=auto|never-ever, default auto"
    assert str(described["quota"]) == "quota=integer or none, default none"
    assert str(described["deny"]) == "deny=text;text;.., default empty"
    assert str(described["sizes"]) == "sizes=integer;integer;.."
    assert str(described["timeout"]) == "timeout=text or number, default 1.0"


def test_type_names() -> None:
    assert [type_name(kind) for kind in (Any, list, dict[str, int], "Unknown", Literal["a", 1], Tag)] == [
        *("any value", "text;text;..", "dict", "Unknown", "a|1", "text")
    ]


def test_text_of_sets_is_stable() -> None:
    assert to_text({"b", "a"}) == "a;b"
    with pytest.raises(ValueError, match="has no text form"):
        to_text([""])


@pytest.mark.parametrize("kind", [Level, Level | None, Annotated[Level, "how much"], list[Level]])
def test_a_choice_that_is_text_too_has_names_like_any_other(kind: object) -> None:
    made = to_value("High", kind)
    assert made in (Level.HIGH, [Level.HIGH])
    assert made == to_value("h", kind)
    with pytest.raises(ValueError, match=r"write one of l\|h"):
        to_value("medium", kind)

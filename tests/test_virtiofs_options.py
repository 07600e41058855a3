"""Options of a share that are wrong: told when it is made, in one sentence that says what would be right."""

from pathlib import Path

import pytest
from hdvkit_virtiofs import MemoryFileSystem
from hdvkit_virtiofs.device import VirtioFs

import hdvkit
from hdvkit import options
from hdvkit.cli import main

SEPARATED = ("deny", "allow", "timeouts", "translate_uid", "translate_gid", "xattr_rules")

LANGUAGES = [
    ("deny", "/", "'/': it names nothing below the root of the share; write a name"),
    ("deny", ";", "'': it names nothing"),
    ("deny", "ok;..", "'..': no path below the root of a share has the component '..'; leave it out"),
    ("deny", "a//b", "has the component ''; leave it out"),
    ("deny", "[", "[ is not closed; for the character itself write [[]"),
    ("deny", "[z-a]", "the range z-a runs backwards; write a-z"),
    ("deny", "a**", "within one write *"),
    ("deny", "dir/", "leave out the slash at its end"),
    ("deny", "é[é]", "only ASCII goes between [ and ]"),
    ("deny", "*" * 5000, "no path has 5000 bytes; write one of up to 4096"),
    ("allow", "[", "[ is not closed"),
    ("allow", "a;;b", "'': it names nothing"),
    ("timeouts", "a", "'a' is no timeout; write PATTERN=SECONDS"),
    ("timeouts", "=1", "write PATTERN=SECONDS"),
    ("timeouts", "a=", "write PATTERN=SECONDS"),
    ("timeouts", "a=-1", "write PATTERN=SECONDS"),
    ("timeouts", "a=nan", "write PATTERN=SECONDS"),
    ("timeouts", "a=inf", "write PATTERN=SECONDS"),
    ("timeouts", "a=1_0", "write PATTERN=SECONDS"),
    ("timeouts", "a=9999999999", "write PATTERN=SECONDS"),
    ("timeouts", "a=1;b=2;a=3", "'a' has two timeouts, 'a=3' the second; write one of them"),
    ("timeouts", "[=1", "[ is not closed"),
    ("translate_uid", "map", "'map' has 0 numbers; write map:GUEST:HOST:COUNT"),
    ("translate_uid", ":::", "begins with no verb; write one of guest, host, map"),
    ("translate_uid", "Map:1:2:3", "begins with no verb; write one of"),
    ("translate_uid", "map:-1:0:1", "'-1' for a number; write a decimal one from 0 to 4294967295"),
    ("translate_uid", "map:0:0:4294967296", "'4294967296' for a number; write a decimal one"),
    ("translate_uid", "map:0:0:0", "is about no ids; the last number of map:GUEST:HOST:COUNT is how many"),
    ("translate_uid", "map:1:1:4294967295", "behind the last; let map:GUEST:HOST:COUNT end at 4294967294"),
    ("translate_uid", "map:0:0:10;map:5:100:10", "both say what becomes of 5; let each id be in one of them only"),
    ("translate_uid", "map:0:1000:1;map:1:1000:1", "both say what becomes of 1000"),
    ("translate_gid", "forbid-guest:0:10;map:5:5:5", "both say what becomes of 5"),
    ("translate_gid", "garbage", "begins with no verb"),
    ("squash", "", "'' is not two users; write UID:GID of the host"),
    ("squash", "1", "is not two users; write UID:GID"),
    ("squash", "1:2:3", "is not two users"),
    ("squash", "nobody:nogroup", "'nobody' for a number; write a decimal one"),
    ("squash", "-1:0", "'-1' for a number"),
    ("squash", "4294967295:0", "which is nobody's number; write one from 0 to 4294967294"),
    ("xattr_rules", "ok", "'ok' has 0 texts behind its action; write ok:PREFIX"),
    ("xattr_rules", ";", "'' begins with no action; write one of ok, bad, unsupported, prefix"),
    ("xattr_rules", "prefix:a:b", "under 'b', which Linux does not keep; let the argument begin with user."),
    ("xattr_rules", "prefix:a:user.x;prefix:b:user.xy", "choose arguments of which none begins with another"),
    ("xattr_rules", "prefix:a:user." + "x" * 300, "fits no name: one has up to 255 bytes"),
]
WORDS = [
    ("quota_bytes", "-1", "-1 is no whole number from 0 to 9223372036854775807"),
    ("quota_bytes", "", "write digits or 0x.."),
    ("quota_bytes", "1.5G", "write digits or 0x.."),
    ("quota_bytes", "16777216T", "is no whole number from 0 to 9223372036854775807"),
    ("quota_inodes", "many", "write digits or 0x.."),
    ("quota_inodes", "99999999999999999999", "is no whole number from 0 to 9223372036854775807"),
    ("locks", "", "write true, on, yes, 1 or false, off, no, 0"),
    ("locks", "maybe", "write true, on, yes, 1 or false"),
    ("cache", "", "write one of auto|always|never|metadata"),
    ("cache", "always;never", "write one of auto|always|never|metadata"),
    ("attr_timeout", "nan", "nan is no number of seconds from 0 to 4294967295"),
    ("entry_timeout", "inf", "inf is no number of seconds from 0 to 4294967295"),
]
CONTRADICTIONS = [
    ("cache=never,writeback=true", "cache=never keeps none there; leave out one"),
    ("cache=metadata,writeback=true", "cache=metadata keeps none there; leave out one"),
    ("xattr=false,xattr_rules=ok:user.", "xattr=false offers no extended attributes"),
    ("xattr=false,posix_acl=true", "xattr=false offers no extended attributes"),
    ("posix_acl=true,xattr_rules=ok:user.", "add ok:system.posix_acl_ to xattr_rules"),
    ("posix_acl=true,xattr_rules=bad:system.;ok:", "add ok:system.posix_acl_ to xattr_rules"),
    ("xattr=false,security_ctx=true", "xattr=false offers no extended attributes"),
    ("security_ctx=true", "needs a rule by which labels pass; add"),
    ("security_ctx=true,xattr_rules=bad:security.;ok:", "needs a rule by which labels pass; add"),
    ("squash=0:0,translate_uid=map:0:1:1", "squash=0:0 is for all ids and leaves none for"),
    ("squash=0:0,translate_gid=map:0:1:1", "squash=0:0 is for all ids and leaves none for"),
]
HARMLESS = [
    "read_only=true,quota_bytes=1,quota_inodes=1",
    "read_only=true,writeback=true",
    "cache=never,attr_timeout=5",
    "deny=a,allow=a",
    "posix_acl=true,xattr_rules=ok:system.posix_acl_;bad:",
    "security_ctx=true,xattr_rules=ok:security.",
    "security_ctx=true,xattr_rules=prefix:security.selinux:trusted.guest.;ok:user.",
    "deny=,allow=,timeouts=,translate_uid=,xattr_rules=,squash=none,quota_bytes=none",
    "timeouts=a=0;b=1.5,quota_bytes=0",
]


def one_sentence(text: str) -> None:
    assert "\n" not in text
    assert len(text) < 400


def shared(text: str) -> dict[str, str]:
    return options.parse("virtiofs:" + text).options


@pytest.mark.parametrize(("name", "value", "reason"), LANGUAGES + WORDS)
async def test_a_bad_value_is_told_when_the_share_is_added(name: str, value: str, reason: str) -> None:
    async with hdvkit.open_host("sim") as host:
        with pytest.raises(hdvkit.UsageError) as caught:
            await host.add("virtiofs", source=MemoryFileSystem(), tag="t", **{name: value})
        assert not host.devices
    assert reason in str(caught.value)
    assert f"option {name!r} of device virtiofs" in str(caught.value)
    one_sentence(str(caught.value))


@pytest.mark.parametrize(("name", "value", "reason"), LANGUAGES)
def test_a_bad_value_is_told_by_the_class(name: str, value: str, reason: str) -> None:
    given = tuple(value.split(";")) if name in SEPARATED else value
    with pytest.raises(hdvkit.UsageError) as caught:
        VirtioFs(MemoryFileSystem(), "t", **{name: given})  # type: ignore[arg-type]  # one of its options
    assert reason in str(caught.value)
    assert f"option {name!r} of device virtiofs" in str(caught.value)


@pytest.mark.parametrize(("name", "value", "reason"), [LANGUAGES[2], LANGUAGES[20], LANGUAGES[29], *WORDS])
def test_a_bad_value_is_told_by_the_command(
    name: str, value: str, reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["run", "sim", f"virtiofs:source={tmp_path},tag=t,{name}={value}"])
    assert ended.value.code == 2
    told = capsys.readouterr()
    assert reason in told.err
    assert "Traceback" not in told.err
    assert not told.out


@pytest.mark.parametrize(("text", "reason"), CONTRADICTIONS)
async def test_options_that_take_back_each_other_are_refused(text: str, reason: str, tmp_path: Path) -> None:
    async with hdvkit.open_host("sim") as host:
        with pytest.raises(hdvkit.UsageError, match="contradict each other") as caught:
            await host.add("virtiofs", source=tmp_path, tag="t", **shared(text))
    assert reason in str(caught.value)
    one_sentence(str(caught.value))


@pytest.mark.parametrize("text", HARMLESS)
async def test_options_that_have_nothing_to_do_are_let_be(text: str) -> None:
    async with hdvkit.open_host("sim") as host:
        await host.add("virtiofs", source=MemoryFileSystem(), tag="t", **shared(text))


@pytest.mark.parametrize("name", SEPARATED)
@pytest.mark.parametrize("value", ["abc", 5, None, (b"abc",)])
def test_one_text_is_not_taken_for_its_letters(name: str, value: object) -> None:
    with pytest.raises(hdvkit.UsageError, match=f"option '{name}' .* is no tuple of texts; write"):
        VirtioFs(MemoryFileSystem(), "t", **{name: value})  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize(
    "name", ["read_only", "writeback", "locks", "xattr", "posix_acl", "security_ctx", "announce_submounts"]
)
def test_a_text_is_not_taken_for_true(name: str) -> None:
    with pytest.raises(hdvkit.UsageError, match=f"option '{name}' .* is neither yes nor no; write True or False"):
        VirtioFs(MemoryFileSystem(), "t", **{name: "false"})  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("tag", 5, "5 is no text"),
        ("tag", "", "a tag is 1 to 36 bytes of UTF-8 without NUL; '' has 0"),
        ("tag", "a\nb", "has control characters"),
        ("queues", "2", "'2' is no whole number from 1 to 16"),
        ("queues", True, "True is no whole number"),
        ("queues", 17, "17 is no whole number from 1 to 16"),
        ("queue_size", 100, "a queue size is a power of two from 8 to 32768; 100 is none"),
        ("queue_size", "64", "'64' is none"),
        ("max_write", 1, "1 is no whole number from 65536 to 1048576"),
        ("max_write", 1e6, "1000000.0 is no whole number"),
        ("request_timeout", -1, "-1 is no whole number from 0 to 65535"),
        ("quota_bytes", 1.5, "1.5 is no whole number"),
        ("attr_timeout", "1", "'1' is no number of seconds"),
        ("max_inode_descriptors", 1, "1 is no whole number from 64"),
        ("uid", 2**32 - 1, "4294967295 is no whole number from 0 to 4294967294"),
    ],
)
def test_a_value_of_another_kind_is_told_by_the_class(name: str, value: object, reason: str) -> None:
    with pytest.raises(hdvkit.UsageError) as caught:
        VirtioFs(MemoryFileSystem(), **{"tag": "t", name: value})  # type: ignore[arg-type]  # wrong on purpose
    assert f"option {name!r} of device virtiofs: " in str(caught.value)
    assert reason in str(caught.value)
    one_sentence(str(caught.value))


def test_squash_is_a_text() -> None:
    with pytest.raises(hdvkit.UsageError, match=r"option 'squash' .* is no text; write 'UID:GID'"):
        VirtioFs(MemoryFileSystem(), "t", squash=5)  # type: ignore[arg-type]  # wrong on purpose


def test_what_cannot_be_asked_is_told_when_the_share_is_made(tmp_path: Path) -> None:
    with pytest.raises(hdvkit.UsageError, match=r"option 'authorize' of device virtiofs: 5 cannot be called"):
        VirtioFs(source=tmp_path, tag="t", authorize=5)  # type: ignore[arg-type]  # the mistake under test

"""Plugins: found through real distribution metadata, isolated from each other, chosen by the environment."""

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

import hdvkit.observe
from hdvkit.errors import UsageError
from hdvkit.hookspecs import hookimpl
from hdvkit.plugins import Plugins

HEAD = "from hdvkit.hookspecs import hookimpl\n"
DEVICE = (
    HEAD
    + """
class Device: pass

@hookimpl
def hdvkit_register_devices(register):
    register({kind!r}, Device)
"""
)

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Write a distribution with one plugin: a module and the metadata that an installer would leave.

    A distribution called hdvkit hides the real one, so that no test depends on what is built in.
    """
    before = set(sys.modules)
    monkeypatch.syspath_prepend(tmp_path)

    def install(distribution: str, name: str, source: str, *, version: str = "1.0") -> None:
        module = f"plugin_{distribution}_{name}"
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        metadata = tmp_path / f"{distribution}-{version}.dist-info"
        metadata.mkdir(exist_ok=True)
        (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        with (metadata / "entry_points.txt").open("a") as entries:
            entries.write(f"[hdvkit]\n{name} = {module}\n" if not entries.tell() else f"{name} = {module}\n")

    install("hdvkit", "core", DEVICE.format(kind="core"))
    yield install
    for name in set(sys.modules) - before:
        if name.startswith("plugin_"):
            del sys.modules[name]


def test_the_distributions_own_plugins_are_found_through_metadata() -> None:
    assert {"sim", "virtiofs"} <= {found.name for found in Plugins.load({}).listing if found.distribution == "hdvkit"}


def test_a_stranger_is_loaded_like_a_built_in(install: Install) -> None:
    install("rngs", "rng", DEVICE.format(kind="rng"), version="2.5")
    plugins = Plugins.load({})
    assert plugins.failures == []
    assert list(plugins.devices) == ["core", "rng"]
    provided = plugins.devices["rng"]
    assert plugins.device("rng") is provided.factory is sys.modules["plugin_rngs_rng"].Device
    assert (provided.plugin, provided.distribution, provided.version) == ("rng", "rngs", "2.5")
    assert provided.module == "plugin_rngs_rng"


def test_built_ins_come_first_then_names_in_order(install: Install) -> None:
    for name in ("b", "a"):
        install("strangers", name, DEVICE.format(kind=name))
    assert [found.name for found in Plugins.load({}).listing] == ["core", "a", "b"]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ImportError('no such library')", "ImportError: no such library"),
        ("import nowhere_to_be_found", "No module named 'nowhere_to_be_found'"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        ("def broken(:", "SyntaxError"),
        ("", "implements no hook"),
        (
            HEAD + "@hookimpl\ndef hdvkit_register_device(register): pass",
            "unknown hook 'hdvkit_register_device'",
        ),
        (HEAD + "@hookimpl\ndef hdvkit_register_devices(registrar): pass", "'registrar'"),
        (HEAD + "@hookimpl\nasync def hdvkit_register_devices(register): pass", "is async"),
        (HEAD + "@hookimpl\ndef hdvkit_register_devices(register): 1 / 0", "ZeroDivisionError"),
        (DEVICE.format(kind="My Device"), "'My Device' is no kind"),
        (HEAD + "@hookimpl\ndef hdvkit_register_devices(register): register('x', 3)", "device 'x' is 3: register a"),
        (DEVICE.format(kind="core"), "device 'core' of plugin 'bad' of strangers is taken by plugin 'core' of hdvkit"),
    ],
)
def test_a_plugin_that_fails_harms_nobody_else(install: Install, source: str, reason: str) -> None:
    install("strangers", "bad", source, version="3")
    install("strangers", "good", DEVICE.format(kind="good"), version="3")
    plugins = Plugins.load({})
    assert list(plugins.devices) == ["core", "good"]
    (failure,) = plugins.failures
    assert (failure.name, failure.distribution, failure.version) == ("bad", "strangers", "3")
    assert reason in failure.reason
    assert failure.traceback_text.startswith("Traceback")


def test_half_a_plugin_is_none(install: Install) -> None:
    install(
        "strangers",
        "half",
        DEVICE.format(kind="fine") + "\n@hookimpl\ndef hdvkit_register_hosts(register): register('h', Device); 1 / 0\n",
    )
    plugins = Plugins.load({})
    assert "fine" not in plugins.devices
    assert plugins.hosts == {}
    assert [found.state for found in plugins.listing] == ["loaded", "failed"]


def test_two_distributions_with_a_plugin_of_the_same_name(install: Install) -> None:
    install("first", "same", DEVICE.format(kind="first"))
    install("second", "same", DEVICE.format(kind="second"))
    plugins = Plugins.load({})
    (failure,) = plugins.failures
    assert "the name of plugin 'same' of" in failure.reason
    assert sorted(found.state for found in plugins.listing) == ["failed", "loaded", "loaded"]
    loaded = [found for found in plugins.listing if found.state == "loaded" and found.name == "same"]
    assert loaded[0].devices == (loaded[0].distribution,)


@pytest.mark.parametrize(
    ("environ", "kinds"),
    [
        ({"HDVKIT_DISABLE_PLUGINS": "a"}, ["core", "b"]),
        ({"HDVKIT_DISABLE_PLUGINS": " a , core,nobody"}, ["b"]),
        ({"HDVKIT_DISABLE_PLUGINS": "*"}, ["core"]),
        ({"HDVKIT_DISABLE_PLUGINS": "all"}, ["core"]),
        ({"HDVKIT_LOAD_PLUGINS": "b"}, ["b"]),
        ({"HDVKIT_LOAD_PLUGINS": "b,core", "HDVKIT_DISABLE_PLUGINS": "b"}, ["core"]),
        ({"HDVKIT_LOAD_PLUGINS": ""}, ["core", "a", "b"]),
    ],
)
def test_the_environment_chooses(install: Install, environ: dict[str, str], kinds: list[str]) -> None:
    install("strangers", "a", DEVICE.format(kind="a"))
    install("strangers", "b", DEVICE.format(kind="b"))
    plugins = Plugins.load(environ)
    assert list(plugins.devices) == kinds
    assert plugins.failures == []


def test_a_disabled_plugin_is_not_even_imported(install: Install) -> None:
    install("strangers", "bad", "raise AssertionError('imported')")
    plugins = Plugins.load({"HDVKIT_DISABLE_PLUGINS": "bad"})
    assert [(found.name, found.state) for found in plugins.listing] == [("core", "loaded"), ("bad", "disabled")]
    with pytest.raises(UsageError, match="plugin 'bad' is disabled by HDVKIT_DISABLE_PLUGINS"):
        plugins.device("bad")


def test_a_module_that_is_not_installed_is_loaded_by_path(install: Install, tmp_path: Path) -> None:
    (tmp_path / "plugin_folder").mkdir()
    (tmp_path / "plugin_folder" / "rng.py").write_text(DEVICE.format(kind="rng"))
    (tmp_path / "plugin_alone.py").write_text(DEVICE.format(kind="alone"))
    plugins = Plugins.load({"HDVKIT_LOAD_PLUGINS": "plugin_folder.rng,plugin_alone:"})
    assert list(plugins.devices) == ["core", "rng", "alone"]
    assert plugins.devices["rng"].distribution is None
    only = Plugins.load({"HDVKIT_LOAD_PLUGINS": "core,plugin_alone:"})
    assert list(only.devices) == ["core", "alone"]


def test_an_object_of_a_module_can_be_the_plugin(install: Install, tmp_path: Path) -> None:
    source = (
        HEAD + "class Plugin:\n    @hookimpl\n    def hdvkit_register_devices(self, register): register('x', Plugin)\n"
    )
    (tmp_path / "plugin_object.py").write_text(source + "plugin = Plugin()\n")
    assert "x" in Plugins.load({"HDVKIT_LOAD_PLUGINS": "plugin_object:plugin"}).devices


def test_a_wanted_plugin_that_is_not_there_is_a_failure(install: Install) -> None:
    plugins = Plugins.load({"HDVKIT_LOAD_PLUGINS": "missing"})
    assert plugins.devices == {}
    (failure,) = plugins.failures
    assert "names 'missing', which no installed distribution provides" in failure.reason


def test_unknown_kinds_are_answered_with_the_known_ones(install: Install) -> None:
    install("rngs", "rng", DEVICE.format(kind="rng"))
    install("broken", "gpu", "raise ImportError('no driver')")
    with pytest.raises(UsageError) as caught:
        Plugins.load({}).device("rmg")
    assert str(caught.value) == (
        "there is no device 'rmg' (did you mean 'rng'?): known are core, rng; "
        "plugin 'gpu' failed (ImportError: no driver)"
    )
    with pytest.raises(UsageError, match="there is no host 'sim': known are none"):
        Plugins().host("sim")


def test_every_hook_call_can_be_traced(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    plugins = Plugins.load({"HDVKIT_TRACE_HOOKS": "1"})
    plugins.observers()
    assert capsys.readouterr().err.splitlines() == [
        "hdvkit > hdvkit_register_devices(register=<register devices: none>) of core",
        "hdvkit < hdvkit_register_devices(register=<register devices: core>) of core: []",
    ]
    Plugins.load({"HDVKIT_TRACE_HOOKS": "0"})
    assert capsys.readouterr().err == ""


def test_a_trace_shows_what_a_hook_raised(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("strangers", "bad", HEAD + "@hookimpl\ndef hdvkit_register_hosts(register): 1 / 0")
    Plugins.load({"HDVKIT_TRACE_HOOKS": "1"})
    assert "of bad: ZeroDivisionError('division by zero')" in capsys.readouterr().err


class Watch(hdvkit.observe.Observer):
    """Hears nothing."""


class Watching:
    """A plugin with two observers."""

    @hookimpl
    def hdvkit_observers(self) -> list[hdvkit.observe.Observer]:
        """Offer new ones each time."""
        return [Watch(), Watch()]


def observing(answer: object) -> object:
    """A plugin whose hook answers anything."""

    @hookimpl
    def hdvkit_observers() -> object:
        return answer

    return SimpleNamespace(hdvkit_observers=hdvkit_observers)


def test_observers_are_asked_for_each_time_and_isolated() -> None:
    plugins = Plugins()
    plugins.register(observing(3), "wrong-answer")
    plugins.register(observing([Watch]), "wrong-item")
    plugins.register(observing(None), "none")
    plugins.register(Watching(), "watching")
    first = plugins.observers()
    assert [type(observer) for observer in first] == [Watch, Watch]
    assert not set(first) & set(plugins.observers())
    assert [failure.name for failure in plugins.failures] == ["wrong-answer", "wrong-item"]
    assert "return a list of hdvkit.Observer objects" in plugins.failures[1].reason


def commanding(name: str) -> object:
    """A plugin with one command."""

    @hookimpl
    def hdvkit_register_commands(commands: click.Group) -> None:
        commands.command(name)(lambda: click.echo("done"))

    return SimpleNamespace(hdvkit_register_commands=hdvkit_register_commands)


def test_commands_are_added_and_cannot_replace_ours() -> None:
    own = click.Command("run")
    group = click.Group("hdvkit", commands={"run": own})
    plugins = Plugins()
    plugins.register(commanding("run"), "thief")
    plugins.register(commanding("extra"), "extra")
    plugins.add_commands(group)
    assert sorted(group.commands) == ["extra", "run"]
    assert group.commands["run"] is own
    (failure,) = plugins.failures
    assert "command 'run' of plugin 'thief' of types is taken" in failure.reason


def test_registering_by_hand_raises_and_adds_nothing() -> None:
    class Rng:
        @hookimpl
        def hdvkit_register_devices(self, register: Callable[[str, type], None]) -> None:
            register("rng", Rng)

    plugins = Plugins()
    plugins.register(Rng(), "mine")
    with pytest.raises(UsageError, match="the name of plugin 'mine' of test_plugins is taken"):
        plugins.register(Rng(), "mine")
    with pytest.raises(UsageError, match="device 'rng' of plugin 'yours' of test_plugins is taken by plugin 'mine'"):
        plugins.register(Rng(), "yours")
    with pytest.raises(UsageError, match="implements no hook"):
        plugins.register(object(), "empty")
    assert [found.name for found in plugins.listing] == ["mine"]
    assert plugins.listing[0].devices == ("rng",)
    assert plugins.failures == []

"""The command channel: its lines, and the host's end against a guest that is played here."""

import asyncio
import base64

import pytest
from hdvkit_vm.agent import MAX_SCRIPT, Agent, Lines, Ready, Reply, Taken, request
from hdvkit_vm.errors import GuestRestarted, MachineError, MachineExited

BOOT = b"\n@ready 0b-1c\n"


def reply(number: int, code: int = 0, output: bytes = b"") -> bytes:
    return b"=%d %d %s\n" % (number, code, base64.b64encode(output))


def test_lines_may_be_cut_anywhere():
    stream = BOOT + b"!" + reply(1, 7, b"\n=1 0 \n!\xff") + reply(2)
    said = [Ready("0b-1c"), Taken(), Reply("1", 7, b"\n=1 0 \n!\xff"), Reply("2", 0, b"")]
    assert Lines().feed(stream) == [Taken(), *(one for one in said if one != Taken())]
    lines = Lines()
    assert [one for byte in stream for one in lines.feed(bytes([byte]))] == said


def test_the_guest_may_say_taken_in_the_middle_of_a_line():
    assert Lines().feed(b"=1 0 aG!k=\n") == [Taken(), Reply("1", 0, b"hi")]


@pytest.mark.parametrize("noise", [b"Linux version 6.1\n", b"=1 x aGk=\n", b"= 0 aGk=\n", b"\xff\xfe\n", b"@ready\n"])
def test_noise_is_ignored(noise):
    assert Lines().feed(noise + reply(3)) == [Reply("3", 0, b"")]


def test_a_script_is_one_line_whatever_is_in_it():
    line = request("5", 'echo "a\n\0b"\n')
    assert line.count(b"\n") == 1
    number, script = line.split()
    assert (number, base64.b64decode(script)) == (b"5", b'echo "a\n\0b"\n')
    assert base64.b64decode(request("6", "").split()[1]) == b":"


def test_a_script_that_is_too_long_is_refused():
    with pytest.raises(MachineError, match="share a directory"):
        request("1", "x" * (MAX_SCRIPT + 1))


class Wire(asyncio.WriteTransport):
    """Where the agent's bytes go."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Called by the agent."""
        self.sent.append(bytes(data))


@pytest.fixture
async def wire() -> Wire:
    return Wire()


@pytest.fixture
async def agent(wire: Wire) -> Agent:
    agent = Agent()
    agent.connection_made(wire)
    return agent


async def test_replies_find_their_commands_in_any_order(agent: Agent):
    agent.data_received(BOOT)
    one, two = agent.start("one"), agent.start("two")
    agent.data_received(b"!!" + reply(2, 0, b"second") + reply(1, 3, b"first"))
    assert (await one.reply, await two.reply) == (Reply("1", 3, b"first"), Reply("2", 0, b"second"))


async def test_a_line_is_sent_when_the_guest_has_taken_the_one_before(agent: Agent, wire: Wire):
    agent.data_received(BOOT)
    agent.start("one")
    agent.start("two")
    assert wire.sent == [request("1", "one")]
    agent.data_received(b"!")
    assert wire.sent == [request("1", "one"), request("2", "two")]


async def test_a_reply_says_that_its_line_was_taken(agent: Agent, wire: Wire):
    agent.data_received(BOOT)
    first, second = agent.start("first"), agent.start("second")
    agent.data_received(reply(int(first.id)))  # the "!" before it was lost
    await first.reply
    assert wire.sent[-1].split()[0] == second.id.encode()


async def test_a_guest_that_does_not_say_that_it_took_a_line_is_asked(
    agent: Agent, wire: Wire, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("hdvkit_vm.agent.NUDGE", 0.01)
    agent.data_received(BOOT)
    agent.start("first")
    second = agent.start("second")
    async with asyncio.timeout(60):
        while b"\n" not in wire.sent:  # noqa: ASYNC110 - time is what it waits for
            await asyncio.sleep(0.01)
    agent.data_received(b"!")
    assert wire.sent[-1].split()[0] == second.id.encode()


async def test_a_boot_fails_what_was_running(agent: Agent, wire: Wire):
    agent.data_received(BOOT)
    running = agent.start("sleep 1000")
    agent.start("never sent")
    agent.data_received(BOOT)
    with pytest.raises(GuestRestarted, match="sleep 1000"):
        await asyncio.wait_for(running.reply, 5)
    assert agent.boots == 2
    assert wire.sent == [request("1", "sleep 1000")]


async def test_boots_can_be_waited_for(agent: Agent):
    async with asyncio.timeout(5), asyncio.TaskGroup() as group:
        group.create_task(agent.wait_boots(2))
        for _ in range(2):
            agent.data_received(BOOT)
            await asyncio.sleep(0)


async def test_a_machine_that_is_gone_fails_everything(agent: Agent):
    agent.data_received(BOOT)
    running = agent.start("sleep 1000")
    agent.fail(MachineExited(-6, "assertion failed", "GUEST_READY"))
    with pytest.raises(MachineExited, match=r"(?s)SIGABRT.*assertion failed.*GUEST_READY"):
        await running.reply
    with pytest.raises(MachineExited):
        agent.start("more")


async def test_an_answer_nobody_waits_for_any_more_is_dropped(agent: Agent):
    agent.data_received(BOOT)
    agent.start("one").reply.cancel()
    await asyncio.sleep(0)
    agent.data_received(b"!" + reply(1) + reply(77))
    two = agent.start("two")
    agent.data_received(reply(2))
    assert (await two.reply).code == 0


async def test_an_agent_without_a_machine_says_so():
    with pytest.raises(MachineError, match="async with"):
        Agent().start("ls")

"""Virtual machines with a stock kernel, as async context managers. QEMU's details are in the modules below.

::

    async with VirtualMachine("6.1", sockets=[socket]) as vm:
        await vm.run("mount -t virtiofs src /mnt")
"""

import asyncio
import contextlib
import socket
import tempfile
from collections.abc import Coroutine, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from qemu.qmp import ConnectError, QMPClient, QMPError, StateError
from qemu.qmp.qmp_client import ExecInterruptedError

from hdvkit_vm.agent import Agent
from hdvkit_vm.errors import GuestCommandFailed, GuestCommandTimedOut, GuestNotReady, MachineError, MachineExited
from hdvkit_vm.initramfs import with_files
from hdvkit_vm.process import QemuProcess
from hdvkit_vm.provision import Assets, prepare
from hdvkit_vm.qemu import Device, Hardware, command, root_port

T = TypeVar("T")

BOOT_SECONDS = 120.0
"""A guest boots in 4 to 9 s under emulation; a machine that is busy with others needs several times that."""


@contextlib.contextmanager
def lost_connections() -> Iterator[None]:
    """Say in the standard words what qemu.qmp says in three of its own."""
    try:
        yield
    except (ConnectError, ExecInterruptedError, StateError) as error:
        raise ConnectionError(str(error)) from error


class VirtualMachine:
    """One guest, from power on to power off. Enter it to boot; when entered, the guest's agent takes commands.

    Leaving ends QEMU, in whatever state the guest is.

    Arguments:
        guest: The name of a kernel: ``6.1`` or ``7.x``.
        memory_mb: The guest's memory.
        cpus: The guest's processors.
        sockets: vfio-user devices that are plugged from the start: they must listen before the machine is entered.
        root_ports: So many devices can be plugged later, with ``plug``.
        reboot_allowed: Whether the guest may reboot; otherwise QEMU ends where it would.
        log: A file for the guest's console, written as it comes.
        files: Programs to put into the guest, by path.
        cmdline: More options for the kernel.
        arguments: More arguments for QEMU.
        assets: What ``prepare`` returned; without it, it is called, and may take its time.
    """

    def __init__(
        self,
        guest: str = "6.1",
        *,
        memory_mb: int = 256,
        cpus: int = 1,
        sockets: Sequence[Path | str | Device] = (),
        root_ports: int = 0,
        reboot_allowed: bool = False,
        log: Path | None = None,
        files: Mapping[str, bytes] | None = None,
        cmdline: str = "",
        arguments: Sequence[str] = (),
        assets: Assets | None = None,
    ) -> None:
        devices = [one if isinstance(one, Device) else Device(Path(one)) for one in sockets]
        self._hardware = Hardware(memory_mb, cpus, devices, root_ports, reboot_allowed, cmdline)
        self._name = guest
        self._log = log
        self._files = files or {}
        self._arguments = arguments
        self._assets = assets
        self._closing = contextlib.AsyncExitStack()
        self._process: QemuProcess | None = None
        self._agent = Agent()
        self._boots_seen = 0
        self._exit_told = False
        self.qmp = QMPClient(f"guest-{guest}")

    async def __aenter__(self) -> Self:
        assets = self._assets
        if assets is None:
            assets = await asyncio.to_thread(prepare)
        async with contextlib.AsyncExitStack() as stack:
            await self._start(assets, stack)
            await self.wait_rebooted()
            self._closing = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        ended_before = self.process.exited.done()
        await self._closing.aclose()
        # A QEMU that died unnoticed is a finding: it must not pass for a machine that was switched off.
        if error is None and ended_before and not self._exit_told and self.process.exited.result():
            raise self.process.exit_error()

    async def _start(self, assets: Assets, stack: contextlib.AsyncExitStack) -> None:
        guest = assets.guest(self._name)
        initramfs = guest.initramfs
        if self._files:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hdvkit-vm-")))
            initramfs = with_files(initramfs, self._files, folder)
        line = command(assets.qemu, assets.accel, guest.kernel, initramfs, self._hardware)
        if assets.ends_with_parent:
            line += ["-run-with", "exit-with-parent=on"]
        tee = stack.enter_context(self._log.open("wb", buffering=0)) if self._log else None
        # Connected pairs: nothing to wait for, no names in the file system, and an end of file when QEMU dies.
        (agent, agent_qemu), (monitor, monitor_qemu) = socket.socketpair(), socket.socketpair()
        stack.callback(monitor.close)
        with agent_qemu, monitor_qemu:
            line += ["-serial", "stdio"]
            line += ["-chardev", f"socket,id=agent,fd={agent_qemu.fileno()}", "-serial", "chardev:agent"]
            line += ["-chardev", f"socket,id=monitor,fd={monitor_qemu.fileno()}", "-qmp", "chardev:monitor"]
            line += self._arguments
            loop = asyncio.get_running_loop()
            await loop.create_connection(lambda: self._agent, sock=agent)
            stack.callback(self._agent.close)
            fds = (agent_qemu.fileno(), monitor_qemu.fileno())
            self._process = await QemuProcess.start(line, tee=tee, fds=fds)
            stack.push_async_callback(self._disconnect)
            stack.push_async_callback(self._process.stop)
        self._process.on_exit(self._agent.fail)
        await self._unless_exited(self._connect(monitor))

    async def _connect(self, monitor: socket.socket) -> None:
        with lost_connections():
            await self.qmp.connect(monitor)

    async def _disconnect(self) -> None:
        with contextlib.suppress(EOFError, OSError, QMPError):  # QEMU is gone, and qemu.qmp reports that as failure
            await self.qmp.disconnect()

    @property
    def process(self) -> QemuProcess:
        """QEMU. Only from when the machine is entered."""
        if self._process is None:
            raise MachineError("the virtual machine has not been started: use async with")
        return self._process

    @property
    def console(self) -> str:
        """What the guest has written on its console so far."""
        return self.process.console

    async def run(self, script: str, *, timeout: float | None = 60.0, check: bool = True) -> str:
        """Run a shell script in the guest and return what it wrote, on stdout and stderr.

        Scripts run beside each other, each from ``/`` with an empty stdin. One whose waiting is cancelled runs on.

        Raises:
            GuestCommandFailed: Its exit code was not 0, and ``check`` is set.
            GuestCommandTimedOut: It took too long, and was killed.
            GuestRestarted: The guest booted again meanwhile.
            MachineExited: QEMU ended meanwhile.
        """
        code, output = await self.call(script, timeout=timeout)
        if code and check:
            raise GuestCommandFailed(script, code, output)
        return output

    async def call(self, script: str, *, timeout: float | None = 60.0) -> tuple[int, str]:
        """Like ``run``, but return the exit code and what it wrote."""
        try:
            started = self._agent.start(script)
            async with asyncio.timeout(timeout):
                reply = await started.reply
        except MachineExited:
            self._exit_told = True
            raise
        except TimeoutError:
            raise GuestCommandTimedOut(script, timeout or 0.0, await self._abandon(started.id)) from None
        return reply.code, reply.output.decode(errors="replace")

    def post(self, script: str) -> None:
        """Start a script in the guest of which no answer is expected, such as ``reboot -f``."""
        self._agent.start(script)

    async def _abandon(self, number: str) -> str:
        try:
            async with asyncio.timeout(10):
                reply = await self._agent.start(f"/abandon {number}").reply
        except TimeoutError:
            return "(and the guest does not answer any more)"
        return reply.output.decode(errors="replace")

    async def wait_rebooted(self, *, timeout: float = BOOT_SECONDS) -> None:
        """Wait for the next boot that nobody has waited for yet.

        Raises:
            GuestNotReady: It did not come.
            MachineExited: QEMU ended instead.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._unless_exited(self._agent.wait_boots(self._boots_seen + 1))
        except TimeoutError:
            raise GuestNotReady(timeout, self.process.stderr, self.console) from None
        self._boots_seen += 1

    async def reboot(self) -> None:
        """Have the guest reboot at once, and wait until it is ready again. Needs ``reboot_allowed``."""
        self.post("reboot -f")
        await self.wait_rebooted()

    async def wait_exit(self, *, timeout: float = 60.0) -> int:
        """Wait until QEMU has ended, and return its exit code; negative for a signal.

        Raises:
            TimeoutError: It goes on.
        """
        self._exit_told = True
        async with asyncio.timeout(timeout):
            return await asyncio.shield(self.process.exited)

    async def plug(
        self,
        socket: Path | str | Device,
        *,
        id: str,  # noqa: A002 - QEMU's word
        port: int | str = 0,
    ) -> None:
        """Plug a device into a root port. Returns when QEMU has it; the guest's driver follows.

        Raises:
            ExecuteError: QEMU could not realise it (qemu.qmp).
            MachineExited: QEMU did not survive it.
        """
        device = socket if isinstance(socket, Device) else Device(Path(socket))
        arguments = device.arguments() | {"id": id, "bus": port if isinstance(port, str) else root_port(port)}
        await self._execute("device_add", arguments)

    async def unplug(self, id: str, *, timeout: float = 60.0) -> None:  # noqa: A002 - QEMU's word
        """Ask the guest to let a device go, and wait until it is gone.

        Raises:
            TimeoutError: The guest kept it.
            MachineExited: QEMU did not survive it.
        """
        with self.qmp.listener("DEVICE_DELETED") as events:
            await self._execute("device_del", {"id": id})

            async def gone() -> None:
                async for event in events:
                    if isinstance(event["data"], dict) and event["data"].get("device") == id:
                        return

            async with asyncio.timeout(timeout):
                await self._unless_exited(gone())

    async def _execute(self, name: str, arguments: dict[str, object]) -> object:
        async def execute() -> object:
            with lost_connections():
                return await self.qmp.execute(name, arguments)

        return await self._unless_exited(execute())

    async def _unless_exited(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return await self.process.unless_exited(work)
        except MachineExited:
            self._exit_told = True
            raise

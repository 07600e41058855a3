"""Sets the cache up: finds out what is missing, fetches it in one go, builds it, and records it.

Blocking throughout. The first run takes about half a minute, later ones return at once.
"""

import hashlib
import shlex
from collections.abc import Sequence
from pathlib import Path

import attrs

from hdvkit_vm import accel, recipe
from hdvkit_vm.cache import Lock, LockedPart, building, default_folder, install, locked
from hdvkit_vm.errors import PrepareError
from hdvkit_vm.fetch import Tell, fetch_and_build, now
from hdvkit_vm.initramfs import SCRIPTS, base_image
from hdvkit_vm.recipe import Part

GUESTS = ("6.1", "7.x")
"""The kernels our guests run: the oldest we care for, and the newest Debian has for its stable release."""

WRAPPER = "bin/qemu-system-x86_64"


@attrs.frozen
class Guest:
    """A kernel and the image it boots into."""

    name: str
    release: str
    kernel: Path
    initramfs: Path


@attrs.frozen
class Assets:
    """What a virtual machine is made of.

    ``tools`` is a folder to share with a guest, with ``cache="always"`` for speed; ``python``, ``git``, ``rsync`` and
    ``mkfs.ext4`` in it run wherever the folder is mounted.
    """

    folder: Path
    qemu: Path
    accel: str
    guests: dict[str, Guest]
    tools: Path
    ends_with_parent: bool
    lock: Lock

    def guest(self, name: str) -> Guest:
        """The guest called ``name``.

        Raises:
            PrepareError: There is none.
        """
        if name not in self.guests:
            raise PrepareError(f"there is no guest {name!r}: take one of {', '.join(self.guests)}")
        return self.guests[name]


def prepare(folder: Path | None = None, *, tell: Tell = lambda line: None) -> Assets:
    """Set the cache up, unless it is, and return what is in it. Waits for other processes that do the same.

    Raises:
        PrepareError: It cannot be set up here.
    """
    folder = folder or default_folder()
    assets = prepared(folder)
    if assets is None:
        with locked(folder):
            if stale := _stale(folder, Lock.read(folder)):
                _build(stale, folder, tell)
            _write_images(folder, Lock.read(folder))
            if accel.remembered(folder) is None:
                tell("trying KVM")
                accel.remember(folder, accel.probe(_assets(folder, Lock.read(folder), "kvm")))
        assets = prepared(folder)
    if assets is None:
        raise PrepareError(f"the cache {folder} was changed while it was set up: try again")
    return assets


def prepared(folder: Path | None = None) -> Assets | None:
    """What is in the cache, if it is complete and up to date. Quick, and builds nothing."""
    folder = folder or default_folder()
    lock = Lock.read(folder)
    verdict = accel.remembered(folder)
    if _stale(folder, lock) or verdict is None:
        return None
    assets = _assets(folder, lock, verdict)
    complete = all(guest.initramfs.exists() for guest in assets.guests.values())
    return assets if complete else None


def _assets(folder: Path, lock: Lock, verdict: str) -> Assets:
    guests = {}
    for name in GUESTS:
        place = folder / f"kernel-{name}"
        release = lock.parts[place.name].facts["release"]
        guests[name] = Guest(name, release, place / "vmlinuz", place / f"initramfs-{_scripts_digest()}.gz")
    ends_with_parent = lock.parts["qemu"].facts["ends_with_parent"] == "yes"
    return Assets(folder, folder / WRAPPER, verdict, guests, folder / "tools", ends_with_parent, lock)


def _stale(folder: Path, lock: Lock) -> list[Part]:
    """The parts that are missing, or came from an older recipe."""
    return [part for part in recipe.PARTS if not _is_done(part, lock.parts.get(part.name), folder / part.name)]


def _is_done(part: Part, done: LockedPart | None, place: Path) -> bool:
    if done is None or done.recipe != part.recipe:
        return False
    if part.name == "qemu" and _is_another_qemu(done):
        return False
    return place.exists() or bool(done.facts.get("own"))


def _is_another_qemu(done: LockedPart) -> bool:
    """Whether HDVKIT_QEMU has changed since, or a QEMU of the machine has gone."""
    if done.facts["named"] != recipe.named_qemu():
        return True
    own = done.facts["own"]
    return bool(own) and not Path(own).exists()


def _build(stale: Sequence[Part], folder: Path, tell: Tell) -> None:
    """Build parts into the cache. Parts that fail leave no trace."""
    done: dict[str, LockedPart] = {}
    with building(folder) as place:
        own = recipe.own_qemu(folder / WRAPPER) if any(part.name == "qemu" for part in stale) else None
        fetched = [part for part in stale if not (own and part.name == "qemu")]
        if fetched:
            done |= fetch_and_build(fetched, place, tell)
        if len(fetched) < len(stale) or "qemu" in done:
            done["qemu"] = _finish_qemu(done.get("qemu"), own, place)
        # From here on what was there is not valid, and what comes is not yet.
        lock = Lock.read(folder).without(set(done))
        lock.write(folder)
        for part in done:
            if (place / part).exists():
                install(place / part, folder / part)
        if "qemu" in done:
            (folder / WRAPPER).parent.mkdir(exist_ok=True)
            install(place / WRAPPER, folder / WRAPPER)
        lock.with_parts(done).write(folder)


def _finish_qemu(fetched: LockedPart | None, own: Path | None, place: Path) -> LockedPart:
    """Write the wrapper for a fetched QEMU or the machine's own, and see that it is good."""
    wrapper = place / WRAPPER
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {shlex.quote(str(own))} "$@"\n' if own else recipe.QEMU_WRAPPER)
    wrapper.chmod(0o755)
    if not recipe.speaks_vfio_user(wrapper):
        raise PrepareError(
            "the QEMU of Debian's trixie-backports has no device vfio-user-pci, or does not run here: "
            "install QEMU 10.1 or newer yourself and name it in HDVKIT_QEMU"
        )
    facts = {
        "named": recipe.named_qemu(),
        "own": str(own or ""),
        "version": recipe.version(wrapper),
        "ends_with_parent": "yes" if recipe.ends_with_its_parent(wrapper) else "no",
    }
    packages = fetched.packages if fetched else []
    number = next(part.recipe for part in recipe.PARTS if part.name == "qemu")
    return LockedPart(number, now(), packages, facts)


def _write_images(folder: Path, lock: Lock) -> None:
    """Make images for the guest's scripts as they are: it takes no time and no network.

    Older ones stay, for another checkout may be using them; they go when their kernel does.
    """
    for guest in _assets(folder, lock, "").guests.values():
        if not guest.initramfs.exists():
            modules = sorted((guest.kernel.parent / "modules").iterdir())
            busybox = (folder / "busybox/busybox").read_bytes()
            image = guest.initramfs.with_suffix(".new")
            image.write_bytes(base_image(busybox, [(module.name, module.read_bytes()) for module in modules]))
            image.rename(guest.initramfs)


def _scripts_digest() -> str:
    scripts = b"".join(script.read_bytes() for script in sorted(SCRIPTS.iterdir()))
    return hashlib.sha256(scripts).hexdigest()[:12]

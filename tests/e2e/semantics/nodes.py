"""Fifos, sockets and device nodes: who may make them, and that they work."""

import fcntl
import os
import select
import socket
import stat

from attempts import KINDS, USERS, acting_as, in_child, look, make, opened, opens, tried
from calls import syncfs
from cases import case

TYPES = {
    "none": 0,
    "file": stat.S_IFREG,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
    "character": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "dir": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "nonsense": 0o150000,
}
FS_IOC_GETFLAGS = 0x80086601


@case(kind=TYPES, user=USERS, device={"0": 0, "1,3": os.makedev(1, 3)})
def made(kind, user, device):
    with acting_as(user):
        return tried(os.mknod, "x", kind | 0o644, device), look()


@case(user=USERS)
def fifo_opened(user):
    make("fifo", mode=0o640)
    with acting_as(user):
        return [opens("x", flags) for flags in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)]


@case()
def fifo_used():
    make("fifo")
    with opened("x", os.O_RDONLY | os.O_NONBLOCK) as reading, opened("x", os.O_WRONLY) as writing:
        os.write(writing, b"through")
        return os.read(reading, 100), tried(os.lseek, reading, 0, 0), tried(os.ftruncate, writing, 0), look()


@case()
def fifo_between_processes():
    make("fifo")
    child = os.fork()
    if not child:
        with opened("x", os.O_WRONLY) as writing:
            os.write(writing, b"from a child")
        os._exit(0)
    with opened("x", os.O_RDONLY) as reading:
        told = os.read(reading, 100), os.read(reading, 100)
    os.waitpid(child, 0)
    return told


@case(user=USERS, kind=("missing", *KINDS))
def socket_bound(user, kind):
    make(kind)
    with socket.socket(socket.AF_UNIX) as one, acting_as(user):
        return tried(one.bind, "x"), look()


@case(user=USERS, umask=(0o000, 0o077))
def socket_used(user, umask):
    os.umask(umask)
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("x")
        server.listen()
        with acting_as(user):
            told = tried(client.connect, "x")
        if told == "ok":
            client.sendall(b"hello")
            with server.accept()[0] as connection:
                told = connection.recv(10)
        os.unlink("x")
        return told, tried(socket.socket(socket.AF_UNIX).connect, "x")


@case(kind=KINDS)
def connected_to(kind):
    make(kind)
    with socket.socket(socket.AF_UNIX) as client:
        return tried(client.connect, "x")


@case(
    kind=("file", "dir", "fifo"),
    call=("fsync", "fdatasync", "syncfs", "fadvise", "readahead", "isatty", "poll", "nread"),
)
def called(kind, call):
    make(kind)
    with opened("x", os.O_RDONLY | os.O_NONBLOCK) as descriptor:
        calls = {
            "fsync": lambda: os.fsync(descriptor),
            "fdatasync": lambda: os.fdatasync(descriptor),
            "syncfs": lambda: syncfs(descriptor),
            "fadvise": lambda: os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED),
            "readahead": lambda: os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED),
            "isatty": lambda: os.isatty(descriptor),
            "poll": lambda: sorted(event for _, event in polled(descriptor)),
            "nread": lambda: int.from_bytes(fcntl.ioctl(descriptor, 0x541B, bytes(4)), "little"),
        }
        return tried(calls[call])


def polled(descriptor):
    """What is ready at once."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN | select.POLLOUT)
    return poll.poll(0)


@case(kind=("file", "dir"))
def epoll_refuses(kind):
    make(kind)
    with opened("x", os.O_RDONLY) as descriptor, select.epoll() as epoll:
        return tried(epoll.register, descriptor)


@case(kind=("file", "dir"))
def inode_flags(kind):
    make(kind)
    with opened("x", os.O_RDONLY) as descriptor:
        return tried(lambda: len(fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, bytes(4))))


@case(kind=("file", "dir", "fifo", "symlink"))
def file_system(kind):
    make(kind)
    with opened("x", os.O_RDONLY | os.O_NONBLOCK) as descriptor:
        by_name, by_descriptor = os.statvfs("x"), os.fstatvfs(descriptor)
    told = by_name.f_namemax, by_name.f_bsize, by_name.f_frsize, by_name.f_blocks > by_name.f_bfree > 0
    return told, by_descriptor.f_blocks == by_name.f_blocks


@case(kind=KINDS)
def executed(kind):
    make(kind, mode=0o755)
    return in_child(lambda: os.execv("x", ["x"]))

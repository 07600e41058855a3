"""Which handler carries out which operation. A table; the handlers are in the files beside it."""

from typing import Final

from hdvkit_virtiofs.fuse.spec import Opcode
from hdvkit_virtiofs.handlers import files, locks, nodes
from hdvkit_virtiofs.server import Handler

HANDLERS: Final[dict[int, Handler]] = {
    Opcode.INIT: nodes.init,
    Opcode.DESTROY: nodes.destroy,
    Opcode.BATCH_FORGET: nodes.batch_forget,
    Opcode.LOOKUP: nodes.lookup,
    Opcode.GETATTR: nodes.getattr_,
    Opcode.SETATTR: nodes.setattr_,
    Opcode.STATX: nodes.statx,
    Opcode.ACCESS: nodes.access,
    Opcode.READLINK: nodes.readlink,
    Opcode.TMPFILE: files.tmpfile,
    Opcode.MKNOD: nodes.mknod,
    Opcode.MKDIR: nodes.mkdir,
    Opcode.SYMLINK: nodes.symlink,
    Opcode.LINK: nodes.link,
    Opcode.UNLINK: nodes.unlink,
    Opcode.RMDIR: nodes.rmdir,
    Opcode.RENAME: nodes.rename,
    Opcode.RENAME2: nodes.rename,
    Opcode.OPEN: files.open_,
    Opcode.CREATE: files.create,
    Opcode.READ: files.read,
    Opcode.WRITE: files.write,
    Opcode.FLUSH: files.flush,
    Opcode.FSYNC: files.fsync,
    Opcode.FALLOCATE: files.fallocate,
    Opcode.LSEEK: files.lseek,
    Opcode.COPY_FILE_RANGE: files.copy_file_range,
    Opcode.COPY_FILE_RANGE_64: files.copy_file_range,
    Opcode.GETLK: locks.getlk,
    Opcode.SETLK: locks.setlk,
    Opcode.SETLKW: locks.setlk,
    Opcode.IOCTL: files.ioctl,
    Opcode.RELEASE: files.release,
    Opcode.OPENDIR: files.opendir,
    Opcode.READDIR: files.readdir,
    Opcode.READDIRPLUS: files.readdirplus,
    Opcode.FSYNCDIR: files.fsyncdir,
    Opcode.RELEASEDIR: files.releasedir,
    Opcode.GETXATTR: nodes.getxattr,
    Opcode.LISTXATTR: nodes.listxattr,
    Opcode.SETXATTR: nodes.setxattr,
    Opcode.REMOVEXATTR: nodes.removexattr,
    Opcode.STATFS: nodes.statfs,
    Opcode.SYNCFS: nodes.syncfs,
}
"""Which handler an operation has. Those without one are ENOSYS; FORGET and INTERRUPT never wait."""

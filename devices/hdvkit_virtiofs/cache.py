"""What a guest may remember, and for how long: the cache policies by the names users know."""

from enum import StrEnum
from typing import Final, NamedTuple, NoReturn

from hdvkit_virtiofs.fuse.spec import OpenReply


class Cache(StrEnum):
    """How much a guest may cache."""

    AUTO = "auto"
    """Names and attributes for a second, data until the file changed when it is opened."""
    ALWAYS = "always"
    """Everything, for a day: for shares nobody but this guest changes."""
    NEVER = "never"
    """Nothing: the guest asks each time."""
    METADATA = "metadata"
    """Names and attributes for a day, no data."""

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise ValueError(f"{value!r} is no cache policy; write {', '.join(cls)}")


class CacheRules(NamedTuple):
    """What a policy means in the protocol."""

    timeout: float
    """Seconds that names and attributes are valid."""
    open_flags: int
    """What OPEN and CREATE tell the guest about data."""


DAY: Final = 86400.0

RULES: Final = {
    Cache.AUTO: CacheRules(1.0, 0),
    Cache.ALWAYS: CacheRules(DAY, OpenReply.KEEP_CACHE),
    Cache.NEVER: CacheRules(0.0, OpenReply.DIRECT_IO),
    Cache.METADATA: CacheRules(DAY, OpenReply.DIRECT_IO),
}

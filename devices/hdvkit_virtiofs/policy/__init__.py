"""What a share lets a guest do, in front of whatever file system serves it.

Requests as they come are judged by :mod:`.requests`; everything that knows nodes and names is a :class:`Layer`. Which
layers a share has is in :mod:`.rules`.
"""

from hdvkit_virtiofs.policy.authorize import Authorize, Authorized, Operation
from hdvkit_virtiofs.policy.identity import Identity
from hdvkit_virtiofs.policy.layer import Layer, innermost
from hdvkit_virtiofs.policy.quota import Quota
from hdvkit_virtiofs.policy.requests import MUTATING, Policy
from hdvkit_virtiofs.policy.rules import Rules
from hdvkit_virtiofs.policy.timeouts import Timeouts
from hdvkit_virtiofs.policy.visibility import Visible
from hdvkit_virtiofs.policy.xattrs import XattrRules, refusal

__all__ = [
    "MUTATING",
    "Authorize",
    "Authorized",
    "Identity",
    "Layer",
    "Operation",
    "Policy",
    "Quota",
    "Rules",
    "Timeouts",
    "Visible",
    "XattrRules",
    "innermost",
    "refusal",
]

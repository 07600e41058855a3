"""What a share lets a guest do, in front of whatever file system serves it.

Requests as they come are judged by :mod:`.requests`; everything that knows nodes and names is a :class:`Layer`.
"""

from hdvkit_virtiofs.policy.layer import Layer, innermost
from hdvkit_virtiofs.policy.requests import MUTATING, Policy

__all__ = ["MUTATING", "Layer", "Policy", "innermost"]

"""Small language models learn to reason by reinforcement learning with verifiable rewards."""

from typing import Any

__all__ = ["verify"]


def __getattr__(name: str) -> Any:
    """`longthink.verify`, loaded when it is first asked for: the sandbox's processes import this package too."""
    if name == "verify":
        from longthink.grade import verify

        return verify
    raise AttributeError(f"module 'longthink' has no attribute {name!r}")

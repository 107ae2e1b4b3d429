"""Rules for names that become folders."""

from avfuse.features.errors import UsageError

_RESERVED = frozenset({"manifests", "media"})
"""Folders beside the collections in a cache."""


def check_name(name: str, what: str) -> str:
    """Return a valid name. Raises UsageError for one that leaves its folder, is hidden, or is reserved."""
    if not name or name.startswith(".") or name != name.strip() or any(c in '/\\:*?"<>|' or ord(c) < 32 for c in name):
        raise UsageError(f"'{name}' cannot be the name of a {what}: use letters, digits, spaces, and . _ + - inside it")
    if name in _RESERVED:
        raise UsageError(f"'{name}' cannot be the name of a {what}: avfuse keeps other things there; add NAME=...")
    return name

"""Names that users give become names of folders: what may be one."""

from avfuse.features.errors import UsageError

_RESERVED = frozenset({"manifests", "media"})
"""What lies beside the collections in a cache."""


def check_name(name: str, what: str) -> str:
    """The name itself. Raises UsageError for one that would leave its folder, hide in it, or take a reserved place."""
    if not name or name.startswith(".") or name != name.strip() or any(c in '/\\:*?"<>|' or ord(c) < 32 for c in name):
        raise UsageError(f"'{name}' cannot be the name of a {what}: use letters, digits, spaces, and . _ + - inside it")
    if name in _RESERVED:
        raise UsageError(f"'{name}' cannot be the name of a {what}: avfuse keeps other things there; add NAME=...")
    return name

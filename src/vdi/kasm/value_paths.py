"""Values by their paths, such as `database.storage.pvcSize`. Pure."""

from collections.abc import Mapping
from typing import Any


def value_at(values: Mapping[str, Any], path: str) -> Any:
    """What stands at a path; None where nothing does. A null is as good as none, as it is for Helm."""
    found: Any = values
    for key in path.split("."):
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def set_at(tree: dict[str, Any], path: str, value: Any) -> None:
    """Put a value at a path, making the blocks on the way. A value in the way is replaced."""
    *way, leaf = path.split(".")
    for key in way:
        below = tree.get(key)
        if not isinstance(below, dict):
            below = tree[key] = {}
        tree = below
    tree[leaf] = value


def merged(*values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as Helm merges them: key by key, the last wins, lists as a whole."""
    result: dict[str, Any] = {}
    for each in values:
        for key, value in each.items():
            before = result.get(key)
            is_block = isinstance(before, Mapping) and isinstance(value, Mapping)
            result[key] = merged(before or {}, value) if is_block else value
    return result

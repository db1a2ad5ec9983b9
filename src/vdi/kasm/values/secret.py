"""The Secret with Kasm's five passwords, as a manifest: from what is given, generated where nothing is. Pure.

Passwords never stand in values (Helm keeps those in its record of the release) and never on a command line.
"""

from collections.abc import Callable, Mapping
from typing import Any

KEYS: Mapping[str, str] = {
    "admin-password": "of admin@kasm.local",
    "user-password": "of user@kasm.local",
    "db-password": "of the database's user",
    "manager-token": "for the registration of agents",
    "service-token": "for the registration of guac and the RDP gateways",
}
"""What the Secret holds, and what each is for."""
LENGTH = 26
ALPHABET = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789"
"""Without letters that look alike: somebody will type one of these."""


def secret_manifest(
    name: str, namespace: str, given: Mapping[str, Any], choose: Callable[[str], str]
) -> dict[str, Any]:
    """The manifest. `choose` picks one letter of a text at random.

    Raises ValueError for keys and values that are wrong; the values themselves are never part of it.
    """
    if unknown := [key for key in given if key not in KEYS]:
        raise ValueError(f"{unknown[0]!r} is not a password of Kasm; allowed: {', '.join(KEYS)}")
    for key, value in given.items():
        if not isinstance(value, str) or not value or value != value.strip():
            raise ValueError(f"{key} is not text, is empty, or has leading or trailing spaces; quote it")
    data = {key: given.get(key) or "".join(choose(ALPHABET) for _ in range(LENGTH)) for key in KEYS}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "labels": {"app.kubernetes.io/part-of": "kasm"},
        },
        "type": "Opaque",
        "stringData": data,
    }

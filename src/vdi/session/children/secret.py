"""The Secret with the password of one desktop: Selkies' basic auth keeps strangers out."""

from typing import Any

from vdi.session.children.identity import Identity
from vdi.session.naming import secret_name

USERNAME = "user"
"""User name of Selkies' basic auth; the password is the Secret's."""
PASSWORD_KEY = "password"  # noqa: S105 -- the key's name


def build_secret(*, identity: Identity, password: str) -> dict[str, Any]:
    """The Secret. Immutable: a password that a running desktop has taken in must not change under it."""
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": identity.metadata(secret_name(identity.name)),
        "type": "Opaque",
        "immutable": True,
        "stringData": {PASSWORD_KEY: password},
    }

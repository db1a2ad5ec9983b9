"""The Secret of one desktop: a word that opens it, and a token that keeps strangers from its agent.

The word is the password of Selkies' basic auth, or, where there is a gateway, Selkies' master token, which the gateway
alone uses and derives for itself (`desktop_tokens.py`).

The pod gets the digests of both tokens and not the tokens: its user may read its whole environment.
"""

from hashlib import sha256
from typing import Any

from vdi.session.desktop_tokens import DesktopTokens
from vdi.session.identity import Identity, PoolIdentity
from vdi.session.naming import pool_secret_name, secret_name

USERNAME = "user"
"""User name of Selkies' basic auth; the password is the Secret's."""
PASSWORD_KEY = "password"  # noqa: S105 -- the key's name
AGENT_TOKEN_KEY = "agentToken"  # noqa: S105 -- the key's name
PASSWORD_DIGEST_KEY = "passwordSha256"  # noqa: S105 -- the key's name
AGENT_TOKEN_DIGEST_KEY = "agentTokenSha256"  # noqa: S105 -- the key's name


def build_secret(*, identity: Identity, tokens: DesktopTokens) -> dict[str, Any]:
    """The Secret of a session. Immutable: what a running desktop has taken in must not change under it."""
    return _secret(identity.metadata(secret_name(identity.name)), tokens)


def build_pool_secret(*, identity: PoolIdentity, pod: str, pod_uid: str, tokens: DesktopTokens) -> dict[str, Any]:
    """The Secret of a desktop that waits for somebody. The pod owns it, who may have another owner by tomorrow."""
    metadata = identity.metadata(pool_secret_name(pod))
    metadata["ownerReferences"] = [{"apiVersion": "v1", "kind": "Pod", "name": pod, "uid": pod_uid, "controller": True}]
    return _secret(metadata, tokens)


def _secret(metadata: dict[str, Any], tokens: DesktopTokens) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": metadata,
        "type": "Opaque",
        "immutable": True,
        "stringData": {
            PASSWORD_KEY: tokens.password,
            PASSWORD_DIGEST_KEY: _digest(tokens.password),
            AGENT_TOKEN_KEY: tokens.agent,
            AGENT_TOKEN_DIGEST_KEY: _digest(tokens.agent),
        },
    }


def _digest(token: str) -> str:
    return sha256(token.encode()).hexdigest()

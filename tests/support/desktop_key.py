"""The key that desktops' tokens are derived from, as the tests' releases have it."""

import base64

from vdi.session.credentials import KEY_ENTRY, DesktopTokens, derive_tokens

KEY = b"k" * 32
# `data` of its Secret.
DATA = {KEY_ENTRY: base64.b64encode(KEY).decode()}


def tokens_of(name: str = "alice-desktop", *, uid: str = "", key: bytes = KEY) -> DesktopTokens:
    """Of a session whose pod is its own; its uid by default is that of `builders.a_session`."""
    return derive_tokens(
        key, namespace="vdi-sessions", name=name, uid=uid or f"uid-{name}", pod=name
    )


# Selkies' master token of alice-desktop.
MASTER = tokens_of().password

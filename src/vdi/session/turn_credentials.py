"""The credentials that a TURN server with a shared secret takes: the gateway makes them for a desktop's page, and the
doctor to ask the server as a page would. docs/design/turn.md.
"""

import base64
import hashlib
import hmac
from datetime import datetime


def make_credentials(secret: str, user: str, expires: datetime) -> tuple[str, str]:
    """User name and password that hold until then, as coturn's `use-auth-secret` checks them.

    SHA-1 is what the convention has; the secret is long and random, and HMAC does not need collision resistance.
    """
    name = f"{int(expires.timestamp())}:{user}"
    return name, base64.b64encode(hmac.digest(secret.encode(), name.encode(), hashlib.sha1)).decode()

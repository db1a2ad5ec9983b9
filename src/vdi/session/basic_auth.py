"""The Secret that a template names in `basicAuthSecret`: what has to be in it. Pure."""

import base64
from collections.abc import Mapping

USERNAME_KEY = "username"
PASSWORD_KEY = "password"  # noqa: S105 -- the key's name
"""Keys of a Secret of type kubernetes.io/basic-auth."""
SECRET_TYPE = "kubernetes.io/basic-auth"  # noqa: S105 -- the type's name


def read_credentials(data: Mapping[str, str]) -> tuple[bytes, bytes]:
    """User name and password from a Secret's `data`. Raises ValueError with a clause that shows nothing of them."""
    try:
        username, password = (
            base64.b64decode(data.get(key, ""), validate=True) for key in (USERNAME_KEY, PASSWORD_KEY)
        )
    except ValueError as error:
        raise ValueError("contains something other than text in base64") from error
    if not username or not password or b":" in username:
        raise ValueError(f"needs the keys {USERNAME_KEY!r} (without a colon) and {PASSWORD_KEY!r}")
    return username, password

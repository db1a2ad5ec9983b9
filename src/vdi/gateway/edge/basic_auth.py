"""The credentials of images that request basic auth: the edge adds them to each request, so no browser ever has them.

They come from the Secret that a template names (`basicAuthSecret`), in the session's namespace. Nothing of a Secret is
in a log or an error.
"""

import base64
from collections.abc import Callable

import msgspec

from vdi.kube.errors import Forbidden, KubeError, NotFound
from vdi.kube.resource import SECRETS
from vdi.kube.transport import Client
from vdi.session.basic_auth import read_credentials

KEPT_SECONDS = 60.0
"""How long a Secret that has changed may still be used as it was."""


class BasicAuthError(Exception):
    """Raised when the credentials cannot be had now; says why, and shows nothing of them."""


class _Secret(msgspec.Struct):
    data: dict[str, str] = {}


class BasicAuth:
    """Values of the Authorization header, by Secret. `clock`: seconds, of a clock that only goes forward."""

    def __init__(self, client: Client, clock: Callable[[], float]) -> None:
        self._client = client
        self._clock = clock
        self._known: dict[tuple[str, str], tuple[float, bytes]] = {}

    async def get(self, namespace: str, name: str) -> bytes:
        """The header's value. A Secret that cannot be read keeps its last one. Raises BasicAuthError without one."""
        known = self._known.get((namespace, name))
        if known and self._clock() - known[0] < KEPT_SECONDS:
            return known[1]
        try:
            secret = await self._client.get(SECRETS, name, namespace=namespace, into=_Secret)
            username, password = read_credentials(secret.data)
        except NotFound as error:
            raise BasicAuthError(f"the Secret {name!r} does not exist in namespace {namespace}") from error
        except KubeError as error:
            if known:
                return known[1]
            todo = "; list it in the chart's gateway.basicAuthSecrets" if isinstance(error, Forbidden) else ""
            raise BasicAuthError(f"the Secret {name!r} cannot be read: {error}{todo}") from error
        except ValueError as error:
            raise BasicAuthError(f"the Secret {name!r} {error}") from error
        value = b"Basic " + base64.b64encode(username + b":" + password)
        self._known[namespace, name] = self._clock(), value
        return value

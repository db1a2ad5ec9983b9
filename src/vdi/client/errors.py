"""Errors of the client. All are `VdiError`; the text of each is a sentence for people."""

from datetime import datetime
from typing import Any


class VdiError(Exception):
    """Base of all errors that this package raises."""


class Unreachable(VdiError):
    """No readable response: network, certificate, or a server that is not a portal.

    The request may have been carried out.
    """


class Refused(VdiError):
    """The portal refused the request.

    `code`: the problem code, such as `conflict`; docs/rest-api.md.
    `message`: what happened and what to do. `status`: the HTTP status, 0 without one. `fields`: the fields with
    invalid values, each with `field`, `allowed` and, if it was sent, `value`. `retry_after`: seconds, or None.
    """

    def __init__(
        self,
        code: str,
        message: str,
        status: int = 0,
        fields: tuple[dict[str, Any], ...] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.status = code, message, status
        self.fields, self.retry_after = fields, retry_after


class Unauthorized(Refused):
    """The token is unknown, expired or revoked (401)."""


class Forbidden(Refused):
    """The token's user may not do this, or the token is for one desktop only (403)."""


class NotFound(Refused):
    """There is no such desktop or template for this user (404)."""


class HumanInControl(Refused):
    """A person drives the desktop (`human-in-control`), or was asked to (`parked`).

    Wait some seconds and try again; every action is refused until the person gives the desktop back.
    """


class TooManyRequests(Refused):
    """A limit per minute is reached (429); `retry_after` says when to try again."""


class NotReady(VdiError):
    """The desktop does not run yet, or no longer. It still exists.

    `name`: for `Desktop.connect(name)`, then `wait()` or `end()`. `phase`: `Pending`, `Creating`, `Suspended`,
    `Terminating`, `Failed`, or empty.
    """

    def __init__(self, name: str, phase: str, message: str) -> None:
        super().__init__(f"The desktop {name!r} is not ready. {message or phase}".strip())
        self.name, self.phase, self.message = name, phase, message


class Queued(NotReady):
    """The desktop waits for capacity.

    `position`: 1 is the next; None if the end of another desktop would not help. `expected`: when capacity is
    expected, or None. `reason`: code of the resource that is short.
    """

    def __init__(
        self,
        name: str,
        phase: str,
        message: str,
        position: int | None,
        expected: datetime | None,
        reason: str,
    ) -> None:
        super().__init__(name, phase, message)
        self.position, self.expected, self.reason = position, expected, reason


KINDS: dict[str, type[Refused]] = {
    "unauthenticated": Unauthorized,
    "forbidden": Forbidden,
    "not-found": NotFound,
    "human-in-control": HumanInControl,
    "parked": HumanInControl,
    "too-many-requests": TooManyRequests,
}

"""Errors of requests to the API server.

    KubeError
    +-- ConfigError          no usable kubeconfig or service account
    +-- NotLeader            a write was not sent: another process may lead
    +-- ConnectionFailed     no answer: refused, reset, timed out, TLS
    |   +-- StreamSilent     an open stream on which nothing comes
    +-- UnexpectedAnswer     an answer that is not what the API promises
    +-- ApiError             the server answered with a failure (`status`, `reason`, `message`, `causes`, `retry_after`)
        +-- BadRequest       400
        +-- Unauthorized     401
        +-- Forbidden        403
        +-- NotFound         404
        +-- AlreadyExists    409, reason AlreadyExists
        +-- Conflict         409, any other reason
        |   +-- Replaced     the object of this name is another one than the uid in the request said
        +-- Gone             410
        +-- Invalid          422
        +-- TooManyRequests  429
        +-- ServerError      500 and above

Foreign exceptions (ssl, msgspec) are mapped to these once, in `transport`, and kept as `__cause__`.
"""

# ruff: noqa: N818 - the names are the API's own reasons, and read so where they are caught

import re

import msgspec

_BEFORE_RULE = re.compile(r'^Invalid value: (?:"(?:[^"\\]|\\.)*"|[^:{]*|\{.*?\}): ', re.DOTALL)
# Added when other rules could not be checked, because of an error that is a cause of its own.
_UNCHECKED = "<nil>"
# In both of the API server's messages (registry/rest/delete.go, storage/interfaces.go); their
# reason is Conflict.
_ANOTHER_UID = re.compile(r"UID in (the )?precondition")


class KubeError(Exception):
    """Raised when a request to the Kubernetes API has failed. Base of all errors of this
    package.
    """


class ConfigError(KubeError):
    """Raised without a usable kubeconfig, context or credentials."""


class NotLeader(KubeError):
    """Raised instead of sending a write when another process may lead by now: nothing was done."""


class ConnectionFailed(KubeError):
    """Raised when the server gave no (complete) answer. The request may or may not have been
    executed.
    """

    def __init__(self, server: str, what: str, why: str) -> None:
        self.server = server
        self.why = why
        super().__init__(f"no response from the API server {server} to {what}: {why}")


class StreamSilent(ConnectionFailed):
    """Raised when an open stream brought nothing for the read deadline: it may be dead, or all is
    quiet.
    """


class UnexpectedAnswer(KubeError):
    """Raised when an answer cannot be read as what the API promises (a proxy's page, a wrong
    type).
    """


class Cause(msgspec.Struct, frozen=True, gc=False):
    """One entry of a Status' `details.causes`: a field, and what is wrong with it."""

    field: str = ""
    reason: str = ""
    message: str = ""

    @property
    def words(self) -> str:
        """The message; that of a CEL rule, which is a sentence of its own, without what the server
        puts before it.
        """
        # Before Kubernetes 1.36 that is the type (`Invalid value: "string": `), since then the
        # value as Go quotes it. Messages of the schema (`spec.x in body should ...`) and of
        # metadata do not name the value themselves.
        is_rule = self.field.startswith("spec") and " in body " not in self.message
        if is_rule:
            return _BEFORE_RULE.sub("", self.message)
        return self.message


class ApiError(KubeError):
    """Raised when the server refuses; the subclass says why, `message` is the server's own
    sentence.
    """

    def __init__(
        self,
        status: int,
        reason: str,
        message: str,
        *,
        causes: tuple[Cause, ...] = (),
        retry_after: float | None = None,
        request: str = "",
        api_missing: bool = False,
    ) -> None:
        self.status = status
        self.reason = reason
        self.message = message
        self.causes = causes
        # Seconds the server asks us to wait, where it said so.
        self.retry_after = retry_after

        # Method and path of the request.
        self.request = request
        # With 404: it is not the object that is missing but the whole kind (its CRD is not
        # installed).
        self.api_missing = api_missing
        super().__init__(
            f"{request}: {message} ({status} {reason})"
            if request
            else f"{message} ({status} {reason})"
        )


class BadRequest(ApiError):
    """Raised on 400: the request itself is malformed."""


class Unauthorized(ApiError):
    """Raised on 401: the credentials are missing, wrong or expired."""


class Forbidden(ApiError):
    """Raised on 403: the credentials are known but may not do this (RBAC, quota, admission)."""


class NotFound(ApiError):
    """Raised on 404: no such object, or (`api_missing`) no such kind."""


class AlreadyExists(ApiError):
    """Raised on 409 to a create: an object of this name is there."""


class Conflict(ApiError):
    """Raised on 409 otherwise: a resourceVersion or uid precondition did not hold."""


class Replaced(Conflict):
    """Raised on 409 when a uid precondition did not hold: the object is gone, and another has its
    name.
    """


class Gone(ApiError):
    """Raised on 410: the resourceVersion or continue token is older than what the server remembers.
    List again.
    """


class Invalid(ApiError):
    """Raised on 422: the object breaks its schema; `causes` says which fields."""


class TooManyRequests(ApiError):
    """Raised on 429, after the retries that the policy allows."""


class ServerError(ApiError):
    """Raised on 5xx, after the retries that the policy allows."""


_BY_STATUS: dict[int, type[ApiError]] = {
    400: BadRequest,
    401: Unauthorized,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Gone,
    422: Invalid,
    429: TooManyRequests,
}


class _Details(msgspec.Struct, rename="camel"):
    name: str = ""
    causes: tuple[Cause, ...] = ()
    retry_after_seconds: float = 0


class _Status(msgspec.Struct):
    kind: str = ""
    code: int = 0
    reason: str = ""
    message: str = ""
    details: _Details | None = None


_decode_status = msgspec.json.Decoder(_Status).decode


def error_from(
    status: int, body: bytes, *, request: str = "", retry_after: float | None = None
) -> ApiError:
    """The error for an answer, from its HTTP status and its body: a Status object, or what a proxy
    wrote.
    """
    try:
        response = _decode_status(body)
    except msgspec.DecodeError:
        response = _Status()
    if response.kind != "Status":
        text = body[:300].decode("utf-8", "replace").strip() or "empty answer"
        return _class_of(status, "", text)(
            status, "", text, retry_after=retry_after, request=request, api_missing=status == 404
        )
    details = response.details or _Details()
    status = response.code or status
    return _class_of(status, response.reason, response.message)(
        status,
        response.reason,
        response.message,
        causes=tuple(cause for cause in details.causes if cause.field != _UNCHECKED)
        or details.causes,
        retry_after=retry_after if retry_after is not None else details.retry_after_seconds or None,
        request=request,
        api_missing=status == 404 and not details.name,
    )


def _class_of(status: int, reason: str, message: str) -> type[ApiError]:
    if status == 409 and reason == "AlreadyExists":
        return AlreadyExists
    if status == 409 and _ANOTHER_UID.search(message):
        return Replaced
    return _BY_STATUS.get(status, ServerError if status >= 500 else ApiError)

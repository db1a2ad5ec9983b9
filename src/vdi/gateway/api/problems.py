"""Error responses of the REST API: `application/problem+json` (RFC 9457), with field, value and
what is allowed.

Handlers raise ProblemError or ActionDenied; `operation` sends the problem that `problem_of` makes
of any exception.
"""

import logging
import re
from typing import Annotated

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from vdi.api.constraints import doc
from vdi.gateway.denied import ActionDenied, CrossSiteError, FieldProblem
from vdi.gateway.shared_state import SharedUnavailableError
from vdi.gateway.store.audit import NotAuditedError
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.kube.errors import KubeError

log = logging.getLogger(__name__)

MEDIA_TYPE = "application/problem+json"

# All problems: code, HTTP status and title.
TITLES = {
    "malformed": (400, "The request cannot be read"),
    "unauthenticated": (401, "Not authenticated"),
    "csrf": (403, "The request did not come from a page of this portal"),
    "forbidden": (403, "Not allowed for this user"),
    "not-found": (404, "Not found"),
    "method-not-allowed": (405, "Method not allowed"),
    "conflict": (409, "Conflicts with the current state"),
    "over-limit": (409, "It would exceed this user's limits"),
    "view-only-unavailable": (409, "The image of this desktop does not support view only"),
    "human-in-control": (409, "A person has control of the desktop"),
    "parked": (409, "The agent waits for a person"),
    "too-large": (413, "The request is too large"),
    "unsupported-media-type": (415, "The body is not valid JSON"),
    "invalid": (422, "A field has an invalid value"),
    "too-many-requests": (429, "Too many requests"),
    "unexpected": (500, "Internal error of the gateway"),
    "unavailable": (503, "A service that the gateway needs does not respond"),
}
_OF_STATUS = {
    400: "malformed",
    401: "unauthenticated",
    403: "forbidden",
    404: "not-found",
    408: "malformed",
    413: "too-large",
    429: "too-many-requests",
}


class Problem(msgspec.Struct, omit_defaults=True):
    """A refusal as the API answers it (RFC 9457)."""

    type: Annotated[
        str, doc("Address of the description of this problem type.", format="uri-reference")
    ]
    title: Annotated[str, doc("The problem type, in words.")]
    status: Annotated[int, doc("The HTTP status.")]
    code: Annotated[str, doc("Code of the problem type, for programs.", enum=list(TITLES))]
    detail: Annotated[str, doc("Details of this occurrence, in full sentences.")]
    errors: Annotated[tuple[FieldProblem, ...], doc("The fields with invalid values.")] = ()


class ProblemError(Exception):
    """Raised when a request is refused; `code` is one of `TITLES`."""

    def __init__(
        self, code: str, detail: str, *errors: FieldProblem, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(f"{code}: {detail}")
        self.status, title = TITLES[code]
        self.headers = headers or {}
        self.problem = Problem(
            f"/api/docs#problem-{code}", title, self.status, code, detail, errors
        )

    def response(self) -> Response:
        """The response to the request."""
        body = msgspec.json.encode(self.problem)
        return Response(body, self.status, headers=self.headers, media_type=MEDIA_TYPE)


def problem_of(error: Exception) -> ProblemError:
    """The problem for an exception; `unexpected` is a fault of ours, and the caller logs it."""
    match error:
        case ActionDenied():
            return ProblemError(
                _kebab_case(error.code), error.sentence, *error.fields, headers=error.headers
            )
        case CrossSiteError():
            return ProblemError("csrf", error.detail)
        case HTTPException():
            code = _OF_STATUS.get(error.status_code, "unexpected")
            return ProblemError(code, error.detail, headers=dict(error.headers or {}))
        case ClientDisconnect():  # no fault of ours; no one reads it
            return ProblemError("malformed", "The body of the request is not complete.")
        case DatabaseUnavailableError():
            return ProblemError(
                "unavailable",
                "The gateway's database does not respond.",
                headers={"Retry-After": "5"},
            )
        case SharedUnavailableError():
            log.error("the API refuses requests: %s", error)
            return ProblemError(
                "unavailable", "The gateway's Redis does not respond.", headers={"Retry-After": "5"}
            )
        case NotAuditedError():
            return ProblemError("unavailable", str(error))
        case KubeError():
            return ProblemError(
                "unavailable", "The cluster does not respond.", headers={"Retry-After": "5"}
            )
        case _:
            return ProblemError(
                "unexpected", "This is an internal error of the gateway. Its log has the details."
            )


def _kebab_case(code: str) -> str:
    """`view-only-unavailable` for the code `ViewOnlyUnavailable` of a refusal."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", code).lower()

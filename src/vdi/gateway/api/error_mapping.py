"""Whatever goes wrong on the way to an answer, as a problem for the person. Called by `operation` alone."""

from starlette.exceptions import HTTPException

from vdi.gateway.api.problems import ProblemError
from vdi.gateway.denied import ActionDenied, CrossSiteError
from vdi.gateway.store.base import DatabaseUnavailableError
from vdi.kube.errors import KubeError

_OF_REFUSAL = {
    "Forbidden": "forbidden",
    "NotFound": "not-found",
    "Conflict": "conflict",
    "OverLimit": "over-limit",
    "Invalid": "invalid",
    "Unavailable": "unavailable",
}
_OF_STATUS = {
    400: "malformed",
    401: "unauthenticated",
    403: "forbidden",
    404: "not-found",
    408: "malformed",
    413: "too-large",
}


def problem_of(error: Exception) -> ProblemError:
    """The problem to answer with; one that says `unexpected` is a fault of ours, and the caller logs it."""
    match error:
        case ActionDenied():
            return ProblemError(_OF_REFUSAL[error.code], error.sentence, *error.fields)
        case CrossSiteError():
            return ProblemError("csrf", error.detail)
        case HTTPException():
            code = _OF_STATUS.get(error.status_code, "unexpected")
            return ProblemError(code, error.detail, headers=dict(error.headers or {}))
        case DatabaseUnavailableError():
            return ProblemError("unavailable", "The gateway's database does not answer.", headers={"Retry-After": "5"})
        case KubeError():
            return ProblemError("unavailable", "The cluster does not answer.", headers={"Retry-After": "5"})
        case _:
            return ProblemError("unexpected", "This is a fault of the gateway; its log says more.")

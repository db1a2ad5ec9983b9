"""Whatever goes wrong on the way to an answer, as a problem for the person. Called by `operation` alone."""

import re

from starlette.exceptions import HTTPException

from vdi.gateway.api.problems import FieldProblem, ProblemError
from vdi.gateway.refused import Refused
from vdi.gateway.store.base import DatabaseUnavailableError
from vdi.kube.errors import ApiError, Cause, KubeError

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
_WORDS = re.compile(r"^'(?P<value>.*)' is not (?P<allowed>.*)$", re.DOTALL)
"""The sentence of our own rules in the CRDs (`api.constraints.must_be`)."""
_NAMED = re.compile(r"^(?P<field>[a-z][A-Za-z.]*): .*[;,] allowed (?:is|are) (?P<allowed>.*?)\.?$", re.DOTALL)
"""A sentence of `Refused` about one field: `user: bob@example.com is not you; allowed is alice@example.com.`"""
_OTHER_NAMES = {"length": "timeout"}
"""Fields that `Actions` calls otherwise than this API."""
_NO_VALUE = re.compile(r'^Invalid value: "(?:string|integer|object|array)?": ')


def problem_of(error: Exception) -> ProblemError:
    """The problem to answer with; one that says `unexpected` is a fault of ours, and the caller logs it."""
    match error:
        case Refused():
            return ProblemError(_OF_REFUSAL[error.code], error.sentence, *(_fields(error.__cause__) or _named(error)))
        case HTTPException():
            code = _OF_STATUS.get(error.status_code, "unexpected")
            if error.status_code == 403 and "page" in error.detail:
                code = "csrf"
            return ProblemError(code, error.detail, headers=dict(error.headers or {}))
        case DatabaseUnavailableError():
            return ProblemError("unavailable", "The gateway's database does not answer.", headers={"Retry-After": "5"})
        case KubeError():
            return ProblemError("unavailable", "The cluster does not answer.", headers={"Retry-After": "5"})
        case _:
            return ProblemError("unexpected", "This is a fault of the gateway; its log says more.")


def _fields(cause: BaseException | None) -> list[FieldProblem]:
    """The fields that the API server refuses, each by what our CRDs say of it."""
    if not isinstance(cause, ApiError):
        return []
    return [_field(each) for each in cause.causes if each.field.startswith("spec.")]


def _named(error: Refused) -> list[FieldProblem]:
    found = _NAMED.match(error.sentence)
    if not found:
        return []
    return [FieldProblem(_OTHER_NAMES.get(found["field"], found["field"]), found["allowed"])]


def _field(cause: Cause) -> FieldProblem:
    said = _NO_VALUE.sub("", cause.message)
    name = cause.field.removeprefix("spec.")
    if words := _WORDS.match(said):
        return FieldProblem(name, words["allowed"], words["value"])
    return FieldProblem(name, said)

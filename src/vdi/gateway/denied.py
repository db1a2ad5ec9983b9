"""Refusals of an action, raised by every layer: code and fields for programs, a sentence for
people.

REST API, portal and edge translate them into responses. The API server's errors become refusals
here, too.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import UNSET
from starlette.exceptions import HTTPException

from vdi.api.constraints import doc
from vdi.api.crd import allowed_in_session
from vdi.kube.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    Forbidden,
    Invalid,
    KubeError,
    NotFound,
    Replaced,
)
from vdi.session.users import AddressError

STATUS = {
    "Forbidden": 403,
    "NotFound": 404,
    "Conflict": 409,
    "OverLimit": 409,
    "ViewOnlyUnavailable": 409,
    "HumanInControl": 409,
    "Parked": 409,
    "Invalid": 422,
    "TooManyRequests": 429,
    "Unavailable": 503,
}
# `spec`, `access`, `0` and `user` of the path `spec.access[0].user`.
_PART = re.compile(r"[^.\[\]]+")


class FieldProblem(msgspec.Struct, omit_defaults=True):
    """A field with a value that is not allowed."""

    field: Annotated[
        str, doc("Path of the field in the body (`resources.gpu`), or the name of the parameter.")
    ]
    allowed: Annotated[str, doc("What is allowed.")]
    value: Annotated[Any, doc("The rejected value; absent if the field is missing.")] = UNSET


class ActionDenied(Exception):  # noqa: N818 -- read as `except ActionDenied`
    """Raised when an action is denied.

    `code`: a key of STATUS. `sentence`: for the user, names what is allowed. `fields`: the fields
    of the request that it is about, by their names in the REST API.
    """

    def __init__(self, code: str, sentence: str, *fields: FieldProblem) -> None:
        self.code = code
        self.sentence = sentence
        self.fields = fields
        super().__init__(sentence)

    @property
    def status(self) -> int:
        """The HTTP status of the code."""
        return STATUS[self.code]

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the response."""
        return {}


class BusyError(ActionDenied):
    """Raised when a limit of the gateway is reached that is free again in a moment."""

    @property
    def headers(self) -> dict[str, str]:
        return {"Retry-After": "1" if self.code == "TooManyRequests" else "5"}


class CrossSiteError(HTTPException):
    """Raised when a change was not sent by a page of this host, or its token is of another
    login.
    """

    def __init__(self, detail: str) -> None:
        super().__init__(403, detail)


def refused_address(error: AddressError) -> ActionDenied:
    """The refusal of a request's field `user`."""
    return ActionDenied(
        "Invalid", f"user: {error}.", FieldProblem("user", error.allowed, error.shown)
    )


def name_not_available(name: str) -> ActionDenied:
    """The refusal of a name that another user's desktop has; does not tell whose."""
    return ActionDenied("Conflict", f"name: {name!r} is not available. Choose another name.")


def refused_by_cluster(
    error: KubeError, name: str, sent: Mapping[str, Any] | None = None
) -> ActionDenied:
    """The refusal for an error of the API server at a write to session `name`. `sent`: body of the
    write.
    """
    another = ActionDenied(
        "Conflict",
        f"The desktop {name!r} has ended, and a new desktop has the same name. Reload the page and"
        " try again.",
    )
    if isinstance(error, Invalid):
        if any(cause.field == "metadata.uid" for cause in error.causes):
            return another  # the API server reads the uid of a former object as an attempt to change the uid
        why = "; ".join(f"{cause.field}: {cause.words}" for cause in error.causes) or error.message
        return ActionDenied(
            "Invalid", f"The cluster does not accept this: {why}.", *_fields(error, sent or {})
        )
    if isinstance(error, NotFound):
        return ActionDenied("NotFound", f"The desktop {name!r} has ended.")
    if isinstance(error, AlreadyExists):
        return name_not_available(name)
    if isinstance(error, Replaced):
        return another
    if isinstance(error, Conflict):
        return ActionDenied(
            "Conflict",
            f"Someone else has just changed the desktop {name!r}. Reload the page and try again.",
        )
    if isinstance(error, Forbidden):
        return ActionDenied("Forbidden", f"The cluster refuses this: {error.message}.")
    if isinstance(error, ApiError) and error.status < 500 and error.status != 429:
        return ActionDenied(
            "Unavailable",
            f"The cluster responded with {error.status} {error.reason}. Report this to an"
            " administrator.",
        )
    return ActionDenied(
        "Unavailable",
        "The cluster does not respond right now. Nothing is lost. Try again in a minute.",
    )


def _fields(error: Invalid, sent: Mapping[str, Any]) -> Iterator[FieldProblem]:
    """The fields of the spec that the API server refuses, each with what the CRD allows."""
    for cause in error.causes:
        if cause.field.startswith("spec."):
            allowed = allowed_in_session(cause.field) or cause.words
            yield FieldProblem(
                cause.field.removeprefix("spec."), allowed, _value(sent, cause.field)
            )


def _value(sent: Any, path: str) -> Any:
    for part in _PART.findall(path):
        if isinstance(sent, Mapping):
            sent = sent.get(part, UNSET)
        elif isinstance(sent, list) and part.isdigit() and int(part) < len(sent):
            sent = sent[int(part)]
        else:
            return UNSET
    return sent


def invalid(field: str, value: Any, allowed: str) -> ActionDenied:
    """The refusal of the value of one field or parameter."""
    return invalid_fields(FieldProblem(field, allowed, value))


def invalid_fields(*fields: FieldProblem) -> ActionDenied:
    """The refusal of the values of these fields."""
    return ActionDenied("Invalid", " ".join(map(_describe, fields)), *fields)


def _describe(problem: FieldProblem) -> str:
    if problem.value is UNSET:
        return f"{problem.field}: allowed: {problem.allowed}."
    shown = msgspec.json.encode(problem.value).decode()
    if len(shown) > 80:
        shown = f"{shown[:77]}..."
    # The description of a field is a sentence of its own; anything else ends this one.
    if problem.allowed[:1].isupper():
        return f"{problem.field}: {shown} is not allowed. {problem.allowed}."
    return f"{problem.field}: {shown} is not {problem.allowed}."

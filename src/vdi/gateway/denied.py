"""Why an action is denied: a code and the fields for programs, a sentence for people."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import msgspec
from starlette.exceptions import HTTPException

from vdi.api.constraints import doc
from vdi.api.crd import allowed_in_session
from vdi.kube.errors import AlreadyExists, ApiError, Conflict, Forbidden, Invalid, KubeError, NotFound, Replaced
from vdi.session.users import AddressError

STATUS = {
    "Forbidden": 403,
    "NotFound": 404,
    "Conflict": 409,
    "OverLimit": 409,
    "ViewOnlyUnavailable": 409,
    "Invalid": 422,
    "Unavailable": 503,
}


class FieldProblem(msgspec.Struct, omit_defaults=True):
    """One field that has no allowed value."""

    field: Annotated[str, doc("Path of the field in the body (`resources.gpu`), or the name of the parameter.")]
    allowed: Annotated[str, doc("What is allowed.")]
    value: Annotated[Any, doc("The rejected value; absent if the field is missing.")] = None


class ActionDenied(Exception):  # noqa: N818 -- read as `except ActionDenied`
    """Raised when an action is denied. `sentence` is for the person and names what is allowed."""

    def __init__(self, code: str, sentence: str, *fields: FieldProblem) -> None:
        self.code = code
        """A key of `STATUS`."""

        self.sentence = sentence
        self.fields = fields
        """The fields of the request that it is about, by their names in the REST API."""
        super().__init__(sentence)

    @property
    def status(self) -> int:
        """The HTTP status that says so."""
        return STATUS[self.code]


class CrossSiteError(HTTPException):
    """Raised when a change was not sent by a page of this host, or its token is of another login."""

    def __init__(self, detail: str) -> None:
        super().__init__(403, detail)


def refused_address(error: AddressError) -> ActionDenied:
    """The refusal of a request's field `user`."""
    return ActionDenied("Invalid", f"user: {error}.", FieldProblem("user", error.allowed, error.shown))


def name_not_available(name: str) -> ActionDenied:
    """The refusal of a name that another person's desktop has: a guessed name tells who has which desktop."""
    return ActionDenied("Conflict", f"name: {name!r} is not available. Choose another name.")


def refused_by_cluster(error: KubeError, name: str, sent: Mapping[str, Any] | None = None) -> ActionDenied:
    """What the API server's refusal of a write to session `name` means to the person who requested it.

    `sent`: the body of the write, for the values of the fields that are refused.
    """
    another = ActionDenied(
        "Conflict",
        f"The desktop {name!r} has ended, and a new desktop has the same name. Reload the page and try again.",
    )
    if isinstance(error, Invalid):
        if any(cause.field == "metadata.uid" for cause in error.causes):
            return another  # to the API server a uid that is not the object's own is a change of it
        why = "; ".join(f"{cause.field}: {cause.message}" for cause in error.causes) or error.message
        return ActionDenied("Invalid", f"The cluster does not accept this: {why}.", *_fields(error, sent or {}))
    if isinstance(error, NotFound):
        return ActionDenied("NotFound", f"The desktop {name!r} has ended.")
    if isinstance(error, AlreadyExists):
        return name_not_available(name)
    if isinstance(error, Replaced):
        return another
    if isinstance(error, Conflict):
        return ActionDenied(
            "Conflict", f"Someone else has just changed the desktop {name!r}. Reload the page and try again."
        )
    if isinstance(error, Forbidden):
        return ActionDenied("Forbidden", f"The cluster refuses this: {error.message}.")
    if isinstance(error, ApiError) and error.status < 500 and error.status != 429:
        return ActionDenied(
            "Unavailable", f"The cluster responded with {error.status} {error.reason}. Report this to an administrator."
        )
    return ActionDenied(
        "Unavailable", "The cluster does not respond right now. Nothing is lost. Try again in a minute."
    )


# `spec`, `access`, `0` and `user` of the path `spec.access[0].user`.
_PART = re.compile(r"[^.\[\]]+")


def _fields(error: Invalid, sent: Mapping[str, Any]) -> Iterator[FieldProblem]:
    """The fields of the spec that the API server refuses, each with what our CRD allows there."""
    for cause in error.causes:
        if cause.field.startswith("spec."):
            allowed = allowed_in_session(cause.field) or cause.message
            yield FieldProblem(cause.field.removeprefix("spec."), allowed, _value(sent, cause.field))


def _value(sent: Any, path: str) -> Any:
    for part in _PART.findall(path):
        if isinstance(sent, Mapping):
            sent = sent.get(part)
        elif isinstance(sent, list) and part.isdigit() and int(part) < len(sent):
            sent = sent[int(part)]
        else:
            return None
    return sent

"""The API server's refusal of a child -> Blocked. Pure: the operator passes kind and message."""

import re

from vdi.session.conditions import ADMITTED, HOME_BOUND, ROUTE_READY, Reason
from vdi.session.effective import Blocked

_CONDITIONS = {"PersistentVolumeClaim": HOME_BOUND, "Service": ROUTE_READY, "IngressRoute": ROUTE_READY}
_WEBHOOK_FAILED = "failed calling webhook"
_CAUSES = (
    (r"violates PodSecurity", Reason.POD_SECURITY, "violates the namespace's Pod Security level", True),
    (r"exceeded quota|failed quota", Reason.QUOTA_EXCEEDED, "exceeds the namespace's quota", False),
    (r"(maximum|minimum) \S+ usage per", Reason.REFUSED, "violates the namespace's LimitRange", True),
    (r"is being terminated", Reason.REFUSED, "cannot be created, because the namespace is being deleted", True),
    (_WEBHOOK_FAILED, Reason.REFUSED, "is blocked by an admission webhook that does not respond", False),
    (r"cannot \w+ resource", Reason.REFUSED, "may not be created by the operator (RBAC)", True),
)


def is_webhook_down(message: str) -> bool:
    """Whether an error of the server is the refusal of a webhook that fails closed, and not trouble of its own."""
    return _WEBHOOK_FAILED in message


def explain_api_error(kind: str, message: str, *, kind_missing: bool = False) -> Blocked:
    """Why the API server did not take a child of this kind; its own words stand at the end."""
    condition = _CONDITIONS.get(kind, ADMITTED)
    if kind_missing:
        words = (
            f"The cluster does not know {kind}: its CRD is not installed. The session continues automatically when "
            "it is installed."
        )
        return Blocked(Reason.REFUSED, words, condition=condition)
    detail = _without_preamble(message)
    for pattern, reason, words, needs_change in _CAUSES:
        if re.search(pattern, message):
            sentence = f"The desktop's {kind} {words}: {detail}"
            return Blocked(reason, sentence, condition=condition, needs_change=needs_change)
    sentence = f"The API server refuses the desktop's {kind}: {detail}"
    return Blocked(Reason.REFUSED, sentence, condition=condition, needs_change=True)


def name_taken(kind: str, name: str) -> Blocked:
    """An object of the child's name is there and is not the session's: it is never taken over."""
    words = (
        f"The {kind} {name!r} already exists and belongs to someone else. Delete it, or choose another session name."
    )
    return Blocked(Reason.NAME_TAKEN, words, condition=_CONDITIONS.get(kind, ADMITTED), needs_change=True)


def leftover(kind: str, name: str) -> Blocked:
    """A child of an earlier session of the same name, which the garbage collector is about to remove."""
    words = f"Waiting until the {kind} {name!r} of an earlier session with this name is deleted."
    return Blocked(Reason.NAME_TAKEN, words, condition=_CONDITIONS.get(kind, ADMITTED))


def _without_preamble(message: str) -> str:
    """The server's words as the end of a sentence."""
    return re.sub(r'^\S+ "[^"]+" is (?:forbidden|invalid): ', "", message.strip()).rstrip(".") + "."

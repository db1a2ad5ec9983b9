"""The list of guests of a session (`spec.access`), edited. Pure."""

from datetime import datetime, timedelta

from vdi.api.session import Access, GuestRole, VDISession
from vdi.cluster.units import format_time
from vdi.gateway.denied import ActionDenied, FieldProblem, refused_address
from vdi.gateway.rights import AddressError, check_address, is_over, normal_user, same_user

# Guests of one session, as the CRD allows.
MOST = 64


def add_guest(
    session: VDISession, user: str, role: GuestRole, expires: datetime | None, now: datetime
) -> tuple[Access, ...]:
    """The list with this guest, in place of an earlier entry, without entries that are over. Raises ActionDenied."""

    try:
        guest = check_address(user)
    except AddressError as why:
        raise refused_address(why) from None
    if same_user(session.spec.user, guest):
        raise ActionDenied("Invalid", f"user: {guest} owns this desktop and cannot be its guest.")
    if expires is not None and expires <= now + timedelta(seconds=1):
        field = FieldProblem("expires", "a time in the future, or none", format_time(expires))
        raise ActionDenied(
            "Invalid", f"expires: {format_time(expires)} is in the past; allowed: a time in the future, or none.", field
        )
    others = tuple(
        access for access in session.spec.access if not same_user(access.user, guest) and not is_over(access, now)
    )
    if len(others) >= MOST:
        raise ActionDenied(
            "OverLimit", f"A desktop can be shared with at most {MOST} users. End one of these shares first."
        )
    return (*others, Access(guest, str(role), format_time(expires) if expires else None))


def remove_guest(session: VDISession, user: str) -> tuple[Access, ...]:
    """The list without this guest. Raises ActionDenied when the user is not a guest."""
    left = tuple(access for access in session.spec.access if not same_user(access.user, user))
    if len(left) == len(session.spec.access):
        guests = ", ".join(access.user for access in left) or "no one"
        raise ActionDenied(
            "NotFound", f"This desktop is not shared with {normal_user(user)}. It is shared with {guests}."
        )
    return left

"""`/logins`: the browsers one is logged in with, and the end of them. Only for who has logged in with a browser."""

from datetime import datetime
from typing import Annotated

import msgspec
from msgspec import Meta

from vdi.api.constraints import doc
from vdi.gateway.api.operation import Call, Empty, Operation
from vdi.gateway.api.problems import ProblemError
from vdi.gateway.denied import ActionDenied
from vdi.gateway.login.logins import TOKEN_ID, browser


class LoginEntry(msgspec.Struct, rename="camel"):
    """One browser in which you are logged in."""

    id: Annotated[str, doc("Identifier in this API.")]
    browser: Annotated[str, doc("Browser and system, as reported by the browser.")]
    address: Annotated[str, doc("Address of the client at login.")]
    created: Annotated[datetime, doc("When it began.")]
    seen: Annotated[datetime, doc("When it was last used, to the minute.")]
    expires: Annotated[datetime, doc("Latest time at which it expires.")]
    current: Annotated[bool, doc("Whether this request was sent with this login.")]


class LoginEntries(msgspec.Struct):
    """Valid logins, last used first."""

    items: Annotated[tuple[LoginEntry, ...], doc("All of your logins.")]


class EverywhereQuery(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """What else ends."""

    tokens: Annotated[bool, Meta(description="true: also revoke my API tokens.")] = False


async def list_logins(call: Call[Empty, None]) -> LoginEntries:
    """My logins."""
    _with_a_browser(call)
    mine = await call.api.logins.of(call.user.email)
    entries = [
        LoginEntry(
            id=login.id,
            browser=browser(login.agent),
            address=login.address,
            created=login.created,
            seen=login.seen,
            expires=login.expires,
            current=login.id == call.user.login_id,
        )
        for login in mine
    ]
    return LoginEntries(tuple(entries))


async def end_one(call: Call[Empty, None]) -> None:
    """The end of one of my logins, and of the pictures that were opened with it."""
    _with_a_browser(call)
    login_id = call.path("id")
    if login_id not in {login.id for login in await call.api.logins.of(call.user.email)}:
        raise ActionDenied("NotFound", f"You have no valid login {login_id!r}.")
    await call.api.sign_out.end_login(login_id)
    await _note(call, "login.end", {"which": "this browser" if login_id == call.user.login_id else "another browser"})


async def end_all(call: Call[EverywhereQuery, None]) -> None:
    """The end of all my logins; this one too."""
    _with_a_browser(call)
    await call.api.sign_out.end_everything(call.user.email, tokens=call.query.tokens)
    await _note(call, "login.end_all", {"tokens": str(call.query.tokens).lower()})


def _with_a_browser(call: Call[Empty, None] | Call[EverywhereQuery, None]) -> None:
    if call.user.login_id.startswith(TOKEN_ID):
        raise ProblemError("forbidden", "An API token cannot list or end logins. Log in to the portal to do that.")


async def _note(call: Call[Empty, None] | Call[EverywhereQuery, None], action: str, detail: dict[str, str]) -> None:
    user = call.user.email
    await call.api.audit.record(actor=user, action=action, target=user, outcome="done", detail=detail, at=call.now())


_ABOUT = "Requires the login cookie: an API token cannot list or end logins."

OPERATIONS = (
    Operation(
        method="GET", path="/logins", name="listLogins", tag="Account", handler=list_logins,
        summary="The browsers in which you are logged in", description=_ABOUT, answer=LoginEntries,
        problems=("forbidden",),
    ),
    Operation(
        method="DELETE", path="/logins", name="endLogins", tag="Account", handler=end_all,
        summary="Log out everywhere, including here; open desktops are disconnected", description=_ABOUT,
        query=EverywhereQuery, problems=("forbidden",),
    ),
    Operation(
        method="DELETE", path="/logins/{id}", name="endLogin", tag="Account", handler=end_one,
        summary="Log out one browser", description=_ABOUT, problems=("forbidden", "not-found"),
    ),
)  # fmt: skip

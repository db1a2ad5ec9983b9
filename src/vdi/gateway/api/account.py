"""Operations below `/me`, `/tokens`, `/logins` and `/homes`: the user's identity, limits, API
tokens, logins and homes.
"""

from datetime import datetime, timedelta
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.responses import Response

from vdi.api.constraints import doc
from vdi.gateway import queries
from vdi.gateway.api.operation import Call, Empty, OperationTable, created
from vdi.gateway.api.problems import ProblemError
from vdi.gateway.current_use import Use
from vdi.gateway.denied import ActionDenied, invalid
from vdi.gateway.login.logins import browser
from vdi.gateway.login.pages import checked_label
from vdi.gateway.queries import ListPage
from vdi.gateway.rights import TOKEN_ID, is_token
from vdi.gateway.store.logins import ApiToken
from vdi.gateway.web import credentials
from vdi.session.homes import HomeSummary

operation = OperationTable("Account")
home_operation = OperationTable("Homes")


class Me(msgspec.Struct, rename="camel"):
    """The user of this request."""

    user: Annotated[str, doc("E-mail address.")]
    name: Annotated[str, doc("Display name; may be empty.")]
    groups: Annotated[tuple[str, ...], doc("Groups as reported by the login.")]
    admin: Annotated[bool, doc("Whether this user may open `/admin`.")]
    auditor: Annotated[
        bool, doc("Whether this user may read everyone's history, audit log and transfers.")
    ]
    namespace: Annotated[str, doc("Kubernetes namespace of your new desktops.")]
    portal: Annotated[str, doc("Address of the portal.")]
    use: Annotated[Use, doc("Limits and current usage of this user.")]
    csrf_token: Annotated[
        str | None, doc("For X-CSRF-Token; null with an API token, which does not need one.")
    ] = None


class Token(msgspec.Struct, rename="camel"):
    """An API token, without the token itself."""

    id: Annotated[str, doc("Identifier in this API.")]
    label: Annotated[str, doc("Name given by its owner.")]
    created: Annotated[datetime, doc("When it was created.")]
    expires: Annotated[datetime, doc("When it expires.")]
    seen: Annotated[datetime | None, doc("When it was last used, to the minute; null if never.")]
    current: Annotated[bool, doc("Whether this request was sent with this token.")]
    session: Annotated[
        str,
        doc("Name of the desktop that it drives, and does nothing else; empty: all you may do."),
    ]


class NewToken(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """An API token to create."""

    label: Annotated[
        Annotated[str, Meta(min_length=1, max_length=60)],
        Meta(description="A name for the token, such as ci."),
    ]
    days: Annotated[
        Annotated[int, Meta(ge=1, le=365)], Meta(description="How long the token is valid.")
    ] = 90
    session: Annotated[
        Annotated[str, Meta(max_length=253)],
        Meta(
            description=(
                "Name of the one desktop that it drives, until that ends. Default: all that you"
                " may do."
            )
        ),
    ] = ""


class MadeToken(msgspec.Struct, rename="camel"):
    """A new API token. The token itself is shown only in this response."""

    token: Annotated[str, doc("The token, sent as `Authorization: Bearer ...`.")]
    about: Annotated[Token, doc("The stored record of the token.")]


@operation("GET /me")
async def me(call: Call[Empty, None]) -> Me:
    """Your identity, your limits, and your usage."""
    user, settings = call.user, call.api.context.settings
    return Me(
        user=user.email,
        name=user.name,
        groups=tuple(sorted(user.groups)),
        admin=user.admin,
        auditor=user.auditor,
        namespace=settings.namespace_for(user.groups),
        portal=settings.portal_url,
        use=await queries.read_use(call.api, user),
        csrf_token=None if _is_by_token(call) else credentials.csrf_token_of(call.request),
    )


@operation("GET /tokens")
async def list_tokens(call: Call[Empty, None]) -> ListPage[Token]:
    """Your API tokens, newest first."""
    mine = await call.api.logins.tokens(call.user.email)
    return ListPage(tuple(_token(call, token) for token in mine))


@operation(
    "POST /tokens", answer=MadeToken, status=201, problems=("forbidden", "over-limit", "not-found")
)
async def create_token(call: Call[Empty, NewToken]) -> Response:
    """Create an API token.

    Requires the login cookie: a token cannot create another token.
    """
    if _is_by_token(call):
        raise ProblemError(
            "forbidden",
            "An API token cannot create another token. Log in to the portal, or run vdi login.",
        )
    try:
        label = checked_label(call.body.label.strip())
    except ValueError as error:
        raise invalid("label", call.body.label, "1 to 60 letters, digits and symbols") from error
    lifetime = timedelta(days=call.body.days)
    secret, made = await call.api.sign_out.make_token(call.user, label, lifetime, call.body.session)
    # The response has the secret: no cache may keep it.
    return created(
        f"/tokens/{made.id}", MadeToken(secret, _token(call, made)), **{"Cache-Control": "no-store"}
    )


@operation("DELETE /tokens/{id}", problems=("not-found", "forbidden"))
async def revoke_token(call: Call[Empty, None]) -> None:
    """Revoke one of your API tokens.

    `current` is the token that this request was sent with. A token can revoke only itself.
    """
    name = call.path("id")
    own = ""
    if _is_by_token(call):
        own = call.user.login_id.removeprefix(TOKEN_ID)
    if name == "current":
        name = own or name
    if own and name != own:
        raise ProblemError(
            "forbidden",
            "An API token can revoke only itself. Log in to the portal to revoke other tokens.",
        )
    if not await call.api.sign_out.revoke_token(call.user, name):
        raise ActionDenied("NotFound", f"You have no valid API token {name!r}.")


def _is_by_token(call: Call[object, object]) -> bool:
    return is_token(call.user.login_id)


def _token(call: Call[object, object], token: ApiToken) -> Token:
    current = call.user.login_id == f"{TOKEN_ID}{token.id}"
    session = None
    if token.session_uid:
        session = call.cluster.by_uid(token.session_uid)
    name = session.metadata.name if session else ""
    return Token(token.id, token.label, token.created, token.expires, token.seen, current, name)


class LoginEntry(msgspec.Struct, rename="camel"):
    """One browser in which you are logged in."""

    id: Annotated[str, doc("Identifier in this API.")]
    browser: Annotated[str, doc("Browser and system, as reported by the browser.")]
    address: Annotated[str, doc("Address of the client at login.")]
    created: Annotated[datetime, doc("When it began.")]
    seen: Annotated[datetime, doc("When it was last used, to the minute.")]
    expires: Annotated[datetime, doc("Latest time at which it expires.")]
    current: Annotated[bool, doc("Whether this request was sent with this login.")]


class EverywhereQuery(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """Parameters of a logout everywhere."""

    tokens: Annotated[bool, Meta(description="true: also revoke my API tokens.")] = False


@operation("GET /logins", problems=("forbidden",))
async def list_logins(call: Call[Empty, None]) -> ListPage[LoginEntry]:
    """The browsers in which you are logged in.

    Requires the login cookie: an API token cannot list or end logins.
    """
    _require_browser_login(call)
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
    return ListPage(tuple(entries))


@operation("DELETE /logins/{id}", problems=("forbidden", "not-found"))
async def end_login(call: Call[Empty, None]) -> None:
    """Log out one browser.

    Requires the login cookie: an API token cannot list or end logins.
    """
    _require_browser_login(call)
    login_id = call.path("id")
    if not await call.api.sign_out.end_own_login(call.user, login_id):
        raise ActionDenied("NotFound", f"You have no valid login {login_id!r}.")


@operation("DELETE /logins", problems=("forbidden",))
async def end_logins(call: Call[EverywhereQuery, None]) -> None:
    """Log out everywhere, including here; open desktops are disconnected.

    Requires the login cookie: an API token cannot list or end logins.
    """
    _require_browser_login(call)
    await call.api.sign_out.end_own_logins(call.user, tokens=call.query.tokens)


def _require_browser_login(call: Call[object, object]) -> None:
    if _is_by_token(call):
        raise ProblemError(
            "forbidden", "An API token cannot list or end logins. Log in to the portal to do that."
        )


@home_operation("GET /homes")
async def list_homes(call: Call[Empty, None]) -> ListPage[HomeSummary]:
    """Your homes: size, last use, and the desktops that use them."""
    return ListPage(tuple(call.cluster.homes_of(call.user.email)))


@home_operation("GET /homes/{name}", problems=("not-found",))
async def get_home(call: Call[Empty, None]) -> HomeSummary:
    """One of your homes."""
    return call.api.actions.own_home(call.user, call.path("name"))


@home_operation("DELETE /homes/{name}", problems=("not-found", "conflict"))
async def delete_home(call: Call[Empty, None]) -> None:
    """Delete one of your homes and all files in it.

    Fails while a session uses the home. End the session first.
    """
    await call.api.actions.delete_home(call.user, call.path("name"))

"""Operations below `/me`, `/tokens`, `/logins` and `/homes`: the user's identity, limits, API tokens, logins and
homes.
"""

from datetime import datetime, timedelta
from typing import Annotated

import msgspec
from msgspec import Meta
from starlette.responses import Response

from vdi.api.constraints import doc
from vdi.gateway.api.operation import JSON, PREFIX, Call, Empty, Operation
from vdi.gateway.api.problems import ProblemError, invalid
from vdi.gateway.current_use import Use, use_of
from vdi.gateway.denied import ActionDenied
from vdi.gateway.login.logins import TOKEN_ID, browser
from vdi.gateway.login.pages import checked_label
from vdi.gateway.store.logins import ApiToken
from vdi.gateway.web import credentials
from vdi.session.homes import HomeSummary


class Me(msgspec.Struct, rename="camel"):
    """The user of this request."""

    user: Annotated[str, doc("E-mail address.")]
    name: Annotated[str, doc("Display name; may be empty.")]
    groups: Annotated[tuple[str, ...], doc("Groups as reported by the login.")]
    admin: Annotated[bool, doc("Whether this user may open `/admin`.")]
    namespace: Annotated[str, doc("Kubernetes namespace of your new desktops.")]
    portal: Annotated[str, doc("Address of the portal.")]
    use: Annotated[Use, doc("Limits and current usage of this user.")]
    csrf_token: Annotated[str | None, doc("For X-CSRF-Token; null with an API token, which does not need one.")] = None


class Token(msgspec.Struct, rename="camel"):
    """An API token, without the token itself."""

    id: Annotated[str, doc("Identifier in this API.")]
    label: Annotated[str, doc("Name given by its owner.")]
    created: Annotated[datetime, doc("When it was created.")]
    expires: Annotated[datetime, doc("When it expires.")]
    seen: Annotated[datetime | None, doc("When it was last used, to the minute; null if never.")]
    current: Annotated[bool, doc("Whether this request was sent with this token.")]


class TokenList(msgspec.Struct):
    """API tokens, newest first."""

    items: Annotated[tuple[Token, ...], doc("All of your valid tokens.")]


class NewToken(msgspec.Struct, rename="camel", forbid_unknown_fields=True):
    """An API token to create."""

    label: Annotated[
        Annotated[str, Meta(min_length=1, max_length=60)], Meta(description="A name for the token, such as ci.")
    ]
    days: Annotated[Annotated[int, Meta(ge=1, le=365)], Meta(description="How long the token is valid.")] = 90


class MadeToken(msgspec.Struct, rename="camel"):
    """A new API token. The token itself is shown only in this response."""

    token: Annotated[str, doc("The token, sent as `Authorization: Bearer ...`.")]
    about: Annotated[Token, doc("The stored record of the token.")]


async def me(call: Call[Empty, None]) -> Me:
    """Who asks."""

    user, settings = call.user, call.api.context.settings
    used = await call.api.history.use_this_month(user.email, call.now())
    return Me(
        user=user.email,
        name=user.name,
        groups=tuple(sorted(user.groups)),
        admin=user.admin,
        namespace=settings.namespace_for(user.groups),
        portal=settings.portal_url,
        use=use_of(call.cluster, call.api.limits.of(user), user.email, used.hours, used.gpu_hours),
        csrf_token=None if _by_token(call) else credentials.csrf_token_of(call.request),
    )


async def list_tokens(call: Call[Empty, None]) -> TokenList:
    """My tokens."""
    mine = await call.api.logins.tokens(call.user.email)
    return TokenList(tuple(_token(call, token) for token in mine))


async def create_token(call: Call[Empty, NewToken]) -> Response:
    """A new token; only for who has logged in, so that a stolen token cannot make itself last."""
    if _by_token(call):
        raise ProblemError(
            "forbidden", "An API token cannot create another token. Log in to the portal, or run vdi login."
        )
    try:
        label = checked_label(call.body.label.strip())
    except ValueError as error:
        raise invalid("label", call.body.label, "1 to 60 letters, digits and symbols") from error
    secret, made = await call.api.logins.new_token(call.user, label, timedelta(days=call.body.days))
    await _audit_token(call, "token.create", made)
    body = msgspec.json.encode(MadeToken(secret, _token(call, made)))
    headers = {"Location": f"{PREFIX}/tokens/{made.id}", "Cache-Control": "no-store"}
    return Response(body, 201, headers=headers, media_type=JSON)


async def revoke_token(call: Call[Empty, None]) -> None:
    """The end of one of my tokens; `current` names the one that asks. A token ends no other one."""
    name = call.path("id")
    own = call.user.login_id.removeprefix(TOKEN_ID) if _by_token(call) else ""
    if name == "current":
        name = own or name
    if own and name != own:
        raise ProblemError(
            "forbidden", "An API token can revoke only itself. Log in to the portal to revoke other tokens."
        )
    ended: ApiToken | None = await call.api.sign_out.end_token(call.user.email, name)
    if ended is None:
        raise ActionDenied("NotFound", f"You have no valid API token {name!r}.")
    await _audit_token(call, "token.revoke", ended)


def _by_token(call: Call[Empty, None] | Call[Empty, NewToken]) -> bool:
    return call.user.login_id.startswith(TOKEN_ID)


def _token(call: Call[Empty, None] | Call[Empty, NewToken], token: ApiToken) -> Token:
    current = call.user.login_id == f"{TOKEN_ID}{token.id}"
    return Token(token.id, token.label, token.created, token.expires, token.seen, current)


async def _audit_token(call: Call[Empty, None] | Call[Empty, NewToken], action: str, token: ApiToken) -> None:
    await call.api.audit.record(
        actor=call.user.email,
        action=action,
        target=call.user.email,
        outcome="done",
        detail={"label": token.label, "days": str((token.expires - token.created).days)},
        at=call.now(),
    )


OPERATIONS = (
    Operation(
        method="GET", path="/me", name="me", tag="Account", handler=me,
        summary="Who you are, your limits, and your usage", answer=Me,
    ),
    Operation(
        method="GET", path="/tokens", name="listTokens", tag="Account", handler=list_tokens,
        summary="Your API tokens, newest first", answer=TokenList,
    ),
    Operation(
        method="POST", path="/tokens", name="createToken", tag="Account", handler=create_token,
        summary="Create an API token", description="Requires the login cookie: a token cannot create another token.",
        body=NewToken, answer=MadeToken, status=201, problems=("forbidden", "over-limit"),
    ),
    Operation(
        method="DELETE", path="/tokens/{id}", name="revokeToken", tag="Account", handler=revoke_token,
        summary="Revoke one of your API tokens",
        description="`current` is the token that this request was sent with. A token can revoke only itself.",
        problems=("not-found", "forbidden"),
    ),
)  # fmt: skip


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
    return LoginEntries(tuple(entries))


async def end_one(call: Call[Empty, None]) -> None:
    """The end of one of my logins, and of the pictures that were opened with it."""
    _require_browser_login(call)
    login_id = call.path("id")
    if login_id not in {login.id for login in await call.api.logins.of(call.user.email)}:
        raise ActionDenied("NotFound", f"You have no valid login {login_id!r}.")
    await call.api.sign_out.end_login(login_id)
    await _audit_login(
        call, "login.end", {"which": "this browser" if login_id == call.user.login_id else "another browser"}
    )


async def end_all(call: Call[EverywhereQuery, None]) -> None:
    """The end of all my logins; this one too."""
    _require_browser_login(call)
    await call.api.sign_out.end_everything(call.user.email, tokens=call.query.tokens)
    await _audit_login(call, "login.end_all", {"tokens": str(call.query.tokens).lower()})


def _require_browser_login(call: Call[Empty, None] | Call[EverywhereQuery, None]) -> None:
    if call.user.login_id.startswith(TOKEN_ID):
        raise ProblemError("forbidden", "An API token cannot list or end logins. Log in to the portal to do that.")


async def _audit_login(
    call: Call[Empty, None] | Call[EverywhereQuery, None], action: str, detail: dict[str, str]
) -> None:
    user = call.user.email
    await call.api.audit.record(actor=user, action=action, target=user, outcome="done", detail=detail, at=call.now())


_ABOUT_LOGINS = "Requires the login cookie: an API token cannot list or end logins."

LOGIN_OPERATIONS = (
    Operation(
        method="GET", path="/logins", name="listLogins", tag="Account", handler=list_logins,
        summary="The browsers in which you are logged in", description=_ABOUT_LOGINS, answer=LoginEntries,
        problems=("forbidden",),
    ),
    Operation(
        method="DELETE", path="/logins", name="endLogins", tag="Account", handler=end_all,
        summary="Log out everywhere, including here; open desktops are disconnected", description=_ABOUT_LOGINS,
        query=EverywhereQuery, problems=("forbidden",),
    ),
    Operation(
        method="DELETE", path="/logins/{id}", name="endLogin", tag="Account", handler=end_one,
        summary="Log out one browser", description=_ABOUT_LOGINS, problems=("forbidden", "not-found"),
    ),
)  # fmt: skip


class HomeList(msgspec.Struct):
    """Homes, by name."""

    items: Annotated[tuple[HomeSummary, ...], doc("All of your homes.")]


async def list_homes(call: Call[Empty, None]) -> HomeList:
    """My homes."""
    return HomeList(tuple(call.cluster.homes_of(call.user.email)))


async def get_home(call: Call[Empty, None]) -> HomeSummary:
    """One of my homes."""
    return call.api.actions.own_home(call.user, call.path("name"))


async def delete_home(call: Call[Empty, None]) -> None:
    """The end of one of my homes."""
    await call.api.actions.delete_home(call.user, call.path("name"))


HOME_OPERATIONS = (
    Operation(
        method="GET", path="/homes", name="listHomes", tag="Homes", handler=list_homes,
        summary="Your homes: size, last use, and the desktops that use them", answer=HomeList,
    ),
    Operation(
        method="GET", path="/homes/{name}", name="getHome", tag="Homes", handler=get_home,
        summary="One of your homes", answer=HomeSummary, problems=("not-found",),
    ),
    Operation(
        method="DELETE", path="/homes/{name}", name="deleteHome", tag="Homes", handler=delete_home,
        summary="Delete one of your homes and all files in it",
        description="Fails while a session uses the home. End the session first.",
        problems=("not-found", "conflict"),
    ),
)  # fmt: skip

"""`/me` and `/tokens`: who one is, what one may have and has, and the API tokens that speak for one."""

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
from vdi.gateway.login.account import checked_label
from vdi.gateway.login.logins import TOKEN_ID
from vdi.gateway.store.logins import ApiToken
from vdi.gateway.web import csrf


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
        csrf_token=None if _by_token(call) else csrf.token_of(call.request),
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
    await _note(call, "token.create", made)
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
    await _note(call, "token.revoke", ended)


def _by_token(call: Call[Empty, None] | Call[Empty, NewToken]) -> bool:
    return call.user.login_id.startswith(TOKEN_ID)


def _token(call: Call[Empty, None] | Call[Empty, NewToken], token: ApiToken) -> Token:
    current = call.user.login_id == f"{TOKEN_ID}{token.id}"
    return Token(token.id, token.label, token.created, token.expires, token.seen, current)


async def _note(call: Call[Empty, None] | Call[Empty, NewToken], action: str, token: ApiToken) -> None:
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

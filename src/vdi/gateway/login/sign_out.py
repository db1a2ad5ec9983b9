"""The end of logins and API tokens, with every grant of a desktop that was made with them."""

from collections.abc import Collection
from typing import Protocol

from vdi.gateway.login.logins import TOKEN_ID, Logins
from vdi.gateway.store.logins import ApiToken


class EndGrants(Protocol):
    """`Edge.end_grants`: ends grants of desktops, so that running pictures stop."""

    async def __call__(
        self, *, user: str | None = None, login_id: str | None = None, login_ids: Collection[str] = ()
    ) -> object:
        """Those of this user, or of this login; and any that is just being made with one of `login_ids`."""


class SignOut:
    """Ends what users have open. Every method raises DatabaseUnavailableError."""

    def __init__(self, logins: Logins, end_grants: EndGrants) -> None:
        self._logins = logins
        self._end_grants = end_grants

    async def end_login(self, login_id: str) -> None:
        """End one login and every grant that was made with it; running pictures stop."""
        await self._logins.end(login_id)
        await self._end_grants(login_id=login_id)

    async def end_everything(self, user: str, *, tokens: bool) -> None:
        """End all logins of a user and every grant that was made with them; with `tokens` API tokens too."""
        ended = await self._logins.end_all(user)
        if tokens:
            ended += await self._logins.end_tokens(user)
        await self._end_grants(user=user, login_ids=ended)

    async def end_token(self, user: str, token_id: str) -> ApiToken | None:
        """Revoke an API token of a user, and what was opened with it; None where they have none of this id."""
        ended = await self._logins.end_token(user, token_id)
        if ended is not None:
            await self._end_grants(login_id=f"{TOKEN_ID}{token_id}")
        return ended

    async def end_grants_of(self, login_ids: list[str]) -> None:
        """End the grants of logins that have ended already."""
        for login_id in login_ids:
            await self._end_grants(login_id=login_id)

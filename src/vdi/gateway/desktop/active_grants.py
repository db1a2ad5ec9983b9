"""Grants of the desktops that are open, in the memory of this replica. The edge keeps them; the
collector of transfers reads them.
"""

from collections.abc import Collection, Iterable

from vdi.gateway.store.logins import Grant


class ActiveGrants:
    """Grants that hold, as far as this replica knows: complete as of the last poll, and those it
    has made since.
    """

    def __init__(self) -> None:
        self._grants: dict[str, Grant] = {}

    def put(self, grant: Grant) -> None:
        self._grants[grant.id] = grant

    def drop(self, ids: Iterable[str]) -> None:
        for grant_id in ids:
            self._grants.pop(grant_id, None)

    def replace(self, grants: Iterable[Grant], known_before: Collection[str]) -> None:
        """Take a complete list; grants that were put while it was read stay."""
        newer = {key: grant for key, grant in self._grants.items() if key not in known_before}
        self._grants = {grant.id: grant for grant in grants} | newer

    def __contains__(self, grant_id: str) -> bool:
        return grant_id in self._grants

    def ids(self) -> set[str]:
        return set(self._grants)

    def find(
        self,
        *,
        session_uid: str | None = None,
        user: str | None = None,
        login_id: str | None = None,
    ) -> list[Grant]:
        """The grants of this session, this user and this login; None: any."""
        return [
            grant
            for grant in self._grants.values()
            if session_uid in (None, grant.session_uid)
            and user in (None, grant.user)
            and login_id in (None, grant.login_id)
        ]

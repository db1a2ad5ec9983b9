"""Accounts of the identity provider and the addresses that they have signed in with first, and their logins.

What a row means is in `login.logins`. An account has one address and an address one account, each of them per issuer:
who configures another provider trusts it for all addresses.
"""

from sqlalchemy import Column, String, Table, Text, UniqueConstraint, delete, or_, select

from vdi.gateway.store.base import Database, Instant, metadata
from vdi.gateway.store.logins import Login, end_all_of, insert_login

oidc_subjects = Table(
    "oidc_subjects",
    metadata,
    Column("issuer", Text, primary_key=True),
    Column("user", String(254), primary_key=True),
    Column("subject", String(255), nullable=False),
    Column("bound", Instant, nullable=False),
    UniqueConstraint("issuer", "subject"),
)


class SubjectStore:
    """Bindings in the database. Every method raises DatabaseUnavailableError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add_login(self, issuer: str, subject: str, login: Login, secret_hash: str) -> dict[str, str]:
        """Bind account and address unless one of them is bound already; add a login if they are bound to each other.

        Returns the bindings of both, as subjects by address. A new binding ends what the address has open of another
        issuer's account. All of it is one transaction: a release that comes at the same time finds the login.
        """
        values = {"issuer": issuer, "subject": subject, "user": login.user, "bound": login.created}
        either = or_(oidc_subjects.c.user == login.user, oidc_subjects.c.subject == subject)
        query = select(oidc_subjects.c.user, oidc_subjects.c.subject).where(oidc_subjects.c.issuer == issuer, either)
        locked = query.order_by(oidc_subjects.c.user).with_for_update()  # a release waits until the login is there
        async with self._database.begin() as connection:
            insert = self._database.insert(oidc_subjects).values(values).on_conflict_do_nothing()
            is_new = (await connection.execute(insert)).rowcount > 0
            bound = {row.user: row.subject for row in await connection.execute(locked)}
            if bound == {login.user: subject}:
                if is_new:
                    await end_all_of(connection, login.user, login.source, login.created)
                await insert_login(connection, login, secret_hash)
            return bound

    async def release(self, user: str) -> bool:
        """Forget the account of an address; False: it has none."""
        async with self._database.begin() as connection:
            return (await connection.execute(delete(oidc_subjects).where(oidc_subjects.c.user == user))).rowcount > 0

    async def release_all(self) -> list[str]:
        """Forget the accounts of all addresses; the addresses."""
        async with self._database.begin() as connection:
            gone = await connection.execute(delete(oidc_subjects).returning(oidc_subjects.c.user))
            return sorted(set(gone.scalars()))

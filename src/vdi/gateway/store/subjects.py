"""Accounts of the identity provider and the addresses that they have signed in with first: one table.

What a row means is in `login.logins`. An account has one address and an address one account, each of them per issuer:
who configures another provider trusts it for all addresses.
"""

from datetime import datetime

from sqlalchemy import Column, String, Table, Text, UniqueConstraint, delete, or_, select

from vdi.gateway.store.base import Database, Instant, metadata

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

    async def bind(self, issuer: str, subject: str, user: str, now: datetime) -> dict[str, str]:
        """Bind the two unless one of them is bound already; the bindings of both, as subjects by address."""
        values = {"issuer": issuer, "subject": subject, "user": user, "bound": now}
        either = or_(oidc_subjects.c.user == user, oidc_subjects.c.subject == subject)
        query = select(oidc_subjects.c.user, oidc_subjects.c.subject).where(oidc_subjects.c.issuer == issuer, either)
        async with self._database.begin() as connection:
            await connection.execute(self._database.insert(oidc_subjects).values(values).on_conflict_do_nothing())
            return {row.user: row.subject for row in await connection.execute(query)}

    async def release(self, user: str) -> bool:
        """Forget the account of an address; False: it has none."""
        async with self._database.begin() as connection:
            return (await connection.execute(delete(oidc_subjects).where(oidc_subjects.c.user == user))).rowcount > 0

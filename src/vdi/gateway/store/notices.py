"""Subscriptions to notices by e-mail: one row for each user who has chosen, with the kinds of
`gateway.notices`.
"""

from sqlalchemy import Column, String, Table, select

from vdi.gateway.store.database import Database, WordSet, metadata

subscriptions = Table(
    "notice_subscriptions",
    metadata,
    Column("user", String(254), primary_key=True),
    Column("kinds", WordSet, nullable=False),
)


class NoticeSubscriptions:
    """Subscriptions in the database. Every method raises DatabaseUnavailableError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, user: str) -> frozenset[str]:
        async with self._database.connect() as connection:
            rows = await connection.execute(
                select(subscriptions.c.kinds).where(subscriptions.c.user == user)
            )
            return rows.scalar_one_or_none() or frozenset()

    async def save(self, user: str, kinds: frozenset[str]) -> None:
        row = self._database.insert(subscriptions).values(user=user, kinds=kinds)
        async with self._database.begin() as connection:
            await connection.execute(
                row.on_conflict_do_update(index_elements=["user"], set_={"kinds": kinds})
            )

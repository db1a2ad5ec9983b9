"""The banner: one text that administrators show on all pages of the portal."""

from sqlalchemy import Column, Integer, String, Table, select

from vdi.gateway.store.database import Database, metadata

MAX_CHARACTERS = 200
# One row, whose id is 1.
banner = Table(
    "banner",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("text", String(MAX_CHARACTERS), nullable=False),
)


async def read_banner(database: Database) -> str:
    """The text; empty: there is none. Raises DatabaseUnavailableError."""
    async with database.connect() as connection:
        return (await connection.execute(select(banner.c.text))).scalar() or ""


async def save_banner(database: Database, text: str) -> None:
    """Replace the text. Raises DatabaseUnavailableError."""
    row = database.insert(banner).values(id=1, text=text)
    async with database.begin() as connection:
        await connection.execute(
            row.on_conflict_do_update(index_elements=["id"], set_={"text": text})
        )

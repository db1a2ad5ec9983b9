"""A database in memory; and the stages that a test has opened are closed when it ends."""

from collections.abc import AsyncIterator

import pytest

from support.database import MemoryDatabase
from unit.gateway.gateway_stage import OPEN
from vdi.gateway.store.database import Database


@pytest.fixture(autouse=True)
async def close_stages() -> AsyncIterator[None]:
    yield
    for stage in [*OPEN]:
        await stage.close()


@pytest.fixture
async def database() -> AsyncIterator[Database]:
    """The gateway's database with all tables."""
    memory = MemoryDatabase()
    database = Database(memory.url)
    yield database
    await database.close()

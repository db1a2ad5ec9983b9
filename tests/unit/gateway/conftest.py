"""Fixtures of several files; and the stages that a test has opened are closed when it ends.

`stage` is the edge, with `alice` in her desktop: files about other components define their own.
"""

from collections.abc import AsyncIterator

import pytest

from support.database import MemoryDatabase
from support.desktop_key import MASTER
from unit.gateway.edge_selkies import FakeSelkies, run_selkies
from unit.gateway.edge_stage import OWNER, EdgeStage, address
from unit.gateway.gateway_stage import OPEN, Browser
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


@pytest.fixture
async def stage() -> AsyncIterator[EdgeStage]:
    async with EdgeStage() as stage:
        yield stage


@pytest.fixture
async def alice(stage: EdgeStage) -> Browser:
    """The owner's browser, in her desktop."""
    browser = await stage.logged_in(OWNER)
    assert (await browser.open(address())).status_code == 200
    return browser


@pytest.fixture
async def desktop() -> AsyncIterator[FakeSelkies]:
    async with run_selkies(MASTER) as desktop:
        yield desktop

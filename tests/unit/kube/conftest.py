"""An API server for each test that wants one."""

from collections.abc import AsyncIterator

import pytest

from unit.kube.kube_fake_api import FakeApi, fake_api


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with fake_api() as api:
        yield api

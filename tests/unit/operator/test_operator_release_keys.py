"""The keys of a release: each made once, the same for all, and nothing goes on without them."""

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest

from unit.kube.kube_fake_api import FakeApi, fake_api, refusal
from vdi.kube.transport import NO_RETRY, Client
from vdi.operator.release_keys import DESKTOP_KEY, HOST_KEY, ReleaseKey

NAMESPACE = "vdi-system"
SECRET = DESKTOP_KEY


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    async with fake_api() as api:
        yield api


@pytest.fixture
async def client(api: FakeApi) -> AsyncIterator[Client]:
    async with Client(api.config(), field_manager="t", retry=NO_RETRY) as client:
        yield client


async def test_two_operators_that_start_at_once_have_one_key(api: FakeApi, client: Client) -> None:
    api.put("secrets", SECRET, namespace=NAMESPACE)
    keys = [ReleaseKey(client, NAMESPACE, SECRET) for _ in range(5)]
    assert all(await asyncio.gather(*(key.load() for key in keys)))
    assert {len(key.value) for key in keys} == {32}
    assert len({key.value for key in keys}) == 1
    later = ReleaseKey(client, NAMESPACE, SECRET)
    assert await later.load()
    assert later.value == keys[0].value


async def test_no_key_is_ever_made_where_one_cannot_be_read(
    api: FakeApi, client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    api.put("secrets", SECRET, namespace=NAMESPACE)
    key = ReleaseKey(client, NAMESPACE, SECRET)
    api.faults += [("GET", refusal(403, "Forbidden")), ("GET", refusal(500, "InternalError"))]
    with caplog.at_level(logging.ERROR):
        assert not await key.load()
        assert f"the Secret {NAMESPACE}/{SECRET} cannot be read" in key.problem
        assert not await key.load()
    assert [record.message.startswith("no session is worked on") for record in caplog.records] == [
        True,
        True,
    ]
    with pytest.raises(RuntimeError):
        key.value  # noqa: B018 -- reading it is the test
    assert await key.load()
    assert key.problem == ""


async def test_secret_without_a_key_is_left_alone_and_named(api: FakeApi, client: Client) -> None:
    api.put("secrets", SECRET, namespace=NAMESPACE, data={"key": ""})
    key = ReleaseKey(client, NAMESPACE, SECRET)
    assert not await key.load()
    assert "has no entry 'key' with at least 32 bytes" in key.problem
    assert f"kubectl --namespace {NAMESPACE} delete secret {SECRET}" in key.problem


@pytest.mark.parametrize(
    ("secret", "loss"), [(HOST_KEY, "get new addresses"), (DESKTOP_KEY, "have to be restarted")]
)
async def test_secret_that_is_missing_is_not_created(
    client: Client, secret: str, loss: str
) -> None:
    """The operator may not: a Secret of another type there would be the token of any account."""
    key = ReleaseKey(client, NAMESPACE, secret)
    assert not await key.load()
    assert f"the Secret {NAMESPACE}/{secret} does not exist" in key.problem and loss in key.problem

"""Signing keys: their days, what replicas make of one Secret, and what a broken one means."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jwt

from support.clock import FakeClock
from support.waiting import eventually
from unit.gateway.edge_stage import HOST, SETTINGS, EdgeStage
from unit.gateway.gateway_stage import FakeCluster
from vdi.api.meta import RELEASE_NAMESPACE
from vdi.gateway.edge.tokens import (
    KEY_KEPT,
    KEY_LEAD,
    KEY_LIFE,
    KeyRing,
    StoredKey,
    renewed,
    signing_key,
)
from vdi.kube.errors import Forbidden, ServerError

NAME = SETTINGS.keys_secret
START = datetime(2026, 11, 20, 12, tzinfo=UTC)


def plain_key(now: datetime) -> StoredKey:
    return StoredKey(kid=now.isoformat(), made=now, private="", public="")


def ring_of(secrets: FakeCluster, clock: FakeClock) -> KeyRing:
    client: Any = secrets
    return KeyRing(client, SETTINGS, clock.now)


@pytest.fixture
def secrets() -> FakeCluster:
    secrets = FakeCluster()
    secrets.put_secret(NAME)
    return secrets


@given(st.lists(st.integers(1, 60 * 60), min_size=1, max_size=200))
def test_every_signing_key_is_known_and_every_token_readable(steps: list[int]) -> None:
    """Replicas look every minute here, or less often; a token lives for minutes."""
    now, keys, signed = START, renewed([], START, plain_key), dict[datetime, str]()
    for step in steps:
        now += timedelta(seconds=step)
        before = keys
        keys = renewed(keys, now, plain_key)
        signer = signing_key(keys, now)
        assert 1 <= len(keys) <= 3
        assert [key.made for key in keys] == sorted(key.made for key in keys)
        if len(signed) > 0:
            assert signer.made + KEY_LEAD <= now or signer == keys[0]
            assert signer in before, "a key signs that the other replicas cannot know"
        signed[now] = signer.kid
        for moment, kid in signed.items():
            if now - moment <= KEY_KEPT:
                assert kid in {key.kid for key in keys}
        assert now - keys[-1].made <= KEY_LIFE


async def test_two_replicas_that_start_at_once_have_the_same_key(secrets: FakeCluster) -> None:
    clock = FakeClock()
    first, second = ring_of(secrets, clock), ring_of(secrets, clock)
    await first.refresh()
    early: dict[str, Any] = {"data": dict(secrets.secrets[NAME]), "version": secrets.versions[NAME]}
    secrets.secrets[NAME], other = {}, early["data"]

    def the_first_was_faster() -> None:
        secrets.secrets[NAME] = other
        secrets.versions[NAME] += 1

    secrets.before_patch = the_first_was_faster
    await second.refresh()
    assert first.jwks() == second.jwks()
    assert (first.trouble, second.trouble) == ("", "")


async def test_a_token_of_another_replicas_new_key_is_read(stage: EdgeStage) -> None:
    """As when somebody has emptied the Secret: the next replica to look makes a new key, without
    lead.
    """
    browser = await stage.entered()
    stage.cluster.put_secret(NAME)
    async with EdgeStage(**stage.shares) as other:
        assert other.edge.ring.signer()[0] != stage.edge.ring.signer()[0]
        other.clock.forward(seconds=200)
        renewed_there = await other.verify(HOST, Cookie=browser.stolen(HOST))
        token = renewed_there.headers["set-cookie"].partition(";")[0]
        stage.clock.forward(seconds=200)
        assert (await stage.verify(HOST, Cookie=token)).status_code == 200


@pytest.mark.parametrize("content", ["rubbish", "[{}]", '[{"kid": 1}]', "{}"])
async def test_a_broken_secret_is_said_without_its_content(
    secrets: FakeCluster, content: str
) -> None:
    secrets.put_secret(NAME, **{"keys.json": content})
    ring = ring_of(secrets, FakeClock())
    await ring.refresh()
    assert not ring.ready
    assert "has a keys.json that cannot be read" in ring.trouble
    assert content not in ring.trouble


async def test_a_secret_that_is_not_there_is_said(secrets: FakeCluster) -> None:
    del secrets.secrets[NAME]
    ring = ring_of(secrets, FakeClock())
    await ring.refresh()
    assert (
        ring.trouble
        == f"the Secret {RELEASE_NAMESPACE}/{NAME} does not exist; the chart creates it, empty"
    )


async def test_what_is_known_stays_when_the_cluster_is_away(
    secrets: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    ring = ring_of(secrets, FakeClock())
    await ring.refresh()

    async def fail(*_: Any, **__: Any) -> None:
        raise Forbidden(403, "Forbidden", "no")

    with monkeypatch.context() as patch:
        patch.setattr(secrets, "get", fail)
        await ring.refresh()
        assert ring.ready
        assert ring.trouble
    await ring.refresh()
    assert ring.trouble == ""


async def test_the_gateway_is_not_ready_without_keys() -> None:
    secrets = FakeCluster()
    secrets.put_secret(NAME, **{"keys.json": "rubbish"})
    async with EdgeStage(cluster=secrets) as stage:
        assert any("signing keys" in problem for problem in stage.edge.problems())
        assert (await stage.verify(HOST)).status_code == 503


async def test_keys_in_memory_keep_the_gateway_ready(
    stage: EdgeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdi.gateway.edge.component.AGAIN_SECONDS", 0.01)
    stage.cluster.broken = ServerError(503, "ServiceUnavailable", "etcd is away")
    work = asyncio.create_task(stage.edge.run())
    try:
        await eventually(lambda: bool(stage.edge.ring.trouble), "the Secret cannot be read")
        assert list(stage.edge.problems()) == []
        (reported,) = await stage.edge.external_problems()
        assert "signing keys: the Secret" in reported and "etcd is away" in reported
        stage.cluster.broken = None
        await eventually(
            lambda: not stage.edge.ring.trouble, "it was read again, long before a minute is over"
        )
        assert await stage.edge.external_problems() == []
    finally:
        work.cancel()
        with suppress(asyncio.CancelledError):
            await work


async def test_a_token_of_a_stolen_key_ends_with_the_key(stage: EdgeStage) -> None:
    """It may say that it holds for years, and has been read before: that it was good once must not
    outlive the key.
    """
    browser = await stage.entered()
    kid, stolen = stage.edge.ring.signer()
    genuine = browser.stolen(HOST, "__Host-vdi-desktop").partition("=")[2]
    claims = jwt.decode(genuine, stolen, algorithms=["Ed25519"]).claims
    for_years = claims | {"exp": claims["exp"] + 10 * 365 * 86400}
    forged = jwt.encode(
        {"typ": "JWT", "alg": "Ed25519", "kid": kid}, for_years, stolen, algorithms=["Ed25519"]
    )
    cookie = f"__Host-vdi-desktop={forged}"
    assert (await stage.verify(HOST, "/api/files", Cookie=cookie)).status_code == 200
    stage.cluster.put_secret(NAME)  # as an administrator does who knows that it was stolen
    await stage.edge.ring.refresh()
    assert (await stage.verify(HOST, "/api/files", Cookie=cookie)).status_code == 401
    assert (
        await stage.verify(HOST, "/api/files", Cookie=browser.stolen(HOST))
    ).status_code == 200, "the grant helps"

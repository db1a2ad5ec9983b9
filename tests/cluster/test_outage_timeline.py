"""Outages of Redis and PostgreSQL under two gateways, second by second: what people, readiness,
metric and doctor get.

Each test prints its timeline; docs/outages.md has it in short.
"""

import asyncio
import re
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import httpx
import pytest

from cluster.gateway_stage import PASSWORD
from cluster.redis_stage import redis
from cluster.test_gateway_outages import read_only
from cluster.test_gateway_replicas import ALICE, BOB, Pair, an_api_token, form, pair, ticket_of
from support.csrf import csrf_of
from support.postgres import Postgres, postgres_server, postgres_url
from vdi.doctor.objects.components import troubles
from vdi.gateway.shared_state import RedisSharedState

__all__ = ["pair", "postgres_server", "postgres_url", "read_only", "redis"]
pytestmark = [pytest.mark.long, pytest.mark.timeout(180)]

# Seconds in which metric and doctor report an outage, and in which everything works again after it.
NOTICED, OVER = 20, 20
WELL = {"sign in": "303", "portal": "200", "API": "200", "open a desktop": "302"}


@dataclass
class Timeline:
    """Samples of what users and administrators see, once a second."""

    pair: Pair
    dependency: str
    alice: httpx.AsyncClient
    token: str
    host: str
    began: float = field(default_factory=time.monotonic)
    # Of both replicas, the last time.
    readiness: str = ""
    # Second and sample, wherever the sample is another one than before.
    changes: list[tuple[int, dict[str, str]]] = field(default_factory=list)

    @property
    def second(self) -> int:
        return round(time.monotonic() - self.began)

    async def until(
        self, is_reached: Callable[[dict[str, str]], bool], seconds: int
    ) -> dict[str, str]:
        """The first sample that is as described."""
        last = self.second + seconds
        while True:
            started = time.monotonic()
            sample = await self._sample()
            if not self.changes or sample != self.changes[-1][1]:
                self.changes.append((self.second, sample))
            if is_reached(sample):
                return sample
            assert self.second <= last, self.text()
            await asyncio.sleep(max(0.0, 1 - (time.monotonic() - started)))

    def text(self) -> str:
        head = self.changes[0][1]
        lines = [" | ".join(["s", *head])]
        lines += [" | ".join([str(second), *sample.values()]) for second, sample in self.changes]
        return "\n".join(lines)

    async def _sample(self) -> dict[str, str]:
        users = (self._signs_in(), self._portal(), self._api(), self._opens())
        statuses = await asyncio.gather(*map(_status, users))
        return {**dict(zip(WELL, statuses, strict=True)), **await self._reports()}

    async def _signs_in(self) -> httpx.Response:
        browser = await self.pair.one.gateway.browser(self.pair.traefik())
        page = await browser.get("/login")
        if page.status_code != 200:
            return page
        fields = {"user": BOB, "password": PASSWORD, "csrf": csrf_of(page.text), "next": "/"}
        return await form(browser, self.pair, "/login", **fields)

    async def _portal(self) -> httpx.Response:
        return await self.alice.get("/")

    async def _api(self) -> httpx.Response:
        program = await self.pair.one.gateway.browser(self.pair.traefik())
        return await program.get("/api/v1/me", headers={"Authorization": f"Bearer {self.token}"})

    async def _opens(self) -> httpx.Response:
        start = await self.alice.get(f"{self.host}/.vdi/start?next=/")
        return await self.alice.get(start.headers["location"]) if start.is_redirect else start

    async def _reports(self) -> dict[str, str]:
        ready = [
            await replica.gateway.inside("/readyz") for replica in (self.pair.one, self.pair.two)
        ]
        self.readiness = "".join(each.text for each in ready)
        # The names of what is missing, without the reasons: those differ from one request to the
        # next.
        texts = [
            re.sub(r"(but [a-z ]+):.*", r"\1", f"{each.status_code} {each.text}") for each in ready
        ]
        name = f'vdi_gateway_dependency_up{{dependency="{self.dependency}"}} '
        pages = [await replica.gateway.metrics() for replica in (self.pair.one, self.pair.two)]
        metric = ["up" if f"{name}1.0" in page else "down" for page in pages]
        logs = [
            replica.log.read_text().splitlines()[-50:] for replica in (self.pair.one, self.pair.two)
        ]
        doctor = [", ".join(troubles(lines)) or "nothing" for lines in logs]
        return {
            "readyz": "/".join(dict.fromkeys(" ".join(text.split()) for text in texts)),
            "metric": "/".join(dict.fromkeys(metric)),
            "doctor": "/".join(dict.fromkeys(doctor)),
        }


async def _status(response: Awaitable[httpx.Response]) -> str:
    started = time.monotonic()
    status = str((await response).status_code)
    return status if time.monotonic() - started < 3 else f"{status} slow"


@pytest.fixture
async def timeline(
    pair: Pair, request: pytest.FixtureRequest, capsys: pytest.CaptureFixture[str]
) -> AsyncIterator[Timeline]:
    """Two gateways at which alice has a session, a login and an API token."""
    alice = await pair.log_in(ALICE)
    host = await pair.session(alice)
    token, _ = await an_api_token(alice, pair)
    await ticket_of(alice, host)
    timeline = Timeline(pair, request.param, alice, token, host)
    await timeline.until(is_well, OVER)
    yield timeline
    with capsys.disabled():
        sys.stdout.write(f"\n{request.node.name}\n{timeline.text()}\n")


def is_well(sample: dict[str, str]) -> bool:
    return sample == {**WELL, "readyz": "200 ok", "metric": "up", "doctor": "nothing"}


async def watch(timeline: Timeline, trouble: str, reason: str, users: dict[str, str]) -> None:
    """Everyone is told of the outage, and what users get stays as it is."""
    sample = await timeline.until(
        lambda sample: (sample["metric"], sample["doctor"]) == ("down", trouble), NOTICED
    )
    assert {name: sample[name] for name in users} == users, timeline.text()
    assert sample["readyz"] == f"200 ok but {trouble}", timeline.text()
    assert reason in timeline.readiness


READ_ONLY_USERS = {"sign in": "503", "portal": "200", "API": "200", "open a desktop": "302"}
REDIS_USERS = {"sign in": "503", "portal": "200", "API": "503", "open a desktop": "503"}


@pytest.mark.parametrize("timeline", ["redis"], indirect=True)
async def test_redis_is_killed(timeline: Timeline) -> None:
    await timeline.pair.redis.kill()
    await watch(timeline, "shared state", "Redis does not respond", REDIS_USERS)
    await timeline.pair.redis.start()
    await timeline.until(is_well, OVER)


@pytest.mark.parametrize("timeline", ["redis"], indirect=True)
@pytest.mark.parametrize(
    ("damage", "repair", "reason"),
    [
        ("CONFIG SET maxmemory 1", "CONFIG SET maxmemory 0", "maxmemory"),
        ("REPLICAOF 127.0.0.1 9", "REPLICAOF NO ONE", "read only replica"),
    ],
    ids=["full", "replica"],
)
async def test_redis_refuses_writes(
    timeline: Timeline, damage: str, repair: str, reason: str
) -> None:
    shared = RedisSharedState(timeline.pair.redis.url)
    try:
        await shared._redis.execute_command(damage)  # type: ignore[no-untyped-call]
        await watch(timeline, "shared state", reason, REDIS_USERS)
        await shared._redis.execute_command(repair)  # type: ignore[no-untyped-call]
        await timeline.until(is_well, OVER)
    finally:
        await shared.close()


@pytest.mark.parametrize("timeline", ["database"], indirect=True)
async def test_database_is_stopped(timeline: Timeline, postgres_server: Postgres) -> None:
    await asyncio.to_thread(postgres_server.stop)
    try:
        await watch(timeline, "database", "", dict.fromkeys(WELL, "503"))
    finally:
        await asyncio.to_thread(postgres_server.start)
    await timeline.until(is_well, OVER)


@pytest.mark.parametrize("timeline", ["database"], indirect=True)
@pytest.mark.parametrize("read_only", ["setting", "standby"], indirect=True)
async def test_database_refuses_writes(
    timeline: Timeline, read_only: tuple[Callable[[], None], Callable[[], None]]
) -> None:
    damage, repair = read_only
    csrf = csrf_of((await timeline.alice.get("/account")).text)
    await asyncio.to_thread(damage)
    await watch(timeline, "database", "read-only transaction", READ_ONLY_USERS)
    assert (await form(timeline.alice, timeline.pair, "/logout", csrf=csrf)).status_code == 503
    await asyncio.to_thread(repair)
    await timeline.until(is_well, OVER)

"""Two gateways as processes, with a real Redis and a real PostgreSQL, behind what sends each
request to another one.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from cluster.gateway_stage import AsTraefik, GatewayProcess, add_people, gateway_process
from cluster.operator_stage import Stage
from cluster.redis_stage import RedisServer, redis
from support.csrf import csrf_of
from support.postgres import Postgres, postgres_server, postgres_url
from support.waiting import eventually
from vdi.kinds import SESSIONS

__all__ = ["postgres_server", "postgres_url", "redis"]

ALICE, BOB = "alice@example.com", "bob@example.com"
CLI = {"code_challenge": "c" * 43, "code_challenge_method": "S256", "client": "laptop"}


@dataclass
class Pair:
    """Two replicas."""

    stage: Stage
    one: GatewayProcess
    two: GatewayProcess
    redis: RedisServer

    def traefik(self) -> AsTraefik:
        """To each in turn."""
        return AsTraefik(self.one.gateway.public, self.two.gateway.public)

    async def log_in(self, user: str) -> httpx.AsyncClient:
        return await self.one.gateway.log_in(user, traefik=self.traefik())

    async def through(
        self, replica: GatewayProcess, browser: httpx.AsyncClient
    ) -> httpx.AsyncClient:
        """The same browser, whose requests go to this replica alone."""
        other = await replica.gateway.browser()
        other.cookies = browser.cookies
        return other

    async def report(self, trouble: str) -> bool:
        """Both tell of it, or of none, and stay in service: open desktops need neither Redis nor
        the database.
        """
        answers = [await replica.gateway.inside("/readyz") for replica in (self.one, self.two)]
        assert {answer.status_code for answer in answers} == {200}
        texts = {answer.text for answer in answers}
        return all(trouble in text for text in texts) if trouble else texts == {"ok\n"}

    async def session(self, alice: httpx.AsyncClient) -> str:
        """The URL of a session of hers, once both replicas know it."""
        await self.stage.session("mine", "none")
        host = self.one.gateway.desktop("mine")
        await self.stage.patch(SESSIONS, "mine", {"status": {"url": host}}, subresource="status")
        browsers = [await self.through(replica, alice) for replica in (self.one, self.two)]

        async def is_known() -> bool:
            answers = [await browser.get("/api/v1/sessions/mine") for browser in browsers]
            return all(answer.status_code == 200 and host in answer.text for answer in answers)

        await eventually(is_known, "both know the session")
        return host


@pytest.fixture
async def pair(
    stage: Stage, tmp_path: Path, postgres_url: str, redis: RedisServer
) -> AsyncIterator[Pair]:
    await add_people(stage)
    async with AsyncExitStack() as stack:
        shared = {"VDI_REDIS_URL": redis.url, "VDI_DATABASE_URL": postgres_url}
        starting = (
            stack.enter_async_context(gateway_process(stage, tmp_path, **shared)) for _ in range(2)
        )
        one, two = await asyncio.gather(*starting)
        yield Pair(stage, one, two, redis)


async def is_in(browser: httpx.AsyncClient) -> bool:
    """Whether the portal shows itself, or sends to the login."""
    return (await browser.get("/")).status_code == 200


async def ticket_of(browser: httpx.AsyncClient, host: str) -> str:
    """The address with a ticket to which a browser is sent that opens this desktop."""
    start = await browser.get(f"{host}/.vdi/start?next=/")
    assert start.status_code == 302, start.text
    enter = await browser.get(start.headers["location"])
    assert enter.status_code == 302, enter.text
    ticket: str = enter.headers["location"]
    return ticket


async def test_login_is_valid_and_ends_at_every_replica(pair: Pair) -> None:
    alice = await pair.log_in(ALICE)
    for replica in (pair.one, pair.two):
        assert await is_in(await pair.through(replica, alice))
    await pair.one.gateway.post(alice, "/logout")
    for replica in (pair.one, pair.two):
        stolen = await pair.through(replica, alice)
        assert not await is_in(stolen)


@pytest.mark.long
async def test_ticket_is_used_once_at_any_replica(pair: Pair) -> None:
    alice = await pair.log_in(ALICE)
    host = await pair.session(alice)
    ticket = await ticket_of(alice, host)
    assert urlsplit(ticket).path == "/.vdi/enter"
    outsider = await pair.two.gateway.browser()
    assert (await outsider.get(ticket)).status_code == 403, (
        "without the browser's own cookie it opens nothing"
    )
    used_up = await alice.get(ticket)
    assert used_up.status_code == 403, "whoever tried it has used it up"
    ticket = await ticket_of(alice, host)
    browsers = [await pair.through(one, alice) for one in (pair.one, pair.two)]
    both = await asyncio.gather(*(browser.get(ticket) for browser in browsers))
    assert sum("__Host-vdi-grant" in one.headers.get("set-cookie", "") for one in both) == 1


@pytest.mark.long
async def test_login_throttle_counts_over_both_replicas(pair: Pair) -> None:
    browser = await pair.one.gateway.browser(pair.traefik())
    guess = {
        "user": ALICE,
        "password": "wrong",
        "csrf": csrf_of((await browser.get("/login")).text),
        "next": "/",
    }
    answers = await asyncio.gather(*(form(browser, pair, "/login", **guess) for _ in range(70)))
    codes = [answer.status_code for answer in answers]
    assert codes.count(429) == 10, "60 are looked at, whichever replica they came to"
    elsewhere = AsTraefik(pair.two.gateway.public, address="198.51.100.1")
    assert await is_in(await pair.two.gateway.log_in(ALICE, traefik=elsewhere)), (
        "the right user is only slowed"
    )


async def test_dead_replica_loses_nothing(pair: Pair) -> None:
    await pair.stage.session("mine", "none")
    alice = await pair.log_in(ALICE)
    assert await is_in(alice)
    await pair.one.kill()
    survivor = await pair.through(pair.two, alice)
    assert await is_in(survivor)
    assert (await survivor.get("/api/v1/sessions/mine")).status_code == 200
    assert (await pair.two.gateway.inside("/readyz")).status_code == 200
    await pair.stage.delete(SESSIONS, "mine")

    async def is_written() -> bool:
        answer = await survivor.get("/api/v1/history", headers={"Accept": "application/json"})
        return answer.status_code == 200 and '"ended":"' in answer.text

    await eventually(is_written, "its end is in the history")


async def form(browser: httpx.AsyncClient, pair: Pair, path: str, **fields: str) -> httpx.Response:
    """A form as the page that the browser has open sends it. The page itself may be out of reach by
    now.
    """
    headers = {"Origin": pair.one.gateway.portal, "Sec-Fetch-Site": "same-origin"}
    return await browser.post(path, data=fields, headers=headers)


async def asks(pair: Pair, token: str) -> list[int]:
    """The status that each replica gives a program with this token."""
    answers = []
    for replica in (pair.one, pair.two):
        program = await replica.gateway.browser()
        answers.append(
            await program.get("/api/v1/me", headers={"Authorization": f"Bearer {token}"})
        )
    return [answer.status_code for answer in answers]


async def an_api_token(browser: httpx.AsyncClient, pair: Pair) -> tuple[str, str]:
    """A new one, and the CSRF token of the page that shows it."""
    csrf = csrf_of((await browser.get("/account")).text)
    page = (await form(browser, pair, "/account/tokens", csrf=csrf, label="script", days="7")).text
    found = re.search(r"vdi_[A-Za-z0-9_-]{43}", page)
    assert found is not None, page
    return found[0], csrf


@pytest.mark.long
async def test_redis_outage_refuses_tokens_and_permits_sign_out(pair: Pair) -> None:
    alice = await pair.log_in(ALICE)
    token, csrf = await an_api_token(alice, pair)
    assert await asks(pair, token) == [200, 200]
    await pair.redis.kill()
    await eventually(
        lambda: pair.report("shared state: Redis does not respond"), "they say that Redis is down"
    )
    assert await asks(pair, token) == [503, 503], "requests that cannot be counted are not answered"
    assert await is_in(alice), "who is in stays in"
    browser = await pair.one.gateway.browser()
    guess = {
        "user": ALICE,
        "password": "x",
        "csrf": csrf_of((await browser.get("/login")).text),
        "next": "/",
    }
    assert (await form(browser, pair, "/login", **guess)).status_code == 503, (
        "who cannot be counted cannot guess"
    )
    assert (await form(alice, pair, "/cli/authorize", csrf=csrf, **CLI)).status_code == 503, (
        "no code is given"
    )
    code = {"code": "x", "code_verifier": "v" * 43}
    for replica in (pair.one, pair.two):
        command = await replica.gateway.browser()
        assert (await command.post("/cli/token", data=code)).status_code == 503, "no code is taken"
    here = await pair.through(pair.one, alice)
    done = await form(here, pair, "/account/logout-everywhere", csrf=csrf, tokens="yes")
    assert done.status_code == 200, "the portal signs out and revokes without Redis"
    for replica in (pair.one, pair.two):
        assert not await is_in(await pair.through(replica, alice))
    await pair.redis.start()

    async def is_revoked() -> bool:
        return await asks(pair, token) == [401, 401]

    await eventually(is_revoked, "Redis is back, and the token is revoked at both")
    await eventually(lambda: pair.report(""), "they say that all is well")


@pytest.mark.long
async def test_database_outage_refuses_tokens_and_sign_out(
    pair: Pair, postgres_server: Postgres
) -> None:
    alice = await pair.log_in(ALICE)
    token, csrf = await an_api_token(alice, pair)
    await asyncio.to_thread(postgres_server.stop)
    try:
        await eventually(lambda: pair.report("database: "), "they say that the database is down")
        assert await asks(pair, token) == [503, 503]
        answer = await alice.get("/")
        assert answer.status_code == 503 and "cannot reach its database" in answer.text
        for path, fields in (
            ("/logout", {}),
            ("/account/logout-everywhere", {"tokens": "yes"}),
            ("/account/tokens", {"label": "more", "days": "7"}),
            ("/cli/authorize", CLI),
        ):
            answer = await form(alice, pair, path, csrf=csrf, **fields)
            assert answer.status_code == 503 and "cannot reach its database" in answer.text, path
            assert "set-cookie" not in answer.headers, (
                "the browser keeps its login, to sign out with it later"
            )
    finally:
        await asyncio.to_thread(postgres_server.start)

    async def signs_out() -> bool:
        answer = await form(alice, pair, "/account/logout-everywhere", csrf=csrf, tokens="yes")
        return answer.status_code == 200

    await eventually(signs_out, "the database is back")
    await eventually(lambda: pair.report(""), "they say that all is well")
    assert await asks(pair, token) == [401, 401]
    for replica in (pair.one, pair.two):
        assert not await is_in(await pair.through(replica, alice))

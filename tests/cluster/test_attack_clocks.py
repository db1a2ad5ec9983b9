"""Two gateways as processes, and the machine of one of them is five minutes ahead: every clock that
it looks at.
"""

import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest

from cluster.gateway_stage import add_people, gateway_process
from cluster.operator_stage import Stage
from cluster.redis_stage import RedisServer, redis
from cluster.test_gateway_replicas import ALICE, Pair, is_in, ticket_of
from support.postgres import postgres_server, postgres_url
from support.waiting import eventually
from vdi.kinds import SESSIONS

__all__ = ["postgres_server", "postgres_url", "redis"]

SKEW = 300
pytestmark = pytest.mark.timeout(300)  # three processes for each of them


def fake_time(seconds: int) -> dict[str, str]:
    """Environment of a process whose wall clock is so much ahead; its monotonic clock stays as it
    is.
    """
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    assert found, "libfaketime is not in /usr/lib: apt-get install libfaketime"
    return {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME": f"{seconds:+}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


@pytest.fixture
async def pair(
    stage: Stage, tmp_path: Path, postgres_url: str, redis: RedisServer
) -> AsyncIterator[Pair]:
    """The second one is ahead."""
    await add_people(stage)
    shared = {"VDI_REDIS_URL": redis.url, "VDI_DATABASE_URL": postgres_url}
    async with (
        gateway_process(stage, tmp_path, **shared) as right,
        gateway_process(stage, tmp_path, **shared, **fake_time(SKEW)) as ahead,
    ):
        yield Pair(stage, right, ahead, redis)


@pytest.mark.long
async def test_replica_with_a_fast_clock_reports_it_and_serves(pair: Pair) -> None:
    """In its answer to probes, and in its log, which `vdi doctor` reads."""

    async def says() -> bool:
        answer = await pair.two.gateway.inside("/readyz")
        assert answer.status_code == 200
        return bool(
            re.search(
                r"but clock: it is (299|30[0-5]) s ahead of the API server's clock\.", answer.text
            )
        )

    await eventually(says, "it says that its clock is wrong")
    await eventually(lambda: "trouble: clock: it is" in pair.two.log.read_text(), "its log says so")
    assert (await pair.one.gateway.inside("/readyz")).text == "ok\n"


@pytest.mark.long
async def test_logins_hold_at_every_replica_despite_clock_skew(pair: Pair) -> None:
    """Logins, tickets, tokens and grants of the one are good at the other, in both directions."""
    alice = await pair.log_in(ALICE)
    host = await pair.session(alice)
    for first, second in ((pair.one, pair.two), (pair.two, pair.one)):
        browser = await pair.through(first, alice)
        ticket = await ticket_of(browser, host)
        entered = await (await pair.through(second, browser)).get(ticket)
        assert entered.status_code == 302, entered.text
        cookie = _cookies(entered)
        for _ in range(3):
            for replica in (first, second):
                answer = await replica.gateway.verify(
                    "mine", "/api/files", headers={"Cookie": cookie}
                )
                assert answer.status_code == httpx.codes.OK, answer.text
    assert await is_in(await pair.through(pair.one, alice))
    assert await is_in(await pair.through(pair.two, alice))


@pytest.mark.long
async def test_revocation_holds_at_every_replica_despite_skew(pair: Pair) -> None:
    host = await pair.session(await pair.log_in(ALICE))
    for ending, other in ((pair.one, pair.two), (pair.two, pair.one)):
        alice = await pair.log_in(ALICE)
        ticket = await ticket_of(alice, host)
        cookie = _cookies(await (await pair.through(other, alice)).get(ticket))
        assert (
            await other.gateway.verify("mine", "/x", headers={"Cookie": cookie})
        ).status_code == 200
        await ending.gateway.post(await pair.through(ending, alice), "/logout")

        async def refused(cookie: str = cookie) -> bool:
            """The token alone, and with the grant's handle."""
            token = cookie.partition(";")[0]
            codes = {
                (await one.gateway.verify("mine", "/x", headers={"Cookie": sent})).status_code
                for one in (pair.one, pair.two)
                for sent in (cookie, token)
            }
            return codes == {401}

        await eventually(refused, "a login that has ended opens nothing, at either of them")


@pytest.mark.long
async def test_history_dates_a_deletion_to_within_the_skew(pair: Pair) -> None:
    """Two rows, or an end before the start, would be wrong figures for ever."""
    made = await pair.stage.session("mine", "none")
    alice = await pair.log_in(ALICE)
    await pair.stage.delete(SESSIONS, "mine")
    rows: list[dict[str, str]] = []

    async def is_written() -> bool:
        answer = await alice.get("/api/v1/history", headers={"Accept": "application/json"})
        rows[:] = answer.json()["items"] if answer.status_code == httpx.codes.OK else []
        return bool(rows) and bool(rows[0].get("ended"))

    await eventually(is_written, "its end is in the history")
    assert len(rows) == 1
    assert rows[0]["created"] == made["metadata"]["creationTimestamp"]
    began, ended = (datetime.fromisoformat(rows[0][name]) for name in ("created", "ended"))
    assert timedelta(0) <= ended - began < timedelta(seconds=SKEW + 60)


def _cookies(entered: httpx.Response) -> str:
    """The token first, then the grant's handle."""
    lines = [one.partition(";")[0] for one in entered.headers.get_list("set-cookie")]
    return "; ".join(sorted(line for line in lines if "desktop=" in line or "grant=" in line))

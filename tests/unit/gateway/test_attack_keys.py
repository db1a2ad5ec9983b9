"""Signing keys that change while people work: two replicas, one Secret, and no moment in which
anybody is refused.
"""

import asyncio

import pytest

from unit.gateway.edge_stage import HOST, OWNER, EdgeStage, address
from vdi.gateway.edge.headers import DESKTOP_COOKIE
from vdi.gateway.edge.tokens import KEY_KEPT, KEY_LEAD, KEY_LIFE

STEP = 60
PEOPLE = 3


@pytest.mark.long
@pytest.mark.timeout(60)
async def test_a_key_rotation_under_load_refuses_no_one() -> None:
    """A day and more; around the change each person asks both replicas each minute."""
    async with EdgeStage() as one, EdgeStage(**one.shares) as two:
        replicas = (one, two)
        browsers = [await one.logged_in(OWNER) for _ in range(PEOPLE)]
        for browser in browsers:
            assert (await browser.open(address())).status_code == 200
        await two.edge.revoker.poll()
        cookies = [
            {item.name: item.value for item in browser.cookies.jar if item.domain == HOST}
            for browser in browsers
        ]
        signers: set[str] = set()

        async def ask(mine: dict[str, str | None], stage: EdgeStage) -> None:
            sent = "; ".join(f"{name}={value}" for name, value in mine.items())
            answer = await stage.verify(HOST, "/api/files", Cookie=sent)
            assert answer.status_code == 200, answer.text
            if new := answer.headers.get("set-cookie"):
                mine[DESKTOP_COOKIE] = new.partition(";")[0].partition("=")[2]

        async def ask_with_the_token_alone(mine: dict[str, str | None]) -> None:
            for stage in replicas:
                answer = await stage.verify(
                    HOST, "/api/files", Cookie=f"{DESKTOP_COOKIE}={mine[DESKTOP_COOKIE]}"
                )
                assert answer.status_code == 200, (
                    "a token of before the change does not hold until its end"
                )

        before = KEY_LIFE.total_seconds() - STEP
        whole = (KEY_LIFE + KEY_LEAD + KEY_KEPT).total_seconds() + 10 * STEP
        moment, turn = 0.0, 0
        while moment < whole:
            # Most of the day has one key, and nothing to see; no login may be left unused for half
            # a day.
            step = STEP if moment >= before else min(6 * 3600.0, before - moment)
            moment, turn = moment + step, turn + 1
            for stage in replicas:
                stage.clock.forward(seconds=step)
            # Each reads the Secret in the middle of the requests, half as often as it really does,
            # and in turn.
            asking = [ask_with_the_token_alone(mine) for mine in cookies if step == STEP]
            await asyncio.gather(replicas[turn % 2].edge.ring.refresh(), *asking)
            await asyncio.gather(*(ask(mine, replicas[turn % 2]) for mine in cookies))
            signers |= {stage.edge.ring.signer()[0] for stage in replicas}
        for stage in replicas:
            await stage.edge.ring.refresh()
        assert len(signers) == 2, "there was a change"
        assert one.edge.ring.jwks() == two.edge.ring.jwks()
        assert len(one.edge.ring.jwks()["keys"]) == 1, (
            "the first key is gone an hour after its last token"
        )

"""Two replicas, of which one has a clock that is five minutes ahead or behind: nothing opens by
it.
"""

from collections.abc import AsyncIterator

import pytest

from support.variants import first_of
from unit.gateway.edge_stage import GUEST, HOST, EdgeStage, a_session, address, changed, shared_with
from vdi.cluster.units import format_time
from vdi.gateway.edge.headers import DESKTOP_COOKIE, GRANT_COOKIE
from vdi.gateway.store.database import DatabaseUnavailableError

SKEW = 300


@pytest.fixture
async def here() -> AsyncIterator[EdgeStage]:
    """The replica whose clock is right."""
    async with EdgeStage() as stage:
        yield stage


@pytest.fixture(params=[SKEW, -SKEW], ids=["ahead", "behind"])
async def there(request: pytest.FixtureRequest, here: EdgeStage) -> AsyncIterator[EdgeStage]:
    """The other one. Redis keeps its time by itself, so the state that both share keeps the right
    one.
    """
    async with EdgeStage(**here.shares) as stage:
        stage.clock.forward(seconds=request.param)
        yield stage


def pass_time(*stages: EdgeStage, seconds: float) -> None:
    for stage in stages:
        stage.clock.forward(seconds=seconds)


async def test_who_is_in_stays_in_whichever_replica_is_asked(
    here: EdgeStage, there: EdgeStage
) -> None:
    browser = await here.entered()
    for _ in range(8):
        pass_time(here, there, seconds=60)
        for stage in (here, there):
            answer = await stage.verify(HOST, "/api/files", Cookie=browser.stolen(HOST))
            assert answer.status_code == 200, answer.text
            if "set-cookie" in answer.headers:
                token = answer.headers["set-cookie"].partition(";")[0].partition("=")[2]
                browser.cookies.set(DESKTOP_COOKIE, token, domain=HOST, path="/")


@pytest.mark.parametrize("who_ends_it", first_of(["here", "there"]))
async def test_an_ended_grant_stays_ended_on_every_clock(
    here: EdgeStage, there: EdgeStage, who_ends_it: str
) -> None:
    """A token of the replica that is ahead is good at the other one when its revocation was
    forgotten there.
    """
    visitor = await here.entered()
    renewed = await there.verify(HOST, Cookie=visitor.stolen(HOST, GRANT_COOKIE))
    token = renewed.headers["set-cookie"].partition(";")[0]
    ending = here if who_ends_it == "here" else there
    await ending.edge.revoker.end(login_id=visitor.login_id)
    for _ in range(35):
        pass_time(here, there, seconds=30)
        for stage in (here, there):
            await stage.edge.revoker.poll()
            answer = await stage.verify(HOST, "/api/files", Cookie=token)
            assert answer.status_code == 401, (
                "a token whose login has ended opens the desktop again"
            )


async def test_a_replica_takes_tokens_only_of_grants_it_knows(
    here: EdgeStage, there: EdgeStage
) -> None:
    """What a thief has, without the handle: refused by who knows nothing of the grant, whatever its
    times say.
    """
    visitor = await here.entered()
    token = visitor.stolen(HOST, DESKTOP_COOKIE)
    there.clock.wall = here.clock.now()
    assert (await there.verify(HOST, "/api/files", Cookie=token)).status_code == 401
    await there.edge.revoker.poll()
    assert (await there.verify(HOST, "/api/files", Cookie=token)).status_code == 200


async def test_a_token_from_the_future_needs_the_grant(
    here: EdgeStage, there: EdgeStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the database the grant cannot be read: the request is refused, with the reason."""
    visitor = await here.entered()
    there.clock.wall = here.clock.now().replace(hour=13)
    handle = visitor.stolen(HOST, GRANT_COOKIE)
    early = (await there.verify(HOST, Cookie=handle)).headers["set-cookie"].partition(";")[0]

    def fail(*_: object) -> None:
        raise DatabaseUnavailableError("it is down")

    assert (await here.verify(HOST, "/api/files", Cookie=early)).status_code == 401
    assert (await here.verify(HOST, "/api/files", Cookie=f"{early}; {handle}")).status_code == 200
    monkeypatch.setattr(here.database, "connect", fail)
    answer = await here.verify(HOST, "/api/files", Cookie=f"{early}; {handle}")
    assert (answer.status_code, answer.text) == (503, "The gateway's database does not respond.\n")


async def test_a_share_that_has_run_out_ends_by_the_right_clock(
    here: EdgeStage, there: EdgeStage
) -> None:
    """Whose clock is behind lets in for longer, by as much as it is behind; the other one ends that
    within a sweep.
    """
    end = format_time(here.clock.now().replace(minute=30))
    shared = changed(a_session(), spec=shared_with(GUEST, "collaborator", end))
    for stage in (here, there):
        stage.add(shared)
    guest = await here.logged_in(GUEST)
    assert (await guest.open(address())).status_code == 200
    pass_time(here, there, seconds=1800)
    await here.edge.revoker.poll()
    await here.edge.revoker.sweep()
    await there.edge.revoker.poll()
    for stage in (here, there):
        assert (
            await stage.verify(HOST, "/api/files", Cookie=guest.stolen(HOST))
        ).status_code == 401

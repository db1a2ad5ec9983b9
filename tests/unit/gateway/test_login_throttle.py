"""Guessing is slow, then refused, for users that exist and for those that don't."""

from collections.abc import AsyncIterator

import msgspec
import pytest

from unit.gateway.login_stage import LoginStage
from vdi.api.session import VDISession
from vdi.gateway.login.throttle import PER_ADDRESS, PER_USER, SLOWEST, WINDOW, Bound, Throttle, TooManyError
from vdi.gateway.shared_state import MemorySharedState


@pytest.fixture
async def stage() -> AsyncIterator[LoginStage]:
    async with LoginStage() as stage:
        yield stage


async def waits(throttle: Throttle, attempts: int, user: str = "a@b.c", address: str = "203.0.113.7") -> list[float]:
    return [await throttle.seconds_to_wait(user, address) for _ in range(attempts)]


async def test_attempts_are_free_then_slow_then_refused() -> None:
    throttle = Throttle(MemorySharedState(), Bound(2, 8), PER_ADDRESS)
    assert await waits(throttle, 8) == [0, 0, 0.5, 1, 2, SLOWEST, SLOWEST, SLOWEST]
    with pytest.raises(TooManyError, match="15 minutes"):
        await waits(throttle, 1)
    assert await waits(throttle, 1, user="another@b.c") == [0]


async def test_guessing_from_one_network_locks_no_one_out_elsewhere() -> None:
    throttle = Throttle(MemorySharedState())
    await waits(throttle, PER_USER.most)
    for _ in range(1000):
        with pytest.raises(TooManyError):
            await throttle.seconds_to_wait("a@b.c", "203.0.113.7")
    assert await waits(throttle, PER_USER.free, address="198.51.100.1") == [SLOWEST] * PER_USER.free


@pytest.mark.parametrize(
    ("address", "same", "other"),
    [
        ("203.0.113.7", "203.0.113.250", "203.0.114.7"),
        ("::ffff:203.0.113.7", "203.0.113.250", "::ffff:203.0.114.7"),
        ("2001:db8::1", "2001:db8:0:ffff::1", "2001:db8:1::1"),
        ("not an address", "not an address", "another"),
    ],
)
async def test_the_hard_stop_of_a_user_is_of_one_network(address: str, same: str, other: str) -> None:
    throttle = Throttle(MemorySharedState())
    await waits(throttle, PER_USER.most, address=address)
    with pytest.raises(TooManyError):
        await throttle.seconds_to_wait("a@b.c", same)
    assert await throttle.seconds_to_wait("a@b.c", other) == SLOWEST


async def test_many_guessing_networks_have_few_attempts_each() -> None:
    throttle = Throttle(MemorySharedState())
    looked_at = []
    for network in range(40):
        for _ in range(PER_USER.most):
            try:
                looked_at.append(await throttle.seconds_to_wait("a@b.c", f"198.51.{network}.1"))
            except TooManyError:
                break
    assert len(looked_at) == PER_USER.most + 39 * PER_USER.free
    assert set(looked_at[PER_USER.free + 4 :]) == {SLOWEST}


async def test_many_users_from_one_address_are_one_guesser() -> None:
    throttle = Throttle(MemorySharedState(), PER_USER, Bound(3, 5))
    for number in range(5):
        await throttle.seconds_to_wait(f"u{number}@b.c", "203.0.113.7")
    with pytest.raises(TooManyError):
        await throttle.seconds_to_wait("new@b.c", "203.0.113.7")
    assert await throttle.seconds_to_wait("new@b.c", "203.0.113.8") == 0


async def test_one_ipv6_network_is_one_guesser() -> None:
    throttle = Throttle(MemorySharedState(), PER_USER, Bound(1, 1))
    await throttle.seconds_to_wait("a@b.c", "2001:db8::1")
    with pytest.raises(TooManyError):
        await throttle.seconds_to_wait("b@b.c", "2001:db8::ffff:2")
    assert await throttle.seconds_to_wait("c@b.c", "2001:db8:0:1::1") == 0


async def test_the_right_user_gets_in_while_somebody_else_guesses(stage: LoginStage) -> None:
    guesser = stage.browser("203.0.113.7")
    codes = [(await guesser.log_in("alice", "wrong")).status_code for _ in range(64)]
    assert codes == [403] * PER_USER.most + [429] * (64 - PER_USER.most)
    assert (await stage.browser("198.51.100.1").log_in("alice")).status_code == 303
    assert stage.waits[-1] == SLOWEST


@pytest.mark.parametrize("name", ["alice", "nobody"])
async def test_who_guesses_is_refused_with_the_same_words(stage: LoginStage, name: str) -> None:
    browser = stage.browser()
    for _ in range(PER_USER.most):
        assert (await browser.log_in(name, "wrong")).status_code == 403
    refused = await browser.log_in(name, "wrong")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, str(WINDOW))
    assert "Too many login attempts" in refused.text
    assert (await browser.log_in(name)).status_code == 429, "the right password is not looked at either"
    assert stage.waits[: PER_USER.free] == [0] * PER_USER.free
    assert max(stage.waits) == SLOWEST
    stage.clock.forward(seconds=WINDOW + 1)
    assert (await browser.log_in()).status_code == 303


async def test_a_forged_forwarded_address_does_not_help() -> None:
    codes = []
    async with LoginStage(throttle=Throttle(MemorySharedState(), PER_USER, Bound(1, 2))) as stage:
        for number in range(4):
            # What the browser itself wrote comes first; Traefik adds the address that it saw.
            browser = stage.browser(f"198.51.100.{number}, 203.0.113.7")
            codes.append((await browser.log_in(f"u{number}", "wrong")).status_code)
    assert codes == [403, 403, 429, 429]


async def test_a_desktops_pod_cannot_change_its_address() -> None:
    codes = []
    async with LoginStage(throttle=Throttle(MemorySharedState(), PER_USER, Bound(1, 2))) as stage:
        meta = {"name": "mine", "namespace": "vdi-sessions", "uid": "1", "resourceVersion": "1"}
        session = {"metadata": meta, "spec": {"user": "a@b.cd", "template": "x"}, "status": {"podIP": "10.0.0.5"}}
        stage.login.services.context.cluster.sessions.observe(msgspec.convert(session, VDISession))
        for number in range(4):
            browser = stage.browser(f"198.51.100.{number}")
            codes.append((await browser.log_in(f"u{number}", "wrong")).status_code)
    assert codes == [403, 403, 429, 429]

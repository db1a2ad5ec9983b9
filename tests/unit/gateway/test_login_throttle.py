"""Guessing is slow, then refused, for users that exist and for those that don't."""

from collections.abc import AsyncIterator

import pytest

from support.builders import a_session
from unit.gateway.login_stage import LoginStage
from vdi.gateway.login import pages
from vdi.gateway.login.throttle import (
    PER_ADDRESS,
    PER_USER,
    SLOWEST,
    WINDOW,
    Bound,
    Throttle,
    TooManyError,
)
from vdi.gateway.shared_state import MemorySharedState


@pytest.fixture
async def stage() -> AsyncIterator[LoginStage]:
    async with LoginStage() as stage:
        yield stage


async def waits(
    throttle: Throttle, attempts: int, user: str = "a@b.c", address: str = "203.0.113.7"
) -> list[float]:
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
async def test_the_hard_stop_of_a_user_is_of_one_network(
    address: str, same: str, other: str
) -> None:
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


@pytest.mark.parametrize(
    ("address", "same", "other"),
    [
        ("203.0.113.7", "203.0.113.7", "203.0.113.8"),
        ("2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1"),
    ],
)
async def test_many_users_from_one_address_are_one_guesser(
    address: str, same: str, other: str
) -> None:
    throttle = Throttle(MemorySharedState(), PER_USER, Bound(3, 5))
    for number in range(5):
        await throttle.seconds_to_wait(f"u{number}@b.c", address)
    with pytest.raises(TooManyError):
        await throttle.seconds_to_wait("new@b.c", same)
    assert await throttle.seconds_to_wait("new@b.c", other) == 0


async def test_logins_that_succeed_are_not_counted(stage: LoginStage) -> None:
    """An office behind one address, and a script that signs in again and again."""
    for _ in range(PER_USER.most + 1):
        assert (await stage.browser().log_in()).status_code == 303
    assert set(stage.waits) == {0}
    assert (await stage.browser().log_in("alice", "wrong")).status_code == 403
    assert stage.waits[-1] == 0


async def test_success_takes_back_its_own_attempt_alone() -> None:
    throttle = Throttle(MemorySharedState(), Bound(1, 3), Bound(1, 4))
    await waits(throttle, 3)
    await throttle.forgive("a@b.c", "203.0.113.7")
    assert await waits(throttle, 1) == [1.0]
    with pytest.raises(TooManyError):
        await waits(throttle, 1)


async def test_the_right_user_gets_in_while_somebody_else_guesses(stage: LoginStage) -> None:
    guesser = stage.browser("203.0.113.7")
    codes = [(await guesser.log_in("alice", "wrong")).status_code for _ in range(64)]
    assert codes == [403] * PER_USER.most + [429] * (64 - PER_USER.most)
    assert (await stage.browser("198.51.100.1").log_in("alice")).status_code == 303
    assert stage.waits[-1] == SLOWEST


async def test_held_up_attempts_leave_connections_to_everyone_else(
    stage: LoginStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "_MOST_DELAYED", 0)
    codes = [
        (await stage.browser().log_in("nobody", "wrong")).status_code
        for _ in range(PER_USER.free + 1)
    ]
    assert codes == [403] * PER_USER.free + [503]
    assert (await stage.browser("198.51.100.1").log_in("alice")).status_code == 303


@pytest.mark.parametrize("name", ["alice", "nobody"])
async def test_who_guesses_is_refused_with_the_same_words(stage: LoginStage, name: str) -> None:
    browser = stage.browser()
    for _ in range(PER_USER.most):
        assert (await browser.log_in(name, "wrong")).status_code == 403
    refused = await browser.log_in(name, "wrong")
    assert (refused.status_code, refused.headers["retry-after"]) == (429, str(WINDOW))
    assert "Too many login attempts" in refused.text
    assert (await browser.log_in(name)).status_code == 429, (
        "the right password is not looked at either"
    )
    assert stage.waits[: PER_USER.free] == [0] * PER_USER.free
    assert max(stage.waits) == SLOWEST
    stage.clock.forward(seconds=WINDOW + 1)
    assert (await browser.log_in()).status_code == 303


@pytest.mark.parametrize(
    ("forwarded", "pod_ip"),
    [
        # What the browser itself wrote comes first; Traefik adds the address that it saw.
        ("198.51.100.{}, 203.0.113.7", ""),
        # From the pod of a desktop, which is not Traefik.
        ("198.51.100.{}", "10.0.0.5"),
    ],
)
async def test_a_forged_forwarded_address_does_not_help(forwarded: str, pod_ip: str) -> None:
    codes = []
    async with LoginStage(throttle=Throttle(MemorySharedState(), PER_USER, Bound(1, 2))) as stage:
        stage.put(a_session(status={"podIP": pod_ip}))
        for number in range(4):
            browser = stage.browser(forwarded.format(number))
            codes.append((await browser.log_in(f"u{number}", "wrong")).status_code)
    assert codes == [403, 403, 429, 429]

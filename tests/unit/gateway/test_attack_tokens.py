"""A genuine token, second by second: what it is worth before its time, in it, and after."""

import pytest

from unit.gateway.edge_stage import HANDSHAKE, HOST, SETTINGS, EdgeStage
from unit.gateway.gateway_stage import NAVIGATION, Browser
from vdi.gateway.edge.headers import DESKTOP_COOKIE, GRANT_COOKIE
from vdi.gateway.edge.tokens import LEEWAY


@pytest.mark.parametrize(
    ("seconds", "status"),
    [
        (-86400, 401),
        (-LEEWAY - 1, 401),
        (-LEEWAY, 200),
        (0, 200),
        (SETTINGS.token_seconds - 1, 200),
        (SETTINGS.token_seconds, 401),
        (86400, 401),
    ],
)
async def test_a_stolen_token_counts_only_in_its_minutes(
    stage: EdgeStage, alice: Browser, seconds: float, status: int
) -> None:
    """The token alone, as a thief of it has it: without the grant's handle nothing renews it."""
    token = alice.stolen(HOST, DESKTOP_COOKIE)
    assert token
    assert GRANT_COOKIE not in token
    stage.clock.forward(seconds=seconds)
    for _ in range(2):  # the second time it comes out of the memory of verified tokens
        answer = await stage.verify(HOST, "/api/files", Cookie=token)
        assert answer.status_code == status
        assert "set-cookie" not in answer.headers
    page = await stage.verify(HOST, "/?v=1", Cookie=token, **NAVIGATION)
    assert page.status_code == (302 if status == 401 else 200), "a person is led to the login"
    if status == 401:
        assert (
            await stage.verify(HOST, "/api/websockets", Cookie=token, **HANDSHAKE)
        ).status_code == 401

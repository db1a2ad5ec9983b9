"""Requests to the desktop that is checked."""

import pytest

from support.hostile_server import DRIP, serve_answer
from vdi.image_check import observe


async def test_endless_header_is_no_response(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observe, "_ANSWER_SECONDS", 0.2)
    async with serve_answer(DRIP) as server:
        assert await observe._request("GET", server.url) == 0

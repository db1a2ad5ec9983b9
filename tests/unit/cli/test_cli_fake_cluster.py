"""A fault of the fake cluster fails the test in which it happens, and none that runs later."""

import asyncio
import threading
from contextlib import nullcontext

import httpx
import pytest

from support.waiting import PATIENCE
from unit.cli.fake_cluster import FakeCluster, InThread
from unit.cli.objects import SESSIONS, a_session


class FailingServer(InThread):
    def __init__(self, *, starts: bool) -> None:
        super().__init__()
        self.starts = starts

    async def _serve(self, ready: threading.Event, stop: asyncio.Event) -> None:
        if self.starts:
            ready.set()
            await stop.wait()
        raise OSError("it has failed")


@pytest.mark.parametrize("starts", [True, False])
def test_failure_of_the_server_is_raised_at_its_end(starts: bool) -> None:
    with pytest.raises(OSError, match="it has failed"), FailingServer(starts=starts).running():
        assert starts


@pytest.mark.parametrize("fails", [True, False])
def test_failure_of_what_comes_after_a_write_is_raised_at_its_end(fails: bool) -> None:
    asked = threading.Event()

    def is_noticed(_status: object) -> bool:
        asked.set()
        return 1 // (not fails) > 1  # never

    raises = pytest.raises(ZeroDivisionError) if fails else nullcontext()
    with raises, FakeCluster().running() as fake:
        fake.put(SESSIONS, a_session("watched"))
        with httpx.Client(base_url=fake.url, trust_env=False) as client:
            query = {"watch": "true", "resourceVersion": "1000"}
            with client.stream("GET", SESSIONS, params=query):
                fake.after_write({"phase": "Creating"}, noticed=is_noticed)
                assert client.post(SESSIONS, json=a_session()).status_code == 200
                assert asked.wait(PATIENCE)

"""`/internal/probe-token`: only the probe's account gets a token, which is good for one user and for minutes."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from support.clock import FakeClock
from unit.gateway.component_stage import NOW, ComponentStage
from unit.gateway.history_stage import open_database, sqlite_url
from unit.gateway.test_history_internal import Cluster
from vdi.gateway.login.token_endpoints import PROBE_TOKEN_LIFETIME, ProbeTokens
from vdi.gateway.settings import Settings, read_settings
from vdi.gateway.store.database import Database
from vdi.gateway.token_review import AUDIENCE
from vdi.settings import SettingsError

ACCOUNT = "system:serviceaccount:vdi-system:vdi-probe"


class ProbeTokenStage(ComponentStage):
    """The route, with a cluster that knows the tokens."""

    def __init__(self, database: Database, account: str) -> None:
        self.reviews = Cluster()
        self.reviews.tokens["probe"] = (ACCOUNT, [AUDIENCE])
        self.reviews.tokens["for the API server"] = (ACCOUNT, [])
        settings = Settings(probe_account=account)
        super().__init__(self.reviews, database=database, clock=FakeClock(NOW), settings=settings)
        app = Starlette(routes=list(ProbeTokens(self.context, self.logins).routes()))
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway:8081")

    async def ask(self, token: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return await self.http.post("/internal/probe-token", headers=headers)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with open_database(sqlite_url(tmp_path)) as database:
        yield database


async def test_the_probe_gets_a_token_that_ends_by_itself(database: Database) -> None:
    stage = ProbeTokenStage(database, ACCOUNT)
    answer = await stage.ask("probe")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert answer.json()["user"] == "vdi-probe@vdi.invalid"
    user = await stage.logins.person_by_token(answer.json()["token"])
    assert user is not None
    assert (user.email, user.groups, user.admin) == ("vdi-probe@vdi.invalid", frozenset(), False)
    await stage.logins.follow_users({})
    assert await stage.logins.person_by_token(answer.json()["token"]) is not None, "it is no local user's"
    stage.clock.forward(seconds=PROBE_TOKEN_LIFETIME.total_seconds() + 1)
    assert await stage.logins.person_by_token(answer.json()["token"]) is None


@pytest.mark.parametrize(
    ("token", "status", "words"),
    [
        ("", 401, "a bearer token of the probe's account for the audience vdi-gateway is required"),
        ("good", 403, "this token is not the probe's"),  # the operator's
        ("other", 403, "this token is not the probe's"),
        ("for the API server", 403, "it is for another audience"),
        ("unknown", 403, "this token is not the probe's"),
    ],
)
async def test_no_one_else_gets_one(database: Database, token: str, status: int, words: str) -> None:
    answer = await ProbeTokenStage(database, ACCOUNT).ask(token)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text


async def test_without_a_probe_no_one_gets_one(database: Database) -> None:
    stage = ProbeTokenStage(database, "")
    assert (await stage.ask("probe")).status_code == 403
    assert stage.reviews.asked == []


async def test_a_token_that_cannot_be_checked_is_for_later(database: Database) -> None:
    stage = ProbeTokenStage(database, ACCOUNT)
    stage.reviews.refuses = True
    assert (await stage.ask("probe")).status_code == 503


def test_the_account_is_that_of_a_service_account() -> None:
    assert read_settings({"VDI_PROBE_ACCOUNT": ACCOUNT}).probe_account == ACCOUNT
    with pytest.raises(SettingsError, match="VDI_PROBE_ACCOUNT"):
        read_settings({"VDI_PROBE_ACCOUNT": "vdi-probe"})

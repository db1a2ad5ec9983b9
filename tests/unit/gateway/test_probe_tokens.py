"""`/internal/probe-token`: only the probe's account gets a token, which is good for one user and
for minutes.
"""

import httpx
import pytest

from unit.gateway.gateway_stage import GatewayStage
from unit.gateway.test_history_internal import Cluster
from vdi.gateway.login.token_endpoints import PROBE_TOKEN_LIFETIME
from vdi.gateway.settings import Settings, read_settings
from vdi.gateway.token_review import AUDIENCE
from vdi.settings import SettingsError

ACCOUNT = "system:serviceaccount:vdi-system:vdi-probe"


class ProbeTokenStage(GatewayStage):
    """The gateway, with a cluster that knows the tokens."""

    def __init__(self, account: str = ACCOUNT) -> None:
        self.reviews = Cluster()
        self.reviews.tokens["probe"] = (ACCOUNT, [AUDIENCE])
        self.reviews.tokens["for the API server"] = (ACCOUNT, [])
        super().__init__(cluster=self.reviews, settings=Settings(probe_account=account))
        self.http = httpx.AsyncClient(
            transport=httpx.ASGITransport(self.internal), base_url="http://gateway:8081"
        )

    async def ask(self, token: str) -> httpx.Response:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return await self.http.post("/internal/probe-token", headers=headers)


async def test_the_probe_gets_a_token_that_ends_by_itself() -> None:
    stage = ProbeTokenStage()
    answer = await stage.ask("probe")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    assert answer.json()["user"] == "vdi-probe@vdi.invalid"
    user = await stage.logins.person_by_token(answer.json()["token"])
    assert user is not None
    assert (user.email, user.groups, user.admin) == ("vdi-probe@vdi.invalid", frozenset(), False)
    await stage.logins.follow_users({})
    assert await stage.logins.person_by_token(answer.json()["token"]) is not None, (
        "it is no local user's"
    )
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
async def test_no_one_else_gets_one(token: str, status: int, words: str) -> None:
    answer = await ProbeTokenStage().ask(token)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text


async def test_without_a_probe_no_one_gets_one() -> None:
    stage = ProbeTokenStage("")
    assert (await stage.ask("probe")).status_code == 403
    assert stage.reviews.asked == []


async def test_a_token_that_cannot_be_checked_is_for_later() -> None:
    stage = ProbeTokenStage()
    stage.reviews.refuses = True
    assert (await stage.ask("probe")).status_code == 503


def test_the_account_is_that_of_a_service_account() -> None:
    assert read_settings({"VDI_PROBE_ACCOUNT": ACCOUNT}).probe_account == ACCOUNT
    with pytest.raises(SettingsError, match="VDI_PROBE_ACCOUNT"):
        read_settings({"VDI_PROBE_ACCOUNT": "vdi-probe"})

"""Pods whose making was not answered: taken in if they are there, forgotten if not, in mind until that is known."""

from collections.abc import AsyncIterator

import pytest

from unit.kube.kube_fake_api import FakeApi, fake_api, refusal
from vdi.cluster.objects import Pod
from vdi.kube.errors import (
    AlreadyExists,
    Conflict,
    ConnectionFailed,
    Forbidden,
    Invalid,
    KubeError,
    ServerError,
    TooManyRequests,
)
from vdi.kube.resource import PODS
from vdi.kube.store import Store
from vdi.kube.transport import Client
from vdi.operator.owned_resources import OwnedResource, UncertainCreates, is_uncertain
from vdi.session.naming import MANAGED_BY


class UnwatchedPods:
    """An API server and what is known of its pods, which no one watches."""

    def __init__(self, api: FakeApi, client: Client) -> None:
        self.api = api
        self.pods: Store[Pod] = Store()
        self.uncertain_creates = UncertainCreates(OwnedResource(client, PODS, Pod, self.pods))

    def asked(self) -> int:
        return self.api.count("GET")


@pytest.fixture
async def unwatched() -> AsyncIterator[UnwatchedPods]:
    async with fake_api() as api, Client(api.config(), field_manager="vdi-operator") as client:
        yield UnwatchedPods(api, client)


async def test_no_one_is_asked_when_every_answer_came(unwatched: UnwatchedPods) -> None:
    assert await unwatched.uncertain_creates.settle("uid-1") == []
    assert unwatched.asked() == 0


async def test_what_is_there_is_known_afterwards(unwatched: UnwatchedPods) -> None:
    unwatched.api.put("pods", "made", metadata={"labels": MANAGED_BY})
    unwatched.uncertain_creates.add("uid-1", "ns", "made")
    unwatched.uncertain_creates.add("uid-1", "ns", "not-made")
    unwatched.uncertain_creates.add("uid-2", "ns", "of-another")
    assert await unwatched.uncertain_creates.settle("uid-1") == ["made", "not-made"]
    assert [pod.metadata.name for pod in unwatched.pods.values()] == ["made"]
    assert await unwatched.uncertain_creates.settle("uid-1") == [], "asked once"
    assert unwatched.asked() == 2


async def test_a_pod_of_somebody_else_stays_unknown(unwatched: UnwatchedPods) -> None:
    unwatched.api.put("pods", "made", metadata={"labels": {"app": "theirs"}})
    unwatched.uncertain_creates.add("uid-1", "ns", "made")
    await unwatched.uncertain_creates.settle("uid-1")
    assert unwatched.pods.values() == []


async def test_no_answer_again_is_no_answer(unwatched: UnwatchedPods) -> None:
    unwatched.api.put("pods", "made", metadata={"labels": MANAGED_BY})
    unwatched.uncertain_creates.add("uid-1", "ns", "made")
    unwatched.api.faults.append(("GET", refusal(500, "trouble")))
    with pytest.raises(ServerError):
        await unwatched.uncertain_creates.settle("uid-1")
    assert await unwatched.uncertain_creates.settle("uid-1") == ["made"]


async def test_a_session_that_is_gone_is_asked_about_no_more(unwatched: UnwatchedPods) -> None:
    unwatched.uncertain_creates.add("uid-1", "ns", "made")
    unwatched.uncertain_creates.forget("uid-1")
    assert await unwatched.uncertain_creates.settle("uid-1") == []


@pytest.mark.parametrize(
    ("failure", "uncertain"),
    [
        (ConnectionFailed("server", "POST", "reset"), True),
        (ServerError(500, "InternalError", "trouble"), True),
        (TooManyRequests(429, "TooManyRequests", "busy"), True),
        (Conflict(409, "Conflict", "changed"), True),
        (Forbidden(403, "Forbidden", "quota"), False),
        (Invalid(422, "Invalid", "no such field"), False),
        (AlreadyExists(409, "AlreadyExists", "taken"), False),
        (KubeError("anything else of the way there"), True),
        (ValueError("a fault of ours"), False),
    ],
    ids=lambda value: type(value).__name__,
)
def test_which_failures_leave_it_open(failure: Exception, uncertain: bool) -> None:
    assert is_uncertain(failure) is uncertain

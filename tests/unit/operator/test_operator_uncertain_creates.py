"""Creates without an answer: the pod is looked up before it is created again."""

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
    """An API server, and a store of its pods that no watch fills."""

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


async def test_created_pod_is_known_after_settling(unwatched: UnwatchedPods) -> None:
    unwatched.api.put("pods", "made", metadata={"labels": MANAGED_BY})
    unwatched.uncertain_creates.add("uid-1", "ns", "made")
    unwatched.uncertain_creates.add("uid-1", "ns", "not-made")
    unwatched.uncertain_creates.add("uid-2", "ns", "of-another")
    unwatched.uncertain_creates.add("uid-gone", "ns", "of-a-deleted-session")
    unwatched.uncertain_creates.forget("uid-gone")
    assert await unwatched.uncertain_creates.settle("uid-gone") == []
    assert await unwatched.uncertain_creates.settle("uid-1") == ["made", "not-made"]
    assert [pod.metadata.name for pod in unwatched.pods.values()] == ["made"]
    assert await unwatched.uncertain_creates.settle("uid-1") == [], "asked once"
    assert unwatched.asked() == 2


async def test_a_pod_of_somebody_else_stays_unknown(unwatched: UnwatchedPods) -> None:
    unwatched.api.put("pods", "made", metadata={"labels": {"app": "theirs"}})
    unwatched.uncertain_creates.add("uid-1", "ns", "made")
    await unwatched.uncertain_creates.settle("uid-1")
    assert unwatched.pods.values() == []


async def test_failed_settling_is_repeated(unwatched: UnwatchedPods) -> None:
    unwatched.api.put("pods", "made", metadata={"labels": MANAGED_BY})
    unwatched.uncertain_creates.add("uid-1", "ns", "made")
    unwatched.api.faults.append(("GET", refusal(500, "trouble")))
    with pytest.raises(ServerError):
        await unwatched.uncertain_creates.settle("uid-1")
    assert await unwatched.uncertain_creates.settle("uid-1") == ["made"]


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
def test_failures_that_leave_a_create_uncertain(failure: Exception, uncertain: bool) -> None:
    assert is_uncertain(failure) is uncertain

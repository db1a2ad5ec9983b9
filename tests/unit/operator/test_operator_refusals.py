"""A refusal of the API server is a reason in the session's status; any other failure is tried
again.
"""

from types import SimpleNamespace
from typing import Any, cast

import pytest

from support.builders import a_node, a_pod, a_session, a_template
from vdi.kube.errors import (
    ApiError,
    BadRequest,
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    ServerError,
)
from vdi.operator.child_writes import Builder, _collect_failures
from vdi.operator.owned_resources import OwnedResources
from vdi.session.alerts import Alert
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.decide import Observed

_DENIED = 'admission webhook "pods.example.com" denied the request: no'
_CREATE = "POST /api/v1/namespaces/vdi-sessions/pods"


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        # Kubernetes gives a denial without a status of its own the status 400.
        (BadRequest(400, "BadRequest", _DENIED, request=_CREATE), _DENIED),
        (
            ServerError(500, "InternalError", "failed calling webhook: EOF", request=_CREATE),
            "does not respond",
        ),
        (BadRequest(400, "BadRequest", "unrecognized object", request=_CREATE), ""),
    ],
)
def test_denial_of_a_webhook_is_a_reason(failure: ApiError, message: str) -> None:
    built = _collect_failures(Observed(a_session(), a_template()), [failure])
    assert (built.blocked is not None and message in built.blocked.message) == bool(message)
    assert (built.failure is failure) == (not message)


class _RefusingPods:
    def __init__(self, failure: ApiError) -> None:
        self.failure = failure

    async def patch(self, *_: object, **__: object) -> None:
        raise self.failure


async def _resize(failure: ApiError) -> Alert | None:
    owned = cast(OwnedResources, SimpleNamespace(pods=_RefusingPods(failure)))
    nothing = cast(Any, None)
    builder = Builder(owned, nothing, nothing, nothing, nothing, ClusterSettings())
    pod = a_pod(status={"phase": "Running"})
    template = a_template(resources={"maxMemory": "16Gi"})
    observed = Observed(a_session(resources={"memory": "6Gi"}), template, pod, node=a_node())
    return await builder.resize(observed)


@pytest.mark.parametrize(
    ("failure", "reason"),
    [
        (
            NotFound(
                404,
                "NotFound",
                "the server could not find the requested resource",
                api_missing=True,
            ),
            "NeedsRestart",
        ),
        (
            Forbidden(
                403, "Forbidden", 'pods "a" is forbidden: node didn\'t have enough allocatable'
            ),
            "Infeasible",
        ),
        (
            Invalid(
                422, "Invalid", "spec: Forbidden: Pod running on node without support for resize."
            ),
            "NeedsRestart",
        ),
        (
            Invalid(422, "Invalid", "Pod QOS Class may not change as a result of resizing"),
            "Infeasible",
        ),
        (Forbidden(403, "Forbidden", 'pods "a" is forbidden: exceeded quota: desks'), "Deferred"),
    ],
)
async def test_refused_size_is_a_reason(failure: ApiError, reason: str) -> None:
    alert = await _resize(failure)
    assert alert and (alert.type, alert.reason) == ("ResizePending", reason)


@pytest.mark.parametrize(
    "failure", [NotFound(404, "NotFound", 'pods "a" not found'), Conflict(409, "Conflict", "uid")]
)
async def test_size_of_a_pod_that_is_gone_is_tried_again(failure: ApiError) -> None:
    with pytest.raises(ApiError):
        await _resize(failure)

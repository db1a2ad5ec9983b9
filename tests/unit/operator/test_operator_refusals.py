"""A refusal of the API server is a reason in the session's status; any other failure is tried again."""

from typing import cast

import pytest

from vdi.kube.errors import ApiError, BadRequest, ServerError
from vdi.operator.children import _collect_failures
from vdi.session.decide import Observed

_DENIED = 'admission webhook "pods.example.com" denied the request: no'
_CREATE = "POST /api/v1/namespaces/vdi-sessions/pods"


@pytest.mark.parametrize(
    ("failure", "message"),
    [
        # Kubernetes gives a denial without a status of its own the status 400.
        (BadRequest(400, "BadRequest", _DENIED, request=_CREATE), _DENIED),
        (ServerError(500, "InternalError", "failed calling webhook: EOF", request=_CREATE), "does not respond"),
        (BadRequest(400, "BadRequest", "unrecognized object", request=_CREATE), ""),
    ],
)
def test_denial_of_a_webhook_is_a_reason(failure: ApiError, message: str) -> None:
    session = type("Session", (), {"metadata": type("Meta", (), {"name": "alice"})})
    observed = cast(Observed, type("Seen", (), {"session": session}))
    built = _collect_failures(observed, [failure])
    assert (built.blocked is not None and message in built.blocked.message) == bool(message)
    assert (built.failure is failure) == (not message)

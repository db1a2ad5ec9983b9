"""By the API server's audit log of the whole run: operator and gateway were refused nothing that
they asked for.

Runs last (conftest.py). That nothing is granted in vain is held in
tests/cluster/test_audit_rights.py, which does on purpose what happens here by chance only: a child
of a stripped label, an answer that is lost.
"""

import pytest

from e2e.conftest import NAME
from e2e.world import World
from support.audit_log import requests_of
from vdi.api.meta import RELEASE_NAMESPACE
from vdi.devcluster.layout import layout_of


@pytest.mark.parametrize("program", ["operator", "gateway"])
def test_every_request_was_granted_by_an_own_role(world: World, program: str) -> None:
    asked = requests_of(
        layout_of(NAME).logs / "audit.log",
        f"system:serviceaccount:{RELEASE_NAMESPACE}:vdi-{program}",
    )
    assert {"list", "watch"} <= {one.verb for one in asked}
    assert [str(one) for one in asked if not one.allowed] == []
    mine = f'to ServiceAccount "vdi-{program}/{RELEASE_NAMESPACE}"'
    assert [f"{one}: {one.by}" for one in asked if not one.by.endswith(mine)] == []

"""A session and its template resolved: the desktop, its pod, or the reason why there is none."""

from typing import Any

from support.builders import a_session, a_template
from vdi.api.session import VDISession
from vdi.session.children import build_pod
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.effective import Blocked, Desktop, resolve
from vdi.session.naming import Identity

ALONE, BEHIND_GATEWAY = ClusterSettings(), ClusterSettings(edge_middleware="vdi-edge")
IDENTITY = Identity.of(a_session())


def desktop_of(
    session: VDISession | None = None, settings: ClusterSettings = ALONE, **template: Any
) -> Desktop:
    """The desktop of a session; keywords are fields of its template's spec."""
    answer = resolve(session or a_session(), a_template(**template), settings)
    assert isinstance(answer, Desktop), answer
    return answer


def pod_of(
    session: VDISession | None = None, settings: ClusterSettings = ALONE, **template: Any
) -> dict[str, Any]:
    """The pod of that desktop."""
    identity = Identity.of(session) if session else IDENTITY
    return build_pod(identity=identity, desktop=desktop_of(session, settings, **template))


def refused(
    session: VDISession | None = None, settings: ClusterSettings = ALONE, **template: Any
) -> Blocked:
    """Why the session gets no desktop."""
    answer = resolve(session or a_session(), a_template(**template), settings)
    assert isinstance(answer, Blocked), answer
    return answer

"""Size of a running desktop: the change of its pod, and the offer of more memory. Pure.

The session's spec is the desired state, the pod the observed one, and nothing else is remembered: an operator that is
killed at any write goes on.
"""

from typing import Any

from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.units import amounts, parse_quantity
from vdi.session.alerts import Alert
from vdi.session.children import CONTAINER
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.conditions import RESIZE_PENDING, Reason
from vdi.session.decide import Observed
from vdi.session.effective import Blocked, resolve, size_of

_MORE = 2 << 30  # bytes


def find_resize(observed: Observed, settings: ClusterSettings) -> dict[str, Any] | Alert | None:
    """The change of the running pod (a strategic merge patch); or why it does not have the session's size; or None.

    Only for a size of the session itself: an edit of its template resizes no running desktop.
    """
    session, template, pod, node = observed.session, observed.template, observed.pod, observed.node
    requested = session.spec.resources
    if not (pod and template and node and requested) or pod.terminating or pod.status.phase != "Running":
        return None
    limits = {"memory": requested.memory} | ({"cpu": requested.cpu} if requested.cpu else {})
    if amounts(limits).items() <= amounts(pod.spec.limits).items():
        pending = pod.condition("PodResizePending")
        if pending is None or pending.status != "True":
            return None
        reason = Reason.INFEASIBLE if pending.reason == "Infeasible" else Reason.DEFERRED
        return Alert(RESIZE_PENDING, reason, f"Node {node.metadata.name} does not apply it: {pending.message}")
    desktop = resolve(session, template, settings, observed.homes)
    if isinstance(desktop, Blocked):
        return Alert(RESIZE_PENDING, Reason.INFEASIBLE, desktop.message)
    for name, quantity in limits.items():
        most = node.status.allocatable.get(name, quantity)
        if parse_quantity(quantity) > parse_quantity(most):
            words = f"spec.resources.{name}: {quantity} is more than node {node.metadata.name} has in total ({most})."
            return Alert(RESIZE_PENDING, Reason.INFEASIBLE, words)
    requests = {"memory": desktop.request_memory} | ({"cpu": desktop.request_cpu} if requested.cpu else {})
    return {"spec": {"containers": [{"name": CONTAINER, "resources": {"limits": limits, "requests": requests}}]}}


def larger_memory(session: VDISession, template: VDITemplate) -> tuple[int, str]:
    """Memory by the session's spec in bytes, and the size to offer when it is used up; empty: it has the maximum."""
    offer = template.spec.resources
    present, most = parse_quantity(size_of(session.spec, offer).memory), offer.max_memory or offer.default_memory
    more = int(min(present + _MORE, parse_quantity(most))) >> 20
    size = f"{more}Mi" if more % 1024 else f"{more >> 10}Gi"
    return int(present), size if more > int(present) >> 20 else ""

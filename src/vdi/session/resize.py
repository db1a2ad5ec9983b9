"""Size of a running desktop: the resources to request for its pod, and the offer of more memory. Pure.

The session's spec is the desired state, the pod the observed one, and nothing else is remembered. So an operator that
is killed at any write goes on, and of two changes of the spec the last one wins.
"""

from typing import NamedTuple

from vdi.api.session import VDISession
from vdi.api.template import VDITemplate
from vdi.cluster.objects import Pod, ResourceRequirements
from vdi.cluster.units import amounts, parse_quantity, smaller_quantity
from vdi.session.alerts import Alert
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.conditions import RESIZE_PENDING, Reason
from vdi.session.decide import Observed
from vdi.session.effective import Blocked, resolve, size_of

NEEDS_RESTART = Alert(
    RESIZE_PENDING,
    Reason.NEEDS_RESTART,
    "This cluster cannot resize a running desktop (that needs Kubernetes 1.33). A restart applies the new size, and "
    "closes all programs: save your work first.",
)
_MIB = 1 << 20


def find_resize(observed: Observed, settings: ClusterSettings) -> tuple[Pod, ResourceRequirements] | Alert | None:
    """The pod and its new `resources`; or why it does not have the session's size; None: nothing is due.

    Only for a size of the session itself: an edit of its template resizes no running desktop.
    """
    session, template, pod, node = observed.session, observed.template, observed.pod, observed.node
    requested = session.spec.resources
    if not (pod and template and node and requested) or pod.terminating or pod.status.phase != "Running":
        return None
    present = pod.spec.size
    size = {"memory": requested.memory} | ({"cpu": requested.cpu} if requested.cpu else {})
    if amounts(size).items() <= amounts(present.limits).items():
        pending = pod.condition("PodResizePending")
        if pending is None or pending.status != "True":
            return None
        reason = Reason.INFEASIBLE if pending.reason == "Infeasible" else Reason.DEFERRED
        return Alert(RESIZE_PENDING, reason, f"Node {node.metadata.name} does not apply it: {pending.message}")
    desktop = resolve(session, template, settings, observed.homes)
    if isinstance(desktop, Blocked):
        return Alert(RESIZE_PENDING, Reason.INFEASIBLE, desktop.message)
    for name, quantity in size.items():
        most = node.status.allocatable.get(name, quantity)
        if parse_quantity(quantity) > parse_quantity(most):
            words = f"spec.resources.{name}: {quantity} is more than node {node.metadata.name} has in total ({most})."
            return Alert(RESIZE_PENDING, Reason.INFEASIBLE, words)
    caps = {"cpu": settings.requests_cpu, "memory": settings.requests_memory}
    requests = {name: smaller_quantity(caps[name], quantity) for name, quantity in size.items()}
    return pod, ResourceRequirements({**present.requests, **requests}, {**present.limits, **size})


class MemoryAlert(NamedTuple):
    """A desktop that has almost used up its memory; `memory`: what to resize it to, empty where there is no more."""

    words: str
    memory: str = ""
    label: str = ""


def find_memory_alert(session: VDISession, template: VDITemplate, used: int, limit: int) -> MemoryAlert | None:
    """The alert, with the offer of more memory; None while the desktop does not have the memory of its spec yet."""
    offer = template.spec.resources
    present = parse_quantity(size_of(session.spec, offer).memory)
    if limit < present - _MIB:
        return None
    words = f"Your desktop uses {min(100, 100 * used // limit)} % of its memory."
    total = int(min(present + 2048 * _MIB, parse_quantity(offer.max_memory or offer.default_memory))) // _MIB
    more = total - int(present) // _MIB
    if more <= 0:
        return MemoryAlert(f"{words} Close programs that you do not need.")
    label = f"Give it {more / 1024:.3g} GiB more"
    return MemoryAlert(f"{words} {label}?", f"{total}Mi" if total % 1024 else f"{total // 1024}Gi", label)

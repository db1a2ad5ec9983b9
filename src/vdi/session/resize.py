"""Size of a running desktop: the change of its pod, and the offer of more memory. Pure.

The session's spec is the desired state, the pod the observed one, and nothing else is remembered:
an operator that is killed at any write goes on.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

from vdi.api.session import SessionResources, VDISession
from vdi.api.template import LargestSize, VDITemplate
from vdi.cluster.capacity import allows_placement, demand_of, read_capacity
from vdi.cluster.objects import Node, Pod
from vdi.cluster.units import amounts, parse_quantity
from vdi.session.alerts import Alert
from vdi.session.children import CONTAINER
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.conditions import RESIZE_PENDING, Reason
from vdi.session.decide import Observed
from vdi.session.effective import Blocked, maximum_of, resolve, size_of

# Of the kubelet's message about a limit below what is in use.
_BELOW_USAGE = "below current usage"
_MIB = 1 << 20


def find_resize(observed: Observed, settings: ClusterSettings) -> dict[str, Any] | Alert | None:
    """The change of the running pod (a strategic merge patch); or why it does not have the
    session's size; or None.

    Only for a size of the session itself: an edit of its template resizes no running desktop.
    """
    session, template, pod, node = observed.session, observed.template, observed.pod, observed.node
    requested = session.spec.resources
    if (
        not (pod and template and node and requested)
        or pod.terminating
        or pod.status.phase != "Running"
    ):
        return None
    limits = {"memory": requested.memory} | ({"cpu": requested.cpu} if requested.cpu else {})
    if amounts(limits).items() <= amounts(pod.spec.limits).items():
        return _find_delay(pod, requested)
    desktop = resolve(session, template, settings, observed.homes)
    if isinstance(desktop, Blocked):
        return Alert(RESIZE_PENDING, Reason.INFEASIBLE, desktop.message)
    for name, quantity in limits.items():
        most = node.status.allocatable.get(name, quantity)
        if parse_quantity(quantity) > parse_quantity(most):
            text = (
                f"spec.resources.{name}: {quantity} is more than node {node.metadata.name} has in"
                f" total ({most})."
            )
            return Alert(RESIZE_PENDING, Reason.INFEASIBLE, text)
    requests = {"memory": desktop.request_memory} | (
        {"cpu": desktop.request_cpu} if requested.cpu else {}
    )
    return {
        "spec": {
            "containers": [
                {"name": CONTAINER, "resources": {"limits": limits, "requests": requests}}
            ]
        }
    }


def _find_delay(pod: Pod, requested: SessionResources) -> Alert | None:
    """The reason why a pod that has the new size in its spec does not have it on its node."""
    node = pod.spec.node_name
    pending = pod.condition("PodResizePending")
    failing = pod.condition("PodResizeInProgress")
    if pending and pending.status == "True":
        if pending.reason == "Infeasible":
            reason = Reason.INFEASIBLE
        else:
            reason = Reason.DEFERRED
        return Alert(RESIZE_PENDING, reason, f"Node {node} does not apply it: {pending.message}")
    if failing is None or failing.status != "True" or failing.reason != "Error":
        return None
    if _BELOW_USAGE in failing.message:
        # The kubelet tries again and again, each time with the usage of that moment in its message,
        # which is left out: each would be a status of its own.
        text = (
            f"The desktop uses more than its new size of {requested.memory}, which is applied as"
            " soon as it fits"
        )
        return Alert(RESIZE_PENDING, Reason.IN_USE, f"{text}. Close programs that you do not need.")
    return Alert(
        RESIZE_PENDING, Reason.NOT_APPLIED, f"Node {node} fails to apply it: {failing.message}"
    )


class MemoryAlert(NamedTuple):
    """A desktop that has almost used up its memory; `memory`: what to resize it to, empty where
    there is no more.
    """

    words: str
    memory: str = ""
    label: str = ""


def find_memory_alert(
    session: VDISession, template: VDITemplate, used: int, limit: int
) -> MemoryAlert | None:
    """The alert of a desktop that is short of memory, with the offer of more; None: it does not
    have its spec's yet.
    """
    offer = template.spec.resources
    present = parse_quantity(size_of(session.spec, offer).memory)
    if limit < present - _MIB:
        return None
    message = f"Your desktop uses {min(100, 100 * used // limit)} % of its memory."
    maxima = [maximum_of(offer).memory]
    if (largest := template.status.largest) and largest.memory:
        maxima.append(largest.memory)
    total = int(min(present + 2048 * _MIB, *map(parse_quantity, maxima))) // _MIB
    more = total - int(present) // _MIB
    if more <= 0:
        return MemoryAlert(f"{message} Close programs that you do not need.")
    label = f"Give it {more / 1024:.3g} GiB more"
    return MemoryAlert(
        f"{message} {label}?", f"{total}Mi" if total % 1024 else f"{total // 1024}Gi", label
    )


def find_largest(
    template: VDITemplate, nodes: Iterable[Node], gpu_resource: str
) -> LargestSize | None:
    """The most that one node has for desktops of this template, whatever its state; None: no node
    may run them.
    """
    placement, gpus = template.spec.placement, template.spec.resources.default_gpu
    demand = demand_of({gpu_resource: gpus}, placement.node_selector.items(), placement.tolerations)
    suitable = []
    for node in nodes:
        with suppress(ValueError):  # an allocatable resource that is no quantity
            capacity = read_capacity(node)
            if allows_placement(demand, capacity) and capacity.could_fit(demand.takes):
                suitable.append(capacity.allocatable)
    if not suitable:
        return None
    memory, cpu = (
        max(allocatable.get(name, 0) for allocatable in suitable) for name in ("memory", "cpu")
    )
    return LargestSize(f"{memory // _MIB}Mi", f"{cpu}m")


def find_excess(
    template: VDITemplate, sizes: Mapping[str, str | None]
) -> tuple[str, str, str] | None:
    """The first of these sizes, memory or cpu, that no node has: its name, its value, and the most
    that one has.
    """
    largest = template.status.largest
    for name, size in sizes.items():
        most = getattr(largest, name, "")
        if size and most and parse_quantity(size) > parse_quantity(most):
            return name, size, most
    return None

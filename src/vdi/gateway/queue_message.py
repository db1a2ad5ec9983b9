"""The reason why a session waits, for its user: without the names of nodes, resources and labels.

The portal and the waiting page show it; administrators, kubectl and the command line show
`status.message`.
"""

from collections.abc import Mapping

from vdi.api.meta import find_condition
from vdi.api.session import VDISession
from vdi.cluster.reasons import PodReason
from vdi.session.conditions import POD_READY, Reason
from vdi.session.queueing.messages import waiting_message

_ASK = "Ask your administrator"
# Each of `QUEUE_REASONS` as the end of a sentence.
REASONS: Mapping[str, str] = {
    Reason.GPUS_BUSY: "not enough suitable GPUs are free",
    Reason.CPU_BUSY: "not enough CPU is free",
    Reason.MEMORY_BUSY: "not enough memory is free",
    Reason.EPHEMERAL_STORAGE_BUSY: "not enough local disk is free",
    Reason.PODS_BUSY: "every node already runs its maximum number of pods",
    Reason.NO_GPUS: f"no node has a GPU of this kind. {_ASK}, or choose another template",
    Reason.TOO_LARGE: f"it is larger than any node. Choose a smaller size, or {_ASK.lower()}",
    Reason.NO_MATCHING_NODE: f"no node is set up for this template. {_ASK}",
    Reason.NODE_FEATURE_MISSING: (
        f"no node can run it in the way that its template requires. {_ASK}"
    ),
    Reason.NODES_UNAVAILABLE: "the nodes for it are not available, for example during maintenance",
    Reason.HOME_NODE_FULL: "the node with your files has no capacity left",
    Reason.HOME_NODE_GONE: f"the node with your files no longer exists. {_ASK}",
    Reason.RESERVED: "the free capacity is for desktops that have waited longer",
}


def queue_message(session: VDISession) -> str:
    """The message for the user; `status.message` of a session that is not in the queue."""
    queue = session.status.queue
    if queue is None or queue.reason not in REASONS:
        pod = find_condition(session.status.conditions, POD_READY)
        if pod and pod.reason == PodReason.MISSING_HOME:
            return "Preparing your files."
        return session.status.message
    slot = queue.earliest_slot
    # The operator's message has the date where it is needed, which takes a clock to know.
    message = waiting_message(
        queue.position, REASONS[queue.reason], slot, is_dated=slot in session.status.message
    )
    requested = ""
    if queue.node_request_time:
        requested = f" A node was requested at {queue.node_request_time[11:16]} UTC."
    return message + requested

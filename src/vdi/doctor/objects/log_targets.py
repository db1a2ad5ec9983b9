"""Whose log is worth reading: gateways, desktops that do not start or do not answer, one of each template. Pure."""

from vdi.diagnosis.snapshot import Snapshot
from vdi.doctor.objects.deployments import pods_of
from vdi.doctor.objects.gateways import gateways_in_scope
from vdi.doctor.objects.operators import find_operators, sick_pods
from vdi.session.observed import Pod

_PATIENCE = 45.0
"""Seconds after which a desktop that is not ready is worth a look."""


def pods_to_log(snapshot: Snapshot, most: int) -> list[tuple[str, str]]:
    """Namespace and name, the worst first.

    Missing libraries and wrong settings come with image and template, so of the desktops that are ready the newest of
    each template is enough, unless one session was asked about.
    """
    chosen = [pod for operator in find_operators(snapshot) for pod in sick_pods(snapshot, operator)]
    chosen += [pod for gateway in gateways_in_scope(snapshot) for pod in pods_of(snapshot, gateway)]
    chosen += _volume_helpers(snapshot)
    ready: dict[str, Pod] = {}
    for session in snapshot.sessions:
        for pod in snapshot.pods_by_owner.get(session.metadata.uid, ()):
            started = pod.desktop is not None and (pod.desktop.state.running or pod.desktop.restart_count)
            if pod.ready:
                known = ready.get(session.spec.template)
                if known is None or known.metadata.creation_timestamp < pod.metadata.creation_timestamp:
                    ready[session.spec.template] = pod
            elif started and (restarted(pod) or snapshot.age(pod.metadata.creation_timestamp) > _PATIENCE):
                chosen.append(pod)
    keys = [(pod.metadata.namespace, pod.metadata.name) for pod in [*chosen, *ready.values()]]
    return list(dict.fromkeys(keys))[:most]


def restarted(pod: Pod) -> bool:
    """Whether its desktop has ended before."""
    return pod.desktop is not None and pod.desktop.restart_count > 0


def _volume_helpers(snapshot: Snapshot) -> list[Pod]:
    """Pods by which local-path makes and removes folders, when one has failed."""
    return [
        pod for pod in snapshot.pods if pod.metadata.name.startswith("helper-pod-") and pod.status.phase == "Failed"
    ]

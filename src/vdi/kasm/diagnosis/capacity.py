"""What a pod of Kasm asks for, against what the nodes have left: the arithmetic behind "Insufficient cpu"."""

from collections.abc import Iterator

from vdi.kasm.diagnosis.pods import KasmPod
from vdi.session.capacity import amount

_MEBI = 1 << 20


def _typed_takes(pod: KasmPod) -> dict[str, int]:
    key = pod.namespace, pod.name
    return next((pod.spec.takes for pod in pod.snapshot.pods if (pod.metadata.namespace, pod.metadata.name) == key), {})


def _sees_all(pod: KasmPod) -> bool:
    """Whether the pods of all namespaces are known: without them, what is left is not known."""
    return "pods@all" not in pod.snapshot.unreadable_kinds


def arithmetic(pod: KasmPod) -> str:
    """What it asks for, and what the roomiest node has left of that."""
    takes = _typed_takes(pod)
    lines = []
    for resource, words in (("cpu", _cpu), ("memory", _memory)):
        left = [_left(pod, node, resource) for node in pod.snapshot.nodes]
        if takes.get(resource) and left and takes[resource] > max(left) and _sees_all(pod):
            lines.append(
                f"It requests {words(takes[resource])}; the node with the most free capacity has {words(max(left))} "
                "left"
            )
    return f"{'; '.join(lines)}." if lines else ""


def _left(pod: KasmPod, node: str, resource: str) -> int:
    has = amount(resource, pod.snapshot.nodes[node].status.allocatable.get(resource, "0"))
    live = (pod for pod in pod.snapshot.pods if pod.status.phase not in ("Succeeded", "Failed"))
    return has - sum(one.spec.takes.get(resource, 0) for one in live if one.spec.node_name == node)


def requests(pod: KasmPod) -> Iterator[str]:
    """What it asks for, and what each node has left, line by line."""
    takes = _typed_takes(pod)
    asked = [f"cpu {_cpu(takes['cpu'])}"] if "cpu" in takes else []
    asked += [f"memory {_memory(takes['memory'])}"] if "memory" in takes else []
    if asked:
        yield f"requested: {', '.join(asked)}"
    for name, node in pod.snapshot.nodes.items() if _sees_all(pod) else ():
        has = node.status.allocatable
        cpu, memory = _left(pod, name, "cpu"), _left(pod, name, "memory")
        yield (
            f"node/{name}: cpu {_cpu(cpu)} left of {has.get('cpu', '?')},"
            f" memory {_memory(memory)} left of {_memory(amount('memory', has.get('memory', '0')))}"
        )


def _cpu(number: int) -> str:
    return f"{number / 1000:g} CPU"


def _memory(number: int) -> str:
    return f"{number // _MEBI} MiB"

"""What a pod of Kasm asks for, against what the nodes have left: the arithmetic behind "Insufficient cpu"."""

from collections.abc import Iterator

from vdi.doctor.kasm_parts import Part
from vdi.session.capacity import amount

_MEBI = 1 << 20


def _typed_takes(part: Part) -> dict[str, int]:
    key = part.namespace, part.name
    return next(
        (one.spec.takes for one in part.snapshot.pods if (one.metadata.namespace, one.metadata.name) == key), {}
    )


def _sees_all(part: Part) -> bool:
    """Whether the pods of all namespaces are known: without them nobody knows what is left."""
    return "pods@all" not in part.snapshot.unread_kinds


def arithmetic(part: Part) -> str:
    """What it asks for, and what the roomiest node has left of that."""
    takes = _typed_takes(part)
    lines = []
    for resource, words in (("cpu", _cpu), ("memory", _memory)):
        left = [_left(part, node, resource) for node in part.snapshot.nodes]
        if takes.get(resource) and left and takes[resource] > max(left) and _sees_all(part):
            lines.append(f"It asks for {words(takes[resource])}; the roomiest node has {words(max(left))} left")
    return f"{'; '.join(lines)}." if lines else ""


def _left(part: Part, node: str, resource: str) -> int:
    has = amount(resource, part.snapshot.nodes[node].status.allocatable.get(resource, "0"))
    live = (one for one in part.snapshot.pods if one.status.phase not in ("Succeeded", "Failed"))
    return has - sum(one.spec.takes.get(resource, 0) for one in live if one.spec.node_name == node)


def requests(part: Part) -> Iterator[str]:
    """What it asks for, and what each node has left, line by line."""
    takes = _typed_takes(part)
    asked = [f"cpu {_cpu(takes['cpu'])}"] if "cpu" in takes else []
    asked += [f"memory {_memory(takes['memory'])}"] if "memory" in takes else []
    if asked:
        yield f"asked for: {', '.join(asked)}"
    for name, node in part.snapshot.nodes.items() if _sees_all(part) else ():
        has = node.status.allocatable
        cpu, memory = _left(part, name, "cpu"), _left(part, name, "memory")
        yield (
            f"node/{name}: cpu {_cpu(cpu)} left of {has.get('cpu', '?')},"
            f" memory {_memory(memory)} left of {_memory(amount('memory', has.get('memory', '0')))}"
        )


def _cpu(number: int) -> str:
    return f"{number / 1000:g} CPU"


def _memory(number: int) -> str:
    return f"{number // _MEBI} MiB"

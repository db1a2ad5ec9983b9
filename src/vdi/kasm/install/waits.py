"""What waits for what while Kasm comes up, pod by pod, in the words of the generation."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vdi.helm.watch import View
from vdi.kasm.generations import Generation, InitContainer
from vdi.kube.clock import SYSTEM_CLOCK
from vdi.kube.errors import KubeError
from vdi.kube.resource import PODS
from vdi.kube.transport import Client

_SECONDS = 2.0
Pod = Mapping[str, Any]


def waits(generation: Generation, pods: Iterable[Pod]) -> Iterator[tuple[str, str]]:
    """For each pod that is at an init container: its component with that container, and a sentence.

    The container is named by the kubelet; the number of steps differs from chart to chart and says nothing.
    """
    for pod in pods:
        component = generation.component_of(pod["metadata"].get("labels") or {})
        statuses = (pod.get("status") or {}).get("initContainerStatuses") or ()
        current = next((status for status in statuses if "terminated" not in (status.get("state") or {})), None)
        if component is None or current is None or "running" not in (current.get("state") or {}):
            continue
        step = component.step(current["name"])
        done = sum(1 for status in statuses if "terminated" in (status.get("state") or {}))
        yield (
            f"{component.key}/{current['name']}",
            f"  {component.key}: {current['name']} {_words(step)} ({done} of {len(statuses)} steps done)",
        )


def _words(step: InitContainer | None) -> str:
    return step.what if step else "is running"


async def tell_waits(client: Client, namespace: str, generation: Generation, view: View) -> None:
    """Say each wait once, as it begins. Until cancelled."""
    said: set[str] = set()
    while True:
        try:
            pods = await client.list(PODS, namespace=namespace, into=dict[str, Any])
        except KubeError:
            pods = []  # helm's own view says that the API server does not answer
        for key, sentence in waits(generation, pods):
            if key not in said:
                said.add(key)
                view.say(sentence)
        await SYSTEM_CLOCK.sleep(_SECONDS)

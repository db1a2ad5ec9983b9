"""What a node lacks for a feature, from its own report."""

from typing import Any

import msgspec
import pytest

from vdi.cluster.capacity import IMAGE_VOLUMES, USER_NAMESPACES, Need, find_lack
from vdi.cluster.objects import NodeStatus

USERNS, IMAGES = Need(USER_NAMESPACES), Need(IMAGE_VOLUMES)
NVIDIA = Need(USER_NAMESPACES, "nvidia")
K3S = ("v1.36.4+k3s1", "6.8.0-60-generic", "containerd://2.3.4-k3s1")
OLD = ("v1.31.2", "5.15.0-91-generic", "containerd://1.7.28")
REPORTS: list[dict[str, Any]] = [
    {"name": "", "features": {"userNamespaces": True}},
    {"name": "nvidia"},
]


@pytest.mark.parametrize(
    ("need", "versions", "handlers", "words"),
    [
        (USERNS, K3S, REPORTS, ""),
        (
            NVIDIA,
            K3S,
            REPORTS,
            "containerd 2.3.4-k3s1 without user namespaces for the runtime class nvidia",
        ),
        (USERNS, K3S, [], "containerd 2.3.4-k3s1 without user namespaces"),
        (
            USERNS,
            OLD,
            [],
            (
                "kubelet v1.31.2 (1.33 or newer is needed) and kernel 5.15.0-91-generic (6.3 or"
                " newer is needed) and containerd 1.7.28 without user namespaces"
            ),
        ),
        (USERNS, (*K3S[:2], "cri-o://1.36.0"), REPORTS, ""),
        (
            USERNS,
            ("", "6.3.0", "containerd://2.0.0"),
            REPORTS,
            "kubelet of unknown version (1.33 or newer is needed)",
        ),
        (USERNS, (*K3S[:2], ""), [], "a runtime without user namespaces"),
        (IMAGES, K3S, [], ""),
        (
            IMAGES,
            OLD,
            [],
            (
                "kubelet v1.31.2 (1.35 or newer is needed) and containerd 1.7.28 (2.1 or newer is"
                " needed)"
            ),
        ),
    ],
)
def test_missing_is_named(
    need: Need, versions: tuple[str, str, str], handlers: list[dict[str, Any]], words: str
) -> None:
    kubelet, kernel, runtime = versions
    info = {"kubeletVersion": kubelet, "kernelVersion": kernel, "containerRuntimeVersion": runtime}
    status = msgspec.convert({"nodeInfo": info, "runtimeHandlers": handlers}, NodeStatus)
    assert find_lack(status, need) == words

"""Machines that Kasm's requests are cut for. Data; the figures of the core are requirement E5's.

The core's requests are real, so that a full node is seen at once; limits leave room for a login storm. Proxy, share,
guac and the RDP gateways have no figures there: theirs are what an idle one takes, with room above. A new profile is an
entry of `PROFILES`, with figures for every component that it does not leave out.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from vdi.kasm.generations.model import Generation, Resources, Version, resources


@dataclass(frozen=True, slots=True)
class Profile:
    """One kind of machine. Without `resources` the chart's own presets stay."""

    name: str
    node: str = ""
    """The machine in words."""
    resources: Mapping[str, Resources] = field(default_factory=dict)
    """By component."""
    sidecar: Resources | None = None
    """Of the nginx beside a gateway."""
    leaves_out: Mapping[str, str] = field(default_factory=dict)
    """Components that do not fit, and why."""
    storage_class: str = ""
    """Where the options name none."""

    @property
    def is_cut(self) -> bool:
        """Whether it is for one small node, which holds one pod of each component and size `small` only."""
        return bool(self.resources)

    def entries(self, generation: Generation, version: Version) -> Iterator[tuple[str, object, str]]:
        """Values, in order, as path, value and comment, which cut the chart to this machine."""
        if not self.is_cut:
            return
        for component in generation.present(version):
            if component.may_be_absent:
                continue
            if component.key in self.leaves_out:
                yield component.switch, False, self.leaves_out[component.key]
                continue
            for container in component.containers:
                is_sidecar = self.sidecar is not None and len(component.containers) > 1 and "nginx" in container.name
                amounts = self.sidecar if self.sidecar and is_sidecar else self.resources[component.key]
                yield container.resources_path, block(amounts), ""


def block(amounts: Resources) -> dict[str, dict[str, str]]:
    """As Kubernetes and the charts write it."""
    return {
        "requests": {"cpu": amounts.cpu, "memory": amounts.memory},
        "limits": {"cpu": amounts.cpu_limit, "memory": amounts.memory_limit},
    }


_CORE = {
    "db": resources("250m 512Mi 500m 1Gi"),
    "redis": resources("100m 256Mi 200m 512Mi"),
    "manager": resources("500m 1Gi 1000m 2Gi"),
    "api": resources("250m 512Mi 500m 1Gi"),
    "proxy": resources("100m 128Mi 500m 512Mi"),
    "share": resources("100m 128Mi 250m 256Mi"),
}
_GATEWAYS = ("guac", "rdp-gateway", "rdp-https-gateway", "connection-proxy")
"""Only needed for sessions on Windows machines and other servers by RDP, VNC and SSH."""
CHART = Profile("chart")
NODE_4GB = Profile(
    "4gb",
    "2 CPUs and 4 GB",
    _CORE,
    leaves_out=dict.fromkeys(_GATEWAYS, "for RDP, VNC and SSH to other machines: does not fit a 4 GB node"),
    storage_class="local-path",
)
NODE_8GB = Profile(
    "8gb",
    "4 CPUs and 8 GB",
    {**_CORE, **dict.fromkeys(_GATEWAYS, resources("100m 256Mi 500m 1Gi"))},
    sidecar=resources("50m 64Mi 250m 256Mi"),
    storage_class="local-path",
)
PROFILES = (CHART, NODE_4GB, NODE_8GB)


def profile_of(name: str) -> Profile:
    """The profile of this name. Raises ValueError with what is allowed."""
    for profile in PROFILES:
        if profile.name == name:
            return profile
    raise ValueError(f"--profile is {name!r}; allowed: {', '.join(profile.name for profile in PROFILES)}")

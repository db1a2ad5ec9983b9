"""How many desktops a node has room for beside everything else: requests added up as the scheduler
does.

`table` makes docs/sizing.md; tests/cluster/test_chart_values_files.py holds it equal to what helm
renders.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from tools.generate.chart_render import Object, pod_specs
from vdi.cluster.objects import PodResources
from vdi.cluster.units import Amounts, amounts

MEBI = 2**20
# docs/install.md: eviction-hard. What is below it is not given to pods.
EVICTION = amounts({"memory": "200Mi"})
# docs/install.md: system-reserved and kube-reserved of a server. 1.6 GB, as K3s' own profiling has
# it with a workload.
SERVER = amounts({"cpu": "200m", "memory": "1536Mi"})
# The same of an agent, of which K3s' profiling says 275 MB.
AGENT = amounts({"cpu": "100m", "memory": "768Mi"})
# CoreDNS and metrics-server request 100m and 70Mi each; Traefik, ServiceLB and local-path request
# nothing.
K3S_PODS = amounts({"cpu": "200m", "memory": "140Mi"})


@dataclass(frozen=True)
class Node:
    """A machine; gigabytes are those of the seller: 10^9 bytes."""

    words: str
    cores: int
    gigabytes: int
    reserved: Amounts
    # What pods that are not ours request there.
    others: Amounts
    # How many GPUs, or shares of one, it offers; None: desktops without a GPU.
    shares: int | None = None

    def left(self, ours: Amounts) -> dict[str, int]:
        """What is left for desktops, in thousandths of a CPU and bytes; may be negative."""
        whole = {"cpu": self.cores * 1000, "memory": self.gigabytes * 10**9 - EVICTION["memory"]}
        return {
            name: much - self.reserved[name] - self.others.get(name, 0) - ours.get(name, 0)
            for name, much in whole.items()
        }


def server(cores: int, gigabytes: int, shares: int | None = None) -> Node:
    return Node("one node", cores, gigabytes, SERVER, K3S_PODS, shares)


def agent(cores: int, gigabytes: int, shares: int | None = None) -> Node:
    """A node with nothing but desktops."""
    return Node("an agent", cores, gigabytes, AGENT, {}, shares)


def requests_of(objects: Iterable[Object]) -> dict[str, int]:
    """What all pods of a render request together."""
    total = {"cpu": 0, "memory": 0}
    for made in objects:
        for many, spec in pod_specs(made):
            takes = msgspec.convert(spec, PodResources).takes
            for name in total:
                total[name] += many * takes.get(name, 0)
    return total


def fits(left: Amounts, desktop: Amounts) -> int:
    """How many desktops; 0 also where less than nothing is left."""
    return max(0, min(left[name] // much for name, much in desktop.items() if much))


@dataclass(frozen=True)
class Row:
    node: Node
    words: str
    ours: Amounts
    request: Amounts
    limit: Amounts

    @property
    def desktops(self) -> int:
        """How many the scheduler lets in."""
        least = fits(self.node.left(self.ours), self.request)
        return least if self.node.shares is None else min(least, self.node.shares)

    def text(self) -> str:
        node, left = self.node, self.node.left(self.ours)
        shares = "" if node.shares is None else f", {node.shares} GPU shares"
        bounds = {
            f"{name} {left[name] // much}": left[name] // much
            for name, much in self.request.items()
        }
        if node.shares is not None:
            bounds[f"GPU {node.shares}"] = node.shares
        all_out = (
            fits(left, self.limit)
            if node.shares is None
            else min(fits(left, self.limit), node.shares)
        )
        return (
            f"| {node.words}: {node.cores} cores, {node.gigabytes} GB{shares} | {self.words} |"
            f" {show(node.reserved)} | {show(node.others)} | {show(self.ours)} | {show(left)} |"
            f" {show(self.request)} | {', '.join(bounds)} | **{self.desktops}** | {all_out} |"
        )


def show(much: Amounts) -> str:
    """`650m, 992Mi`; memory rounded down."""
    return f"{much.get('cpu', 0)}m, {much.get('memory', 0) // MEBI}Mi" if much else "-"


HEAD = (
    "| node | values | reserved | K3s' pods | ours | left | a desktop requests | by each |"
    " **desktops** | all at their limits |\n|---|---|---|---|---|---|---|---|---|---|"
)


def table(rows: Iterable[Row]) -> str:
    return "\n".join([HEAD, *(row.text() for row in rows)])

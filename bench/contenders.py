"""Who is compared: this project's operator, the tuned Go reference (also with our objects), and the
floor.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Protocol

from bench.cluster import Cluster
from bench.floor import Floor
from bench.objects import NAMESPACE
from bench.operator_python import Program
from bench.subjects import Operator, Subject
from vdi.devcluster.layout import free_ports


class Contender(Protocol):
    """Something that can be started on a cluster."""

    name: str

    def on(self, cluster: Cluster) -> AbstractAsyncContextManager[Subject]:
        """Start it. The cluster's end is its end too."""


class OperatorContender:
    """An operator that is a program."""

    def __init__(self, name: str, argv: Sequence[str], environment: Mapping[str, str] = {}) -> None:
        self.name = name
        self._argv = argv
        self._own = environment

    @asynccontextmanager
    async def on(self, cluster: Cluster) -> AsyncIterator[Subject]:
        """Start the program."""
        yield Operator.start(cluster, self._argv, self._environment())

    def _environment(self) -> Mapping[str, str]:
        return {
            **self._own,
            "VDI_NAMESPACE": NAMESPACE,
            "VDI_OPERATOR_NAMESPACE": NAMESPACE,
            "VDI_METRICS_ADDR": f"127.0.0.1:{free_ports(1)[0]}",
        }


class FloorContender:
    """The same writes from a client that need not find out what to write."""

    name = "floor"

    @asynccontextmanager
    async def on(self, cluster: Cluster) -> AsyncIterator[Subject]:
        """Open its connections."""
        async with cluster.client(cluster.operator_token) as http:
            yield Floor(cluster, http)


def line_up(operator: Program, reference: Path, *, full: bool) -> list[Contender]:
    """The contenders in the order in which they run; the first is compared with the others."""
    contenders: list[Contender] = [
        OperatorContender("vdi", operator.argv, operator.environment),
        OperatorContender("go-tuned", [str(reference), "--tuned"]),
        OperatorContender("go-same", [str(reference), "--tuned", "--same-objects"]),
        FloorContender(),
    ]
    if full:
        contenders.append(OperatorContender("go-default", [str(reference)]))
    return contenders

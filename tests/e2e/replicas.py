"""A release with two gateways, and PostgreSQL and Redis of the chart's own, on the cluster of the tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2e.release import load_servers, server_values, with_values
from e2e.world import World
from vdi.api.meta import RELEASE_NAMESPACE
from vdi.devcluster import images

SERVERS = {"postgresql": images.POSTGRESQL, "redis": images.REDIS}


@contextmanager
def replicated(world: World, name: str, logs: Path, *more: str) -> Iterator[None]:
    """Two gateways in cluster `name` while the context lasts; afterwards the release is as it was before, without the
    database's volume. `more` are further values, as `--set` takes them.
    """
    load_servers(name, logs)
    servers = [value for server, image in SERVERS.items() for value in server_values(server, image)]
    try:
        with with_values(world, "gateway.replicas=2", *more, *servers):
            yield
    finally:
        world.kubectl("-n", RELEASE_NAMESPACE, "delete", "pvc", "-l", "app.kubernetes.io/name=postgresql")


def is_known(portal: Any) -> bool:
    """Whether the portal still knows who has logged in: asked by a page of it, as its own scripts would."""
    options = "{redirect: 'manual', signal: AbortSignal.timeout(5000)}"
    status = portal.evaluate(f"() => fetch('/account', {options}).then(answer => answer.status, () => 0)")
    return bool(status == 200)

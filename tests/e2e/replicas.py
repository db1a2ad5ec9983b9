"""A release with two gateways, and PostgreSQL and Redis of the chart's own, on the cluster of the tests."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from e2e.world import World
from vdi.api.meta import RELEASE_NAMESPACE
from vdi.demo.run import FAKE_GPUS, RELEASE, checkout
from vdi.devcluster import cluster, images
from vdi.devcluster.progress import Progress

SERVERS = {"postgresql": images.POSTGRESQL, "redis": images.REDIS}


@contextmanager
def replicated(world: World, name: str, logs: Path, *more: str) -> Iterator[None]:
    """Two gateways in cluster `name` while the context lasts; afterwards the release is as it was before, without the
    database's volume. `more` are further values, as `--set` takes them.
    """
    with Progress(logs) as progress:
        archives = images.ensure_servers(progress=progress)
        cluster.up(name, fake_gpus=FAKE_GPUS, image_archives=archives, progress=progress)
    before = json.loads(helm(world, "history", RELEASE, "--max", "1", "-o", "json"))[0]["revision"]
    values = ["gateway.replicas=2", *more]
    for server, image in SERVERS.items():
        repository, _, tag = image.rpartition(":")
        values += [f"{server}.enabled=true", f"{server}.image.repository={repository}", f"{server}.image.tag={tag}"]
    wait = ["--wait", "--timeout", "3m"]
    chart = str(checkout() / "charts/vdi")
    try:
        helm(world, "upgrade", RELEASE, chart, "--reuse-values", *wait, "--set", ",".join(values))
        yield
    finally:
        helm(world, "rollback", RELEASE, str(before), *wait)
        world.kubectl("-n", RELEASE_NAMESPACE, "delete", "pvc", "-l", "app.kubernetes.io/name=postgresql")


def helm(world: World, *words: str) -> str:
    """What Helm prints. AssertionError when it fails."""
    argv = ["helm", "--kubeconfig", str(world.kubeconfig), "--namespace", RELEASE_NAMESPACE, *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, f"{argv}: {done.stdout} {done.stderr}"
    return done.stdout


def is_known(portal: Any) -> bool:
    """Whether the portal still knows who has logged in: asked by a page of it, as its own scripts would."""
    options = "{redirect: 'manual', signal: AbortSignal.timeout(5000)}"
    status = portal.evaluate(f"() => fetch('/account', {options}).then(answer => answer.status, () => 0)")
    return bool(status == 200)

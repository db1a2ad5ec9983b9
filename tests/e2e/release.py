"""The release on the cluster of the tests, with other values for a while, and with servers of the
chart's own.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Page

from e2e.world import World
from vdi.api.meta import RELEASE_NAMESPACE
from vdi.demo.run import FAKE_GPUS, RELEASE, checkout
from vdi.devcluster import binaries, cluster, images, privileged
from vdi.devcluster.layout import layout_of
from vdi.devcluster.progress import Progress

SERVERS = {"postgresql": images.POSTGRESQL, "redis": images.REDIS}
_WAIT = ("--wait", "--timeout", "3m")
_READ_METRICS = """
import urllib.request as u
token = open('/var/run/secrets/vdi-metrics/token').read()
page = u.Request('http://127.0.0.1:8081/metrics', headers={'Authorization': 'Bearer ' + token})
print(u.urlopen(page).read().decode())
"""


@contextmanager
def with_values(world: World, *values: str) -> Iterator[None]:
    """The release has these values, as `--set` takes them, while the context lasts; afterwards it
    is as before.
    """
    before = json.loads(_helm(world, "history", RELEASE, "--max", "1", "-o", "json"))[0]["revision"]
    try:
        upgrade(world, *values)
        yield
    finally:
        _helm(world, "rollback", RELEASE, str(before), *_WAIT)


def upgrade(world: World, *values: str) -> None:
    """Give the release these values too, as `--set` takes them."""
    words = [word for value in values for word in ("--set", value)]
    _helm(
        world, "upgrade", RELEASE, str(checkout() / "charts/vdi"), "--reuse-values", *_WAIT, *words
    )


def metric(world: World, pattern: str, component: str = "gateway") -> float:
    """Sum over the component's replicas."""
    words = (
        "get",
        "pod",
        "-n",
        RELEASE_NAMESPACE,
        "-l",
        f"app.kubernetes.io/component={component}",
        "-o",
        "name",
    )
    total = 0.0
    for pod in world.kubectl(*words).split():
        name = pod.removeprefix("pod/")
        read = ("exec", "-n", RELEASE_NAMESPACE, name, "--", "python3", "-c", _READ_METRICS)
        page = world.kubectl(*read)
        total += sum(
            float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if re.match(pattern, line)
        )
    return total


def load_servers(name: str, logs: Path) -> None:
    """Bring the images of the chart's own servers into cluster `name`."""
    with Progress(logs) as progress:
        archives = [images.ensure_image(server, progress=progress) for server in images.SERVERS]
        cluster.up(name, fake_gpus=FAKE_GPUS, image_archives=archives, progress=progress)


def load_image(cluster_name: str, image: str) -> None:
    """Build an image, and put it in the node of a cluster."""
    with Progress(Path(tempfile.mkdtemp(prefix="vdi-load-"))) as progress:
        archive = images.ensure_image(image, progress=progress)
        found = binaries.ensure(["ctr"], progress=progress)
        with progress.step(f"Load the image {image}"):
            privileged.import_images(layout_of(cluster_name), found["ctr"], archive)


def server_values(server: str, image: str) -> list[str]:
    """The values that switch a server of the chart's own on, with this image."""
    repository, _, tag = image.rpartition(":")
    return [
        f"{server}.enabled=true",
        f"{server}.image.repository={repository}",
        f"{server}.image.tag={tag}",
    ]


@contextmanager
def replicated(world: World, name: str, logs: Path, *more: str) -> Iterator[None]:
    """Two gateways in cluster `name`, with PostgreSQL and Redis of the chart's own, while the
    context lasts; afterwards the release is as it was before, without the database's volume. `more`
    are further values, as `--set` takes them.
    """
    load_servers(name, logs)
    servers = [value for server, image in SERVERS.items() for value in server_values(server, image)]
    try:
        with with_values(world, "gateway.replicas=2", *more, *servers):
            yield
    finally:
        world.kubectl(
            "-n", RELEASE_NAMESPACE, "delete", "pvc", "-l", "app.kubernetes.io/name=postgresql"
        )


def is_known(portal: Page) -> bool:
    """Whether the portal still knows who has logged in: asked by a page of it, as its own scripts
    would.
    """
    options = "{redirect: 'manual', signal: AbortSignal.timeout(5000)}"
    status = portal.evaluate(
        f"() => fetch('/account', {options}).then(answer => answer.status, () => 0)"
    )
    return bool(status == 200)


def _helm(world: World, *words: str) -> str:
    """Helm's output. Raises AssertionError when it fails."""
    argv = ["helm", "--kubeconfig", str(world.kubeconfig), "--namespace", RELEASE_NAMESPACE, *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, f"{argv}: {done.stdout} {done.stderr}"
    return done.stdout

"""Two gateways with PostgreSQL and Redis of the chart's own, on a real node: each part dies, and no one loses a thing.

The servers' images are built from Debian's packages, since the official ones cannot be fetched everywhere.
"""

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.conftest import NAME
from e2e.desktops import start
from e2e.world import World
from support.waiting import wait_until
from vdi.api.meta import RELEASE_NAMESPACE
from vdi.demo.run import RELEASE, checkout
from vdi.devcluster import cluster, images
from vdi.devcluster.progress import Progress

pytestmark = pytest.mark.timeout(600)

SERVERS = {"postgresql": images.POSTGRESQL, "redis": images.REDIS}


@pytest.fixture
def replicated(sessions: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The release with two gateways; as it was before, and without the database's volume, afterwards."""
    with Progress(tmp_path_factory.mktemp("servers")) as progress:
        archives = images.ensure_servers(progress=progress)
        cluster.up(NAME, fake_gpus=8, image_archives=archives, progress=progress)
    before = json.loads(helm(sessions, "history", RELEASE, "--max", "1", "-o", "json"))[0]["revision"]
    values = ["gateway.replicas=2"]
    for name, image in SERVERS.items():
        repository, _, tag = image.rpartition(":")
        values += [f"{name}.enabled=true", f"{name}.image.repository={repository}", f"{name}.image.tag={tag}"]
    wait = ["--wait", "--timeout", "3m"]
    try:
        helm(
            sessions,
            "upgrade",
            RELEASE,
            str(checkout() / "charts/vdi"),
            "--reuse-values",
            *wait,
            "--set",
            ",".join(values),
        )
        yield sessions
    finally:
        helm(sessions, "rollback", RELEASE, str(before), *wait)
        sessions.kubectl("-n", RELEASE_NAMESPACE, "delete", "pvc", "-l", "app.kubernetes.io/name=postgresql")


def helm(world: World, *words: str) -> str:
    argv = ["helm", "--kubeconfig", str(world.kubeconfig), "--namespace", RELEASE_NAMESPACE, *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, f"{argv}: {done.stdout} {done.stderr}"
    return done.stdout


def pods(world: World, selector: str) -> list[str]:
    found = world.kubectl("-n", RELEASE_NAMESPACE, "get", "pods", "-l", selector, "-o", "name").split()
    return [name for name in found if name]


def kill(world: World, pod: str) -> None:
    world.kubectl("-n", RELEASE_NAMESPACE, "delete", pod, "--grace-period=0", "--force", "--wait=false")


def is_known(portal: Any) -> bool:
    """Whether the portal still knows who has logged in: asked by a page of it, as its own scripts would."""
    status = portal.evaluate("() => fetch('/account', {redirect: 'manual'}).then(answer => answer.status, () => 0)")
    return bool(status == 200)


@pytest.mark.long
def test_each_part_dies_and_who_has_logged_in_stays_in(replicated: World) -> None:
    world = replicated
    selector = "app.kubernetes.io/component=gateway"
    gateways = wait_until("two gateways", lambda: two if len(two := pods(world, selector)) == 2 else None, 60)
    start(world, "rita", "small")
    with world.browser("rita") as browser:
        browser.open()
        portal = browser.page.context.new_page()
        portal.goto(f"{world.portal}/account")
        assert is_known(portal)
        for gateway in gateways:  # in turn: what the first one knew must be known to the second
            kill(world, gateway)
            wait_until("the other gateway answers", lambda: is_known(portal), 30)
        selectors = [f"app.kubernetes.io/name={name}" for name in SERVERS]
        for selector in selectors:
            (server,) = pods(world, selector)
            kill(world, server)
            wait_until(f"{selector} is back", lambda: is_known(portal), 60)
        before = browser.picture()
        browser.open_terminal()  # the connection of before: no picture has passed through any of them
        browser.wait_for_change(before, pixels=20_000)
        portal.goto(f"{world.portal}/history")
        portal.get_by_text("rita").first.wait_for()

"""The release's own TURN server on a real node, and a real browser in a desktop that gets its credentials.

The server's image is built from Debian's package, since the official one cannot be fetched everywhere.
"""

import base64
import ipaddress
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from cluster.turn_client import TurnClient, make_credentials
from e2e.conftest import NAME
from e2e.desktops import pod_of, start
from e2e.world import NAMESPACE, World
from vdi.demo.run import RELEASE, RELEASE_NAMESPACE, checkout
from vdi.devcluster import cluster, images
from vdi.devcluster.progress import Progress

pytestmark = pytest.mark.timeout(600)

GATHER = """async () => {
  const given = await (await fetch('/api/turn')).json();
  const connection = new RTCPeerConnection({...given, iceTransportPolicy: 'relay'});
  const found = [], failed = [];
  connection.onicecandidate = event => event.candidate && found.push(event.candidate.toJSON().candidate);
  connection.onicecandidateerror = event => failed.push(`${event.url} ${event.errorCode} ${event.errorText}`);
  connection.createDataChannel('any');
  await connection.setLocalDescription(await connection.createOffer());
  for (let turns = 0; connection.iceGatheringState !== 'complete' && turns < 100; turns++)
    await new Promise(done => setTimeout(done, 100));
  return {given, found, failed};
}"""
ECHO = """
import socket
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind(("0.0.0.0", 7007))
print("ready", flush=True)
while True:
    data, sender = one.recvfrom(2048)
    one.sendto(data, sender)
"""


def helm(world: World, *words: str) -> str:
    argv = ["helm", "--kubeconfig", str(world.kubeconfig), "--namespace", RELEASE_NAMESPACE, *words]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, f"{argv}: {done.stdout} {done.stderr}"
    return done.stdout


def node_address(world: World) -> str:
    (node,) = json.loads(world.kubectl("get", "nodes", "-o", "json"))["items"]
    return str(next(one["address"] for one in node["status"]["addresses"] if one["type"] == "InternalIP"))


@pytest.fixture
def relayed(sessions: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The release with a TURN server on its node; as it was before afterwards."""
    with Progress(tmp_path_factory.mktemp("coturn")) as progress:
        archives = images.ensure_servers(progress=progress)
        cluster.up(NAME, fake_gpus=8, image_archives=archives, progress=progress)
    before = json.loads(helm(sessions, "history", RELEASE, "--max", "1", "-o", "json"))[0]["revision"]
    dns = json.loads(sessions.kubectl("get", "pods", "-n", "kube-system", "-l", "k8s-app=kube-dns", "-o", "json"))
    pods = ipaddress.ip_network(f"{dns['items'][0]['status']['podIP']}/24", strict=False)
    repository, _, tag = images.COTURN.rpartition(":")
    values = [
        "coturn.enabled=true",
        f"coturn.image.repository={repository}",
        f"coturn.image.tag={tag}",
        "coturn.realm=turn.vdi.localhost",
        f"coturn.allowedPeers={{{pods}}}",
        f"gateway.turn.urls={{turn:{node_address(sessions)}:3478?transport=udp}}",
    ]
    wait = ["--wait", "--timeout", "3m"]
    try:
        helm(
            sessions, "upgrade", RELEASE, str(checkout() / "charts/vdi"), "--reuse-values", *wait,
            *(word for value in values for word in ("--set", value)),
        )  # fmt: skip
        yield sessions
    finally:
        helm(sessions, "rollback", RELEASE, str(before), *wait)


def test_a_browser_in_a_desktop_gets_a_relay_that_leads_to_the_desktop_and_nowhere_else(relayed: World) -> None:
    world, node = relayed, node_address(relayed)
    session = start(world, "wendy", "small")
    with world.browser("wendy") as browser:
        browser.open()
        made = browser.page.evaluate(GATHER)
        with browser.beside(None) as stranger:
            answer = stranger.page.goto(f"{session['status']['url']}/api/turn")
            assert answer is not None and answer.status == 401
    assert made["failed"] == [] and made["found"], made
    for candidate in made["found"]:
        words = candidate.split()
        assert (words[4], words[7]) == (node, "relay") and 61000 <= int(words[5]) <= 65535, candidate
    given = made["given"]["iceServers"][1]
    assert given["username"].endswith(f":{session['metadata']['uid']}")
    pod = pod_of(world, "wendy")
    assert pod
    leads_to_pods_alone(world, node, pod, (given["username"], given["credential"]))


def leads_to_pods_alone(world: World, node: str, pod: dict[str, Any], who: tuple[str, str]) -> None:
    """With the page's credentials: to the desktop and back, and to no other address. The desktop has no secret."""
    service = json.loads(world.kubectl("get", "service", "kubernetes", "-n", "default", "-o", "json"))
    forbidden = [node, service["spec"]["clusterIP"], "127.0.0.1", "169.254.169.254"]
    name, address = pod["metadata"]["name"], pod["status"]["podIP"]
    with echo_in(world, name), TurnClient((node, 3478), who, wait=5.0) as client:
        assert client.allocate().code == 0
        assert {each: client.permit(each).code for each in forbidden} == dict.fromkeys(forbidden, 403)
        assert client.permit(address, 7007).code == 0
        client.send(address, 7007, b"through the relay")
        assert client.receive() == b"through the relay"
    with TurnClient((node, 3478), make_credentials("w" * 40, "wendy", time.time() + 60)) as client:
        assert client.allocate().code == 401
    kept = json.loads(world.kubectl("get", "secret", f"{RELEASE}-coturn", "-n", RELEASE_NAMESPACE, "-o", "json"))
    secret = base64.b64decode(kept["data"]["secret"]).decode()
    environment = world.kubectl("exec", name, "--", "sh", "-c", "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'")
    assert "SELKIES_" in environment and secret not in environment and who[1] not in environment


@contextmanager
def echo_in(world: World, pod: str) -> Iterator[None]:
    """A program in the pod that sends back what comes to UDP port 7007."""
    argv = ["kubectl", "--kubeconfig", str(world.kubeconfig), "-n", NAMESPACE, "exec", pod, "--", "python3", "-c", ECHO]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            yield
        finally:
            process.terminate()

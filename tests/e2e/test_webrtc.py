"""WebRTC on a real node, with the release's own TURN server and real browsers: two people over relays alone, and
where relays lead to.

The server's image is built from Debian's package, since the official one cannot be fetched everywhere.
"""

import base64
import ipaddress
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cluster.turn_client import TurnClient, make_credentials
from e2e.conftest import NAME
from e2e.desktops import Object, pod_of, start, template
from e2e.world import NAMESPACE, World
from vdi.demo.browser import DesktopBrowser
from vdi.demo.run import RELEASE, RELEASE_NAMESPACE, checkout
from vdi.devcluster import cluster, images
from vdi.devcluster.progress import Progress
from vdi.session.streaming import WEBRTC_PORT

pytestmark = pytest.mark.timeout(600)

SESSION, OWNER, GUEST = "wendy", "wendy@example.com", "victor@example.com"
WRITTEN = 2_000
"""Pixels that a screenful of text changes at least; a cursor changes a tenth of it."""
RELAYS_ALONE = """(() => {
  const Given = RTCPeerConnection;
  window.connections = []; window.channels = [];
  window.RTCPeerConnection = function (settings, ...more) {
    const made = new Given({...settings, iceTransportPolicy: 'relay'}, ...more);
    made.addEventListener('datachannel', event => window.channels.push(event.channel));
    window.connections.push(made);
    return made;
  };
  window.RTCPeerConnection.prototype = Given.prototype;
  Object.setPrototypeOf(window.RTCPeerConnection, Given);
})()"""
PAIR = """async () => {
  const made = window.connections.filter(one => one.connectionState === 'connected').at(-1);
  const found = {state: made?.connectionState};
  const stats = made ? await made.getStats() : new Map();
  for (const one of stats.values()) {
    if (one.type === 'inbound-rtp' && one.kind === 'video') found.frames = one.framesDecoded;
    const pair = one.type === 'transport' && stats.get(one.selectedCandidatePairId);
    if (!pair) continue;
    const [near, far] = [stats.get(pair.localCandidateId), stats.get(pair.remoteCandidateId)];
    Object.assign(found, {near: near.candidateType, relay: near.address, far: far.address, port: far.port});
  }
  return found;
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


@pytest.fixture
def desktop(relayed: World) -> Iterator[Object]:
    """Wendy's, whose template streams over WebRTC."""
    with template(relayed, "webrtc", streaming={"transport": "webrtc"}):
        yield start(relayed, SESSION, "webrtc")
        relayed.kubectl("delete", "vdi", SESSION, "--ignore-not-found", "--timeout=60s")


def test_over_relays_alone_for_two(relayed: World, desktop: Object) -> None:
    with relayed.browser(SESSION) as wendy:
        wendy.page.add_init_script(RELAYS_ALONE)
        wendy.open()
        streams_by_a_relay(wendy, relayed)
        who = gets_credentials_that_nobody_else_gets(wendy, desktop)
        wendy.open_terminal()
        writes(wendy, "seq 1 200")
        share(relayed, {"user": GUEST, "role": "viewer"})
        with wendy.beside(relayed.login(GUEST)) as victor:
            victor.page.add_init_script(RELAYS_ALONE)
            victor.open()
            streams_by_a_relay(victor, relayed)
    leads_to_pods_alone(relayed, who)


def streams_by_a_relay(browser: DesktopBrowser, world: World) -> None:
    """Between the TURN server's relay and the one port of the desktop; and the picture moves."""
    pod = pod_of(world, SESSION)
    assert pod
    began: Object = browser.page.evaluate(PAIR)
    assert (began["near"], began["far"], began["port"]) == ("relay", pod["status"]["podIP"], WEBRTC_PORT), began
    assert began["relay"] == node_address(world), began


def gets_credentials_that_nobody_else_gets(wendy: DesktopBrowser, desktop: Object) -> tuple[str, str]:
    given = wendy.page.evaluate("async () => (await (await fetch('/api/turn')).json()).iceServers[1]")
    assert given["username"].endswith(f":{desktop['metadata']['uid']}")
    with wendy.beside(None) as stranger:
        answer = stranger.page.goto(f"{desktop['status']['url']}/api/turn")
        assert answer is not None and answer.status == 401
    return given["username"], given["credential"]


def writes(browser: DesktopBrowser, command: str) -> None:
    before = browser.picture()
    browser.type(f"{command}\n")
    browser.wait_for_change(before, pixels=WRITTEN)


def share(world: World, *access: dict[str, str]) -> None:
    world.kubectl("patch", "vdi", SESSION, "--type=merge", "-p", json.dumps({"spec": {"access": access}}))


def leads_to_pods_alone(world: World, who: tuple[str, str]) -> None:
    """With the page's credentials: to desktops and back, and to no other address. The desktop has no secret."""
    node, pod = node_address(world), pod_of(world, SESSION)
    assert pod
    service = json.loads(world.kubectl("get", "service", "kubernetes", "-n", "default", "-o", "json"))
    forbidden = [node, service["spec"]["clusterIP"], "127.0.0.1", "169.254.169.254"]
    name, address = pod["metadata"]["name"], pod["status"]["podIP"]
    with echo_in(world, name), TurnClient((node, 3478), who, wait=5.0) as client:
        assert client.allocate().code == 0
        assert {each: client.permit(each).code for each in forbidden} == dict.fromkeys(forbidden, 403)
        assert client.permit(address, 7007).code == 0
        client.send(address, 7007, b"through the relay")
        assert client.receive() == b"through the relay"
    kept = json.loads(world.kubectl("get", "secret", f"{RELEASE}-coturn", "-n", RELEASE_NAMESPACE, "-o", "json"))
    secret = base64.b64decode(kept["data"]["secret"]).decode()
    environment = world.kubectl("exec", name, "--", "sh", "-c", "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'")
    assert "SELKIES_" in environment and secret not in environment and who[1] not in environment
    with TurnClient((node, 3478), make_credentials("w" * 40, "wendy", time.time() + 60)) as client:
        assert client.allocate().code == 401


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

"""WebRTC on a real node, with the release's own TURN server and real browsers: two people over
relays alone, what a viewer and a stranger can do about it, and the fall-back to WebSocket where UDP
is blocked.

The server's image is built from Debian's package, since the official one cannot be fetched
everywhere.
"""

import base64
import ipaddress
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cluster.turn_client import TCP, USERNAME, TurnClient, make_credentials, message, parse
from e2e.conftest import NAME
from e2e.desktops import (
    WRITTEN,
    Object,
    address_of,
    ask_agent,
    live_pod_of,
    picture_at_rest,
    started,
    wait_until_cut_off,
    writes,
)
from e2e.firewall import dropped
from e2e.release import load_servers, server_values, with_values
from e2e.world import NAMESPACE, World
from support.waiting import wait_until
from vdi.api.meta import RELEASE_NAMESPACE
from vdi.demo.browser import DesktopBrowser, NoPictureError, changed_pixels
from vdi.demo.run import RELEASE
from vdi.devcluster import images
from vdi.session.template_image import WEBRTC_PORT

pytestmark = pytest.mark.timeout(600)

SESSION, GUEST = "wendy", "victor@example.com"
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
# What Selkies' page sends for keys, without asking that page.
TYPE = """keys => {
  const channel = window.channels.find(one => one.label === 'input' && one.readyState === 'open');
  for (const key of keys) { channel.send(`kd,${key}`); channel.send(`ku,${key}`); }
}"""
HELLO = """token => new Promise(done => {
  const socket = new WebSocket(`wss://${location.host}/api/webrtc/signaling/`);
  const more = {client_type: 'controller', client_slot: -1, client_token: token};
  socket.onopen = () => socket.send(`HELLO client ${JSON.stringify(more)}`);
  socket.onmessage = event => { done(event.data); socket.close(); };
  socket.onclose = event => done(event.code);
})"""
MODE = "async () => (await (await fetch('/api/status')).json()).current_mode"
BINDING, ACCEPTED = 0x0001, 0x0101
ECHO = """
import socket
one = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
one.bind(("0.0.0.0", 7007))
print("ready", flush=True)
while True:
    data, sender = one.recvfrom(2048)
    one.sendto(data, sender)
"""


def node_address(world: World) -> str:
    (node,) = world.items("node")
    return address_of(node)


@pytest.fixture
def relayed(sessions: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The release with a TURN server on its node; as it was before afterwards."""
    load_servers(NAME, tmp_path_factory.mktemp("coturn"))
    dns = json.loads(
        sessions.kubectl("get", "pods", "-n", "kube-system", "-l", "k8s-app=kube-dns", "-o", "json")
    )
    pods = ipaddress.ip_network(f"{dns['items'][0]['status']['podIP']}/24", strict=False)
    values = [
        *server_values("coturn", images.COTURN),
        "coturn.realm=turn.vdi.localhost",
        f"coturn.allowedPeers={{{pods}}}",
        f"gateway.turn.urls={{turn:{node_address(sessions)}:3478?transport=udp}}",
    ]
    with with_values(sessions, *values):
        yield sessions


@pytest.fixture
def desktop(relayed: World) -> Iterator[Object]:
    """Wendy's, whose template streams over WebRTC."""
    with started(relayed, SESSION, streaming={"transport": "WebRTC"}) as session:
        yield session
        relayed.kubectl("delete", "vdi", SESSION, "--ignore-not-found", "--timeout=60s")


@pytest.mark.long
def test_webrtc_uses_relays_and_falls_back_to_websocket(relayed: World, desktop: Object) -> None:
    with relayed.browser(SESSION) as wendy:
        wendy.page.add_init_script(RELAYS_ALONE)
        wendy.open()
        streams_by_a_relay(wendy, relayed)
        who = gets_credentials_that_no_one_else_gets(wendy, desktop)
        wendy.open_terminal()
        writes(wendy, "seq 1 200")
        share(relayed, {"user": GUEST, "role": "viewer"})
        with wendy.beside(relayed.login(GUEST)) as victor:
            victor.page.add_init_script(RELAYS_ALONE)
            victor.open()
            streams_by_a_relay(victor, relayed)
            only_looks_on(victor, wendy)
            share(relayed)
            sees_no_more(victor, wendy)
    leads_to_pods_alone(relayed, who)
    goes_over_to_websocket_and_says_so(relayed, desktop)
    has_webrtc_again(relayed)


def streams_by_a_relay(browser: DesktopBrowser, world: World) -> None:
    """Between the TURN server's relay and the one port of the desktop; and the picture moves."""
    address = live_pod_of(world, SESSION)["status"]["podIP"]
    expected = {"near": "relay", "relay": node_address(world), "far": address, "port": WEBRTC_PORT}
    seen: Object = {}

    def by_the_relay() -> bool:
        seen.update(browser.page.evaluate(PAIR))
        return {name: seen.get(name) for name in expected} == expected

    try:
        wait_until("the stream comes by the relay", by_the_relay)
    except AssertionError as error:
        raise AssertionError(
            f"{error}; last seen: {seen}; its console: {browser.messages[-8:]}"
        ) from None


def gets_credentials_that_no_one_else_gets(
    wendy: DesktopBrowser, desktop: Object
) -> tuple[str, str]:
    given = wendy.page.evaluate(
        "async () => (await (await fetch('/api/turn')).json()).iceServers[1]"
    )
    assert given["username"].endswith(f":{desktop['metadata']['uid']}")
    with wendy.beside(None) as stranger:
        answer = stranger.page.goto(f"{desktop['status']['url']}/api/turn")
        assert answer is not None and answer.status == 401
    return given["username"], given["credential"]


def share(world: World, *access: dict[str, str]) -> None:
    world.kubectl(
        "patch", "vdi", SESSION, "--type=merge", "-p", json.dumps({"spec": {"access": access}})
    )


def only_looks_on(victor: DesktopBrowser, wendy: DesktopBrowser) -> None:
    """Input that he sends past his page has no effect; the same from Wendy's page has, and he sees
    it.
    """
    keys = [ord(one) if one != "\n" else 0xFF0D for one in "clear; seq 8888300 8888500\n"]
    assert victor.page.evaluate(HELLO, "a token that he has made up") == 4001
    hers, his = picture_at_rest(wendy), picture_at_rest(victor)
    victor.page.evaluate(TYPE, keys)
    victor.page.wait_for_timeout(2000)
    assert changed_pixels(hers, wendy.picture()) < WRITTEN
    wendy.page.evaluate(TYPE, keys)
    wendy.wait_for_change(hers, pixels=WRITTEN)
    victor.wait_for_change(his, pixels=WRITTEN)


def sees_no_more(victor: DesktopBrowser, wendy: DesktopBrowser) -> None:
    """His stream ends though it does not pass Traefik, nor anything else of ours but the TURN
    server.
    """
    wait_until_cut_off(victor, wendy)
    his_browser = victor.page.context
    victor.page.close()  # it knows that it was cut off, and goes to the login by itself, sooner or later
    victor.page = his_browser.new_page()
    with pytest.raises(NoPictureError, match="responded with 403"):
        victor.open()


def leads_to_pods_alone(world: World, who: tuple[str, str]) -> None:
    """With the page's credentials: to desktops and back, and to no other address. The desktop has
    no secret.
    """
    node, pod = node_address(world), live_pod_of(world, SESSION)
    service = json.loads(
        world.kubectl("get", "service", "kubernetes", "-n", "default", "-o", "json")
    )
    forbidden = [node, service["spec"]["clusterIP"], "127.0.0.1", "169.254.169.254"]
    name, address = pod["metadata"]["name"], pod["status"]["podIP"]
    with echo_in(world, name), TurnClient((node, 3478), who, wait=5.0) as client:
        assert client.allocate().code == 0
        assert {each: client.permit(each).code for each in forbidden} == dict.fromkeys(
            forbidden, 403
        )
        assert client.permit(address, 7007).code == 0
        client.send(address, 7007, b"through the relay")
        assert client.receive() == b"through the relay"
    kept = json.loads(
        world.kubectl("get", "secret", f"{RELEASE}-coturn", "-n", RELEASE_NAMESPACE, "-o", "json")
    )
    secret = base64.b64decode(kept["data"]["secret-1"]).decode()
    environment = world.kubectl(
        "exec", name, "--", "sh", "-c", "cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n'"
    )
    assert "SELKIES_" in environment and secret not in environment and who[1] not in environment
    for reported, until, code in (("w" * 40, 60, 401), (secret, -60, 401)):
        with TurnClient(
            (node, 3478), make_credentials(reported, "wendy", time.time() + until)
        ) as client:
            assert client.allocate().code == code
    another = make_credentials(secret, "uid-of-another-session", time.time() + 60)
    with TurnClient((node, 3478), another, wait=2.0) as client:
        assert client.allocate(transport=TCP).code == 442, "no relay for TCP"
    with TurnClient((node, 3478), another, wait=2.0) as client:
        # coturn knows no sessions: this port of another's desktop is reached, and takes no one into
        # a connection.
        assert client.allocate().code == 0 and client.permit(address, WEBRTC_PORT).code == 0
        client.send(
            address,
            WEBRTC_PORT,
            message(BINDING, b"transaction!", [(USERNAME, b"some:body")], key=b"guessed"),
        )
        answer = client.receive()
        assert answer is None or parse(answer)[0] != ACCEPTED


@contextmanager
def echo_in(world: World, pod: str) -> Iterator[None]:
    """A program in the pod that sends back what comes to UDP port 7007."""
    argv = [
        "kubectl",
        "--kubeconfig",
        str(world.kubeconfig),
        "-n",
        NAMESPACE,
        "exec",
        pod,
        "--",
        "python3",
        "-c",
        ECHO,
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            yield
        finally:
            process.terminate()


def goes_over_to_websocket_and_says_so(world: World, desktop: Object) -> None:
    """With UDP blocked: the TURN server is there, and not a packet of it arrives."""
    with dropped(f"-p udp -s {node_address(world)} --sport 3478"), world.browser(SESSION) as wendy:
        wendy.log_in()
        wendy.page.goto(desktop["status"]["url"])
        wendy.page.get_by_role("heading", name="Connected over WebSocket, not WebRTC").wait_for(
            timeout=20_000
        )
        wendy.wait_for_picture()
        assert wendy.page.evaluate(MODE) == "websockets"


def has_webrtc_again(world: World) -> None:
    """A newcomer with a relay, when no one is in the desktop. The end of the last browser is seen a
    moment later.
    """
    wait_until("no one is in it", lambda: ask_agent(world, SESSION)["viewers"] == 0)
    with world.browser(SESSION) as wendy:
        wendy.page.add_init_script(RELAYS_ALONE)
        wendy.open()
        assert wendy.page.evaluate(MODE) == "webrtc"
        streams_by_a_relay(wendy, world)

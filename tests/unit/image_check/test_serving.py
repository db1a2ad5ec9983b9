"""What is observed of stand-ins for images of every kind, through a stand-in for kubectl."""

from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from unit.image_check.desktop_stand_in import USER, StandIn
from vdi.devcluster.pki import authority
from vdi.image_check.observation import HttpResult, Observation
from vdi.image_check.pod import AGENT_PORT, Tokens
from vdi.image_check.serving import observe_serving
from vdi.latency_probe import client
from vdi.session.selkies_tokens import direct_token

TOKENS = Tokens("the-master", "the-agent")
MASTER, AGENT = (sha256(token.encode()).hexdigest() for token in TOKENS)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "PAUSE_SECONDS", (0.01, 0.02))
    monkeypatch.setattr(client, "EFFECT_SECONDS", 0.3)
    monkeypatch.setattr(client, "PICTURE_SECONDS", 1.0)


async def observed(
    stand_in: StandIn,
    folder: Path,
    credentials: tuple[str, str] | None = None,
    certificate: tuple[Path, Path] | None = None,
    **fields: Any,
) -> Observation:
    seen = Observation(**{"subject": "image/x", "image": "x", "generation": "2", "ready_seconds": 1.0, **fields})
    async with stand_in.serve(folder, seen.port, AGENT_PORT, certificate) as kubectl:
        await observe_serving(seen, kubectl, "vdi-sessions", "pod", TOKENS, AGENT_PORT, credentials)
    return seen


async def test_ours_with_token_table_agent_picture_and_input(tmp_path: Path) -> None:
    ours = StandIn(master_digest=MASTER, agent_digest=AGENT)
    seen = await observed(ours, tmp_path)
    assert not seen.requests_unchecked
    assert (seen.health, seen.token_table, seen.with_token) == (HttpResult(200),) * 3
    assert seen.without_token == seen.agent_without_token == HttpResult(401)
    assert seen.agent == HttpResult(200)
    assert ours.tokens == {direct_token(TOKENS.master)}
    assert seen.stream and seen.stream.has_picture and seen.stream.first_picture_seconds
    assert seen.stream.input_ms and not seen.stream.problem


@pytest.mark.parametrize(
    ("stand_in", "has_picture", "words"),
    [
        (StandIn(master_digest=MASTER, agent_digest=AGENT, is_silent=True), False, "no picture within 1 s"),
        (StandIn(master_digest=MASTER, is_silent=True), False, "no picture within 1 s"),
        (StandIn(master_digest=MASTER, agent_digest=AGENT, is_still=True), True, "it is frozen"),
        (StandIn(master_digest="another"), False, "the response to the WebSocket handshake is 401"),
    ],
    ids=["silent", "silent, no agent", "still", "no tokens"],
)
async def test_selkies_without_picture_or_input(
    stand_in: StandIn, has_picture: bool, words: str, tmp_path: Path
) -> None:
    seen = await observed(stand_in, tmp_path)
    assert seen.stream and seen.stream.has_picture is has_picture and words in seen.stream.problem
    assert seen.stream.input_ms is None


async def test_without_an_agent_there_is_a_picture_and_input_is_unknown(tmp_path: Path) -> None:
    seen = await observed(StandIn(master_digest=MASTER, lets_in_all=True), tmp_path)
    assert seen.agent and not seen.agent.status and seen.agent.problem
    assert seen.agent_without_token is None
    assert seen.stream and seen.stream.has_picture and seen.stream.input_ms is None
    assert seen.without_token == HttpResult(200), "it lets in whoever has no token"


async def test_kasmvnc_with_its_own_certificate_and_basic_auth(tmp_path: Path) -> None:
    certificate = authority(tmp_path, "ca", "KasmVNC's own").issue("own", "kasm", names=["kasm"], server=True)
    kasm = StandIn(password="s3cret", health_path="/")
    fields: dict[str, Any] = {
        "generation": "",
        "port": 6901,
        "scheme": "HTTPS",
        "health_path": "/",
        "certificate": certificate,
    }
    right = await observed(kasm, tmp_path, (USER, "s3cret"), **fields)
    assert (right.health, right.signed_in) == (HttpResult(401), HttpResult(200))
    wrong = await observed(kasm, tmp_path, (USER, "other"), **fields)
    assert (wrong.health, wrong.signed_in) == (HttpResult(401), HttpResult(401))
    plain = await observed(kasm, tmp_path, **fields | {"scheme": "HTTP"})
    assert plain.health and not 200 <= plain.health.status < 400


async def test_selkies_1_and_web_images_are_asked_for_their_health_path_alone(tmp_path: Path) -> None:
    selkies = StandIn(password="mypasswd", health_path="/health")
    seen = await observed(selkies, tmp_path, generation="1", health_path="/health", ready_seconds=None)
    assert seen.health == HttpResult(401)
    lab = StandIn(health_path="/api")
    seen = await observed(lab, tmp_path, generation="", port=8888, health_path="/api")
    assert seen.health == HttpResult(200)
    assert lab.requests == ["GET /api"]


async def test_the_ways_in_which_no_request_is_sent(tmp_path: Path) -> None:
    seen = Observation(subject="image/x", image="x", generation="2", ready_seconds=1.0)
    await observe_serving(seen, [], "vdi-sessions", "pod", TOKENS, AGENT_PORT, None)
    assert seen.requests_unchecked == "kubectl, which forwards the container's port, is not in PATH"
    kubectl = tmp_path / "kubectl"
    kubectl.write_text("#!/bin/sh\necho 'error: pods \"pod\" is forbidden: cannot create pods/portforward.'\nexit 1\n")
    kubectl.chmod(0o755)
    await observe_serving(seen, [str(kubectl)], "vdi-sessions", "pod", TOKENS, AGENT_PORT, None)
    assert seen.requests_unchecked.startswith("kubectl port-forward does not reach the container: error: pods")


async def test_webrtc_does_not_pass_a_forwarded_port(tmp_path: Path) -> None:
    seen = await observed(StandIn(master_digest=MASTER), tmp_path, uses_webrtc=True)
    assert seen.stream is None and "WebRTC" in seen.stream_unchecked

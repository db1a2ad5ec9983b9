"""The session commands through a real gateway's API, on a machine without a kubeconfig."""

import json
import threading
from base64 import b64encode
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from unit.cli.conftest import Vdi
from unit.cli.remote_stage import RemoteGateway
from unit.gateway.api_stage import ALICE, BOB, ROOT, RUNNING
from unit.gateway.probe_agent import FIGURES, Agent, agent
from vdi.cli.login import By, usage_table
from vdi.cli.logins import Login, Logins, write_logins
from vdi.cluster.units import format_time
from vdi.gateway.login.logins import SOURCE_OIDC, Device, Identity
from vdi.latency_probe.client import DesktopAccess, StageError
from vdi.latency_probe.measurements import Measurements


@pytest.fixture
def remote(gateway: RemoteGateway, clean_machine: None, type_command: Vdi) -> Vdi:
    """Type a command as somebody who is logged in (Alice), on a machine without a kubeconfig."""
    log_in(gateway, ALICE)
    return type_command


def log_in(gateway: RemoteGateway, who: Identity) -> None:
    """As `vdi login` leaves it."""
    login = Login(who.user, gateway.api_token(who), "2026-12-20T12:00:00Z", gateway.ca.read_text())
    write_logins(Logins(gateway.url, {gateway.url: login}))


def test_a_desktop_from_creation_to_its_end(remote: Vdi, gateway: RemoteGateway) -> None:
    made = remote("session", "create", "-t", "ubuntu", "--memory", "2Gi", "--timeout", "4h")
    assert (made.code, made.out) == (
        0,
        "session alice-ubuntu created; see vdi session show alice-ubuntu\n",
    ), made.err
    stored = gateway.call(lambda stage: stage.cluster.objects["alice-ubuntu"]["spec"])
    assert (stored["user"], stored["timeout"], stored["resources"]["memory"]) == (
        "alice@example.com",
        "4h",
        "2Gi",
    )
    listed = remote("session", "ls")
    assert [line.split()[:4] for line in listed.out.splitlines()] == [
        ["NAME", "USER", "TEMPLATE", "PHASE"],
        ["alice-ubuntu", "alice@example.com", "ubuntu", "-"],
    ]
    shown = remote("session", "show", "alice-ubuntu")
    assert "Template:  ubuntu\n" in shown.out
    assert "Resources: no GPU, 2Gi memory, 2 CPU" in shown.out
    assert remote("session", "rm", "alice-ubuntu").out == "session alice-ubuntu is being removed\n"
    assert remote("session", "ls").err == f"no sessions at {gateway.url}\n"


def test_actions_reach_the_gateway(remote: Vdi, gateway: RemoteGateway) -> None:
    # The command's clock is the real one.
    began = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    gateway.call(lambda stage: stage.session(status={**RUNNING, "startTime": format_time(began)}))
    name = "alice-desktop"
    assert remote("session", "suspend", name).out.startswith(
        f"session {name} is being suspended; start it again:"
    )
    assert (
        "is suspended, so there is nothing to restart. Resume it instead."
        in remote("session", "restart", name).err
    )
    assert (
        remote("session", "resume", name).out
        == f"session {name} is starting again; see vdi session show {name}\n"
    )
    assert (
        remote("session", "restart", name).out
        == f"session {name} is being restarted; see vdi session show {name}\n"
    )
    end = format_time(began + timedelta(hours=10))
    assert f"session {name} ends at {end}" in remote("session", "extend", name, "2h").out
    resized = remote("session", "resize", name, "--memory", "2Gi", "--cpu", "500m")
    assert f"session {name} has a new size; see" in resized.out
    at = remote(
        "session",
        "schedule",
        name,
        "--at",
        "8:30",
        "--until",
        "18:00",
        "--time-zone",
        "Europe/Berlin",
    )
    assert (
        at.out
        == f"session {name} has a schedule: 08:30 to 18:00, Monday to Friday, Europe/Berlin\n"
    )
    assert remote("session", "schedule", name, "--off").out == f"session {name} has no schedule\n"
    shared = remote("session", "share", name, "bob@example.com", "--expires-in", "2h")
    assert "is shared with bob@example.com as viewer until" in shared.out
    spec = gateway.call(lambda stage: stage.cluster.objects[name]["spec"])
    assert (spec.get("suspended", False), spec["timeout"], spec.get("schedule")) == (
        False,
        "10h",
        None,
    )
    assert spec["access"][0]["user"] == "bob@example.com"
    log_in(gateway, BOB)
    assert "alice@example.com" in remote("session", "ls").out
    refused = remote("session", "suspend", name)
    assert (refused.code, refused.err.count("you may not suspend it")) == (1, 1)
    log_in(gateway, ALICE)
    assert remote("session", "unshare", name, "bob@example.com").code == 0
    assert gateway.call(lambda stage: stage.cluster.objects[name]["spec"].get("access", [])) == []


REFUSED: list[tuple[list[str], int, str]] = [
    (["session", "show", "none"], 1, "You have no desktop 'none'"),
    (
        ["session", "create", "-t", "none"],
        1,
        "template: you cannot use 'none'; you can start: ubuntu.",
    ),
    (
        ["session", "create", "-t", "ubuntu", "--user", BOB.user],
        1,
        "user: 'bob@example.com' is not alice@example.com",
    ),
    (
        ["session", "create", "-t", "ubuntu", "--gpu", "0"],
        2,
        "resources.gpu: 0 is not a whole number >= 1",
    ),
    (["session", "open", "x", "--direct"], 2, "name a cluster with --kubeconfig or --context"),
    (["session", "logs", "x"], 3, "a desktop's log needs access to the cluster"),
    (["session", "ls", "-A"], 2, "a gateway shows all its namespaces"),
    (["session", "ls", "-n", "elsewhere"], 2, "--namespace elsewhere cannot be combined with"),
    (["session", "ls", "--user", "bob@example.com"], 1, "Only administrators can do this"),
    (
        ["session", "ls", "--user", "bob@example.com", "--watch"],
        2,
        "--watch follows your own desktops",
    ),
    (
        ["session", "ls", "--server", "https://other.example.com"],
        3,
        "you are not logged in to https://other",
    ),
    (
        ["session", "ls", "--server", "http://other.example.com"],
        2,
        "is not the address of a portal",
    ),
    (["session", "ls", "--server", "https://x", "--context", "y"], 2, "give one of them"),
]


@pytest.mark.parametrize(("words", "code", "said"), REFUSED, ids=lambda each: str(each)[:60])
def test_refusals_have_a_message_and_an_exit_code(
    remote: Vdi, words: list[str], code: int, said: str
) -> None:
    ran = remote(*words)
    assert ran.code == code, ran.err
    assert said in ran.err


def test_watch_ends_with_the_login(
    remote: Vdi, gateway: RemoteGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vdi.gateway.api.sessions.CHECK_SECONDS", 0.02)
    monkeypatch.setattr("vdi.cli.session.gateway_backend._RECONNECT_SECONDS", 0.0)

    def end() -> None:
        gateway.do(gateway.there.services.logins.end_tokens("alice@example.com"))

    timer = threading.Timer(0.3, end)
    timer.start()
    ran = remote("session", "ls", "--watch")
    timer.join()
    assert ran.code == 3
    assert f"Log in again: vdi login {gateway.url}" in ran.err


def test_a_cut_stream_is_opened_again(
    remote: Vdi, gateway: RemoteGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each stream of this gateway ends at once; between two of them the operator goes on."""
    monkeypatch.setattr("vdi.cli.session.gateway_backend._RECONNECT_SECONDS", 0.0)
    monkeypatch.setattr("vdi.gateway.api.sessions.CHECK_SECONDS", 0.02)
    monkeypatch.setattr("vdi.gateway.api.sessions._login_holds", _never)
    gateway.call(lambda stage: stage.session(status=RUNNING))
    gateway.there.cluster.then = [
        {"phase": "Terminating"},
        {"phase": "Suspended", "observedGeneration": 1},
    ]
    ran = remote("session", "suspend", "alice-desktop", "--wait")
    assert ran.out.startswith("session alice-desktop was suspended in "), ran.err
    assert remote("session", "rm", "alice-desktop", "--wait").out.startswith(
        "session alice-desktop was deleted in "
    )


async def _never(*_: object) -> bool:
    return False


def test_an_unreachable_gateway_is_named(remote: Vdi) -> None:
    write_logins(Logins("https://localhost:1", {"https://localhost:1": Login("a@b.cd", "vdi_x")}))
    ran = remote("session", "ls")
    assert ran.code == 3
    assert "cannot reach the gateway https://localhost:1" in ran.err


@pytest.fixture
def desktop(gateway: RemoteGateway) -> Iterator[Agent]:
    """The agent of Alice's desktop, which runs."""
    gateway.call(lambda stage: stage.session(status=RUNNING))
    context = agent(gateway.there)
    yield gateway.do(context.__aenter__())
    gateway.do(context.__aexit__(None, None, None))


@pytest.fixture
def probed(desktop: Agent, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The figures that a probe finds (or what it raises); the desktop's agent answers."""
    found: dict[str, Any] = {"figures": dict(FIGURES)}

    async def probe(access: DesktopAccess, keys: int, _tls: object) -> Measurements:
        found["access"], found["keys"] = access, keys
        if isinstance(found["figures"], Exception):
            raise found["figures"]
        return msgspec.convert(found["figures"], Measurements)

    monkeypatch.setattr("vdi.cli.session.probe.probe_desktop", probe)
    return found


def sample(gateway: RemoteGateway, name: str, **labels: str) -> float | None:
    registry = gateway.there.services.context.metrics.registry
    return registry.get_sample_value(name, {"template": "ubuntu", **labels})


def test_probe_prints_its_figures_and_reports_them(
    remote: Vdi, gateway: RemoteGateway, probed: dict[str, Any]
) -> None:
    probed["figures"]["inputToPhotonMs"] = [30.0] * 40
    ran = remote("session", "probe", "alice-desktop", "-o", "json")
    assert ran.code == 0, ran.err
    said = json.loads(ran.out)
    assert (said["p50Ms"], said["p95Ms"], said["withinGoal"]) == (30, 30, True)
    assert said["figures"]["framesPerSecond"] == 58.9
    assert (probed["keys"], probed["access"].url, probed["access"].mark.flip) == (
        40,
        RUNNING["url"],
        0x1008FF49,
    )
    assert sample(gateway, "session_glass_to_glass_seconds_count") == 40

    ran = remote("session", "probe", "alice-desktop", "--keys", "20")
    assert (ran.code, probed["keys"]) == (0, 20)
    assert ran.out.splitlines()[2:] == [
        "first picture     1.42 s",
        "frames            58.9 per second",
        "input to photon   p50 30.0 ms, p95 30.0 ms, of 40 keys",
        "bitrate           812 kbit/s",
        "lost              2 of 314 frames, 0 of 40 keys",
    ]


def test_probe_over_the_goal_fails(remote: Vdi, probed: dict[str, Any]) -> None:
    ran = remote("session", "probe", "alice-desktop")
    assert ran.code == 1
    assert "above the goal: p95 is 56.6 ms, allowed: 50 ms" in ran.err
    probed["figures"]["keysWithoutEffect"] = 3
    assert "3 of the keys had no visible effect" in remote("session", "probe", "alice-desktop").err


def test_probe_that_fails_names_the_stage(
    remote: Vdi, gateway: RemoteGateway, probed: dict[str, Any]
) -> None:
    probed["figures"] = StageError("first picture", "no picture within 15 s")
    ran = remote("session", "probe", "alice-desktop")
    assert ran.code == 1
    assert "alice-desktop: first picture: no picture within 15 s" in ran.err
    assert sample(gateway, "vdi_probes_total", outcome="first picture") == 1


def test_probe_refuses_what_it_cannot_measure(
    remote: Vdi, gateway: RemoteGateway, probed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.call(lambda stage: stage.session(status=RUNNING, suspended=True))
    ran = remote("session", "probe", "alice-desktop")
    assert (ran.code, "is suspended. Resume it first" in ran.err) == (1, True)
    ran = remote("session", "probe", "nobodys")
    assert (ran.code, "You have no desktop 'nobodys'" in ran.err) == (1, True)
    assert remote("session", "probe", "alice-desktop", "--keys", "1").code == 2
    ran = remote("session", "probe", "alice-desktop", "--kubeconfig", "/nowhere")
    assert (ran.code, "a probe connects through a gateway, as users do" in ran.err) == (3, True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    ran = remote("session", "probe", "alice-desktop")
    assert (ran.code, "pip install 'vdi-kubernetes[probe]'" in ran.err) == (3, True)


def test_an_administrator_releases_addresses(remote: Vdi, gateway: RemoteGateway) -> None:
    users = ["carol@example.com", "dave@example.com", "erin@example.com"]
    for user in users:
        who = Identity(user=user, source=SOURCE_OIDC, issuer="https://id.example.com", subject=user)
        gateway.do(gateway.there.logins.begin(who, Device()))
    for words in (users[:1], ["--all", "--yes"]):
        refused = remote("gateway", "user", "release", *words)
        assert refused.code == 1 and "Only administrators can do this" in refused.err
    log_in(gateway, ROOT)
    for words, said in (
        ([], "name one address, or --all"),
        (["--all", *users[:1]], "name one address, or --all"),
        (["--all"], "use --yes"),
        (["dave"], "is not an e-mail address"),
    ):
        wrong = remote("gateway", "user", "release", *words)
        assert wrong.code == 2 and said in wrong.err
    one = remote("gateway", "user", "release", "Carol@example.com", "-o", "json")
    assert (one.code, json.loads(one.out)) == (0, {"released": users[:1]}), one.err
    assert remote("gateway", "user", "release", users[0]).code == 1
    rest = remote("gateway", "user", "release", "--all", "--yes", "-o", "json")
    assert (rest.code, json.loads(rest.out)) == (0, {"released": users[1:]}), rest.err
    assert gateway.do(gateway.there.logins.of(users[1])) == []


def test_releasing_an_address_needs_a_login(vdi: Vdi) -> None:
    refused = vdi("gateway", "user", "release", "carol@example.com")
    assert refused.code == 2 and "vdi login https://portal.DOMAIN" in refused.err


def test_shell_drives_a_desktop(
    remote: Vdi, gateway: RemoteGateway, desktop: Agent, tmp_path: Path
) -> None:
    gateway.call(lambda stage: stage.template(agents={"enabled": True}))
    command, file = ("session", "computer", "alice-desktop"), tmp_path / "screen.png"
    picture = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (9).to_bytes(4) * 2
    data = b64encode(picture).decode()
    desktop.body = {"data": data}
    shown = remote(*command, "screenshot", "-f", str(file)).out
    assert shown == f"session alice-desktop: the screenshot is in {file}\n"
    assert file.read_bytes() == picture
    assert json.loads(remote(*command, "screenshot", "-o", "json").out) == {
        "text": None,
        "png": data,
    }
    desktop.body = {"result": "ok"}
    for words in ("move 1 2", "scroll 5 6 down 3", "key ctrl+s"):
        assert remote(*command, *words.split()).code == 0
    assert [sent for *_, sent in desktop.asked[2:]] == [
        {"action": "mouse_move", "coordinate": [1, 2]},
        {"action": "scroll", "coordinate": [5, 6], "scroll_direction": "down", "scroll_amount": 3},
        {"action": "key", "text": "ctrl+s"},
    ]
    desktop.status, desktop.body = 409, {"seconds": 3}
    refused = remote(*command, "click", "1", "2")
    assert (refused.code, "A person uses keyboard or mouse" in refused.err) == (1, True)
    for wrong in ("click 1", "click -- -1 2", "click 1 x", "jump", "type", "screenshot now"):
        assert remote(*command, *wrong.split()).code == 2, wrong


def test_usage_of_a_month_is_asked_of_the_gateway(remote: Vdi) -> None:
    said = remote("usage", "--month", "2026-10")
    assert (said.code, said.out) == (0, "")
    assert said.err == "no usage in 2026-10\n"
    report = json.loads(remote("usage", "--month", "2026-10", "-o", "json").out)
    assert (report["month"], report["users"]) == ("2026-10", [])
    assert remote("usage", "--by", "template", "-o", "csv").out.startswith(
        "template,month,sessions"
    )


def test_usage_that_cannot_be_asked_is_refused(remote: Vdi) -> None:
    refused = remote("usage", "--month", "October")
    assert refused.code == 2 and "month" in refused.err
    refused = remote("usage", "--everyone")
    assert refused.code == 1 and "administrator" in refused.err


def test_login_counts_more_than_kubeconfig_where_only_a_gateway_answers(
    remote: Vdi, gateway: RemoteGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KUBECONFIG", "/of/the/demo")
    assert remote("usage", "--month", "2026-10").code == 0
    for command in ("computer nope screenshot", "probe nope"):
        refused = remote("session", *command.split())
        said = f"Asked {gateway.url}: "
        assert "You have no desktop 'nope'" in refused.err and said in refused.err, refused.err
        assert "KUBECONFIG names a cluster" in refused.err
    assert "/of/the/demo" in remote("session", "ls").err, "a cluster can answer"
    explicit = remote("usage", "--kubeconfig", "/of/the/demo")
    assert explicit.code == 2 and "--kubeconfig or --context" in explicit.err


def test_usage_without_a_gateway_says_where_to_log_in(vdi: Vdi) -> None:
    refused = vdi("usage")
    assert refused.code == 2 and "vdi login https://portal.DOMAIN" in refused.err


def test_a_template_is_a_row_of_the_usage() -> None:
    row = {
        "name": "cad",
        "hours": 10.0,
        "gpuHours": 20.0,
        "agentHours": 1.25,
        "sessions": 2,
        "runs": 3,
    }
    header, line = usage_table([row], By.TEMPLATE)
    assert header.split("   ")[0] == "TEMPLATE"
    assert line.split() == ["cad", "10.0", "20.0", "1.2", "2", "3"]

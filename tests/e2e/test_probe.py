"""`vdi session probe` on real desktops, through Traefik, TLS and the gateway: figures, metrics,
words for failures.

By hand, and as the chart's CronJob runs it in a pod.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench.crowd import MAKE_TOKEN
from e2e.desktops import ask_agent, picture_at_rest, started, status_of, wait_for_scene
from e2e.release import metric, with_values
from e2e.world import World
from support.waiting import wait_until
from vdi.api.meta import RELEASE_NAMESPACE
from vdi.cli.logins import Login, Logins, write_logins
from vdi.demo.browser import DesktopBrowser

pytestmark = pytest.mark.timeout(300)

KEYS = r'session_glass_to_glass_seconds_count{template="petra"}'
PROBES = r'vdi_probes_total{outcome="measured",template="petra"}'
BLIND = r'vdi_probes_total{outcome="first picture",template="paula"}'
# The template that the chart makes for the CronJob.
PROBED = "vdi-probe.vdi-system.vdi"


@pytest.fixture
def probing(sessions: World) -> Iterator[World]:
    """The release with the probe, which the demo leaves out; as it was before afterwards."""
    with with_values(sessions, "probe.enabled=true"):
        yield sessions


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    return tmp_path


def log_in(world: World, user: str) -> None:
    """As `vdi login` leaves it, with a token that the account page has made."""
    authority = (world.kubeconfig.parent / "pki/web-ca.crt").read_text()
    with DesktopBrowser(world.portal, world.login(user)) as browser:
        browser.log_in()
        token = browser.page.evaluate(MAKE_TOKEN, "probe")
    write_logins(Logins(world.portal, {world.portal: Login(user, token, ca=authority)}))


def probe(world: World, name: str, *words: str) -> str:
    return world.vdi("session", "probe", name, "--server", world.portal, *words, check=False)


def figures(world: World, name: str) -> dict[str, Any]:
    """The probe's JSON. What it says of the goal stands behind it, and depends on the machine."""
    said = probe(world, name, "-o", "json")
    found: dict[str, Any] = json.JSONDecoder().raw_decode(said)[0]
    return found


@pytest.mark.long
def test_probe_measures_unused_and_used_desktops(sessions: World, home: Path) -> None:
    with started(sessions, "petra", persistence={"enabled": False}):
        log_in(sessions, "petra@example.com")
        # Of an earlier run on the same cluster.
        keys = metric(sessions, KEYS)
        probes = metric(sessions, PROBES)
        before = ask_agent(sessions, "petra")
        assert before["connectedSeconds"] is None

        found = figures(sessions, "petra")
        seen = found["figures"]
        assert found["through"] == status_of(sessions, "petra")["url"]
        assert seen["firstPictureSeconds"] > 0
        assert seen["framesPerSecond"] > 0
        assert seen["bitrateKbps"] > 0
        assert len(seen["inputToPhotonMs"]) + seen["keysWithoutEffect"] == 40
        assert 0 < found["p50Ms"] <= found["p95Ms"]
        assert metric(sessions, KEYS) == keys + 40
        assert metric(sessions, PROBES) == probes + 1

        after = ask_agent(sessions, "petra")
        assert after["connectedSeconds"] is None, "a probe is no visit"
        assert after["idleSeconds"] > before["idleSeconds"] + 5, "its keys are no input"

        with sessions.browser("petra") as browser:
            browser.open()
            wait_until(
                "the probe's mark is gone", lambda: ask_agent(sessions, "petra")["viewers"] == 1
            )
            picture = picture_at_rest(browser)
            figures(sessions, "petra")
            wait_for_scene(
                browser, picture, "nothing is left of the probe's mark, and nothing was resized", 10
            )
            assert not [line for line in browser.messages if "superseded" in line.lower()]
            browser.type("x")
            wait_until(
                "a person's key counts", lambda: ask_agent(sessions, "petra")["idleSeconds"] < 5
            )
        assert metric(sessions, PROBES) == probes + 2


@pytest.mark.long
def test_probe_without_a_picture_says_so_and_is_counted(sessions: World, home: Path) -> None:
    env = [{"name": "SELKIES_VIDEO_ON_START", "value": "false"}]
    with started(sessions, "paula", persistence={"enabled": False}, env=env):
        log_in(sessions, "paula@example.com")
        failures = metric(sessions, BLIND)  # of an earlier run on the same cluster
        said = probe(sessions, "paula")
        assert (
            "paula: first picture: no picture within 15 s; the page shows 'Waiting for stream'"
            in said
        )
        assert metric(sessions, BLIND) == failures + 1


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_cronjob_measures_a_desktop_from_a_pod(probing: World) -> None:
    """The commands of docs/probe.md, without waiting for the schedule."""

    def in_release(*words: str) -> str:
        return probing.kubectl("-n", RELEASE_NAMESPACE, *words)

    in_release("create", "job", "probe-now", "--from=cronjob/vdi-probe")
    in_release("wait", "job/probe-now", "--for=jsonpath={.status.ready}=1", "--timeout=2m")
    log = in_release("logs", "-f", "job/probe-now")
    assert "input to photon" in log, log
    assert metric(probing, rf'vdi_probes_total{{outcome="measured",template="{PROBED}"}}') == 1
    assert metric(probing, rf'session_glass_to_glass_seconds_count{{template="{PROBED}"}}') == 40
    wait_until("its desktop is deleted", lambda: not probing.items("vdi"))

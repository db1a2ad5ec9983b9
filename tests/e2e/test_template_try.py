"""`vdi template try` on a real node: our own image reaches every level, images that people bring
theirs, and one that does not start is named with its reason.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.conftest import NAME
from e2e.desktops import template
from e2e.release import load_image
from e2e.world import World
from support.waiting import wait_until
from vdi.image_check.judge import AGENT, END, START, START_UP, TOKENS, TRIAL

pytestmark = pytest.mark.timeout(300)
STAND_INS = "localhost/vdi/web-stand-ins:dev"
SELKIES_1 = {"streaming": {"selkies": "1"}, "env": [{"name": "STAND_IN", "value": "selkies-1"}]}
KASMVNC = {
    "protocol": "Web",
    "port": 6901,
    "scheme": "HTTPS",
    "env": [{"name": "STAND_IN", "value": "kasmvnc"}],
}
SIGN_IN = {"selkies-1": ("user", "mypasswd"), "kasmvnc": ("kasm_user", "vncpassword")}


def check(world: World, *words: str) -> dict[str, Any]:
    """Its report; nothing is left behind."""
    said = world.vdi("template", "try", *words, "-o", "json", check=False)
    found: dict[str, Any] = json.JSONDecoder().raw_decode(said[said.index("{") :])[0]
    wait_until("nothing is left behind", lambda: world.get("vdisession", TRIAL) is None)
    return found


def by_severity(report: dict[str, Any], severity: str) -> dict[str, str]:
    return {
        finding["code"]: finding["message"]
        for finding in report["findings"]
        if finding["severity"] == severity
    }


def assert_not_started(report: dict[str, Any], reason: str) -> None:
    assert reason in by_severity(report, "error")[START], report
    assert report["level"] == ""


def test_our_own_image_reaches_every_level(world: World) -> None:
    with template(world, "checked"):
        report = check(world, "checked")
    assert report["level"] == "full", report
    assert set(by_severity(report, "ok")) == {START, START_UP, END, TOKENS, AGENT}, report


@pytest.mark.ci
def test_exiting_template_is_reported_with_its_last_line(world: World) -> None:
    # An application that the image does not have: vdi-desktop refuses it by name.
    with template(world, "ends", app={"command": ["no-such-program"]}):
        report = check(world, "ends")
    assert_not_started(report, "no-such-program")


@pytest.mark.ci
def test_image_without_a_desktop_is_reported(world: World, tmp_path: Path) -> None:
    """An nginx with static files."""
    image = "ghcr.io/selkies-project/selkies-gstreamer/gst-web:latest"
    (tmp_path / "web.yaml").write_text(world.vdi("template", "new", "web", "--from-image", image))
    report = check(world, str(tmp_path / "web.yaml"))
    assert_not_started(report, "contains no desktop")


@pytest.mark.long
def test_broken_libgbm_is_the_reported_reason(world: World) -> None:
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "truncated"}}
    world.kubectl(
        "apply", "-f", "-", stdin=yaml.safe_dump({**config_map, "data": {"libgbm.so.1": "short"}})
    )
    volume = {
        "name": "truncated",
        "mountPath": "/opt/truncated",
        "configMap": {"name": "truncated"},
    }
    path = {"name": "LD_LIBRARY_PATH", "value": "/opt/truncated"}
    with template(world, "truncated", volumes=[volume], env=[path]):
        report = check(world, "truncated")
    world.kubectl("delete", "configmap", "truncated")
    assert_not_started(report, "libgbm.so.1: file too short")


@pytest.fixture(scope="module")
def stand_ins(world: World) -> World:
    """The world, with the image of stand-ins in its node and the Secrets with their logins."""
    load_image(NAME, "web-stand-ins")
    for name, (user, password) in SIGN_IN.items():
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"login-{name}"}}
        body = {**secret, "stringData": {"username": user, "password": password}}
        world.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(body))
    return world


@pytest.mark.long
@pytest.mark.parametrize(("name", "spec"), [("selkies-1", SELKIES_1), ("kasmvnc", KASMVNC)])
def test_image_with_basic_auth_requires_its_secret(
    stand_ins: World, name: str, spec: dict[str, Any]
) -> None:
    with template(
        stand_ins, name, image=STAND_INS, basicAuthSecret={"name": f"login-{name}"}, **spec
    ):
        report = check(stand_ins, name)
    assert (report["level"], by_severity(report, "error")) == ("web", {}), report

    with template(stand_ins, name, image=STAND_INS, **spec):
        report = check(stand_ins, name)
    assert_not_started(report, "requires a password")


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("name", "expected"), [("notebook", "web"), ("kiosk", "full"), ("developer", "full")]
)
def test_gallery_image_reaches_its_level(world: World, name: str, expected: str) -> None:
    """JupyterLab from PyPI, and two desktops from ours: one application, and Xfce with more
    programs.
    """
    load_image(NAME, name)
    world.kubectl(
        "apply", "-f", str(Path(__file__).parents[2] / f"docs/examples/gallery/{name}.yaml")
    )
    report = check(world, name)
    world.kubectl("delete", "vditemplate", name)
    assert (report["level"], by_severity(report, "error")) == (expected, {}), report

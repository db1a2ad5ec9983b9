"""`vdi template try` on a real node: our own image reaches every level, images that people bring theirs, and one that
does not start is named with its reason.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from e2e.conftest import NAME
from e2e.desktops import template
from e2e.world import World
from support.waiting import wait_until
from vdi.devcluster import binaries, images, privileged
from vdi.devcluster.layout import layout_of
from vdi.devcluster.progress import Progress
from vdi.image_check.judge import AGENT, END, START, START_UP, TOKENS, TRIAL

pytestmark = pytest.mark.timeout(300)
STAND_INS = "localhost/vdi/web-stand-ins:dev"
SELKIES_1 = {"streaming": {"selkies": "1"}, "env": [{"name": "STAND_IN", "value": "selkies-1"}]}
KASMVNC = {"protocol": "Web", "port": 6901, "scheme": "HTTPS", "env": [{"name": "STAND_IN", "value": "kasmvnc"}]}
SIGN_IN = {"selkies-1": ("user", "mypasswd"), "kasmvnc": ("kasm_user", "vncpassword")}


def sessions_of_checks(world: World) -> str:
    return world.kubectl("get", "vdisession", TRIAL, "--ignore-not-found", "-o", "name")


def check(world: World, *words: str) -> dict[str, Any]:
    """Its report; nothing is left behind."""
    said = world.vdi("template", "try", *words, "-o", "json", check=False)
    found: dict[str, Any] = json.JSONDecoder().raw_decode(said[said.index("{") :])[0]
    wait_until("nothing is left behind", lambda: not sessions_of_checks(world))
    return found


def by_severity(report: dict[str, Any], severity: str) -> dict[str, str]:
    return {finding["code"]: finding["message"] for finding in report["findings"] if finding["severity"] == severity}


def test_our_own_image_reaches_every_level(world: World) -> None:
    with template(world, "checked"):
        report = check(world, "checked")
    assert report["level"] == "full", report
    assert set(by_severity(report, "ok")) == {START, START_UP, END, TOKENS, AGENT}, report


def test_exiting_template_is_reported_with_its_last_line(world: World) -> None:
    # An application that the image does not have: vdi-desktop refuses it by name.
    with template(world, "ends", app={"command": ["no-such-program"]}):
        report = check(world, "ends")
    assert "no-such-program" in by_severity(report, "error")[START], report
    assert report["level"] == ""


def test_image_without_a_desktop_is_reported(world: World, tmp_path: Path) -> None:
    """An nginx with static files."""
    image = "ghcr.io/selkies-project/selkies-gstreamer/gst-web:latest"
    (tmp_path / "web.yaml").write_text(world.vdi("template", "new", "web", "--from-image", image))
    report = check(world, str(tmp_path / "web.yaml"))
    assert "contains no desktop" in by_severity(report, "error")[START], report
    assert report["level"] == ""


@pytest.mark.long
def test_broken_libgbm_is_the_reported_reason(world: World) -> None:
    config_map = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "truncated"}}
    world.kubectl("apply", "-f", "-", stdin=yaml.safe_dump({**config_map, "data": {"libgbm.so.1": "short"}}))
    volume = {"name": "truncated", "mountPath": "/opt/truncated", "configMap": {"name": "truncated"}}
    path = {"name": "LD_LIBRARY_PATH", "value": "/opt/truncated"}
    with template(world, "truncated", volumes=[volume], env=[path]):
        report = check(world, "truncated")
    world.kubectl("delete", "configmap", "truncated")
    assert "libgbm.so.1: file too short" in by_severity(report, "error")[START], report
    assert report["level"] == ""


def load(name: str) -> None:
    """Build an image, and put it in the node."""
    with Progress(Path(tempfile.mkdtemp(prefix="vdi-template-try-"))) as progress:
        built = images.ensure_image(name, progress=progress)
        found = binaries.ensure(["ctr"], progress=progress)
        with progress.step("Load the image"):
            privileged.import_images(layout_of(NAME), found["ctr"], built)


@pytest.fixture(scope="module")
def stand_ins(world: World) -> World:
    """The world, with the image of stand-ins in its node and the Secrets with their logins."""
    load("web-stand-ins")
    for name, (user, password) in SIGN_IN.items():
        secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": f"login-{name}"}}
        body = {**secret, "stringData": {"username": user, "password": password}}
        world.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(body))
    return world


@pytest.mark.long
@pytest.mark.parametrize(("name", "spec"), [("selkies-1", SELKIES_1), ("kasmvnc", KASMVNC)])
def test_image_with_basic_auth_requires_its_secret(stand_ins: World, name: str, spec: dict[str, Any]) -> None:
    with template(stand_ins, name, image=STAND_INS, basicAuthSecret={"name": f"login-{name}"}, **spec):
        report = check(stand_ins, name)
    assert (report["level"], by_severity(report, "error")) == ("web", {}), report

    with template(stand_ins, name, image=STAND_INS, **spec):
        report = check(stand_ins, name)
    assert "requires a password" in by_severity(report, "error")[START], report
    assert report["level"] == ""


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("name", "expected"), [("notebook", "web"), ("kiosk", "full"), ("developer", "full")])
def test_gallery_image_reaches_its_level(world: World, name: str, expected: str) -> None:
    """JupyterLab from PyPI, and two desktops from ours: one application, and Xfce with more programs."""
    load(name)
    world.kubectl("apply", "-f", str(Path(__file__).parents[2] / f"docs/examples/gallery/{name}.yaml"))
    report = check(world, name)
    world.kubectl("delete", "vditemplate", name)
    assert (report["level"], by_severity(report, "error")) == (expected, {}), report


def test_ctrl_c_deletes_the_session(world: World) -> None:
    command = [sys.executable, "-m", "vdi", "template", "try", "interrupted"]
    environment = {**os.environ, "KUBECONFIG": str(world.kubeconfig)}
    pipe = subprocess.PIPE
    with (
        template(world, "interrupted"),
        subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process,
    ):
        wait_until("the session is there", lambda: sessions_of_checks(world))
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Interrupted; the session is deleted." in said, said
    wait_until("nothing is left behind", lambda: not sessions_of_checks(world))

"""`vdi image check` on a real node: our own image reaches every level; one that ends at once, with its reason."""

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from e2e.desktops import DESKTOP_IMAGE, template
from e2e.world import World
from support.waiting import wait_until
from vdi.image_check import codes
from vdi.image_check.pod import LABELS

pytestmark = pytest.mark.timeout(300)


def pods_of_checks(world: World) -> list[str]:
    label = ",".join(f"{key}={value}" for key, value in LABELS.items())
    return world.kubectl("get", "pods", "-l", label, "-o", "name").split()


def check(world: World, *words: str) -> dict[str, Any]:
    """Its report; nothing is left behind."""
    said = world.vdi("image", "check", *words, "-o", "json", check=False)
    found: dict[str, Any] = json.JSONDecoder().raw_decode(said[said.index("{") :])[0]
    assert pods_of_checks(world) == []
    return found


def by_severity(report: dict[str, Any], severity: str) -> dict[str, str]:
    return {finding["code"]: finding["message"] for finding in report["findings"] if finding["severity"] == severity}


def levels(report: dict[str, Any]) -> dict[str, str]:
    return {level["level"]: level["holds"] for level in report["levels"]}


def test_our_own_image_reaches_every_level(world: World) -> None:
    with template(world, "checked"):
        report = check(world, "checked")
    assert levels(report) == {"web": "yes", "Selkies 2": "yes", "full": "yes"}, report
    ok = by_severity(report, "ok")
    assert set(ok) == set(codes.NAMES), report
    assert ok[codes.USER] == "User 1000, group 1000."
    assert ok[codes.HOME] == "/home/user is writable."
    assert ok[codes.HEALTH] == "/api/health responds with 200."


def test_a_template_that_ends_at_once_is_named_with_its_last_words(world: World) -> None:
    # An application that the image does not have: vdi-desktop refuses it by name.
    with template(world, "ends", app={"command": ["no-such-program"]}):
        report = check(world, "ends")
    wrong = by_severity(report, "error")
    assert set(wrong) == {codes.START}, report
    assert "ended with exit status" in wrong[codes.START] and "no-such-program" in wrong[codes.START]
    assert set(levels(report).values()) == {"no"}
    assert codes.HOME in by_severity(report, "ok"), "a shell in the image has looked at the home all the same"


def test_our_image_refuses_to_start_as_a_web_image_that_no_one_signs_in_to(world: World) -> None:
    report = check(world, DESKTOP_IMAGE, "--protocol", "Web", "--timeout", "2m")
    assert levels(report) == {"web": "no"}, report
    assert set(by_severity(report, "error")) == {codes.START}, report


def test_ctrl_c_removes_the_pod(world: World) -> None:
    command = [sys.executable, "-m", "vdi", "image", "check", "interrupted"]
    environment = {**os.environ, "KUBECONFIG": str(world.kubeconfig)}
    pipe = subprocess.PIPE
    with (
        template(world, "interrupted"),
        subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True) as process,
    ):
        wait_until("the pod is there", lambda: pods_of_checks(world), 60)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Interrupted; the pod is removed." in said, said
    wait_until("nothing is left behind", lambda: not pods_of_checks(world), 30)

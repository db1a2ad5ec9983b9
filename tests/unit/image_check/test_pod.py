"""The pod of a check is the operator's, for a time, and of no session."""

import shutil
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from vdi.api.meta import ObjectMeta
from vdi.api.resources import TemplateResources
from vdi.api.template import (
    ConfigMapVolume,
    Protocol,
    TemplatePersistence,
    TemplateSpec,
    TemplateVolume,
    VDITemplate,
)
from vdi.image_check.observation import Inside
from vdi.image_check.pod import HOME_CONTAINER, Tokens, build_check_pod, read_inside, resolve_desktop
from vdi.session.effective import Blocked, Desktop
from vdi.session.identity import SESSION_LABEL

TOKENS = Tokens("the-master", "the-agent")


def pod_of(**spec: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"image": "registry.example.com/x:1", "resources": TemplateResources(default_gpu=0)}
    template = VDITemplate(metadata=ObjectMeta(name="cad"), spec=TemplateSpec(**fields | spec))
    desktop = resolve_desktop("check", "vdi-sessions", template)
    assert isinstance(desktop, Desktop)
    return build_check_pod("check", "vdi-sessions", template, desktop, TOKENS, 300)


def test_it_ends_by_itself_has_no_claim_and_no_secret() -> None:
    pod = pod_of()
    spec = pod["spec"]
    assert spec["restartPolicy"] == "Never" and spec["activeDeadlineSeconds"] == 480
    assert {"name": "home", "emptyDir": {}} in spec["volumes"]
    assert not any("persistentVolumeClaim" in volume for volume in spec["volumes"])
    assert SESSION_LABEL not in pod["metadata"]["labels"] and "ownerReferences" not in pod["metadata"]
    env = {variable["name"]: variable.get("value") for variable in spec["containers"][0]["env"]}
    assert env["VDI_MASTER_TOKEN_SHA256"] == sha256(b"the-master").hexdigest()
    assert env["VDI_AGENT_TOKEN_SHA256"] == sha256(b"the-agent").hexdigest()
    assert "the-master" not in str(pod) and "the-agent" not in str(pod), "the desktop gets digests, as a session's does"


def test_both_containers_have_the_same_image_user_home_and_no_rights() -> None:
    desktop, second = pod_of(run_as_user=1234)["spec"]["containers"]
    assert second["name"] == HOME_CONTAINER and second["image"] == desktop["image"]
    assert second["securityContext"] == desktop["securityContext"]
    home = {"name": "home", "mountPath": "/home/user"}
    assert home in second["volumeMounts"] and home in desktop["volumeMounts"]


def test_folders_in_the_home_are_made_as_in_a_session() -> None:
    git = TemplateVolume(name="git", mount_path="/home/user/.config/git", config_map=ConfigMapVolume(name="git"))
    (maker,) = pod_of(volumes=(git,))["spec"]["initContainers"]
    assert maker["command"][-1] == "/home/user/.config"
    assert maker["volumeMounts"] == [{"name": "home", "mountPath": "/home/user"}]


def test_a_template_without_homes_gets_none() -> None:
    spec = pod_of(persistence=TemplatePersistence(enabled=False), protocol=Protocol.WEB)["spec"]
    assert "home" not in {volume["name"] for volume in spec["volumes"]}
    assert spec["containers"][1]["command"][-1] == ""


def test_what_cannot_be_used_is_not_started() -> None:
    template = VDITemplate(metadata=ObjectMeta(name="x"), spec=TemplateSpec(image="selkies/gst-web:latest"))
    blocked = resolve_desktop("check", "vdi-sessions", template)
    assert isinstance(blocked, Blocked) and "contains no desktop, only a part of Selkies" in blocked.message


@pytest.mark.parametrize("shell", ["sh", "bash", pytest.param("busybox", marks=pytest.mark.platform)])
def test_the_script_of_the_second_container(shell: str, tmp_path: Path) -> None:
    """With the shells that images have."""
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"there is no {shell} here")
    words = [program, *(["sh"] if shell == "busybox" else []), "-c"]
    log = tmp_path / "termination-log"
    *_, script, _, _ = pod_of()["spec"]["containers"][1]["command"]
    script = script.replace("/dev/termination-log", str(log))
    home = tmp_path / "home"
    home.mkdir()

    def report(path: str, variable: str) -> Inside | None:
        environment = {"HOME": variable, "PATH": "/usr/bin:/bin"}
        subprocess.run([*words, script, "sh", path], env=environment, check=True, capture_output=True, timeout=20)
        return read_inside(log.read_text())

    uid, gid = (subprocess.run(["id", flag], capture_output=True, text=True).stdout.strip() for flag in ("-u", "-g"))
    assert report(str(home), "/root") == Inside(uid, gid, "/root", True)
    assert report("", str(home)) == Inside(uid, gid, str(home), True)
    assert report("/proc/nothing", "/home/with a space") == Inside(uid, gid, "/home/with a space", False)
    assert list(home.iterdir()) == [], "its file is gone"


@pytest.mark.parametrize("message", ["", "nonsense", "1000 1000 maybe /home/user"])
def test_another_message_is_no_report(message: str) -> None:
    assert read_inside(message) is None

"""Bad input is refused by the API server itself, with field, value and what is allowed; good input is defaulted."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.crd_server import CRDS, Server
from support.waiting import wait_until
from unit.gateway.user_addresses import HIDDEN, ORDINARY

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "docs/examples").glob("**/*.yaml"))

MISSION_OBJECTS = """
apiVersion: vdi.kasm.io/v1alpha1
kind: VDITemplate
metadata:
  name: ubuntu-desktop
spec:
  image: ghcr.io/selkies-project/selkies-gstreamer/gst-web:latest
  displayName: "Ubuntu 22.04 Desktop"
  description: "Full Ubuntu desktop with GPU acceleration"
  resources:
    defaultGPU: 1
    defaultMemory: "4Gi"
    defaultCPU: "2"
  env:
    - name: SELKIES_ENCODER
      value: "nvh264enc"
---
apiVersion: vdi.kasm.io/v1alpha1
kind: VDISession
metadata:
  name: alice-desktop
spec:
  user: alice@example.com
  template: ubuntu-desktop
  resources:
    gpu: 1
    memory: "4Gi"
  timeout: "8h"
"""


def session(**fields: Any) -> dict[str, Any]:
    return {"user": "alice@example.com", "template": "desktop", **fields}


def resources(**fields: Any) -> dict[str, Any]:
    return session(resources=fields)


def volume(**fields: Any) -> dict[str, Any]:
    return {"image": "i", "volumes": [{"name": "data", "mountPath": "/data", **fields}]}


MEMORY = "is not an amount of at least 1Mi, such as 4Gi or 512Mi"
CPU = "is not a number of CPUs of at least 1m, such as 2 or 500m"
TIME = "is not a duration above zero in hours, minutes and seconds, such as 8h, 30m or 1h30m"
HOST = "is not a host label: lower-case letters, digits and inner hyphens, such as alice-2"
OBJECT = "is not the name of an object: lower-case letters, digits, inner hyphens and dots, such as ubuntu-22.04"
SUB_PATH = "is not a path inside the volume such as teams/{group} or home/{user}: no / at its ends, no .. and no braces"
PATH = "is not an absolute path below / without colons, such as /home/user"

SESSIONS_REFUSED = [
    (session(user="alice"), "spec.user", "alice", "is not an e-mail address such as alice@example.com"),
    (session(user="alice@example"), "spec.user", "alice@example", r"should match '^\S+@\S+\.\S+$'"),
    (session(user="alice @example.com"), "spec.user", "alice @example.com", "is not an e-mail address"),
    (session(user="a" * 250 + "@b.cd"), "spec.user", "", "may not be more than 254 bytes"),
    ({"template": "desktop"}, "spec.user", "", "Required value"),
    ({"user": "alice@example.com"}, "spec.template", "", "Required value"),
    (session(template="My_Desktop"), "spec.template", "My_Desktop", OBJECT),
    (session(template=""), "spec.template", "", "should be at least 1 chars long"),
    (resources(gpu=0), "spec.resources.gpu", "0", "should be greater than or equal to 1"),
    (resources(gpu=-1), "spec.resources.gpu", "-1", "should be greater than or equal to 1"),
    (resources(gpu="one"), "spec.resources.gpu", "string", "must be of type integer"),
    (resources(gpu=1.5), "spec.resources.gpu", "number", "must be of type integer"),
    (resources(memory="4Gib"), "spec.resources.memory", "4Gib", MEMORY),
    (resources(memory="four"), "spec.resources.memory", "four", MEMORY),
    (resources(memory="-4Gi"), "spec.resources.memory", "-4Gi", MEMORY),
    (resources(memory="400m"), "spec.resources.memory", "400m", MEMORY),
    (resources(memory=4), "spec.resources.memory", "4", MEMORY),
    (resources(memory=""), "spec.resources.memory", "", MEMORY),
    (resources(cpu="0"), "spec.resources.cpu", "0", CPU),
    (resources(cpu=0), "spec.resources.cpu", "0", CPU),
    (resources(cpu="two"), "spec.resources.cpu", "two", CPU),
    (resources(cpu=1.5), "spec.resources.cpu", "number", "must be of type integer,string"),
    (resources(ephemeralStorage="lots"), "spec.resources.ephemeralStorage", "lots", MEMORY),
    (resources(gpus=1), "spec.resources.gpus", "", "unknown field"),
    (session(time_out="8h"), "spec.time_out", "", "unknown field"),
    (session(timeout="8 hours"), "spec.timeout", "8 hours", TIME),
    (session(timeout="0s"), "spec.timeout", "0s", TIME),
    (session(timeout="0h0m"), "spec.timeout", "0h0m", TIME),
    (session(timeout="-1h"), "spec.timeout", "-1h", TIME),
    (session(timeout="8"), "spec.timeout", "8", TIME),
    (session(timeout=""), "spec.timeout", "", TIME),
    (session(timeout="1.5h"), "spec.timeout", "1.5h", TIME),
    (session(timeout="9999999h"), "spec.timeout", "9999999h", TIME),
    (session(timeout=8), "spec.timeout", "integer", "must be of type string"),
    (session(hostname="Alice"), "spec.hostname", "Alice", HOST),
    (session(hostname="alice.desk"), "spec.hostname", "alice.desk", HOST),
    (session(hostname="-alice"), "spec.hostname", "-alice", HOST),
    (session(hostname="a" * 64), "spec.hostname", "", "may not be more than 63 bytes"),
    (session(persistence={"size": "10G i"}), "spec.persistence.size", "10G i", MEMORY),
    (session(persistence={"storageClass": "Local Path"}), "spec.persistence.storageClass", "Local Path", OBJECT),
    (session(persistence={"retain": "no"}), "spec.persistence.retain", "string", "must be of type boolean"),
    (session(idleTimeout="30"), "spec.idleTimeout", "30", TIME),
    (session(idleTimeout="0m"), "spec.idleTimeout", "0m", TIME),
    (session(idleTimeout=30), "spec.idleTimeout", "integer", "must be of type string"),
    (session(suspended="yes"), "spec.suspended", "string", "must be of type boolean"),
    (session(priority=1001), "spec.priority", "1001", "should be less than or equal to 1000"),
    (session(priority=-1001), "spec.priority", "-1001", "should be greater than or equal to -1000"),
    (session(priority="high"), "spec.priority", "string", "must be of type integer"),
]

TEMPLATES_REFUSED = [
    ({}, "spec.image", "", "Required value"),
    ({"image": ""}, "spec.image", "", "should be at least 1 chars long"),
    ({"image": "my image:1"}, "spec.image", "my image:1", "is not the name of a container image"),
    ({"image": "i", "port": 0}, "spec.port", "0", "should be greater than or equal to 1"),
    ({"image": "i", "port": 70000}, "spec.port", "70000", "should be less than or equal to 65535"),
    ({"image": "i", "port": 8082}, "spec.port", "", "must not be 8082, the port of the agent in each desktop"),
    ({"image": "i", "healthPath": "health"}, "spec.healthPath", "health", "is not the path of a URL without spaces"),
    ({"image": "i", "protocol": "web"}, "spec.protocol", '"web"', 'supported values: "Selkies", "Web"'),
    ({"image": "i", "scheme": "https"}, "spec.scheme", '"https"', 'supported values: "HTTP", "HTTPS"'),
    ({"image": "i", "runAsUser": 0}, "spec.runAsUser", "0", "should be greater than or equal to 1"),
    (
        {"image": "i", "protocol": "Web", "streaming": {"framerate": 30}},
        "spec.protocol",
        "",
        "streaming, app, keyboard are settings of Selkies, which an image with protocol 'Web' does not have",
    ),
    (
        {"image": "i", "basicAuthSecret": {"name": "kasmvnc"}},
        "spec.basicAuthSecret",
        "",
        "Selkies 2 uses tokens of the gateway instead of basic auth; allowed with protocol 'Web' and with Selkies 1",
    ),
    (
        {"image": "i", "protocol": "Web", "basicAuthSecret": {"name": "KasmVNC"}},
        "spec.basicAuthSecret.name",
        "KasmVNC",
        "is not the name of an object",
    ),
    ({"image": "i", "shmSize": "1GB"}, "spec.shmSize", "1GB", MEMORY),
    ({"image": "i", "resources": {"defaultGPU": -1}}, "spec.resources.defaultGPU", "-1", "greater than or equal to 0"),
    (
        {"image": "i", "resources": {"defaultGPU": 3, "maxGPU": 2}},
        "spec.resources.defaultGPU",
        "defaultGPU is '3'",
        "more than maxGPU '2'",
    ),
    (
        {"image": "i", "resources": {"defaultMemory": "8Gi", "maxMemory": "8191Mi"}},
        "spec.resources.defaultMemory",
        "defaultMemory is '8Gi'",
        "more than maxMemory '8191Mi'",
    ),
    (
        {"image": "i", "resources": {"maxCPU": "1500m"}},
        "spec.resources.defaultCPU",
        "defaultCPU is '2'",
        "more than maxCPU '1500m'",
    ),
    ({"image": "i", "resources": {"defaultCPU": "0"}}, "spec.resources.defaultCPU", "0", CPU),
    ({"image": "i", "resources": {"defaultMemory": "4Gib"}}, "spec.resources.defaultMemory", "4Gib", MEMORY),
    ({"image": "i", "persistence": {"mountPath": "home"}}, "spec.persistence.mountPath", "home", PATH),
    ({"image": "i", "persistence": {"mountPath": "/"}}, "spec.persistence.mountPath", "/", PATH),
    ({"image": "i", "persistence": {"scope": "Everyone"}}, "spec.persistence.scope", "Everyone", '"Session"'),
    (
        {"image": "i", "persistence": {"accessMode": "ReadOnlyMany"}},
        "spec.persistence.accessMode",
        "ReadOnlyMany",
        '"ReadWriteMany"',
    ),
    (
        {"image": "i", "env": [{"name": "A"}]},
        "spec.env[0]",
        "A",
        "has neither of value and valueFrom, and needs exactly one",
    ),
    (
        {"image": "i", "env": [{"name": "A", "value": "", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]},
        "spec.env[0]",
        "A",
        "has both of value and valueFrom, and needs exactly one",
    ),
    (
        {"image": "i", "env": [{"name": "1A", "value": "x"}]},
        "spec.env[0].name",
        "1A",
        "is not the name of an environment variable",
    ),
    ({"image": "i", "env": [{"name": "A", "value": 60}]}, "spec.env[0].value", "integer", "must be of type string"),
    ({"image": "i", "env": [{"name": "A", "value": "1"}] * 2}, "spec.env[1]", "A", "Duplicate value"),
    (
        volume(),
        "spec.volumes[0]",
        "data",
        "has none of persistentVolumeClaim, configMap, secret and nfs, and needs exactly one",
    ),
    (
        volume(configMap={"name": "c"}, persistentVolumeClaim={"claimName": "p"}),
        "spec.volumes[0]",
        "data",
        "has several of persistentVolumeClaim, configMap, secret and nfs, and needs exactly one",
    ),
    *(
        (volume(configMap={"name": "c"}, subPath=path), "spec.volumes[0].subPath", path, SUB_PATH)
        for path in ("../b", "/b", "a/../b", "a//b", "a/", "..", "{home}", "a/{user", "{group}/..")
    ),
    (
        volume(configMap={"name": "c"}, subPath="{group}", mountPath="/t/{group}"),
        "spec.volumes[0]",
        "data",
        "has {group} in subPath, and needs groups, and {group} in mountPath",
    ),
    (
        volume(configMap={"name": "c"}, subPath="{group}", groups=[{"name": "cad"}]),
        "spec.volumes[0]",
        "data",
        "has {group} in subPath, and needs groups, and {group} in mountPath",
    ),
    (
        volume(configMap={"name": "c"}, groups=[{"name": "cad"}, {"name": "cad"}]),
        "spec.volumes[0].groups[1]",
        "cad",
        "Duplicate value",
    ),
    ({"image": "i", "startupScript": {}}, "spec.startupScript.configMapKeyRef", "", "Required value"),
    (volume(secret={"secretName": "C"}), "spec.volumes[0].secret.secretName", "C", OBJECT),
    (volume(configMap={"name": "c"}, name="shm"), "spec.volumes[0].name", "shm", "is not a unique name"),
    (volume(configMap={"name": "c"}, mountPath="data"), "spec.volumes[0].mountPath", "data", PATH),
    (volume(configMap={"name": "c"}, mountPath="/dev/shm"), "spec.volumes[0].mountPath", "", "must not be /dev/shm"),
    (
        volume(configMap={"name": "c"}, mountPath="/home/user"),
        "spec.volumes",
        "/home/user",
        "the mount path of the home",
    ),
    (volume(configMap={"name": "C"}), "spec.volumes[0].configMap.name", "C", OBJECT),
    (volume(nfs={"server": "files", "path": "export"}), "spec.volumes[0].nfs.path", "export", PATH),
    (
        {"image": "i", "volumes": [{"name": n, "mountPath": "/a", "configMap": {"name": "c"}} for n in "ab"]},
        "spec.volumes",
        "",
        "each mountPath must be used once",
    ),
    (
        {"image": "i", "placement": {"tolerations": [{"operator": "Is"}]}},
        "spec.placement.tolerations[0].operator",
        "Is",
        'supported values: "Exists", "Equal"',
    ),
    ({"image": "i", "imagePullSecrets": [{"name": "a b"}]}, "spec.imagePullSecrets[0].name", "a b", OBJECT),
    (
        {"image": "i", "persistence": {"size": "20Gi", "maxSize": "10Gi"}},
        "spec.persistence.size",
        "20Gi",
        "more than maxSize '10Gi'",
    ),
    ({"image": "i", "persistence": {"maxSize": "5Gi"}}, "spec.persistence.size", "10Gi", "more than maxSize '5Gi'"),
    ({"image": "i", "persistence": {"maxSize": "much"}}, "spec.persistence.maxSize", "much", "an amount of at least"),
    ({"image": "i", "gpu": 1}, "spec.gpu", "", "unknown field"),
    (
        {"image": "i", "podTemplate": {"metadata": {"labels": {"vdi.kasm.io/hold": "true"}}}},
        "spec.podTemplate.metadata.labels",
        "vdi.kasm.io/hold",
        "belongs to the operator; allowed: every key except",
    ),
    (
        {"image": "i", "podTemplate": {"metadata": {"labels": {"app.kubernetes.io/managed-by": "me"}}}},
        "spec.podTemplate.metadata.labels",
        "app.kubernetes.io/managed-by",
        "belongs to the operator",
    ),
    (
        {"image": "i", "podTemplate": {"metadata": {"annotations": {"vdi.kasm.io/user": "eve@example.com"}}}},
        "spec.podTemplate.metadata.annotations",
        "vdi.kasm.io/user",
        "belongs to the operator",
    ),
    (
        {"image": "i", "podTemplate": {"metadata": {"labels": {"team": "a b"}}}},
        "spec.podTemplate.metadata.labels.team",
        "a b",
        "should match",
    ),
    (
        {"image": "i", "podTemplate": {"spec": {"priorityClassName": "High Priority"}}},
        "spec.podTemplate.spec.priorityClassName",
        "High Priority",
        OBJECT,
    ),
    ({"image": "i", "podTemplate": {"spec": {"hostNetwork": True}}}, "hostNetwork", "", "unknown field"),
    (
        {"image": "i", "resources": {"defaultEphemeralStorage": "20Gi", "maxEphemeralStorage": "10Gi"}},
        "spec.resources.defaultEphemeralStorage",
        "20Gi",
        "more than maxEphemeralStorage '10Gi'",
    ),
    (
        {"image": "i", "resources": {"maxEphemeralStorage": "10Gi"}},
        "spec.resources.maxEphemeralStorage",
        "",
        "needs defaultEphemeralStorage",
    ),
    ({"image": "i", "lifecycle": {"maxTimeout": "1d"}}, "spec.lifecycle.maxTimeout", "1d", TIME),
    ({"image": "i", "lifecycle": {"idleTimeout": ""}}, "spec.lifecycle.idleTimeout", "", TIME),
    (
        {"image": "i", "lifecycle": {"onTimeout": "Delete"}},
        "spec.lifecycle.onTimeout",
        "Delete",
        'supported values: "Terminate", "Suspend"',
    ),
    (
        {"image": "i", "lifecycle": {"onIdle": "suspend"}},
        "spec.lifecycle.onIdle",
        "suspend",
        'supported values: "Suspend", "Terminate"',
    ),
    ({"image": "i", "prePull": "yes"}, "spec.prePull", "string", "must be of type boolean"),
]

POOLS_REFUSED = [
    ({"replicas": 1}, "spec.template", "", "Required value"),
    ({"template": "My_Desktop"}, "spec.template", "My_Desktop", OBJECT),
    ({"template": "desktop", "replicas": -1}, "spec.replicas", "-1", "should be greater than or equal to 0"),
    ({"template": "desktop", "replicas": "two"}, "spec.replicas", "string", "must be of type integer"),
    ({"template": "desktop", "size": 2}, "spec.size", "", "unknown field"),
]


def expect_named(said: str, field: str, value: str, allowed: str) -> None:
    """The refusal has the field, the value as a whole (where the server prints one) and what is allowed."""
    spellings = (f"'{value}'", f'"{value}"', f"value: {value}:", f"{value}, ")
    assert field in said and allowed in said, said
    assert not value or any(spelling in said for spelling in spellings), said


def label(case: object) -> str | None:
    return json.dumps(case)[:60] if isinstance(case, dict) else None


@pytest.mark.parametrize(("spec", "field", "value", "allowed"), SESSIONS_REFUSED, ids=label)
def test_a_wrong_session_is_refused_in_words(
    server: Server, spec: dict[str, Any], field: str, value: str, allowed: str
) -> None:
    said = server.refused("VDISession", spec)
    expect_named(said, field, value, allowed)


@pytest.mark.parametrize(("spec", "field", "value", "allowed"), TEMPLATES_REFUSED, ids=label)
def test_a_wrong_template_is_refused_in_words(
    server: Server, spec: dict[str, Any], field: str, value: str, allowed: str
) -> None:
    said = server.refused("VDITemplate", spec)
    expect_named(said, field, value, allowed)


@pytest.mark.parametrize(("spec", "field", "value", "allowed"), POOLS_REFUSED, ids=label)
def test_a_wrong_pool_is_refused_in_words(
    server: Server, spec: dict[str, Any], field: str, value: str, allowed: str
) -> None:
    said = server.refused("VDIPool", spec)
    expect_named(said, field, value, allowed)


@pytest.mark.parametrize("address", HIDDEN.values(), ids=HIDDEN)
def test_an_address_that_hides_something_is_refused(server: Server, address: str) -> None:
    for spec, field in (
        (session(user=address), "spec.user"),
        (session(access=[{"user": address}]), "spec.access[0].user"),
    ):
        said = server.refused("VDISession", spec)
        assert field in said and "must have only visible characters" in said and said.isascii(), said


@pytest.mark.parametrize("address", ORDINARY)
def test_an_address_that_people_have_is_taken(server: Server, address: str) -> None:
    assert server.accepted("VDISession", session(user=address))["user"] == address
    assert server.accepted("VDISession", session(access=[{"user": address}]))["access"][0]["user"] == address


def test_a_session_from_before_with_such_addresses_can_still_be_changed_and_ended(server: Server) -> None:
    def patched(change: dict[str, Any], *words: str) -> bool:
        return server.run("patch", "vdi", "old", "--type=merge", "-p", json.dumps(change), *words).returncode == 0

    owner, guest = HIDDEN["isolate"], {"user": HIDDEN["zero-width space"], "role": "viewer"}
    crd = (CRDS / "vdisessions.yaml").read_text()
    before = re.sub(r"\n *- rule: '!self\.matches.*\n *message: 'must have only visible.*", "", crd)
    meta = {"name": "old", "finalizers": ["vdi.test/hold"]}
    spec = session(user=owner, access=[guest])
    given = {"apiVersion": "vdi.kasm.io/v1alpha1", "kind": "VDISession", "metadata": meta, "spec": spec}
    try:
        assert server.run("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=before).returncode == 0
        wait_until("it knows the older rules", lambda: server.create("VDISession", spec).is_success)
        assert server.run("create", "-f", "-", stdin=json.dumps(given)).returncode == 0
    finally:
        assert server.run("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=crd).returncode == 0
    wait_until("it knows the new ones", lambda: server.create("VDISession", session(user=owner)).is_client_error)
    assert patched({"status": {"phase": "Running"}}, "--subresource=status")
    assert patched({"spec": {"timeout": "9h"}})
    bob = {"user": "bob@example.com", "role": "viewer"}
    assert patched({"spec": {"access": [guest, bob]}})
    assert not patched({"spec": {"access": [guest, {"user": HIDDEN["tag"], "role": "viewer"}]}})
    assert patched({"spec": {"access": [bob]}})
    assert patched({"metadata": {"finalizers": []}})


HIDING = {
    "escape": "x\x1b]0;title\x07",
    "C1": "x\x9b2J",
    "direction": "x\u202ey",
    "isolate": "x\u2066y",
    "zero width": "x\u200by",
    "tag": "x\U000e0041",
    "private use": "x\ue000",
    "line separator": "x\u2028y",
}
FIELDS_OF_TEMPLATES: dict[str, Callable[[str], dict[str, Any]]] = {
    "spec.displayName": lambda text: {"displayName": text},
    "spec.description": lambda text: {"description": text},
    "spec.icon": lambda text: {"icon": text},
    "spec.image": lambda text: {"image": text},
    "spec.healthPath": lambda text: {"healthPath": f"/{text}"},
    "spec.persistence.mountPath": lambda text: {"persistence": {"mountPath": f"/{text}"}},
    "spec.access.users[0]": lambda text: {"access": {"users": [text]}},
    "spec.access.groups[0]": lambda text: {"access": {"groups": [text]}},
}


@pytest.mark.parametrize("hiding", HIDING.values(), ids=HIDING)
def test_a_template_whose_text_hides_something_is_refused(server: Server, hiding: str) -> None:
    for field, spec in FIELDS_OF_TEMPLATES.items():
        assert field in server.refused("VDITemplate", {"image": "i", **spec(hiding)})


def test_a_template_in_any_script_is_taken(server: Server) -> None:
    texts = {"displayName": "デスクトップ\u3000Büro 🖥", "description": "First line.\n\n\t- שלום\n"}
    accepted = server.accepted("VDITemplate", {"image": "i", **texts})
    assert {name: accepted[name] for name in texts} == texts
    assert "spec.displayName" in server.refused("VDITemplate", {"image": "i", "displayName": "a\nb"})


@pytest.mark.parametrize("hiding", HIDING.values(), ids=HIDING)
def test_a_status_that_hides_something_is_refused(server: Server, hiding: str) -> None:
    given = {
        "apiVersion": "vdi.kasm.io/v1alpha1",
        "kind": "VDISession",
        "metadata": {"name": "hides"},
        "spec": session(),
    }
    assert server.run("create", "-f", "-", stdin=json.dumps(given)).returncode == 0

    def patched(status: dict[str, Any]) -> bool:
        words = ("patch", "vdi", "hides", "--type=merge", "--subresource=status", "-p", json.dumps({"status": status}))
        return server.run(*words).returncode == 0

    condition = {"type": "Ready", "status": "False", "reason": "X", "lastTransitionTime": "2026-11-20T08:00:00Z"}
    try:
        for name in ("device", "message", "encoderMessage"):
            assert not patched({"graphics": {"renderer": "Zink", name: hiding}})
        assert not patched({"message": hiding})
        assert not patched({"failures": {"message": hiding}})
        assert not patched({"conditions": [{**condition, "message": hiding}]})
        assert patched({"message": "a\nb", "conditions": [{**condition, "message": "a\nb"}]})
    finally:
        server.run("delete", "vdi", "hides", "--wait=false")


@pytest.mark.parametrize("length", ["8h", "30m", "45s", "1h30m", "1h0m5s", "999999h"])
def test_lengths_of_time_that_are_right(server: Server, length: str) -> None:
    assert server.accepted("VDISession", session(timeout=length))["timeout"] == length


@pytest.mark.parametrize("amount", ["4Gi", "512Mi", "4G", "1.5Gi", "4e9", 4294967296])
def test_memory_that_is_right(server: Server, amount: str | int) -> None:
    assert server.accepted("VDISession", resources(memory=amount))["resources"] == {"gpu": 1, "memory": amount}


@pytest.mark.parametrize("amount", ["2", "500m", "1.5", 2])
def test_cpus_that_are_right(server: Server, amount: str | int) -> None:
    assert server.accepted("VDISession", resources(cpu=amount))["resources"]["cpu"] == amount


@pytest.mark.parametrize("path", ["{user}", "teams/{group}", "a/b.c/..d", "ü"])
def test_sub_paths_that_are_right(server: Server, path: str) -> None:
    groups = {"groups": [{"name": "/eng/cad", "readOnly": False}, {"name": "staff"}]}
    volumes = volume(configMap={"name": "c"}, subPath=path, mountPath="/teams/{group}", **groups)
    assert server.accepted("VDITemplate", volumes)["volumes"][0]["groups"][1] == {"name": "staff", "readOnly": True}


def test_what_a_session_leaves_out(server: Server) -> None:
    assert server.accepted("VDISession", session()) == session(timeout="8h", suspended=False, priority=0), (
        "resources, persistence and idleTimeout: as the template says"
    )
    assert server.accepted("VDISession", resources())["resources"] == {"gpu": 1, "memory": "4Gi"}
    assert server.accepted("VDISession", session(persistence={}))["persistence"] == {"retain": True}


def test_what_a_template_leaves_out(server: Server) -> None:
    assert server.accepted("VDITemplate", {"image": "i"}) == {
        "image": "i",
        "resources": {"defaultGPU": 1, "defaultMemory": "4Gi", "defaultCPU": "2"},
        "protocol": "Selkies",
        "port": 8080,
        "scheme": "HTTP",
        "healthPath": "/api/health",
        "runAsUser": 1000,
        "persistence": {
            "enabled": True,
            "size": "10Gi",
            "storageClass": "local-path",
            "mountPath": "/home/user",
            "scope": "UserAndTemplate",
            "accessMode": "ReadWriteOnce",
        },
        "shmSize": "1Gi",
        "lifecycle": {"onTimeout": "Terminate", "onIdle": "Suspend"},
        "serviceWorkers": False,
        "thumbnails": True,
        "prePull": False,
    }
    assert (
        server.accepted("VDITemplate", {"image": "i", "resources": {"defaultGPU": 0}})["resources"]["defaultGPU"] == 0
    )


@pytest.mark.parametrize("name", ["a" * 253, "team.alice.desktop-1"[:253], "1"])
def test_names_up_to_kubernetes_own_limit(server: Server, name: str) -> None:
    server.accepted("VDISession", session(), name)
    server.accepted("VDITemplate", {"image": "i"}, name)


def test_a_program_that_does_not_ask_for_strictness_is_warned_of_an_unknown_field(server: Server) -> None:
    given = {
        "apiVersion": "vdi.kasm.io/v1alpha1",
        "kind": "VDISession",
        "metadata": {"name": "tried"},
        "spec": session(gpus=1),
    }
    answer = server.run(
        "create", "--dry-run=server", "--validate=warn", "-o", "json", "-f", "-", stdin=json.dumps(given)
    )
    assert answer.returncode == 0 and 'unknown field "spec.gpus"' in answer.stderr
    assert "gpus" not in json.loads(answer.stdout)["spec"]


def test_the_missions_objects_work_as_they_stand_and_then_stay_the_users(server: Server) -> None:
    assert server.run("create", "-f", "-", stdin=MISSION_OBJECTS).returncode == 0
    try:
        change = json.dumps({"spec": {"user": "bob@example.com", "template": "other"}})
        said = server.run("patch", "vdi", "alice-desktop", "--type=merge", "-p", change).stderr
        assert "spec.user" in said and "can't be changed from 'alice@example.com' to 'bob@example.com'" in said
        assert "spec.template" in said and "can't be changed from 'ubuntu-desktop' to 'other'" in said
        again = json.dumps({"spec": {"timeout": "9h"}})
        assert server.run("patch", "vdi", "alice-desktop", "--type=merge", "-p", again).returncode == 0

        status = json.dumps({"status": {"phase": "Running", "url": "https://a.vdi.example.com", "message": "Ready."}})
        assert (
            server.run("patch", "vdi", "alice-desktop", "--subresource=status", "--type=merge", "-p", status).returncode
            == 0
        )
        narrow = server.run("get", "vdi").stdout
        assert re.split(r" {2,}", narrow.splitlines()[0].strip()) == ["NAME", "USER", "PHASE", "URL", "AGE"]
        assert narrow.splitlines()[1].split()[:4] == [
            "alice-desktop",
            "alice@example.com",
            "Running",
            "https://a.vdi.example.com",
        ]
        wide = server.run("get", "vdi", "-o", "wide").stdout
        assert "ubuntu-desktop" in wide and "Ready." in wide
        assert "alice-desktop" in server.run("get", "all").stdout
        assert (
            "alice-desktop"
            in server.run("get", "vdi", "--field-selector", "spec.user=alice@example.com,status.phase=Running").stdout
        )
        assert "alice-desktop" not in server.run("get", "vdi", "--field-selector", "spec.user=bob@example.com").stdout
        shown = server.run("get", "vdit", "ubuntu-desktop").stdout.splitlines()[1]
        assert "Ubuntu 22.04 Desktop" in shown and "4Gi" in shown

        wrong = json.dumps({"status": {"phase": "Sleeping"}})
        said = server.run("patch", "vdi", "alice-desktop", "--subresource=status", "--type=merge", "-p", wrong).stderr
        assert 'Unsupported value: "Sleeping"' in said and '"Suspended"' in said
    finally:
        server.run("delete", "vdi,vdit", "alice-desktop", "ubuntu-desktop", "--ignore-not-found")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_of_the_documentation_are_accepted(server: Server, path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        server.accepted(document["kind"], document["spec"])


def test_a_new_session_shows_pending_before_anybody_has_written_its_status(server: Server) -> None:
    given = {
        "apiVersion": "vdi.kasm.io/v1alpha1",
        "kind": "VDISession",
        "metadata": {"name": "fresh"},
        "spec": session(),
    }
    server.run("create", "-f", "-", stdin=json.dumps(given))
    assert json.loads(server.run("get", "vdi", "fresh", "-o", "json").stdout)["status"] == {"phase": "Pending"}
    assert server.run("get", "vdi").stdout.splitlines()[1].split()[2] == "Pending"
    assert "fresh" in server.run("get", "vdi", "--field-selector", "status.phase=Pending").stdout


def test_a_pool_is_scaled_as_a_deployment_is(server: Server) -> None:
    name = f"pool-{server.namespace}"
    given = {
        "apiVersion": "vdi.kasm.io/v1alpha1",
        "kind": "VDIPool",
        "metadata": {"name": name},
        "spec": {"template": "desktop"},
    }
    server.run("create", "-f", "-", stdin=json.dumps(given))
    try:
        assert server.run("get", "vdipool", name).stdout.splitlines()[1].split()[:6] == [
            name,
            "desktop",
            "1",
            "0",
            "0",
            "0",
        ]
        assert server.run("scale", "vdipool", name, "--replicas=3").returncode == 0
        assert json.loads(server.run("get", "vdipool", name, "-o", "json").stdout)["spec"]["replicas"] == 3
        status = json.dumps({"status": {"ready": 2, "selector": f"vdi.kasm.io/pool={name}"}})
        assert (
            server.run("patch", "vdipool", name, "--subresource=status", "--type=merge", "-p", status).returncode == 0
        )
        scale = json.loads(server.run("get", "vdipool", name, "--subresource=scale", "-o", "json").stdout)
        assert (scale["spec"], scale["status"]) == (
            {"replicas": 3},
            {"replicas": 2, "selector": f"vdi.kasm.io/pool={name}"},
        )
    finally:
        server.run("delete", "vdipool", name)


def test_every_field_is_explained(server: Server) -> None:
    said = server.run("explain", "vdi.spec", "--recursive").stdout
    assert {"user", "template", "resources", "persistence", "timeout"} <= set(
        re.findall(r"^\s+(\w+)\t", said, re.MULTILINE)
    )

"""Bad input is refused by the API server itself, with field, value and what is allowed; good input
is defaulted.
"""

import json
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.crd_server import CRDS, Server, an_object
from support.docs_blocks import Given, objects
from support.waiting import wait_until
from unit.gateway.user_addresses import HIDDEN, ORDINARY

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "docs/examples").glob("**/*.yaml"))
DOCUMENTED = objects()

MISSION_OBJECTS = "---".join((ROOT / "tests/e2e/mission-objects.yaml").read_text().split("---")[:2])
LEFT_OUT = object()
MEMORY = "is not an amount of at least 64Mi, such as 4Gi or 512Mi"
AMOUNT = "is not an amount of at least 1Mi, such as 4Gi or 512Mi"
CPU = "is not a number of CPUs of at least 1m, such as 2 or 500m"
TIME = "is not a duration above zero in hours, minutes and seconds, such as 8h, 30m or 1h30m"
HOST = "is not a host label: lower-case letters, digits and inner hyphens, such as alice-2"
OBJECT = (
    "is not the name of an object: lower-case letters, digits, inner hyphens and dots, such as"
    " ubuntu-22.04"
)
X11 = "cannot be recorded; allowed with recording: X11"
SUB_PATH = (
    "is not a path inside the volume such as teams/{group} or home/{user}: no / at its ends, no .."
    " and no braces"
)
PATH = "is not an absolute path below / without colons, such as /home/user"
REQUIRED = "Required value"
UNKNOWN = "unknown field"
LEAST = "greater than or equal to"
MOST = "less than or equal to"
TEXT = "must be of type string"
NUMBER = "must be of type integer"
SWITCH = "must be of type boolean"
# Kind, field, value, what the refusal says.
FIELDS_REFUSED: list[tuple[str, str, Any, str]] = [
    ("VDISession", "user", LEFT_OUT, REQUIRED),
    ("VDISession", "user", "alice", "is not an e-mail address such as alice@example.com"),
    ("VDISession", "user", "alice@example", r"should match '^\S+@\S+\.\S+$'"),
    ("VDISession", "user", "a" * 250 + "@b.cd", "may not be more than 254 bytes"),
    ("VDISession", "template", LEFT_OUT, REQUIRED),
    ("VDISession", "template", "My_Desktop", OBJECT),
    ("VDISession", "template", "", "should be at least 1 chars long"),
    ("VDISession", "resources.gpu", 0, LEAST),
    ("VDISession", "resources.gpu", "one", NUMBER),
    *(
        ("VDISession", "resources.memory", value, MEMORY)
        for value in ("4Gib", "-4Gi", "400m", 4, "", "1Mi", "63Mi")
    ),
    *(("VDISession", "resources.cpu", value, CPU) for value in ("0", 0, "two")),
    ("VDISession", "resources.cpu", 1.5, "must be of type integer,string"),
    ("VDISession", "resources.ephemeralStorage", "lots", AMOUNT),
    ("VDISession", "resources.gpus", 1, UNKNOWN),
    *(
        ("VDISession", "timeout", value, TIME)
        for value in ("8 hours", "0h0m", "-1h", "8", "", "1.5h", "9999999h")
    ),
    ("VDISession", "timeout", 8, TEXT),
    *(("VDISession", "hostname", value, HOST) for value in ("Alice", "alice.desk", "-alice")),
    ("VDISession", "hostname", "a" * 64, "may not be more than 63 bytes"),
    ("VDISession", "persistence.size", "10G i", AMOUNT),
    ("VDISession", "persistence.storageClass", "Local Path", OBJECT),
    ("VDISession", "persistence.retain", "no", SWITCH),
    ("VDISession", "idleTimeout", "30", TIME),
    ("VDISession", "plannedEnd.time", "18:00", "must be of type date-time"),
    ("VDISession", "plannedEnd.action", "Stop", 'supported values: "Terminate", "Suspend"'),
    *(
        (
            "VDISession",
            "plannedEnd",
            {"time": "2026-11-20T18:00:00Z", "action": "Suspend", "message": message},
            said,
        )
        for message, said in (
            ("m" * 201, "may not be more than 200"),
            ("a\nb", "must have only printable characters"),
        )
    ),
    *(
        ("VDISession", "timeZone", value, "is not a time zone")
        for value in ("Local", "Europe Berlin", "../UTC")
    ),
    ("VDISession", "suspended", "yes", SWITCH),
    ("VDISession", "priority", 1001, MOST),
    ("VDISession", "priority", -1001, LEAST),
    ("VDITemplate", "image", LEFT_OUT, REQUIRED),
    ("VDITemplate", "image", "my image:1", "is not the name of a container image"),
    ("VDITemplate", "port", 0, LEAST),
    ("VDITemplate", "port", 70000, MOST),
    ("VDITemplate", "port", 8082, "must not be 8082, the port of the agent in each desktop"),
    ("VDITemplate", "healthPath", "health", "is not the path of a URL without spaces"),
    ("VDITemplate", "protocol", "web", 'supported values: "Selkies", "Web"'),
    ("VDITemplate", "scheme", "https", 'supported values: "HTTP", "HTTPS"'),
    ("VDITemplate", "runAsUser", 0, LEAST),
    ("VDITemplate", "shmSize", "1GB", AMOUNT),
    ("VDITemplate", "basicAuthSecret", {"name": "kasmvnc"}, "Selkies 2 uses tokens of the gateway"),
    ("VDITemplate", "resources.defaultGPU", -1, LEAST),
    ("VDITemplate", "resources.defaultCPU", "0", CPU),
    ("VDITemplate", "resources.defaultMemory", "4Gib", MEMORY),
    ("VDITemplate", "resources.maxMemory", "1Mi", MEMORY),
    ("VDITemplate", "persistence.mountPath", "home", PATH),
    ("VDITemplate", "persistence.mountPath", "/", PATH),
    ("VDITemplate", "persistence.scope", "Everyone", '"Session"'),
    ("VDITemplate", "persistence.accessMode", "ReadOnlyMany", '"ReadWriteMany"'),
    ("VDITemplate", "persistence.maxSize", "much", "an amount of at least"),
    ("VDITemplate", "startupScript.configMapKeyRef", LEFT_OUT, REQUIRED),
    ("VDITemplate", "podTemplate.spec.priorityClassName", "High Priority", OBJECT),
    (
        "VDITemplate",
        "isolation.userNamespaces",
        "On",
        'supported values: "Auto", "Required", "Off"',
    ),
    ("VDITemplate", "podTemplate.spec.hostNetwork", True, UNKNOWN),
    ("VDITemplate", "lifecycle.maxTimeout", "1d", TIME),
    ("VDITemplate", "lifecycle.onTimeout", "Delete", 'supported values: "Terminate", "Suspend"'),
    ("VDITemplate", "lifecycle.onIdle", "suspend", 'supported values: "Suspend", "Terminate"'),
    ("VDIPool", "template", LEFT_OUT, REQUIRED),
    ("VDIPool", "replicas", -1, LEAST),
    ("VDIPool", "size", 2, UNKNOWN),
]
WEB = {"protocol": "Web", "basicAuthSecret": {"name": "KasmVNC"}}
BOTH = {"name": "A", "value": "", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}
SOURCES = "of persistentVolumeClaim, configMap, secret and nfs, and needs exactly one"
GROUP = "has {group} in subPath, and needs groups, and {group} in mountPath"
FILES = {"configMap": {"name": "c"}}
_HOURS = {"start": "0 9 * * *", "end": "0 18 * * *"}
# Kind, schedule, what the refusal says.
SCHEDULES_REFUSED: list[tuple[str, dict[str, Any], str]] = [
    (
        "VDISession",
        {"start": "8:30"},
        "'8:30' is not a time of day from 00:00 to 23:59, such as 08:30",
    ),
    (
        "VDISession",
        {"start": "08:30", "end": "08:30"},
        "'08:30' is start, or in the 5 minutes before it",
    ),
    (
        "VDISession",
        {"start": "00:02", "end": "23:58"},
        "'23:58' is start, or in the 5 minutes before it",
    ),
    ("VDISession", {"start": "08:30", "days": []}, "should have at least 1 items"),
    ("VDISession", {"start": "08:30", "days": ["MON", "MON"]}, "Duplicate value"),
    ("VDISession", {"start": "08:30", "days": ["Monday"]}, "supported values"),
    ("VDISession", {"start": "08:30", "timeZone": "Local"}, "'Local' is not a time zone"),
    ("VDITemplate", {"windows": []}, "should have at least 1 items"),
    (
        "VDITemplate",
        {"windows": [{**_HOURS, "start": "0 9 * *"}]},
        "'0 9 * *' is not five fields as in cron",
    ),
    (
        "VDITemplate",
        {"windows": [{**_HOURS, "end": "60 18 * * *"}]},
        "'60 18 * * *' is not five fields as in cron",
    ),
    (
        "VDITemplate",
        {"windows": [_HOURS], "timeZone": "Europe Berlin"},
        "'Europe Berlin' is not a time zone",
    ),
]
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
ACCEPTED: list[tuple[str, str | int]] = [
    *(("timeout", value) for value in ("8h", "30m", "1h0m5s", "999999h")),
    *(("resources.memory", value) for value in ("4Gi", "512Mi", "4G", "1.5Gi", "4e9", 4294967296)),
    *(("resources.cpu", value) for value in ("500m", "1.5", 2)),
]


def session(**fields: Any) -> dict[str, Any]:
    return {"user": "alice@example.com", "template": "desktop", **fields}


def resources(**fields: Any) -> dict[str, Any]:
    return session(resources=fields)


def volume(**fields: Any) -> dict[str, Any]:
    return {"image": "i", "volumes": [{"name": "data", "mountPath": "/data", **fields}]}


BASES: dict[str, dict[str, Any]] = {
    "VDISession": session(),
    "VDITemplate": {"image": "i"},
    "VDIPool": {"template": "desktop"},
}


def with_field(kind: str, path: str, value: object) -> dict[str, Any]:
    """A spec that is right but for one field, such as `resources.gpu`."""
    *above, name = path.split(".")
    spec = json.loads(json.dumps(BASES[kind]))
    within = spec
    for part in above:
        within = within.setdefault(part, {})
    if value is LEFT_OUT:
        within.pop(name, None)
    else:
        within[name] = value
    return dict(spec)


# Rules over several fields and over lists: fields of a template, field and value that the refusal
# names, what it says.
TEMPLATES_REFUSED: list[tuple[dict[str, Any], str, str, str]] = [
    (
        {"protocol": "Web", "streaming": {"framerate": 30}},
        "protocol",
        "",
        "are settings of Selkies",
    ),
    (
        {"protocol": "Web", "recording": {"mode": "Always"}},
        "protocol",
        "",
        "are settings of Selkies",
    ),
    ({"recording": {"mode": "Never"}}, "recording.mode", "Never", '"Off", "OnDemand", "Always"'),
    ({"recording": {"retention": "30 days"}}, "recording.retention", "30 days", TIME),
    (
        {"recording": {}, "streaming": {"selkies": "1"}},
        "streaming",
        "",
        "not possible with Selkies 1",
    ),
    (
        {"watermark": {"text": "x"}, "streaming": {"selkies": "1"}},
        "streaming",
        "",
        "not possible with Selkies 1",
    ),
    *(
        (
            {"agents": {field: True}},
            "agents.enabled",
            "",
            "countsAsUse, run and recordText need enabled: true",
        )
        for field in ("countsAsUse", "run", "recordText")
    ),
    ({"agents": {}, "streaming": {"selkies": "1"}}, "streaming", "", "not possible with Selkies 1"),
    ({"agents": {}, "protocol": "Web"}, "protocol", "", "are settings of Selkies"),
    *(
        (
            {"isolation": {"userNamespaces": "Required", "rootInDesktop": True}} | spec,
            "isolation.rootInDesktop",
            "true",
            f"is not possible with {field}: root can undo it",
        )
        for field, spec in (
            ("recording.mode", {"recording": {"mode": "Always"}}),
            ("watermark", {"watermark": {"text": "x"}}),
            ("agents.enabled", {"agents": {"enabled": True}}),
        )
    ),
    (
        {"watermark": {"text": "x"}, "agents": {"enabled": True}},
        "agents.enabled",
        "true",
        "is not possible with watermark, which pictures for agents do not have",
    ),
    ({"watermark": {"text": "x", "position": "Left"}}, "watermark.position", "Left", '"Moving"'),
    (
        {"watermark": {"text": "a\u202eb"}},
        "watermark.text",
        "",
        "must have only printable characters",
    ),
    *(
        (
            {"recording": {"mode": "OnDemand"}, "streaming": {"display": display}},
            "streaming.display",
            display,
            X11,
        )
        for display in ("Wayland", "Auto")
    ),
    (WEB, "basicAuthSecret.name", "KasmVNC", "is not the name of an object"),
    (
        {"resources": {"defaultGPU": 3, "maxGPU": 2}},
        "resources.defaultGPU",
        "3",
        "more than maxGPU '2'",
    ),
    ({"resources": {"maxCPU": "1500m"}}, "resources.defaultCPU", "2", "more than maxCPU '1500m'"),
    (
        {"resources": {"defaultMemory": "8Gi", "maxMemory": "8191Mi"}},
        "resources.defaultMemory",
        "8Gi",
        "more than maxMemory '8191Mi'",
    ),
    (
        {"resources": {"maxEphemeralStorage": "10Gi"}},
        "maxEphemeralStorage",
        "",
        "needs defaultEphemeralStorage",
    ),
    ({"persistence": {"maxSize": "5Gi"}}, "persistence.size", "10Gi", "more than maxSize '5Gi'"),
    (
        {"env": [{"name": "A"}]},
        "env[0]",
        "A",
        "has neither of value and valueFrom, and needs exactly one",
    ),
    ({"env": [BOTH]}, "env[0]", "A", "has both of value and valueFrom, and needs exactly one"),
    (
        {"env": [{"name": "1A", "value": "x"}]},
        "env[0].name",
        "1A",
        "is not the name of an environment variable",
    ),
    ({"env": [{"name": "A", "value": 60}]}, "env[0].value", "integer", TEXT),
    ({"env": [{"name": "A", "value": "1"}] * 2}, "env[1]", "A", "Duplicate value"),
    (volume(), "volumes[0]", "data", f"has none {SOURCES}"),
    (
        volume(**FILES, persistentVolumeClaim={"claimName": "p"}),
        "volumes[0]",
        "data",
        f"has several {SOURCES}",
    ),
    *(
        (volume(**FILES, subPath=path), "volumes[0].subPath", path, SUB_PATH)
        for path in ("../b", "/b", "a/../b", "a//b", "a/", "..", "{home}", "a/{user", "{group}/..")
    ),
    (volume(**FILES, subPath="{group}", mountPath="/t/{group}"), "volumes[0]", "data", GROUP),
    (volume(**FILES, subPath="{group}", groups=[{"name": "cad"}]), "volumes[0]", "data", GROUP),
    (
        volume(**FILES, groups=[{"name": "cad"}] * 2),
        "volumes[0].groups[1]",
        "cad",
        "Duplicate value",
    ),
    (volume(secret={"secretName": "C"}), "volumes[0].secret.secretName", "C", OBJECT),
    (volume(**FILES, name="shm"), "volumes[0].name", "shm", "is not a unique name"),
    (volume(**FILES, mountPath="data"), "volumes[0].mountPath", "data", PATH),
    (volume(**FILES, mountPath="/dev/shm"), "volumes[0].mountPath", "", "must not be /dev/shm"),
    (
        volume(**FILES, mountPath="/home/user"),
        "volumes",
        "/home/user",
        "the mount path of the home",
    ),
    *(
        (
            {"isolation": {"rootInDesktop": True} | mode},
            "isolation.rootInDesktop",
            "true",
            "needs userNamespaces: Requir",
        )
        for mode in ({}, {"userNamespaces": "Off"})
    ),
    *(
        ({"programs": [{"image": "i", "mountPath": path}]}, "programs[0].mountPath", path, words)
        for path, words in (("opt/x", PATH), ("/a:b", PATH), ("/dev/shm", "must not be /dev/shm"))
    ),
    (volume(nfs={"server": "files", "path": "export"}), "volumes[0].nfs.path", "export", PATH),
    (
        {"volumes": [{"name": n, "mountPath": "/a", **FILES} for n in "ab"]},
        "volumes",
        "",
        "each mountPath must be used once",
    ),
    (
        {"placement": {"tolerations": [{"operator": "Is"}]}},
        "tolerations[0].operator",
        "Is",
        '"Exists", "Equal"',
    ),
    ({"imagePullSecrets": [{"name": "a b"}]}, "imagePullSecrets[0].name", "a b", OBJECT),
    *(
        (
            {"podTemplate": {"metadata": {"labels": {key: "x"}}}},
            "labels",
            key,
            "belongs to the operator; allowed",
        )
        for key in ("vdi.kasm.io/hold", "app.kubernetes.io/managed-by")
    ),
    (
        {"podTemplate": {"metadata": {"annotations": {"vdi.kasm.io/user": "eve@example.com"}}}},
        "podTemplate.metadata.annotations",
        "vdi.kasm.io/user",
        "belongs to the operator",
    ),
    (
        {"podTemplate": {"metadata": {"labels": {"team": "a b"}}}},
        "metadata.labels.team",
        "a b",
        "should match",
    ),
]


def expect_named(said: str, field: str, value: str, allowed: str) -> None:
    """The refusal has the field, the value as a whole (where the server prints one) and what is
    allowed.
    """
    spellings = (f"'{value}'", f'"{value}"', f"value: {value}:", f"{value}, ")
    assert field in said and allowed in said, said
    assert not value or any(spelling in said for spelling in spellings), said


def label(case: object) -> str:
    return json.dumps(case)[:60] if isinstance(case, dict | str | int | float) else "left out"


@pytest.mark.parametrize(("kind", "path", "value", "allowed"), FIELDS_REFUSED, ids=label)
def test_wrong_field_is_refused_with_what_is_allowed(
    server: Server, kind: str, path: str, value: object, allowed: str
) -> None:
    says_no_value = allowed in (REQUIRED, UNKNOWN) or allowed.startswith(
        ("must", "may not be", "Selkies")
    )
    said = server.refused(kind, with_field(kind, path, value))
    named = path.rpartition(".")[2] if allowed == UNKNOWN else f"spec.{path}"
    expect_named(said, named, "" if says_no_value else str(value), allowed)


@pytest.mark.parametrize(("spec", "field", "value", "allowed"), TEMPLATES_REFUSED, ids=label)
def test_wrong_template_is_refused_with_what_is_allowed(
    server: Server, spec: dict[str, Any], field: str, value: str, allowed: str
) -> None:
    expect_named(server.refused("VDITemplate", {"image": "i", **spec}), field, value, allowed)


@pytest.mark.parametrize(("kind", "schedule", "allowed"), SCHEDULES_REFUSED, ids=label)
def test_wrong_schedule_is_refused(
    server: Server, kind: str, schedule: dict[str, Any], allowed: str
) -> None:
    said = server.refused(kind, with_field(kind, "schedule", schedule))
    assert "spec.schedule" in said and allowed in said, said


@pytest.mark.parametrize("address", HIDDEN.values(), ids=HIDDEN)
def test_address_with_hidden_characters_is_refused(server: Server, address: str) -> None:
    for spec, field in (
        (session(user=address), "spec.user"),
        (session(access=[{"user": address}]), "spec.access[0].user"),
    ):
        said = server.refused("VDISession", spec)
        # From Kubernetes 1.36 on, the server repeats the value before the rule's words; our own
        # commands leave it out.
        _, rule, words = said.partition("must have only visible characters")
        assert field in said and rule and words.isascii(), said


@pytest.mark.parametrize("address", ORDINARY)
def test_common_address_is_accepted(server: Server, address: str) -> None:
    assert server.accepted("VDISession", session(user=address))["user"] == address
    assert (
        server.accepted("VDISession", session(access=[{"user": address}]))["access"][0]["user"]
        == address
    )


def test_older_invalid_session_can_be_changed_and_ended(server: Server) -> None:
    def patched(change: dict[str, Any], *words: str) -> bool:
        return server.patch("vdi", "old", change, *words).returncode == 0

    owner, guest = HIDDEN["isolate"], {"user": HIDDEN["zero-width space"], "role": "viewer"}
    crd = (CRDS / "vdisessions.yaml").read_text()
    before = re.sub(r"\n *- rule: '!self\.matches.*\n *message: 'must have only visible.*", "", crd)
    spec = session(user=owner, access=[guest])
    try:
        assert (
            server.run(
                "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=before
            ).returncode
            == 0
        )
        wait_until("it knows the older rules", lambda: server.create("VDISession", spec).is_success)
        server.store("VDISession", "old", spec, finalizers=["vdi.test/hold"])
    finally:
        assert (
            server.run(
                "apply", "--server-side", "--force-conflicts", "-f", "-", stdin=crd
            ).returncode
            == 0
        )
    wait_until(
        "it knows the new ones",
        lambda: server.create("VDISession", session(user=owner)).is_client_error,
    )
    assert patched({"status": {"phase": "Running"}}, "--subresource=status")
    assert patched({"spec": {"timeout": "9h"}})
    bob = {"user": "bob@example.com", "role": "viewer"}
    assert patched({"spec": {"access": [guest, bob]}})
    assert not patched({"spec": {"access": [guest, {"user": HIDDEN["tag"], "role": "viewer"}]}})
    assert patched({"spec": {"access": [bob]}})
    assert patched({"metadata": {"finalizers": []}})


@pytest.mark.parametrize("hiding", HIDING.values(), ids=HIDING)
def test_template_text_with_hidden_characters_is_refused(server: Server, hiding: str) -> None:
    for field, spec in FIELDS_OF_TEMPLATES.items():
        assert field in server.refused("VDITemplate", {"image": "i", **spec(hiding)})


def test_template_text_in_any_script_is_accepted(server: Server) -> None:
    texts = {"displayName": "デスクトップ\u3000Büro 🖥", "description": "First line.\n\n\t- שלום\n"}
    accepted = server.accepted("VDITemplate", {"image": "i", **texts})
    assert {name: accepted[name] for name in texts} == texts
    assert "spec.displayName" in server.refused(
        "VDITemplate", {"image": "i", "displayName": "a\nb"}
    )


def test_status_with_hidden_characters_is_refused(server: Server) -> None:
    """Each field has the rule; what the rule refuses, the templates show."""
    hiding = HIDING["direction"]
    server.store("VDISession", "hides", session())

    def patched(status: dict[str, Any]) -> bool:
        return (
            server.patch("vdi", "hides", {"status": status}, "--subresource=status").returncode == 0
        )

    condition = {
        "type": "Ready",
        "status": "False",
        "reason": "X",
        "lastTransitionTime": "2026-11-20T08:00:00Z",
    }
    try:
        for name in ("device", "message", "encoderMessage"):
            assert not patched({"graphics": {"renderer": "Zink", name: hiding}})
        assert not patched({"message": hiding})
        assert not patched({"failures": {"message": hiding}})
        assert not patched({"conditions": [{**condition, "message": hiding}]})
        assert patched({"message": "a\nb", "conditions": [{**condition, "message": "a\nb"}]})
    finally:
        server.run("delete", "vdi", "hides", "--wait=false")


@pytest.mark.parametrize(("path", "value"), ACCEPTED)
def test_valid_value_is_stored_unchanged(server: Server, path: str, value: str | int) -> None:
    stored: Any = server.accepted("VDISession", with_field("VDISession", path, value))
    for part in path.split("."):
        stored = stored[part]
    assert stored == value


@pytest.mark.parametrize("path", ["{user}", "teams/{group}", "a/b.c/..d", "ü"])
def test_valid_sub_path_is_accepted(server: Server, path: str) -> None:
    groups = {"groups": [{"name": "/eng/cad", "readOnly": False}, {"name": "staff"}]}
    volumes = volume(configMap={"name": "c"}, subPath=path, mountPath="/teams/{group}", **groups)
    assert server.accepted("VDITemplate", volumes)["volumes"][0]["groups"][1] == {
        "name": "staff",
        "readOnly": True,
    }


def test_session_defaults(server: Server) -> None:
    assert server.accepted("VDISession", session()) == session(
        timeout="8h", suspended=False, priority=0
    ), "resources, persistence and idleTimeout: as the template says"
    assert server.accepted("VDISession", resources())["resources"] == {"gpu": 1, "memory": "4Gi"}
    assert server.accepted("VDISession", session(persistence={}))["persistence"] == {"retain": True}


def test_template_defaults(server: Server) -> None:
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
        "isolation": {"userNamespaces": "Auto", "rootInDesktop": False},
        "lifecycle": {"onTimeout": "Terminate", "onIdle": "Suspend"},
        "serviceWorkers": False,
        "thumbnails": True,
        "prePull": False,
    }
    assert (
        server.accepted("VDITemplate", {"image": "i", "resources": {"defaultGPU": 0}})["resources"][
            "defaultGPU"
        ]
        == 0
    )


@pytest.mark.parametrize("name", ["a" * 253, "team.alice.desktop-1"[:253], "1"])
def test_names_up_to_the_kubernetes_limit_are_accepted(server: Server, name: str) -> None:
    server.accepted("VDISession", session(), name)
    server.accepted("VDITemplate", {"image": "i"}, name)


def test_lenient_client_is_warned_of_an_unknown_field(server: Server) -> None:
    given = json.dumps(an_object("VDISession", "tried", session(gpus=1)))
    answer = server.run(
        "create", "--dry-run=server", "--validate=warn", "-o", "json", "-f", "-", stdin=given
    )
    assert answer.returncode == 0 and 'unknown field "spec.gpus"' in answer.stderr
    assert "gpus" not in json.loads(answer.stdout)["spec"]


def test_user_and_template_of_a_session_are_immutable(server: Server) -> None:
    patch = partial(server.patch, "vdi", "alice-desktop")

    def listed(*words: str) -> str:
        return server.run("get", *words).stdout

    assert server.run("create", "-f", "-", stdin=MISSION_OBJECTS).returncode == 0
    try:
        said = patch({"spec": {"user": "bob@example.com", "template": "other"}}).stderr
        assert (
            "spec.user" in said
            and "can't be changed from 'alice@example.com' to 'bob@example.com'" in said
        )
        assert (
            "spec.template" in said and "can't be changed from 'ubuntu-desktop' to 'other'" in said
        )
        assert patch({"spec": {"timeout": "9h"}}).returncode == 0

        status = {"phase": "Running", "url": "https://a.vdi.example.com", "message": "Ready."}
        assert patch({"status": status}, "--subresource=status").returncode == 0
        lines = listed("vdi").splitlines()
        row = next(line for line in lines if line.startswith("alice-desktop "))
        assert re.split(r" {2,}", lines[0].strip()) == ["NAME", "USER", "PHASE", "URL", "AGE"]
        assert row.split()[:4] == [
            "alice-desktop",
            "alice@example.com",
            "Running",
            "https://a.vdi.example.com",
        ]
        wide = listed("vdi", "-o", "wide")
        assert "ubuntu-desktop" in wide and "Ready." in wide
        assert "alice-desktop" not in listed("all"), "`kubectl delete all --all` ends no desktop"
        assert "alice-desktop" in listed(
            "vdi", "--field-selector", "spec.user=alice@example.com,status.phase=Running"
        )
        assert "alice-desktop" not in listed("vdi", "--field-selector", "spec.user=bob@example.com")
        shown = listed("vdit", "ubuntu-desktop")
        assert "Ubuntu 22.04 Desktop" in shown and "4Gi" in shown

        said = patch({"status": {"phase": "Sleeping"}}, "--subresource=status").stderr
        assert 'Unsupported value: "Sleeping"' in said and '"Suspended"' in said
    finally:
        server.run("delete", "vdi,vdit", "alice-desktop", "ubuntu-desktop", "--ignore-not-found")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_of_the_documentation_are_accepted(server: Server, path: Path) -> None:
    for document in yaml.safe_load_all(path.read_text()):
        server.accepted(document["kind"], document["spec"])


@pytest.mark.parametrize(("place", "given"), DOCUMENTED, ids=[place for place, _ in DOCUMENTED])
def test_objects_in_blocks_of_the_docs_are_accepted(
    server: Server, place: str, given: Given
) -> None:
    server.accepted(given.kind, given.content)


def test_new_session_shows_pending_before_its_first_status(server: Server) -> None:
    server.store("VDISession", "fresh", session())
    assert server.get("vdi", "fresh")["status"] == {"phase": "Pending"}
    assert server.run("get", "vdi").stdout.splitlines()[1].split()[2] == "Pending"
    assert "fresh" in server.run("get", "vdi", "--field-selector", "status.phase=Pending").stdout


def test_a_pool_is_scaled_as_a_deployment_is(server: Server) -> None:
    name = f"pool-{server.namespace}"
    server.store("VDIPool", name, {"template": "desktop"})
    try:
        assert server.run("get", "vdipool", name).stdout.splitlines()[1].split()[:6] == [
            name,
            "desktop",
            *"1000",
        ]
        assert server.run("scale", "vdipool", name, "--replicas=3").returncode == 0
        assert server.get("vdipool", name)["spec"]["replicas"] == 3
        status = {"ready": 2, "selector": f"vdi.kasm.io/pool={name}"}
        assert (
            server.patch("vdipool", name, {"status": status}, "--subresource=status").returncode
            == 0
        )
        scale = server.get("vdipool", name, "--subresource=scale")
        of_scale = {"replicas": 2, "selector": status["selector"]}
        assert (scale["spec"], scale["status"]) == ({"replicas": 3}, of_scale)
    finally:
        server.run("delete", "vdipool", name)

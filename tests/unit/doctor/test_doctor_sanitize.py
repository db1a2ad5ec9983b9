"""Fields that Kubernetes and its neighbours know to hold secrets never reach a bundle."""

import copy
import json
from typing import Any

import msgspec
import pytest
from msgspec import inspect

from unit.doctor.doctor_builders import Cluster, meta_of
from vdi.doctor.checks.run import run_checks
from vdi.snapshot.model import load, save
from vdi.snapshot.objects import STRUCTS, convert_object, read_object
from vdi.snapshot.redact import redact

MARK = "kR7marker"
ENV = [
    {"name": "PASSWORD", "value": MARK},
    {"name": "VDI_WEBHOOK_URL", "value": f"https://h.example.com/{MARK}"},
]
SOURCES = [
    {
        "name": "csi",
        "csi": {
            "driver": "x",
            "volumeAttributes": {"key": MARK},
            "nodePublishSecretRef": {"name": MARK},
        },
    },
    {"name": "flex", "flexVolume": {"driver": "x", "options": {"password": MARK}}},
    {"name": "rbd", "rbd": {"keyring": MARK}},
    {"name": "api", "downwardAPI": {"items": [{"path": MARK}]}},
]
CONTAINER = {
    "name": "program",
    "image": "x",
    "env": ENV,
    "command": ["sh", "-c", f"PASSWORD={MARK} psql postgresql://u:{MARK}@db/x?key={MARK}"],
    "args": [f"--token={MARK}", f"--providers.kubernetescrd.token={MARK}"],
    "livenessProbe": {"httpGet": {"httpHeaders": [{"name": "Authorization", "value": MARK}]}},
    "lifecycle": {"postStart": {"exec": {"command": [MARK]}}},
}
POD = {
    "containers": [CONTAINER],
    "initContainers": [CONTAINER],
    "volumes": SOURCES,
    "hostAliases": [{"ip": "192.0.2.1", "hostnames": [MARK]}],
    "imagePullSecrets": [{"name": MARK}],
}
WORKLOAD = {
    "selector": {"matchLabels": {"app": "x"}},
    "template": {"metadata": {"annotations": {"vault": MARK}}, "spec": POD},
    "volumeClaimTemplates": [{"metadata": {"annotations": {"key": MARK}}, "spec": {}}],
}
HEADERS = {"Authorization": MARK}
SPECS: dict[str, Any] = {
    "certificates": {"secretName": "tls", "keystores": {"pkcs12": {"password": MARK}}},
    "clusterpolicies": {
        "driver": {"env": ENV, "licensingConfig": {"secretName": MARK}},
        "devicePlugin": {"args": [MARK], "env": ENV, "config": {"name": "gpu"}},
        "toolkit": {"env": ENV},
    },
    "customresourcedefinitions": {
        "group": "x.example.com",
        "names": {"kind": "X"},
        "conversion": {"webhook": {"clientConfig": {"url": f"https://{MARK}/", "caBundle": MARK}}},
        "versions": [
            {
                "name": "v1",
                "schema": {"openAPIV3Schema": {"properties": {"key": {"default": MARK}}}},
            }
        ],
    },
    "daemonsets": WORKLOAD,
    "deployments": WORKLOAD,
    "ingresses": {"rules": [], "tls": [{"secretName": MARK}]},
    "ingressroutes": {
        "routes": [
            {"match": "Host(`x`)", "services": [{"name": "x", "healthCheck": {"headers": HEADERS}}]}
        ],
        "tls": {"secretName": "tls", "store": {"name": MARK}},
    },
    "jobs": {"template": {"metadata": {"annotations": {"key": MARK}}, "spec": POD}},
    "middlewares": {"basicAuth": {"realm": MARK}, "headers": {"customRequestHeaders": HEADERS}},
    "persistentvolumeclaims": {"storageClassName": "x", "dataSourceRef": {"name": MARK}},
    "persistentvolumes": {
        "csi": {
            "driver": "smb.csi.k8s.io",
            "volumeHandle": MARK,
            "volumeAttributes": {"source": MARK, "password": MARK},
            "nodeStageSecretRef": {"name": MARK},
        },
        "mountOptions": [f"password={MARK}"],
        "flexVolume": {"options": {"key": MARK}},
        "azureFile": {"secretName": MARK},
        "rbd": {"keyring": MARK},
    },
    "pods": POD,
    "serverstransports": {"serverName": MARK, "certificatesSecrets": [MARK]},
    "services": {"type": "ExternalName", "externalName": MARK},
    "statefulsets": WORKLOAD,
    "vdipools": {"template": "x", "replicas": 1},
    "vdisessions": {"user": "bob@example.com", "template": "x"},
    "vditemplates": {
        "image": "x",
        "icon": MARK,
        "env": ENV,
        "podTemplate": {"metadata": {"annotations": {"vault": MARK}, "labels": {"app": "x"}}},
    },
}
TOP: dict[str, Any] = {
    "configmaps": {
        "data": {
            "values.yaml": f"gateway: {{password: {MARK}}}",
            "any": f"version: v1\nflags: {{plugin: {MARK}}}\nsharing: {{}} # {MARK}",
            "broken": f"a: b\n  password: {MARK}: {MARK}",
            "text": MARK,
            "list": f"[{MARK}]",
        },
        "binaryData": {"key": MARK},
    },
    "runtimeclasses": {"handler": MARK},
    "secrets": {"data": {"password": MARK}, "stringData": {"password": MARK}},
    "storageclasses": {
        "provisioner": "kubernetes.io/glusterfs",
        "parameters": {"restuserkey": MARK, "secretName": MARK},
        "mountOptions": [f"password={MARK}"],
    },
    "mutatingwebhookconfigurations": {
        "webhooks": [{"clientConfig": {"url": f"https://u:{MARK}@h/", "caBundle": MARK}}],
    },
    "helmcharts": {
        "spec": {"valuesContent": MARK, "authSecret": {"name": MARK}},
        "status": {"log": MARK},
    },
}
NOTES = {
    "kubectl.kubernetes.io/last-applied-configuration": json.dumps({"spec": {"env": ENV}}),
    "objectset.rio.cattle.io/applied": MARK,
    "vault.hashicorp.com/agent-inject-template": MARK,
    "k3s.io/node-args": f'["--token", "{MARK}"]',
}
KINDS = sorted(STRUCTS)
# Their fields are those of their CRDs.
OURS = {"vdisessions", "vdipools", "vditemplates"}
# Computed from other fields, or a schema within itself.
MADE = {"takes", "waitsFor", "secrets", "problem", "changed", "openAPIV3Schema", "f:data"}


def marked(plural: str) -> dict[str, Any]:
    """An object of this kind with the marker wherever its API has a place for a secret, or for
    anything.
    """
    metadata = meta_of(
        "kasm", "x", annotations=NOTES, managedFields=[{"manager": MARK, "fieldsV1": {"f:x": {}}}]
    )
    found = {
        "metadata": metadata,
        "spec": SPECS.get(plural, {}),
        "somethingNew": MARK,
        **TOP.get(plural, {}),
    }
    if plural not in OURS:
        found["spec"] = {**found["spec"], "somethingNew": MARK}
        found.setdefault("status", {"somethingNew": MARK})
    return copy.deepcopy(found)


def filled(kind: inspect.Type) -> Any:
    """A value of this type with every field set, and the marker in a field beside them on every
    level.
    """
    match kind:
        case inspect.StructType():
            fields = {
                field.encode_name: filled(field.type)
                for field in kind.fields
                if field.encode_name not in MADE
            }
            return {**fields, "somethingNew": MARK}
        case inspect.Metadata():
            return filled(kind.type)
        case inspect.UnionType():
            return filled(next(one for one in kind.types if not isinstance(one, inspect.NoneType)))
        case inspect.DictType():
            return {"x": "1"} if isinstance(kind.value_type, inspect.StrType) else {}
        case inspect.ListType() | inspect.VarTupleType():
            return [filled(kind.item_type)]
        case inspect.BoolType():
            return True
        case inspect.IntType():
            return 1
        case inspect.StrType():
            return "x"
        case _:
            raise TypeError(f"a field of a snapshot is a {kind}, which can hold anything")


@pytest.mark.parametrize("plural", sorted(STRUCTS.keys() - OURS))
def test_no_field_is_kept_that_no_one_declared(plural: str) -> None:
    kept = convert_object(plural, filled(inspect.type_info(STRUCTS[plural])))
    assert MARK not in msgspec.json.encode(kept).decode()


@pytest.mark.parametrize("plural", KINDS)
def test_no_field_for_secrets_is_kept(plural: str) -> None:
    kept = read_object(plural, json.dumps(marked(plural)).encode())
    assert MARK.encode() not in msgspec.json.encode(kept)
    assert (kept.metadata.namespace, kept.metadata.name) == ("kasm", "x")


def test_a_bundle_of_marked_objects_is_free_of_them_and_still_checked() -> None:
    cluster = Cluster()
    for plural in KINDS:
        cluster.objects.setdefault(plural, []).append(marked(plural))
    bundle = save(redact(cluster.snapshot()))
    assert MARK.encode() not in bundle
    assert [
        finding.code for finding in run_checks(load(bundle)) if finding.code == "check_failed"
    ] == []


def test_a_device_plugin_config_keeps_its_sharing_and_its_fault() -> None:
    text = "version: v1\nsharing: {timeSlicing: {resources: [{name: nvidia.com/gpu, replicas: 4}]}}"
    data = {"any": text, "broken": "a: b: c"}
    kept = convert_object("configmaps", {"metadata": {"name": "gpu"}, "data": data}).data
    assert json.loads(kept["any"])["sharing"]["timeSlicing"]["resources"][0]["replicas"] == 4
    assert "not YAML in line 1: mapping values are not allowed here" in kept["broken"]

"""The CRDs say what the structs say, the chart carries them, and they are structural."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tools.generate.crd_files import render_files
from vdi.api.crd import build_crds, pool_crd, session_crd, template_crd
from vdi.api.session import VDISession
from vdi.api.template import VDITemplate

ROOT = Path(__file__).parents[3]


def schema_of(crd: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return schema


def walk(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from walk(inner, f"{path}.{name}")
    for keyword in ("items", "additionalProperties"):
        if keyword in schema:
            yield from walk(schema[keyword], f"{path}[]")


def test_crds_of_the_chart_are_current() -> None:
    folder = ROOT / "charts/vdi/files/crds"
    assert {path.name: path.read_text() for path in folder.iterdir()} == render_files(), (
        "run: make generate"
    )


@pytest.mark.parametrize("crd", build_crds(), ids=lambda crd: crd["spec"]["names"]["kind"])
def test_every_spec_field_has_a_description_and_a_limit(crd: dict[str, Any]) -> None:
    """Without limits the API server refuses CEL rules as too costly, and one object could fill
    etcd.
    """
    for path, field in walk(schema_of(crd)["properties"]["spec"], "spec"):
        if not path.endswith("[]"):
            assert field["description"], path
        if field.get("type") == "string":
            assert "maxLength" in field or "enum" in field, path
        if field.get("type") == "array":
            assert "maxItems" in field, path
        assert all(
            rule["rule"] and rule["message"] for rule in field.get("x-kubernetes-validations", ())
        ), path
        if "x-kubernetes-int-or-string" in field:
            assert field["x-kubernetes-validations"] and field["maxLength"], path


def test_status_has_only_the_defaults_that_a_new_object_shows() -> None:
    """They spare a write for each start. Any other default would show what no one has seen."""
    found = {
        crd["spec"]["names"]["kind"]: {
            path.removeprefix("."): field["default"]
            for path, field in walk(schema_of(crd)["properties"]["status"])
            if "default" in field
        }
        for crd in build_crds()
    }
    assert found == {
        "VDISession": {"": {}, "phase": "Pending"},
        "VDITemplate": {},
        "VDIPool": {"": {}, "ready": 0, "starting": 0, "claimed": 0},
    }


def test_crd_names_and_short_names() -> None:
    session, template, pool = session_crd()["spec"], template_crd()["spec"], pool_crd()["spec"]
    assert (session["scope"], session["names"]["shortNames"]) == ("Namespaced", ["vdi"])
    assert (template["scope"], template["names"]["shortNames"]) == ("Cluster", ["vdit"])
    assert (pool["scope"], pool["names"]["shortNames"]) == ("Cluster", ["vdip"])
    # kubectl takes a category before a short name: a category "vdi" would make `kubectl get vdi`
    # list templates too.
    categories = [crd["names"]["categories"] for crd in (session, template, pool)]
    # `kubectl delete all --all` must not end desktops.
    assert categories == [["kasm"]] * 3
    assert [column["name"] for column in session["versions"][0]["additionalPrinterColumns"]][
        :3
    ] == [
        "User",
        "Phase",
        "URL",
    ]
    assert (
        session["versions"][0]["subresources"]
        == template["versions"][0]["subresources"]
        == {"status": {}}
    )
    assert pool["versions"][0]["subresources"] == {
        "status": {},
        "scale": {
            "specReplicasPath": ".spec.replicas",
            "statusReplicasPath": ".status.ready",
            "labelSelectorPath": ".status.selector",
        },
    }


def test_quantities_written_as_integers_become_text() -> None:
    spec: dict[str, Any] = {
        "user": "a@b.c",
        "template": "t",
        "resources": {"cpu": 2, "memory": 5368709120},
    }
    session = msgspec.convert({"metadata": {"name": "a"}, "spec": spec}, VDISession)
    assert session.spec.resources is not None
    assert (session.spec.resources.cpu, session.spec.resources.memory) == ("2", "5368709120")
    spec = {"image": "i", "shmSize": 1073741824, "resources": {"defaultCPU": 4, "maxCPU": 8}}
    template = msgspec.convert({"metadata": {"name": "a"}, "spec": spec}, VDITemplate).spec
    resources = template.resources
    assert (resources.default_cpu, resources.max_cpu, template.shm_size) == ("4", "8", "1073741824")


def test_stored_object_from_an_older_schema_is_decoded() -> None:
    """An object from before a tightening must not stop the watch that brings all the others."""
    stored = {
        "metadata": {"name": "a"},
        "spec": {"user": "no e-mail", "template": "", "timeout": "8 hours", "later": 1},
    }
    assert msgspec.convert(stored, VDISession).spec.timeout == "8 hours"

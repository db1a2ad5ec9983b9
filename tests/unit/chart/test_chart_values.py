"""The chart's papers agree with each other: values, schema, table, CRDs and the operator's
settings.
"""

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.generate import chart
from tools.generate.chart_render import ROOT, read_objects
from tools.generate.crd_files import render_files
from vdi.cluster.units import parse_quantity
from vdi.gateway import memory_budget
from vdi.gateway.desktop.agent import WINDOW_SECONDS
from vdi.gateway.desktop.computer import MAX_ACTIONS
from vdi.gateway.edge.headers import DESKTOP_RESPONSE_HEADERS, FORWARD_AUTH
from vdi.gateway.settings import read_settings as gateway_settings
from vdi.settings import read_settings as operator_settings

CHART = ROOT / "charts/vdi"
# Variables of the gateway that take any text: test_crd_chart.py follows them into the settings.
FREE_TEXT = {
    "VDI_OIDC_CLIENT_ID",
    "VDI_OIDC_CLIENT_SECRET",
    "VDI_OIDC_GROUPS_CLAIM",
    "VDI_OIDC_NAME",
} | {
    "VDI_ADMIN_GROUPS",
    "VDI_AUDITOR_GROUPS",
    "VDI_LIMITS_FILE",
    "VDI_RECORDINGS",
    "VDI_BRAND_NAME",
    "VDI_BRAND_BANNER",
    "VDI_BRAND_TERMS",
}


def objects_of(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if schema.get("type") == "object" and "properties" in schema:
        yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from objects_of(inner, f"{path}.{name}")
    if "items" in schema:
        yield from objects_of(schema["items"], f"{path}[]")


def test_a_misspelt_value_is_refused_at_every_depth() -> None:
    schema = json.loads(chart.SCHEMA.read_text())
    found = [
        *objects_of(schema),
        *(
            each
            for kind in ("template", "pool")
            for each in objects_of(schema["definitions"][kind])
        ),
    ]
    assert len(found) > 10
    for path, each in found:
        # A chart that has this one as a part may keep values of its own there.
        if path != ".global":
            assert each["additionalProperties"] is False, path


def test_every_value_is_described_in_schema_and_values_file() -> None:
    values = yaml.safe_load(chart.VALUES.read_text())
    assert all(
        words for _, _, words in chart.value_rows(json.loads(chart.SCHEMA.read_text()), values)
    )
    text = chart.VALUES.read_text()
    for name in values:
        assert re.search(rf"^#.*\n{name}:", text, re.MULTILINE), (
            f"{name} has no comment above it in values.yaml"
        )


def test_every_key_of_the_schema_has_a_default_in_the_values() -> None:
    """values.yaml is where people look: a key that only the schema knows would be hidden."""
    values = yaml.safe_load(chart.VALUES.read_text())
    schema = json.loads(chart.SCHEMA.read_text())
    assert set(schema["properties"]) == set(values)
    for name, inner in schema["properties"].items():
        if "properties" in inner:
            assert set(inner["properties"]) == set(values[name]), name


@pytest.mark.parametrize(
    ("template", "read", "free"),
    [
        ("deployment.yaml", operator_settings, set[str]()),
        ("_gateway.tpl", gateway_settings, FREE_TEXT),
    ],
)
def test_every_variable_of_the_chart_is_read(
    template: str, read: Callable[[dict[str, str]], object], free: set[str]
) -> None:
    """Each is set to something wrong: the process complains of all of them, so it reads all of
    them.
    """
    names = re.findall(r"name: (VDI_\w+)", (CHART / "templates" / template).read_text())
    assert len(names) >= 8 and free <= set(names)
    problems = ""
    try:
        read(dict.fromkeys(names, "\N{SNOWMAN} nonsense"))
    except Exception as why:
        problems = str(why)
    assert [name for name in names if name not in problems and name not in free] == []


def test_forward_auth_middlewares_match_the_gateway() -> None:
    made = read_objects(chart.MANIFEST.read_text())
    middlewares = {each["metadata"]["name"]: each for each in made if each["kind"] == "Middleware"}
    for name in ("vdi-gateway-retry", "vdi-gateway-tokens"):
        assert middlewares.pop(name)["metadata"]["namespace"] == "vdi-system", (
            "beside the portal's route"
        )
    places = {middleware["metadata"]["namespace"] for middleware in middlewares.values()}
    assert places == {"vdi-sessions"}, "a route refuses a Middleware of another namespace"
    (operator,) = [
        each
        for each in made
        if each["metadata"]["name"] == "vdi-operator" and each["kind"] == "Deployment"
    ]
    variables = operator["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "VDI_EDGE_MIDDLEWARE", "value": "vdi-edge"} in variables
    address = "http://vdi-gateway.vdi-system.svc:8081/edge/verify"
    # The headers first: they are to be on what the gateway answers, too.
    chain = {"middlewares": [{"name": "vdi-edge-headers"}, {"name": "vdi-edge-auth"}]}
    assert {name: middleware["spec"] for name, middleware in middlewares.items()} == {
        "vdi-edge": {"chain": chain},
        "vdi-edge-headers": {"headers": {"customResponseHeaders": dict(DESKTOP_RESPONSE_HEADERS)}},
        "vdi-edge-auth": {"forwardAuth": {"address": address, **FORWARD_AUTH}},
    }


def test_route_priorities_are_portal_desktop_waiting_page() -> None:
    made = read_objects(chart.MANIFEST.read_text())
    (route,) = [each for each in made if each["kind"] == "IngressRoute"]
    tokens, portal, own, turn, rest = route["spec"]["routes"]
    longest = len(f"Host(`{'a' * 63}.{'b' * 189}`)")
    assert portal["priority"] > own["priority"] == turn["priority"] > longest > rest["priority"]
    assert portal["match"] == "Host(`portal.vdi.localhost`)"
    assert tokens["priority"] > portal["priority"]
    has_token = "HeaderRegexp(`Authorization`, `.`) && !HeaderRegexp(`Authorization`, `.{200}`)"
    assert tokens["match"] == f"{portal['match']} && {has_token}", (
        "Traefik keeps the headers that it counts"
    )
    (pattern,) = re.findall(r"HostRegexp\(`(.*)`\)$", rest["match"])
    assert own["match"] == f"{rest['match']} && PathPrefix(`/.vdi/`)"
    assert turn["match"] == f"{rest['match']} && Path(`/api/turn`)"
    assert re.match(pattern, "alice-desktop.vdi.localhost")
    for other in (
        "a.b.vdi.localhost",
        "alicexvdi.localhost",
        ".vdi.localhost",
        "alice.vdi.localhost.evil.com",
    ):
        assert not re.match(pattern, other), other
    assert tokens["middlewares"] == [{"name": "vdi-gateway-tokens"}, {"name": "vdi-gateway-retry"}]
    for each in route["spec"]["routes"]:
        assert each is tokens or each["middlewares"] == [{"name": "vdi-gateway-retry"}], (
            "nothing that asks the gateway"
        )
        assert [service["serversTransport"] for service in each["services"]] == ["vdi-gateway"]


def test_traefik_counts_requests_of_programs_by_token_alone() -> None:
    made = read_objects(chart.MANIFEST.read_text())
    (tokens,) = [each for each in made if each["metadata"]["name"] == "vdi-gateway-tokens"]
    limit = tokens["spec"]["rateLimit"]
    assert limit["sourceCriterion"] == {"requestHeaderName": "Authorization"}, (
        "all people may have one address"
    )
    assert limit["average"] * WINDOW_SECONDS == 2 * MAX_ACTIONS, (
        "room for the quickest agent of one desktop"
    )


@pytest.mark.parametrize("values", sorted(CHART.glob("values*.yaml")), ids=lambda path: path.stem)
def test_clients_fill_less_than_half_of_the_gateway_s_memory(values: Path) -> None:
    limit = yaml.safe_load(values.read_text())["gateway"]["resources"]["limits"]["memory"]
    assert sum(memory_budget.terms().values()) < parse_quantity(limit) / 2, memory_budget.terms()


def test_chart_contains_and_keeps_every_crd() -> None:
    assert {path.name for path in (CHART / "files/crds").iterdir()} == set(render_files())
    for content in render_files().values():
        assert (
            yaml.safe_load(content)["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
        )
    assert not (CHART / "crds").exists(), "Helm never upgrades what is in a chart's crds folder"


def test_chart_requires_a_kubernetes_version() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["apiVersion"], chart["kubeVersion"]) == ("v2", ">=1.30.0-0")


@pytest.mark.parametrize("name", chart.SUB_CHARTS)
def test_sub_chart_values_have_the_same_defaults_alone(name: str) -> None:
    ours = yaml.safe_load(chart.VALUES.read_text())[name]
    its_own = yaml.safe_load((CHART / f"charts/{name}/values.yaml").read_text())
    assert ours.pop("enabled") is False
    if name != "coturn":  # whose clients are everybody's browsers
        assert ours.pop("clients") != its_own.pop("clients") == []
    assert ours == its_own
    schema = json.loads((CHART / f"charts/{name}/values.schema.json").read_text())
    assert set(schema["properties"]) - {"clients"} == {"global", "enabled", *its_own}
    for path, each in objects_of(schema):
        assert each["additionalProperties"] is False, path
    pinned = yaml.safe_load((CHART / "Chart.yaml").read_text())["dependencies"]
    version = yaml.safe_load((CHART / f"charts/{name}/Chart.yaml").read_text())["version"]
    assert {"name": name, "version": version, "condition": f"{name}.enabled"} in pinned

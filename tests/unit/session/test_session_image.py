"""Images of Selkies 1 and 2, and with a page of their own: probes, ports, tokens and viewers."""

from typing import Any

import pytest

from support.builders import a_template
from unit.session.resolving import ALONE, BEHIND_GATEWAY, IDENTITY, pod_of, refused
from vdi.api.template import Scheme
from vdi.session.children import build_route
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.template_image import health_path, refuse_view_only, takes_tokens

LOGIN = {"name": "kasmvnc"}
WEB: dict[str, Any] = {"protocol": "Web"}
SELKIES_1 = "ghcr.io/selkies-project/selkies-gstreamer/gst-py-example:v1.6.2-ubuntu24.04"


def container(settings: ClusterSettings = BEHIND_GATEWAY, **template: Any) -> dict[str, Any]:
    (found,) = pod_of(settings=settings, **template)["spec"]["containers"]
    return dict(found)


def test_a_web_image_gets_no_variable_of_selkies_and_no_password() -> None:
    env = {variable["name"] for variable in container(protocol="Web")["env"]}
    assert not [
        name
        for name in env
        if name.startswith("SELKIES") or name in ("NGINX_PORT", "VDI_MASTER_TOKEN_SHA256")
    ]
    assert "VDI_AGENT_TOKEN_SHA256" in env, "an agent is possible in any image"


@pytest.mark.parametrize(
    ("settings", "template", "probe"),
    [
        (BEHIND_GATEWAY, WEB, {"httpGet": {"path": "/", "port": "http"}}),
        (
            BEHIND_GATEWAY,
            WEB | {"healthPath": "/healthz"},
            {"httpGet": {"path": "/healthz", "port": "http"}},
        ),
        (
            BEHIND_GATEWAY,
            WEB | {"scheme": "HTTPS"},
            {"httpGet": {"path": "/", "port": "http", "scheme": "HTTPS"}},
        ),
        (
            BEHIND_GATEWAY,
            WEB | {"scheme": "HTTPS", "basicAuthSecret": LOGIN},
            {"tcpSocket": {"port": "http"}},
        ),
        (
            BEHIND_GATEWAY,
            WEB | {"basicAuthSecret": LOGIN, "healthPath": "/up"},
            {"httpGet": {"path": "/up", "port": "http"}},
        ),
        (BEHIND_GATEWAY, {"image": SELKIES_1}, {"httpGet": {"path": "/health", "port": "http"}}),
        (
            BEHIND_GATEWAY,
            {"image": SELKIES_1, "healthPath": "/mine"},
            {"httpGet": {"path": "/mine", "port": "http"}},
        ),
        (ALONE, {"image": SELKIES_1}, {"tcpSocket": {"port": "http"}}),
    ],
)
def test_image_is_probed_where_it_responds(
    settings: ClusterSettings, template: dict[str, Any], probe: dict[str, Any]
) -> None:
    found = container(settings, **template)
    for name in ("readinessProbe", "livenessProbe"):
        assert {key: found[name].get(key) for key in probe} == probe
        assert ("httpGet" in found[name]) != ("tcpSocket" in found[name])


@pytest.mark.parametrize(
    ("template", "variable", "other"),
    [
        ({}, ("SELKIES_PORT", "9000"), "NGINX_PORT"),
        (
            {"env": [{"name": "SELKIES_PORT", "value": "8081"}]},
            ("SELKIES_PORT", "8081"),
            "NGINX_PORT",
        ),
        ({"image": SELKIES_1}, ("NGINX_PORT", "9000"), "SELKIES_PORT"),
        (
            {"image": SELKIES_1, "env": [{"name": "NGINX_PORT", "value": "8090"}]},
            ("NGINX_PORT", "8090"),
            "SELKIES_PORT",
        ),
    ],
)
def test_image_gets_the_port_of_its_template(
    template: dict[str, Any], variable: tuple[str, str], other: str
) -> None:
    found = container(port=9000, **template)
    assert found["ports"][0]["containerPort"] == 9000
    variables = [
        (each["name"], each.get("value"))
        for each in found["env"]
        if each["name"] in (variable[0], other)
    ]
    assert variables == [variable]


def test_the_image_runs_as_the_user_that_the_template_names() -> None:
    context = pod_of(settings=BEHIND_GATEWAY, protocol="Web", runAsUser=1001)["spec"][
        "securityContext"
    ]
    assert {context[key] for key in ("runAsUser", "runAsGroup", "fsGroup")} == {1001}


def test_only_routes_to_https_desktops_skip_verification() -> None:
    def service(scheme: Scheme) -> dict[str, Any]:
        route = build_route(identity=IDENTITY, host="h", settings=BEHIND_GATEWAY, scheme=scheme)
        (found,) = route["spec"]["routes"][0]["services"]
        return dict(found)

    assert not {"scheme", "serversTransport"} & service(Scheme.HTTP).keys()
    tls = service(Scheme.HTTPS)
    assert (tls["scheme"], tls["serversTransport"]) == ("https", "vdi-desktop-tls")


def test_pod_carries_its_scheme() -> None:
    annotation = "vdi.kasm.io/scheme"
    http = pod_of(settings=BEHIND_GATEWAY, protocol="Web")
    assert annotation not in http["metadata"]["annotations"]
    https = pod_of(settings=BEHIND_GATEWAY, protocol="Web", scheme="HTTPS")
    assert https["metadata"]["annotations"][annotation] == "HTTPS"


def test_web_image_needs_a_gateway_or_basic_auth() -> None:
    blocked = refused(protocol="Web")
    assert (
        blocked.reason == "InvalidTemplate"
        and "spec.protocol: 'Web' needs the gateway" in blocked.message
    )
    assert container(ALONE, protocol="Web", basicAuthSecret=LOGIN), (
        "this one asks for a password itself"
    )


@pytest.mark.parametrize(
    ("template", "tokens", "path", "words"),
    [
        ({}, True, "/api/health", ""),
        ({"image": SELKIES_1}, False, "/health", "has Selkies 1"),
        ({"protocol": "Web"}, False, "/", "serves its own page (protocol Web)"),
        ({"protocol": "Web", "image": SELKIES_1}, False, "/", "serves its own page (protocol Web)"),
        ({"protocol": "Later"}, False, "/", "serves its own page"),
    ],
)
def test_image_decides_tokens_health_path_and_viewers(
    template: dict[str, Any], tokens: bool, path: str, words: str
) -> None:
    found = a_template(**template)
    assert (takes_tokens(found.spec), health_path(found.spec)) == (tokens, path)
    assert (words in refuse_view_only(found)) if words else refuse_view_only(found) == ""


def test_viewers_are_refused_without_a_template() -> None:
    assert "the template of this desktop was deleted" in refuse_view_only(None)

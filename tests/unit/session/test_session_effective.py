from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.builders import a_claim, a_session, a_template
from unit.session.resolving import ALONE, BEHIND_GATEWAY, desktop_of, refused
from vdi.cluster.units import parse_quantity
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.effective import Blocked, Desktop, resolve
from vdi.session.homes import home_names


@pytest.mark.parametrize(
    ("session", "template", "resources"),
    [
        ({}, {"defaultGPU": 2, "defaultMemory": "6Gi", "defaultCPU": "3"}, (2, "6Gi", "3")),
        ({"resources": {"cpu": "1"}}, {"defaultMemory": "6Gi"}, (1, "4Gi", "1")),
        ({"resources": {"gpu": 3}}, {"defaultGPU": 0}, (0, "4Gi", "2")),
    ],
    ids=[
        "the template's defaults",
        "the schema's defaults beside what is named",
        "a CPU template ignores GPUs",
    ],
)
def test_resources_come_from_session_schema_and_template(
    session: dict[str, Any], template: dict[str, Any], resources: tuple[int, str, str]
) -> None:
    desktop = desktop_of(a_session(**session), resources=template)
    assert (desktop.gpu, desktop.memory, desktop.cpu) == resources


@pytest.mark.parametrize(
    "image",
    [
        "ghcr.io/selkies-project/selkies-gstreamer/gst-web:latest",
        "mirror.example.com/selkies-project/selkies/gst-web@sha256:" + "0" * 64,
        "ghcr.io/selkies-project/selkies-gstreamer/js-interposer",
    ],
)
def test_image_without_a_desktop_is_refused_with_advice(image: str) -> None:
    blocked = refused(image=image)
    assert blocked.reason == "InvalidTemplate" and blocked.needs_change
    assert f"spec.image: {image!r} contains no desktop, only a part of Selkies" in blocked.message
    assert "use `registry.example.com/vdi/desktop:1`" in blocked.message


amounts = st.sampled_from(
    ["1m", "100m", "250m", "1", "2", "4", "0.3", "128Mi", "1Gi", "1.5Gi", "4G", "3e9"]
)


@given(limit=amounts, request=amounts)
def test_no_request_is_ever_above_its_limit(limit: str, request: str) -> None:
    settings = ClusterSettings(requests_cpu=request, requests_memory=request)
    desktop = desktop_of(settings=settings, resources={"defaultCPU": limit, "defaultMemory": limit})
    assert parse_quantity(desktop.request_cpu) <= parse_quantity(desktop.cpu)
    assert parse_quantity(desktop.request_memory) <= parse_quantity(desktop.memory)


@given(
    requested=st.integers(1, 20), default=st.integers(1, 8), maximum=st.none() | st.integers(1, 8)
)
def test_gpus_are_granted_exactly_or_refused_never_clipped(
    requested: int, default: int, maximum: int | None
) -> None:
    offer = {"defaultGPU": default} | ({"maxGPU": maximum} if maximum else {})
    answer = resolve(a_session(resources={"gpu": requested}), a_template(resources=offer), ALONE)
    most = maximum or max(1, default)
    assert answer.gpu == requested if isinstance(answer, Desktop) else requested > most
    assert isinstance(answer, Desktop) == (requested <= most)


@pytest.mark.parametrize(
    ("session", "template", "words"),
    [
        (
            {"gpu": 2},
            {},
            "spec.resources.gpu: 2 is more than the 1 that template 'ubuntu-desktop' allows",
        ),
        ({"memory": "8Gi"}, {}, "spec.resources.memory: 8Gi is more than the 4Gi that template"),
        ({"memory": "8Gi"}, {"maxMemory": "8000Mi"}, "8Gi is more than the 8000Mi that"),
        (
            {"memory": "1Gi", "cpu": "2001m"},
            {},
            "spec.resources.cpu: 2001m is more than the 2 that template",
        ),
        (
            {"cpu": "1"},
            {"defaultMemory": "2Gi"},
            "4Gi is the value if spec.resources sets no memory",
        ),
        (
            {"ephemeralStorage": "21Gi"},
            {"defaultEphemeralStorage": "5Gi", "maxEphemeralStorage": "20Gi"},
            "spec.resources.ephemeralStorage: 21Gi is more than the 20Gi that template",
        ),
        (
            {"ephemeralStorage": "6Gi"},
            {"defaultEphemeralStorage": "5Gi"},
            "6Gi is more than the 5Gi that template",
        ),
        (
            {"ephemeralStorage": "1Gi"},
            {},
            (
                "spec.resources.ephemeralStorage: 1Gi is not allowed; template 'ubuntu-desktop' has"
                " no defaultEphemeralStorage"
            ),
        ),
    ],
)
def test_over_a_maximum_is_refused_in_words(
    session: dict[str, Any], template: dict[str, Any], words: str
) -> None:
    problem = refused(a_session(resources=session), resources=template)
    assert problem.reason == "OverLimit"
    assert words in problem.message
    assert problem.needs_change


@pytest.mark.parametrize(
    ("size", "offer", "words"),
    [
        (
            "500Ti",
            {},
            (
                "spec.persistence.size: 500Ti is more than the 10Gi that template 'ubuntu-desktop'"
                " allows"
            ),
        ),
        ("30Gi", {"size": "5Gi", "maxSize": "20Gi"}, "30Gi is more than the 20Gi that template"),
        ("11Gi", {"enabled": False}, None),
        ("10240Mi", {}, None),
        ("20Gi", {"maxSize": "20Gi"}, None),
    ],
)
def test_a_new_home_is_no_larger_than_the_template_allows(
    size: str, offer: dict[str, Any], words: str | None
) -> None:
    session, template = a_session(persistence={"size": size}), a_template(persistence=offer)
    answer = resolve(session, template, ALONE)
    if words is None:
        assert isinstance(answer, Desktop), answer
    else:
        assert isinstance(answer, Blocked)
        assert (answer.reason, answer.needs_change) == ("OverLimit", True)
        assert words in answer.message
    homes = {name: a_claim(name=name) for name in home_names(session)}
    assert isinstance(resolve(session, template, ALONE, homes), Desktop), (
        "it keeps the size that it has"
    )


def test_all_that_is_over_is_said_at_once() -> None:
    asked = {"gpu": 5, "memory": "64Gi", "cpu": "32"}
    problem = refused(a_session(resources=asked, persistence={"size": "1Ti"}))
    assert all(error.field in problem.message for error in problem.errors)
    assert [(error.field, error.value, error.allowed) for error in problem.errors] == [
        ("spec.resources.gpu", 5, "at most 1"),
        ("spec.resources.memory", "64Gi", "at most 4Gi"),
        ("spec.resources.cpu", "32", "at most 2"),
        ("spec.persistence.size", "1Ti", "at most 10Gi"),
    ]


@pytest.mark.parametrize(
    "name",
    [
        "SELKIES_ENABLE_BASIC_AUTH",
        "SELKIES_BASIC_AUTH_PASSWORD",
        "SELKIES_MASTER_TOKEN",
        "SELKIES_COMPUTER_USE_BIND",
        "SELKIES_COMPUTER_USE_TOKEN",
        "VDI_MASTER_TOKEN_SHA256",
        "VDI_AGENT_TOKEN_SHA256",
        "VDI_AGENTS",
    ],
)
def test_template_may_not_touch_what_protects_the_session(name: str) -> None:
    problem = refused(env=[{"name": name, "value": "false"}])
    assert problem.reason == "InvalidTemplate"
    assert f"spec.env: {name} is reserved for the operator" in problem.message


def test_gpu_visibility_may_be_set_only_by_a_template_with_gpus() -> None:
    env = [{"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"}]
    assert refused(env=env, resources={"defaultGPU": 0}).reason == "InvalidTemplate"
    assert desktop_of(env=env).env[0].name == "NVIDIA_VISIBLE_DEVICES"


@pytest.mark.parametrize(
    ("session", "template", "has_home"),
    [
        ({}, {"enabled": False}, False),
        ({"enabled": True}, {"enabled": False}, True),
        ({"enabled": False}, {}, False),
        ({"retain": True}, {"enabled": False}, False),
    ],
)
def test_home_is_there_if_the_session_says_so_else_the_template(
    session: dict[str, Any], template: dict[str, Any], has_home: bool
) -> None:
    desktop = desktop_of(a_session(persistence=session), persistence=template)
    assert (desktop.home is not None) == has_home


@pytest.mark.parametrize(
    "volume", [{"name": "home", "mountPath": "/x"}, {"name": "x", "mountPath": "/home/user/"}]
)
def test_volume_that_collides_with_the_home_is_refused(volume: dict[str, Any]) -> None:
    problem = refused(volumes=[{**volume, "configMap": {"name": "c"}}])
    assert problem.reason == "InvalidTemplate"


def test_values_that_cannot_be_read_are_refused_in_words() -> None:
    assert "spec.timeout: 'soon' is not a duration" in refused(a_session(timeout="soon")).message
    assert (
        "spec.resources.memory: '4Gib' is not a quantity"
        in refused(a_session(resources={"memory": "4Gib"})).message
    )
    assert (
        "spec.timeZone: 'Mars/Base' is not a known time zone"
        in refused(a_session(timeZone="Mars/Base")).message
    )
    assert "spec.shmSize: '-1Gi' is not allowed" in refused(shmSize="-1Gi").message


def test_no_desktop_takes_the_portals_address() -> None:
    assert desktop_of(a_session(hostname="portal"), ALONE)
    problem = refused(a_session(hostname="portal"), BEHIND_GATEWAY)
    assert problem.needs_change
    assert "the portal's own address" in problem.message
    assert desktop_of(a_session(name="portal"), BEHIND_GATEWAY)


@pytest.mark.parametrize(
    ("hostname", "said"),
    [
        ("alice-5tq2mzk4", "the operator generates"),
        ("xn--lice-8na", "encoded"),
        ("ab--c", "encoded"),
    ],
)
def test_hostname_like_a_keyed_or_encoded_label_is_refused(hostname: str, said: str) -> None:
    problem = refused(a_session(hostname=hostname))
    assert (problem.reason, problem.needs_change) == ("InvalidSession", True)
    assert said in problem.message

"""The request for a session, and the object that is created from it."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.builders import a_template
from vdi.api.template import VDITemplate
from vdi.session.request import (
    RequestedHome,
    RequestedResources,
    SessionRequest,
    build_session,
    generate_name,
)


def spec_of(template: VDITemplate | None = None, **fields: Any) -> dict[str, Any]:
    request = SessionRequest(user="a@b.cd", template="x", **fields)
    spec: dict[str, Any] = build_session(request, "ns", template)["spec"]
    return spec


@pytest.mark.parametrize(
    ("user", "template", "name"),
    [
        ("alice@example.com", "ubuntu-desktop", "alice-ubuntu-desktop"),
        ("Alice.B+test@example.com", "cad", "alice-b-test-cad"),
        ("zoë@example.com", "x", "zo-x"),
        ("@", "", "desktop"),
    ],
)
def test_generated_names_are_readable(user: str, template: str, name: str) -> None:
    assert generate_name(user, template) == name


@given(st.text(), st.text())
def test_generated_names_are_always_allowed(user: str, template: str) -> None:
    assert re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", generate_name(user, template))


@pytest.mark.parametrize(
    ("home", "persistence"),
    [
        (None, None),
        (RequestedHome(), None),
        (RequestedHome(enabled=False), {"enabled": False}),
        (RequestedHome(retain=True), {"retain": True}),
        (RequestedHome(retain=False, size="1Gi"), {"size": "1Gi", "retain": False}),
    ],
)
def test_only_the_given_fields_of_the_home_are_sent(
    home: RequestedHome | None, persistence: dict[str, object] | None
) -> None:
    assert spec_of(persistence=home).get("persistence") == persistence


def test_local_disk_that_is_not_named_is_the_template_s() -> None:
    template = a_template(resources={"defaultEphemeralStorage": "5Gi"})
    named = spec_of(template, resources=RequestedResources(ephemeral_storage="9Gi"))
    assert named["resources"] == {"gpu": 1, "memory": "4Gi", "cpu": "2", "ephemeralStorage": "9Gi"}
    other = spec_of(template, resources=RequestedResources(cpu="1"))
    assert other["resources"] == {"gpu": 1, "memory": "4Gi", "cpu": "1"}
    assert "resources" not in spec_of(template, resources=RequestedResources())


def test_without_a_template_only_named_resources_are_sent() -> None:
    assert spec_of(resources=RequestedResources(memory="8Gi"))["resources"] == {"memory": "8Gi"}

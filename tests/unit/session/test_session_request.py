"""Flags in, object out."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.builders import a_template
from vdi.session.request import SessionRequest, build_session, generate_name


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
    ("requested", "persistence"),
    [
        (SessionRequest("a@b.cd", "x"), None),
        (SessionRequest("a@b.cd", "x", home=False), {"enabled": False}),
        (SessionRequest("a@b.cd", "x", home=True), {"enabled": True}),
        (SessionRequest("a@b.cd", "x", retain=True), {"retain": True}),
        (SessionRequest("a@b.cd", "x", retain=False, home_size="1Gi"), {"size": "1Gi", "retain": False}),
    ],
)
def test_only_what_was_said_about_the_home_is_sent(
    requested: SessionRequest, persistence: dict[str, object] | None
) -> None:
    assert build_session(requested, "ns", None)["spec"].get("persistence") == persistence


def test_local_disk_that_is_not_named_stays_the_template_s() -> None:
    template = a_template(resources={"defaultEphemeralStorage": "5Gi"})
    named = build_session(SessionRequest("a@b.cd", "x", ephemeral_storage="9Gi"), "ns", template)
    assert named["spec"]["resources"] == {"gpu": 1, "memory": "4Gi", "cpu": "2", "ephemeralStorage": "9Gi"}
    other = build_session(SessionRequest("a@b.cd", "x", cpu="1"), "ns", template)
    assert "ephemeralStorage" not in other["spec"]["resources"]


def test_without_a_template_only_named_resources_are_sent() -> None:
    assert build_session(SessionRequest("a@b.cd", "x", memory="8Gi"), "ns", None)["spec"]["resources"] == {
        "memory": "8Gi"
    }

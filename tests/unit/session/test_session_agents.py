"""Software agents in desktops: how a template's permission reaches the pod, and what must not imitate it."""

from typing import Any

import pytest

from support.builders import a_template
from unit.session.resolving import BEHIND_GATEWAY, refused
from vdi.session.streaming import find_image_problems, settings


@pytest.mark.parametrize(
    ("agents", "sent"),
    [
        (None, []),
        ({}, []),
        ({"run": True}, []),
        ({"enabled": True}, ["enabled"]),
        (
            {"recordText": True, "run": True, "countsAsUse": True, "enabled": True},
            ["enabled,countsAsUse,run,recordText"],
        ),
    ],
)
def test_permission_reaches_the_desktop(agents: Any, sent: list[str]) -> None:
    spec = a_template("t", **({"agents": agents} if agents is not None else {})).spec
    assert [variable.value for variable in settings(spec) if variable.name == "VDI_AGENTS"] == sent


def test_agents_need_the_gateway() -> None:
    spec = a_template("t", agents={"enabled": True}).spec
    assert not list(find_image_problems(spec, behind_gateway=True))
    assert list(find_image_problems(spec, behind_gateway=False)) == [
        "spec.agents needs the gateway, through which agents act (gateway.enabled in the chart's values)"
    ]


@pytest.mark.parametrize("name", ["VDI_AGENTS", "SELKIES_COMPUTER_USE_BIND", "SELKIES_COMPUTER_USE_TOKEN"])
def test_variables_of_agents_are_the_operators(name: str) -> None:
    blocked = refused(None, BEHIND_GATEWAY, env=[{"name": name, "value": "x"}])
    assert f"spec.env: {name} is reserved for the operator" in blocked.message

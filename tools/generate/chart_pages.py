"""Blocks of docs that need a render of the chart: the table of docs/sizing.md, the images of
install-variants.md.
"""

from pathlib import Path
from typing import Any

import yaml

from tools.generate import node_fit
from tools.generate.chart_render import ROOT, VALUES_FILES, Object, images_of, render
from vdi.cluster.units import amounts, smaller_quantity

SIZING = ROOT / "docs/sizing.md"
INSTALL_VARIANTS = ROOT / "docs/install-variants.md"
SMALL, PRODUCTION = "values-k3s-small.yaml", "values-production.yaml"
WITHOUT_SERVERS = ("--set", "postgresql.enabled=false", "--set", "redis.enabled=false")
GPU_TEMPLATE = ROOT / "docs/examples/template-gpu.yaml"


def desktop(
    objects: list[Object], resources: dict[str, str]
) -> tuple[dict[str, int], dict[str, int]]:
    """What a template's desktop requests with the operator of that render, and its limits."""
    (operator,) = [
        one
        for one in objects
        if (one["kind"], one["metadata"]["name"]) == ("Deployment", "vdi-operator")
    ]
    variables = operator["spec"]["template"]["spec"]["containers"][0]["env"]
    asked = {
        variable["name"]: variable["value"]
        for variable in variables
        if variable["name"].startswith("VDI_REQUESTS_")
    }
    limit = {"cpu": resources["defaultCPU"], "memory": resources["defaultMemory"]}
    request = {
        name: smaller_quantity(asked[f"VDI_REQUESTS_{name.upper()}"], limit[name]) for name in limit
    }
    return amounts(request), amounts(limit)


def offered(objects: list[Object], name: str = "small") -> dict[str, str]:
    (node,) = [
        one for one in objects if one["kind"] == "VDITemplate" and one["metadata"]["name"] == name
    ]
    resources: dict[str, str] = node["spec"]["resources"]
    return resources


def rows(helm: Path) -> list[node_fit.Row]:
    """The table of docs/sizing.md."""
    small, lean = render(helm, SMALL), render(helm, SMALL, *WITHOUT_SERVERS)
    production = render(helm, PRODUCTION)
    of_small = desktop(small, offered(small))
    made = []
    for node in (node_fit.server(2, 4), node_fit.server(4, 8)):
        for title, objects in (
            (f"`{SMALL}`", small),
            ("the same with SQLite, without Redis", lean),
        ):
            made.append(node_fit.Row(node, title, node_fit.requests_of(objects), *of_small))
    gpu: dict[str, Any] = yaml.safe_load(GPU_TEMPLATE.read_text())["spec"]["resources"]
    nothing: dict[str, int] = {}
    made.append(
        node_fit.Row(
            node_fit.agent(8, 32),
            f"`{PRODUCTION}`",
            nothing,
            *desktop(production, offered(production)),
        )
    )
    made += (
        node_fit.Row(
            node,
            f"the same, [a GPU desktop](examples/{GPU_TEMPLATE.name})",
            nothing,
            *desktop(production, gpu),
        )
        for node in (node_fit.agent(16, 64, 8), node_fit.agent(32, 128, 16))
    )
    return made


def sizing(helm: Path) -> str:
    """The table, and what the release requests with each values file."""
    sums = (
        f"`{name}` {node_fit.show(node_fit.requests_of(render(helm, name)))}"
        for name in (SMALL, PRODUCTION)
    )
    return (
        f"{node_fit.table(rows(helm))}\n\nThe chart's pods request, with jobs: {'; '.join(sums)}."
    )


def images(helm: Path) -> list[tuple[str, list[str]]]:
    """Every image of every values file, with the files that need it."""
    users: dict[str, list[str]] = {}
    for name in VALUES_FILES:
        for image in images_of(render(helm, name)):
            users.setdefault(image, []).append(name)
    return sorted(users.items())


def image_table(helm: Path) -> str:
    lines = ["| image | needed with |", "|---|---|"]
    for image, files in images(helm):
        lines.append(f"| `{image}` | {', '.join(f'`{name}`' for name in files)} |")
    return "\n".join(lines)

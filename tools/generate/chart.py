"""What the chart takes from elsewhere: definitions in its values schema, the table of values,
manifests, summaries.

- `definitions.template` and `.pool` in values.schema.json: the specs of VDITemplate and VDIPool,
  from `vdi.api`;
- `definitions.postgresql`, `.redis` and `.coturn`, and the values that they are for: the charts in
  charts/vdi/charts;
- the table of values in docs/values.md: defaults from values.yaml, descriptions from
  values.schema.json;
- with a helm binary: manifests/vdi.yaml, the chart rendered for people without Helm; the summaries
  in tests/unit/chart/golden; the tables in docs/sizing.md and docs/install-variants.md.
"""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from tools.generate import chart_pages, chart_summary
from tools.generate.chart_render import CHART, DEV_IMAGES, ROOT, VALUES_FILES, render
from tools.generate.page import replace_generated
from vdi.api.crd import struct_schema
from vdi.api.meta import RELEASE_NAMESPACE
from vdi.api.pool import PoolSpec
from vdi.api.template import TemplateSpec

SCHEMA = ROOT / "charts/vdi/values.schema.json"
VALUES = ROOT / "charts/vdi/values.yaml"
MANIFEST = ROOT / "manifests/vdi.yaml"
PAGE = ROOT / "docs/values.md"
SUB_CHARTS = tuple(
    part["name"] for part in yaml.safe_load((CHART / "Chart.yaml").read_text())["dependencies"]
)
_SUB_CHART_VALUES = re.compile(r"""(,\n    "(\w+)": \{"\$ref": "#/definitions/\2"\})+""")
KEEP = {
    "type",
    "required",
    "properties",
    "items",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "maxItems",
    "enum",
}


def template_definition() -> str:
    """A template's spec as JSON schema; rules in CEL are left to the API server.

    Without the image's rules: the chart refuses a missing image with a sentence.
    """
    schema = json_schema(struct_schema(TemplateSpec, defaults=True))
    del schema["required"], schema["properties"]["image"]["minLength"]
    return json.dumps(schema)


def pool_definition() -> str:
    """A pool's spec as JSON schema, with the namespace of its desktops, which is a label of the
    object.
    """
    schema = json_schema(struct_schema(PoolSpec, defaults=True))
    schema["properties"]["namespace"] = {"type": "string", "maxLength": 63}
    return json.dumps(schema)


def json_schema(schema: dict[str, Any]) -> dict[str, Any]:
    made = {key: value for key, value in schema.items() if key in KEEP or key == "pattern"}
    if "x-kubernetes-int-or-string" in schema:
        return {"$ref": "#/definitions/quantity"}
    if "properties" in made:
        made["additionalProperties"] = False
        made["properties"] = {
            name: json_schema(inner) for name, inner in made["properties"].items()
        }
    elif "additionalProperties" in schema:
        made["additionalProperties"] = json_schema(schema["additionalProperties"])
    if "items" in made:
        made["items"] = json_schema(made["items"])
    return made


def schema_text(current: str) -> str:
    """values.schema.json with the sub-charts' values and its last definitions made again; the rest
    stays as it is.
    """
    head, key, _ = current.partition('    "template": ')
    values = "".join(f',\n    "{name}": {{"$ref": "#/definitions/{name}"}}' for name in SUB_CHARTS)
    head = _SUB_CHART_VALUES.sub(lambda _: values, head, count=1)
    made = {
        "pool": pool_definition(),
        **{name: json.dumps(sub_schema(name)) for name in SUB_CHARTS},
    }
    rest = "".join(f',\n    "{name}": {text}' for name, text in made.items())
    return f"{head}{key}{template_definition()}{rest}\n  }}\n}}\n"


def sub_schema(name: str) -> dict[str, Any]:
    """What a chart in charts/ takes, as a definition of ours."""
    schema: dict[str, Any] = json.loads(
        (ROOT / f"charts/vdi/charts/{name}/values.schema.json").read_text()
    )
    del schema["$schema"]
    return schema


def value_rows(
    schema: dict[str, Any], values: dict[str, Any], path: str = ""
) -> Iterator[tuple[str, object, str]]:
    """Path, default and words of each value, in the order of values.yaml."""
    for name, default in values.items():
        known = sub_schema(name) if name in SUB_CHARTS and not path else schema["properties"][name]
        # What is empty has no further rows: it is a value itself.
        if "properties" in known and default:
            yield from value_rows(known, default, f"{path}{name}.")
        else:
            yield f"{path}{name}", default, known["description"]


def table() -> str:
    """Values with the same default and meaning share a row."""
    rows: dict[tuple[str, str], list[str]] = {}
    for path, default, value_text in value_rows(
        json.loads(SCHEMA.read_text()), yaml.safe_load(VALUES.read_text())
    ):
        shown = f"`{json.dumps(default)}`" if default not in ("", [], {}) else ""
        meaning = value_text.removesuffix(", for the gateway alone").removesuffix("; empty: none")
        rows.setdefault((shown, meaning), []).append(f"`{path}`")
    lines = ["| value | default | meaning |", "|---|---|---|"]
    lines += [
        f"| {', '.join(paths)} | {shown} | {meaning} |" for (shown, meaning), paths in rows.items()
    ]
    return "\n".join(lines)


def page_text(current: str) -> str:
    """docs/values.md with the current table."""
    return replace_generated(current, table())


def manifest_text(helm: Path, chart: Path = CHART) -> str:
    """The chart's objects with its default values and without the marks of a Helm release."""
    is_checkout = chart == CHART
    images = ["--values", str(DEV_IMAGES)] if is_checkout else []
    command = [
        "template",
        "vdi",
        str(chart),
        "--namespace",
        RELEASE_NAMESPACE,
        *images,
        "--set",
        "templates=null",
    ]
    command += ["--skip-tests", "--kube-version", "1.34.0"]
    rendered = subprocess.run(
        [helm, *command], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    plain = re.sub(
        r"^ +(app.kubernetes.io/managed-by: Helm|helm.sh/[a-z-]+: .*)\n",
        "",
        rendered,
        flags=re.MULTILINE,
    )
    plain = re.sub(r"^( +)annotations:\n(?!\1 )", "", plain, flags=re.MULTILINE)
    plain = re.sub(r"^(#.*)?\n", "", plain, flags=re.MULTILINE)
    head = (
        "# The chart charts/vdi with its default values, for kubectl: generated by `make"
        " generate`\n"
    )
    if is_checkout:
        plain = plain.replace(f"image: {_dev_image()}\n", 'image: ""\n')
        head += (
            '# Set each `image: ""` first (docs/images.md): the API server refuses the Deployments'
            " without it.\n"
        )
    return (
        head + f"apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {RELEASE_NAMESPACE}\n{plain}"
    )


def _dev_image() -> str:
    image = yaml.safe_load(DEV_IMAGES.read_text())["image"]
    return f"{image['repository']}:{image['tag']}"


def rendered_files(helm: Path) -> dict[Path, str]:
    """Everything that only a render knows, by path."""
    made = {
        chart_summary.FOLDER / f"{Path(name).stem}.txt": chart_summary.summary(
            name, render(helm, name)
        )
        for name in VALUES_FILES
    }
    made[MANIFEST] = manifest_text(helm)
    made[chart_pages.SIZING] = replace_generated(
        chart_pages.SIZING.read_text(), chart_pages.sizing(helm)
    )
    made[chart_pages.INSTALL_VARIANTS] = replace_generated(
        chart_pages.INSTALL_VARIANTS.read_text(), chart_pages.image_table(helm)
    )
    return made

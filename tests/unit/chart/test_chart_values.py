"""The chart's papers agree with each other: values, schema, table, CRDs and the operator's settings."""

import json
import re
from collections.abc import Iterator
from typing import Any

import yaml

from unit.chart import generate
from vdi.api.crd import render_files
from vdi.operator.settings import read_settings

CHART = generate.ROOT / "charts/vdi"


def objects_of(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if schema.get("type") == "object" and "properties" in schema:
        yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from objects_of(inner, f"{path}.{name}")
    if "items" in schema:
        yield from objects_of(schema["items"], f"{path}[]")


def test_what_is_generated_is_up_to_date() -> None:
    advice = "run: .venv/bin/python tests/unit/chart/generate.py"
    for path, make in ((generate.SCHEMA, generate.schema_text), (generate.PAGE, generate.page_text)):
        assert make(path.read_text()) == path.read_text(), advice


def test_a_misspelt_value_is_refused_at_every_depth() -> None:
    schema = json.loads(generate.SCHEMA.read_text())
    found = [
        *objects_of(schema),
        *(each for kind in ("template", "pool") for each in objects_of(schema["definitions"][kind])),
    ]
    assert len(found) > 10
    for path, each in found:
        assert each["additionalProperties"] is False, path


def test_every_value_has_words_in_the_schema_and_a_comment_or_a_commented_parent() -> None:
    values = yaml.safe_load(generate.VALUES.read_text())
    assert all(words for _, _, words in generate.value_rows(json.loads(generate.SCHEMA.read_text()), values))
    text = generate.VALUES.read_text()
    for name in values:
        assert re.search(rf"^#.*\n{name}:", text, re.MULTILINE), f"{name} has no comment above it in values.yaml"


def test_every_key_of_the_schema_has_a_default_in_the_values() -> None:
    """values.yaml is where people look: a key that only the schema knows would be hidden."""
    values = yaml.safe_load(generate.VALUES.read_text())
    schema = json.loads(generate.SCHEMA.read_text())
    assert set(schema["properties"]) - set(values) == {"global"}
    for name, inner in schema["properties"].items():
        if "properties" in inner:
            assert set(inner["properties"]) == set(values[name]), name


def test_the_operator_knows_every_variable_that_the_chart_sets() -> None:
    """Each is set to something wrong: the operator complains of all of them, so it reads all of them."""
    names = re.findall(r"name: (VDI_\w+)", (CHART / "templates/deployment.yaml").read_text())
    assert len(names) >= 8
    problems = ""
    try:
        read_settings(dict.fromkeys(names, "\N{SNOWMAN} nonsense"))
    except Exception as why:
        problems = str(why)
    assert [name for name in names if name not in problems] == []


def test_the_chart_brings_every_crd_and_uninstalling_keeps_them() -> None:
    assert {path.name for path in (CHART / "files/crds").iterdir()} == set(render_files())
    for content in render_files().values():
        assert yaml.safe_load(content)["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert not (CHART / "crds").exists(), "Helm never upgrades what is in a chart's crds folder"


def test_the_chart_and_the_kubernetes_version_it_needs() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["apiVersion"], chart["kubeVersion"]) == ("v2", ">=1.30.0-0")

"""Files by which others judge the project: what they name exists, and they have the form that their
readers demand.
"""

import json
import re
from typing import Any

import yaml

from tools.generate.chart_render import ROOT
from vdi.api.crd import build_crds
from vdi.api.meta import VERSION

BLOB = "https://github.com/OWNER/vdi/blob/main/"
INSIGHTS: dict[str, Any] = yaml.safe_load((ROOT / "SECURITY-INSIGHTS.yml").read_text())


def test_best_practices_answers_name_files_that_exist() -> None:
    answers = json.loads((ROOT / ".bestpractices.json").read_text())
    statuses = {
        name.removesuffix("_status"): value
        for name, value in answers.items()
        if name.endswith("_status")
    }
    assert set(statuses.values()) <= {"Met", "Unmet", "N/A"}
    assert answers.keys() == {
        f"{name}_{part}" for name in statuses for part in ("status", "justification")
    }
    named = re.findall(
        r"[\w./-]+\.(?:md|toml|txt|yml|py)\b|\.github/\w+", " ".join(answers.values())
    )
    assert len(named) > 20
    assert not [name for name in named if not (ROOT / name).exists()]


def test_security_insights_have_what_the_schema_requires() -> None:
    assert INSIGHTS["header"].keys() >= {"last-reviewed", "last-updated", "schema-version", "url"}
    assert INSIGHTS["project"].keys() >= {
        "name",
        "administrators",
        "repositories",
        "vulnerability-reporting",
    }
    assert INSIGHTS["repository"].keys() >= {
        *("status", "url", "accepts-change-request", "accepts-automated-change-request"),
        *("core-team", "license", "security"),
    }


def test_security_insights_link_to_files_that_exist() -> None:
    links = re.findall(r"https://[^\s\"]+", (ROOT / "SECURITY-INSIGHTS.yml").read_text())
    assert all(link.startswith("https://github.com/OWNER/vdi") for link in links)
    files = [link.removeprefix(BLOB) for link in links if link.startswith(BLOB)]
    assert files
    assert not [name for name in files if not (ROOT / name).is_file()]


def test_artifact_hub_lists_each_crd() -> None:
    annotations = yaml.safe_load((ROOT / "charts/vdi/Chart.yaml").read_text())["annotations"]
    listed = {
        (crd["kind"], crd["name"], crd["version"])
        for crd in yaml.safe_load(annotations["artifacthub.io/crds"])
    }
    assert listed == {
        (crd["spec"]["names"]["kind"], crd["metadata"]["name"], VERSION) for crd in build_crds()
    }

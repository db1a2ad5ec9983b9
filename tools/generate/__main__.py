"""`python -m tools.generate` writes every generated file; with `--check` it changes nothing and
names the stale ones.

Exit status: 0 everything is up to date, 1 stale files (with `--check`), 2 usage.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from tools.generate.chart_render import ROOT

# Tables of the network and of permissions are made from what tests expect.
sys.path.insert(0, str(ROOT / "tests"))
from tools.generate import (
    api_reference,
    chart,
    dashboard,
    doctor_pages,
    doctor_rules,
    network_tables,
    permissions,
)
from tools.generate.crd_files import render_files
from tools.generate.gpu_files import render_manifests
from tools.generate.page import replace_generated
from vdi.devcluster import binaries
from vdi.devcluster.progress import Progress

# Path to the text that the file should have.
Files = dict[Path, str]


def files_from_code() -> Files:
    """Everything that the code alone decides."""
    made = {ROOT / "charts/vdi/files/crds" / name: text for name, text in render_files().items()}
    api = ROOT / "docs/api.md"
    made[api] = replace_generated(api.read_text(), api_reference.render())
    made[chart.SCHEMA] = chart.schema_text(chart.SCHEMA.read_text())
    made[dashboard.FILE] = dashboard.text()
    made[network_tables.PAGE] = network_tables.page_text(network_tables.PAGE.read_text())
    made |= {
        page: permissions.page_text(page.read_text(), roles)
        for page, roles in permissions.PAGES.items()
    }
    made |= doctor_pages.render()
    made[doctor_rules.FILE] = doctor_rules.text()
    made |= {ROOT / "manifests" / name: text for name, text in render_manifests().items()}
    return made


def files_from_values() -> Files:
    """What is made from the values and their schema, which `files_from_code` completes."""
    return {chart.PAGE: chart.page_text(chart.PAGE.read_text())}


def files_from_helm() -> Files:
    """What only a render of the chart knows."""
    with tempfile.TemporaryDirectory() as logs, Progress(Path(logs)) as progress:
        helm = binaries.ensure(["helm"], progress=progress)["helm"]
    return chart.rendered_files(helm)


# In this order: each one reads what those before it have written.
STAGES: Sequence[Callable[[], Files]] = (files_from_code, files_from_values, files_from_helm)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.generate", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit with 1 if a file is stale"
    )
    check = parser.parse_args(arguments).check
    stale: list[Path] = []
    for stage in STAGES:
        for path, text in stage().items():
            if path.exists() and path.read_text() == text:
                continue
            stale.append(path)
            if not check:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)
    for path in stale:
        print(f"{'stale' if check else 'written'}: {path.relative_to(ROOT)}")
    if check and stale:
        print("Run `make generate` and commit the result.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

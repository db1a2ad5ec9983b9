"""The doctor's catalogue as pages: docs/doctor.md is the index, docs/doctor/ has a page for each
layer.
"""

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tools.generate.chart_render import ROOT
from vdi.doctor.codes import CODES
from vdi.doctor.report import explain_code
from vdi.snapshot.check import code_page

INDEX = ROOT / "docs/doctor.md"
PAGES = ROOT / "docs/doctor"


class Layer(NamedTuple):
    """What the heading of a layer's page says, and what belongs to it."""

    title: str
    scope: str


# In the order of the index.
LAYERS = {
    "control plane": Layer(
        "Control plane", "the CRDs, the operator, and sessions that it refuses or does not act on"
    ),
    "infrastructure": Layer(
        "Infrastructure", "nodes, GPUs, images, volumes, DNS and the API server"
    ),
    "data plane": Layer(
        "Data plane", "Traefik, routes, certificates, the desktop itself, and the gateway"
    ),
    "probes": Layer(
        "Probes", "what only `vdi doctor --probe` finds, which makes requests and pods of its own"
    ),
    "kasm": Layer("Kasm", "pods of Kasm Workspaces that wait or fail"),
}

_GENERATED = """<!-- Generated from the catalogue of codes by `make generate`.
Edit src/vdi/doctor/codes and src/vdi/kasm/diagnosis/codes.py. -->"""
_INDEX_HEAD = """# The doctor: what each code means

[`vdi doctor`](cli.md#vdi-doctor) says what is broken, where, with the proof, and what fixes it;
`vdi doctor --explain CODE` prints the text of one code. [How it works](design/doctor.md);
[by symptom](troubleshooting.md). A finding names its page.
"""


def render() -> dict[Path, str]:
    pages = {_page(layer): "\n".join(_layer_lines(layer)) + "\n" for layer in LAYERS}
    return {INDEX: "\n".join(_index_lines()) + "\n", **pages}


def _page(layer: str) -> Path:
    return ROOT / code_page(next(code for code in CODES.values() if code.layer == layer))


def _index_lines() -> Iterator[str]:
    yield _GENERATED
    yield _INDEX_HEAD
    for layer, (title, scope) in LAYERS.items():
        number = sum(code.layer == layer for code in CODES.values())
        yield _wrapped(
            f"- [{title}]({_page(layer).relative_to(INDEX.parent)}): {scope}; {number} codes."
        )


def _layer_lines(layer: str) -> Iterator[str]:
    title, scope = LAYERS[layer]
    yield _GENERATED
    yield f"# {title}: what the doctor's codes mean\n"
    yield _wrapped(
        f"Here: {scope}. `--fix` asks first. *Causes*: codes that this one may follow from."
        f" [All layers](../{INDEX.name})."
    )
    for code in CODES.values():
        if code.layer == layer:
            yield f"\n## {code.code}"
            yield from map(_wrapped, explain_code(code))


def _wrapped(line: str) -> str:
    indent = "  " if line.startswith("- ") else ""
    return textwrap.fill(
        line, 120, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )

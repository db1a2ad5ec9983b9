"""Fenced blocks of README and docs/: the commands that they type, and the objects and values of
ours that they show.
"""

import json
import re
import shlex
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

from vdi.api.crd import build_crds

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
# What a page's fragment of a spec leaves out.
_REQUIRED = {
    "VDISession": {"user": "alice@example.com", "template": "cad"},
    "VDITemplate": {"image": "registry.example.com/desktop:1"},
    "VDIPool": {"template": "kiosk"},
}
_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^ *```", re.MULTILINE | re.DOTALL)
_HERE_DOCUMENT = re.compile(r"<<'?(\w+)'?(.*?\n).*?^\1$", re.MULTILINE | re.DOTALL)
_SUBSTITUTION = re.compile(r"\$\(([^()]*)\)")
_PROMPT = re.compile(r"^\$ ((?:[^\n]*\\\n)*[^\n]*)", re.MULTILINE)


class Block(NamedTuple):
    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def all_blocks() -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text()
        for fence in _FENCE.finditer(text):
            line = text.count("\n", 0, fence.start()) + 1
            found.append(
                Block(str(page.relative_to(ROOT)), line, fence[2], textwrap.dedent(fence[3]))
            )
    return found


def commands(block: Block) -> Iterator[list[str]]:
    """The words of each program that a block starts, without redirections, `sudo` and variables
    before it.
    """
    text = _HERE_DOCUMENT.sub(r"\2", block.text)
    if block.language == "console":
        text = "\n".join(_PROMPT.findall(text))
    text = text.replace("\\\n", " ")
    for line in (*_SUBSTITUTION.sub("OUTPUT", text).splitlines(), *_SUBSTITUTION.findall(text)):
        words: list[str] = []
        reader = shlex.shlex(line, posix=True, punctuation_chars=True)
        reader.whitespace_split = True
        for word in reader:
            if set(word) <= set("|&;()"):
                yield from _program(words)
                words = []
            elif set(word) <= set("<>"):
                next(reader, None)
            else:
                words.append(word)
        yield from _program(words)


def _program(words: list[str]) -> Iterator[list[str]]:
    while words and (words[0] == "sudo" or words[0] in "{}" or re.match(r"[A-Z_0-9]+=", words[0])):
        words = words[1:]
    if words:
        yield words


class Given(NamedTuple):
    """A document of a YAML block, completed: an object's spec, or the chart's values."""

    kind: str
    content: dict[str, Any]


def readings(document: dict[str, Any]) -> list[Given]:
    """The things of ours that a document can be; empty: it is another project's."""
    if "apiVersion" in document:
        if document["kind"] in _REQUIRED:
            return [Given(document["kind"], _REQUIRED[document["kind"]] | document["spec"])]
        given = document["spec"]
        values = given.get("values") or given.get("source", {}).get("helm", {}).get("valuesObject")
        return [_values(values)] if values else []
    if set(document) == {"spec"}:
        return [Given(kind, _REQUIRED[kind] | document["spec"]) for kind in _REQUIRED]
    found = [_values(document)] if set(document) <= set(_default_values()) else []
    if set(document) <= set(spec_schema("VDITemplate")["properties"]):
        found.append(Given("VDITemplate", _REQUIRED["VDITemplate"] | document))
    return found


def objects() -> list[tuple[str, Given]]:
    """Each object of ours in the docs, as an API server can be given it."""
    found = []
    for block in all_blocks():
        for document in yaml.safe_load_all(block.text) if block.language == "yaml" else ():
            fitting = [
                given
                for given in readings(document)
                if given.kind != "values" and not errors(given)
            ]
            found += [(str(block), given) for given in fitting[:1]]
    return found


def errors(given: Given) -> list[str]:
    """What the schema of the CRD or of the chart's values refuses."""
    schema = _values_schema() if given.kind == "values" else spec_schema(given.kind)
    found = Draft202012Validator(schema).iter_errors(given.content)
    return [f"{given.kind} {error.json_path}: {error.message}" for error in found]


@cache
def spec_schema(kind: str) -> dict[str, Any]:
    """A kind's spec in JSON Schema's own words: unknown fields are refused, a quantity is text or a
    number.
    """
    [crd] = [crd for crd in build_crds() if crd["spec"]["names"]["kind"] == kind]
    strict: dict[str, Any] = _strict(
        crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    )
    return strict


def _strict(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_strict(inner) for inner in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: _strict(inner) for key, inner in schema.items()}
    if "properties" in made and "type" in made:
        made["additionalProperties"] = False
    if made.pop("x-kubernetes-int-or-string", False):
        made["type"] = ["integer", "string"]
    return made


@cache
def _values_schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((ROOT / "charts/vdi/values.schema.json").read_text())
    return schema


@cache
def _default_values() -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load((ROOT / "charts/vdi/values.yaml").read_text())
    return values


def _values(given: dict[str, Any]) -> Given:
    return Given("values", _merged(_default_values(), given))


def _merged(default: Any, given: Any) -> Any:
    if not isinstance(default, dict) or not isinstance(given, dict):
        return given
    return default | {key: _merged(default.get(key), value) for key, value in given.items()}

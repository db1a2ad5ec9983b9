"""What the page `/api/docs` shows, from the OpenAPI document. Pure; the template is `api_docs.html`."""

from dataclasses import dataclass
from typing import Any

from vdi.gateway.api.problems import TITLES

Schema = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Field:
    """One row of a table: a parameter or a field."""

    name: str
    kind: str
    needed: bool
    text: str
    ref: str = ""
    """The struct that the kind names, for a link."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One operation."""

    id: str
    method: str
    path: str
    summary: str
    text: str
    parameters: tuple[Field, ...]
    body: str
    answer: str
    status: str
    problems: tuple[tuple[str, str], ...]
    """HTTP status and words."""


@dataclass(frozen=True, slots=True)
class Struct:
    """One kind of object."""

    name: str
    text: str
    fields: tuple[Field, ...]


def page(document: Schema) -> dict[str, Any]:
    """What the template needs."""
    entries: dict[str, list[Entry]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            entries[operation["tags"][0]].append(_entry(path, method, operation))
    schemas = document["components"]["schemas"]
    return {
        "about": [text.replace("\n", " ") for text in document["info"]["description"].strip().split("\n\n")],
        "version": document["info"]["version"],
        "url": document["servers"][0]["url"],
        "tags": [(tag["name"], tag["description"], entries[tag["name"]]) for tag in document["tags"]],
        "structs": [_struct(name, schema) for name, schema in schemas.items()],
        "problems": [(code, status, title) for code, (status, title) in TITLES.items()],
    }


def _entry(path: str, method: str, operation: Schema) -> Entry:
    answers = operation["responses"]
    good = next(status for status in answers if status < "300")
    content = answers[good].get("content", {})
    media, answer = next(iter(content.items()), ("", {"schema": {}}))
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    return Entry(
        id=operation["operationId"],
        method=method.upper(),
        path=path,
        summary=operation["summary"],
        text=operation.get("description", ""),
        parameters=tuple(_parameter(parameter) for parameter in operation.get("parameters", ())),
        body=_ref(body),
        answer=_ref(answer["schema"]) or media,
        status=good,
        problems=tuple((status, value["description"]) for status, value in answers.items() if status >= "400"),
    )


def _parameter(parameter: Schema) -> Field:
    kind, ref = _kind(parameter["schema"])
    return Field(parameter["name"], kind, parameter["required"], parameter["description"], ref)


def _struct(name: str, schema: Schema) -> Struct:
    if "enum" in schema:
        return Struct(name, f"{schema.get('description', '')} One of: {', '.join(schema['enum'])}.", ())
    needed = schema.get("required", ())
    fields = []
    for field, inner in schema.get("properties", {}).items():
        kind, ref = _kind(inner)
        fields.append(Field(field, kind, field in needed, inner.get("description", ""), ref))
    return Struct(name, schema.get("description", ""), tuple(fields))


def _kind(schema: Schema) -> tuple[str, str]:
    """What a value is, in words, and the struct that it names."""
    if ref := _ref(schema):
        return ref, ref
    if choices := [choice for choice in schema.get("anyOf", ()) if choice != {"type": "null"}]:
        kinds = [_kind(choice) for choice in choices]
        return " or ".join(kind for kind, _ in kinds), kinds[0][1]
    if "enum" in schema:
        return " | ".join(str(value) for value in schema["enum"]), ""
    if schema.get("type") == "array":
        kind, ref = _kind(schema.get("items", {}))
        return f"list of {kind}", ref
    if schema.get("format"):
        return str(schema["format"]), ""
    return str(schema.get("type", "any")), ""


def _ref(schema: Schema) -> str:
    return str(schema.get("$ref", "")).rpartition("/")[2]

"""Holds answers against the OpenAPI document, so that neither can drift away from the other
unseen.
"""

import re
from typing import Any

import httpx
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]

Document = dict[str, Any]


class Contract:
    """The document as a judge; `fulfilled` are the operations that have been seen to succeed."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.fulfilled: set[str] = set()
        self._paths = [
            (re.compile(re.sub(r"\\{\w+\\}", "[^/]+", re.escape(path)) + "$"), methods)
            for path, methods in sorted(
                document["paths"].items(), key=lambda path: path[0].count("{")
            )
        ]

    def operation(self, method: str, path: str) -> Document | None:
        """What the document says of a request; None for what it does not know."""
        for pattern, methods in self._paths:
            if pattern.match(path) and method.lower() in methods:
                found: Document = methods[method.lower()]
                return found
        return None

    async def check(self, answer: httpx.Response) -> None:
        """Status, media type and body of an answer are as documented; asserts."""
        operation = self.operation(answer.request.method, answer.request.url.path)
        if operation is None:
            assert answer.status_code in (200, 304, 404, 405), answer.status_code
            return
        await answer.aread()
        name, status = operation["operationId"], str(answer.status_code)
        assert status in operation["responses"], (
            f"{name} answers {status}, which is not documented: {answer.text}"
        )
        content = operation["responses"][status].get("content", {})
        if not content:
            assert answer.content == b"", (
                f"{name} answers {status} with a body, which is not documented"
            )
        else:
            media = answer.headers["content-type"].partition(";")[0]
            assert media in content, (
                f"{name} answers {status} as {media}; documented are {list(content)}"
            )
            if media.endswith("json"):
                self.check_schema(content[media]["schema"], answer.json())
        if answer.is_success:
            self.fulfilled.add(name)

    def check_schema(self, schema: Document, value: Any) -> None:
        """A value is as this schema says; asserts."""
        whole = {"components": self.document["components"], **schema}
        errors = [
            f"{error.json_path}: {error.message}"
            for error in Draft202012Validator(whole).iter_errors(value)
        ]
        assert errors == [], errors

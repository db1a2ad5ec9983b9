"""Releases out of Helm's Secrets."""

import base64
import gzip
import json
from typing import Any

import pytest

from vdi.helm.releases import decode_revision, deployed, parse_manifest
from vdi.kube.errors import UnexpectedAnswer

RELEASE = {
    "name": "vdi",
    "namespace": "kasm",
    "version": 3,
    "info": {
        "status": "deployed",
        "description": "Upgrade complete",
        "last_deployed": "2026-11-20T18:00:00Z",
    },
    "chart": {
        "metadata": {"name": "vdi", "version": "0.1.0", "appVersion": "0.1.0"},
        "values": {"a": 1},
        "files": [],
    },
    "config": {"domain": "x"},
    "manifest": (
        "---\n# Source: vdi/templates/a.yaml\nkind: Secret\nmetadata: {name: a}\n---\n---\nkind:"
        " Role\n"
    ),
    "hooks": None,
    "apply_method": "ssa",
}


def a_secret(content: bytes) -> dict[str, Any]:
    metadata = {"name": "sh.helm.release.v1.vdi.v3", "namespace": "kasm"}
    return {
        "metadata": metadata,
        "data": {"release": base64.b64encode(base64.b64encode(content)).decode()},
    }


def packed(release: dict[str, Any]) -> bytes:
    return gzip.compress(json.dumps(release).encode())


@pytest.mark.parametrize(
    "content", [packed(RELEASE), json.dumps(RELEASE).encode()], ids=["packed", "plain"]
)
def test_a_revision_is_read(content: bytes) -> None:
    found = decode_revision(a_secret(content))
    assert (found.name, found.version, found.status, found.chart_words) == (
        "vdi",
        3,
        "deployed",
        "vdi-0.1.0",
    )
    assert found.config == {"domain": "x"} and found.apply_method == "ssa"
    assert [one["kind"] for one in found.objects()] == ["Secret", "Role"]


def test_newest_deployed_revision_is_found() -> None:
    failed = decode_revision(
        a_secret(packed({**RELEASE, "version": 4, "info": {"status": "failed"}}))
    )
    good = decode_revision(a_secret(packed(RELEASE)))
    assert deployed([failed, good]) is good
    assert deployed([failed]) is None


@pytest.mark.parametrize(
    ("secret", "words"),
    [
        (
            a_secret(gzip.compress(b" " * 70 * 2**20)),
            "it has more than 67108864 bytes when it is unpacked",
        ),
        (a_secret(gzip.compress(b'{"a":' * 20_000)), "recursion"),
        (a_secret(packed(RELEASE)[:-9]), "is not a release in Helm's format"),
        (
            a_secret(b"") | {"data": {"release": "bm90"}},
            r"Secret kasm/sh\.helm\.release\.v1\.vdi\.v3 is not a release in Helm's format",
        ),
    ],
    ids=["large", "deep", "cut off", "something else"],
)
def test_a_broken_or_too_large_release_is_refused(secret: dict[str, Any], words: str) -> None:
    with pytest.raises(UnexpectedAnswer, match=words):
        decode_revision(secret)


def test_a_date_is_text_as_kubernetes_has_it() -> None:
    assert parse_manifest("kind: A\nwhen: 2026-11-20\n") == [{"kind": "A", "when": "2026-11-20"}]

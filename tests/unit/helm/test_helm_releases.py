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
    "info": {"status": "deployed", "description": "Upgrade complete", "last_deployed": "2026-11-20T18:00:00Z"},
    "chart": {"metadata": {"name": "vdi", "version": "0.1.0", "appVersion": "0.1.0"}, "values": {"a": 1}, "files": []},
    "config": {"domain": "x"},
    "manifest": "---\n# Source: vdi/templates/a.yaml\nkind: Secret\nmetadata: {name: a}\n---\n---\nkind: Role\n",
    "hooks": None,
    "apply_method": "ssa",
}


def a_secret(release: dict[str, Any], *, packed: bool = True) -> dict[str, Any]:
    text = json.dumps(release).encode()
    once = base64.b64encode(gzip.compress(text) if packed else text)
    metadata = {"name": "sh.helm.release.v1.vdi.v3", "namespace": "kasm"}
    return {"metadata": metadata, "data": {"release": base64.b64encode(once).decode()}}


@pytest.mark.parametrize("packed", [True, False])
def test_a_revision_is_read(packed: bool) -> None:
    found = decode_revision(a_secret(RELEASE, packed=packed))
    assert (found.name, found.version, found.status, found.chart_words) == ("vdi", 3, "deployed", "vdi-0.1.0")
    assert found.config == {"domain": "x"} and found.apply_method == "ssa"
    assert [one["kind"] for one in found.objects()] == ["Secret", "Role"]


def test_newest_deployed_revision_is_found() -> None:
    failed = decode_revision(a_secret({**RELEASE, "version": 4, "info": {"status": "failed"}}))
    good = decode_revision(a_secret(RELEASE))
    assert deployed([failed, good]) is good
    assert deployed([failed]) is None


def test_secret_without_a_release_is_refused() -> None:
    with pytest.raises(UnexpectedAnswer, match="Secret kasm/x is not a release in Helm's format"):
        decode_revision({"metadata": {"name": "x", "namespace": "kasm"}, "data": {"release": "bm90"}})


@pytest.mark.parametrize("content", [b" " * 70 * 2**20, b'{"a":' * 20_000], ids=["large", "deep"])
def test_a_release_takes_no_more_memory_than_its_limit(content: bytes) -> None:
    secret = a_secret(RELEASE)
    secret["data"]["release"] = base64.b64encode(base64.b64encode(gzip.compress(content))).decode()
    with pytest.raises(UnexpectedAnswer, match=r"more than 67108864 bytes when it is unpacked|recursion"):
        decode_revision(secret)


def test_a_date_is_text_as_kubernetes_has_it() -> None:
    assert parse_manifest("kind: A\nwhen: 2026-11-20\n") == [{"kind": "A", "when": "2026-11-20"}]


def test_a_record_that_was_cut_off_is_reported_as_such() -> None:
    cut = gzip.compress(json.dumps(RELEASE).encode())[:-9]
    secret = a_secret(RELEASE) | {"data": {"release": base64.b64encode(base64.b64encode(cut)).decode()}}
    with pytest.raises(UnexpectedAnswer, match="is not a release in Helm's format"):
        decode_revision(secret)

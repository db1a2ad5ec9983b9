"""The OpenAPI document: valid by somebody else's word, and true of every operation."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from unit.doctor.doctor_builders import Cluster
from unit.doctor.doctor_faults import operator_gone
from unit.gateway.api_stage import ROOT, RUNNING, ApiStage
from unit.gateway.api_stream import events_of
from unit.gateway.ended_recording import save_recording
from unit.gateway.probe_agent import FIGURES, STATE, agent
from vdi.gateway.api.component import OPERATIONS
from vdi.gateway.login.logins import SOURCE_OIDC, Device, Identity
from vdi.snapshot.model import Snapshot
from vdi.version import package_version


@pytest.fixture
def stage() -> ApiStage:
    return ApiStage()


@pytest.mark.long  # a third of all that the tests of the API take; the contract of each answer is checked every time
async def test_the_document_is_valid_openapi(stage: ApiStage) -> None:
    anybody = await stage.anybody()
    document = (await anybody.get("/api/v1/openapi.json")).json()
    assert document["openapi"] == "3.1.0"
    errors = [str(error) for error in OpenAPIV31SpecValidator(document).iter_errors()]
    assert errors == []
    assert "x-kubernetes" not in str(document)


async def test_document_is_compressed_and_revalidated(stage: ApiStage) -> None:
    anybody, where = await stage.anybody(), "/api/v1/openapi.json"
    plain = await anybody.get(where, headers={"Accept-Encoding": "identity"})
    packed = await anybody.get(where, headers={"Accept-Encoding": "gzip"})
    assert packed.json() == plain.json()
    assert (plain.headers.get("content-encoding"), packed.headers["content-encoding"]) == (
        None,
        "gzip",
    )
    assert int(packed.headers["content-length"]) < int(plain.headers["content-length"]) / 4
    assert packed.headers["cache-control"] == "no-cache"
    same = await anybody.get(where, headers={"If-None-Match": packed.headers["etag"]})
    assert (same.status_code, same.content) == (304, b"")


async def test_every_enumeration_says_of_what_type_it_is(stage: ApiStage) -> None:
    def untyped(schema: Any, where: str) -> Iterator[str]:
        if isinstance(schema, dict):
            if isinstance(schema.get("enum"), list) and "type" not in schema:
                yield where
            for key, inner in schema.items():
                yield from untyped(inner, f"{where}/{key}")
        elif isinstance(schema, list):
            for index, inner in enumerate(schema):
                yield from untyped(inner, f"{where}/{index}")

    assert list(untyped(stage.contract.document, "")) == []


async def test_every_operation_has_words_and_one_name(stage: ApiStage) -> None:
    document = stage.contract.document
    operations = [method for methods in document["paths"].values() for method in methods.values()]
    assert (
        len({operation["operationId"] for operation in operations})
        == len(operations)
        == len(OPERATIONS)
    )
    for operation in operations:
        assert operation["summary"]
        assert all(parameter["description"] for parameter in operation.get("parameters", ()))
    for name, schema in document["components"]["schemas"].items():
        assert schema.get("description"), name
        for field, inner in schema.get("properties", {}).items():
            assert inner.get("description") or name in (
                "Limits",
                "Limit",
                "Problem",
            ), f"{name}.{field}"


async def test_every_operation_answers_as_documented(
    stage: ApiStage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each of them once, with success; the contract checks each answer (here, and in every other
    test of the API).
    """
    stage.session("waits", status={"phase": "Pending", "queue": {"position": 1, "reason": "GPU"}})
    stage.session(status=RUNNING, access=[{"user": "bob@example.com", "role": "collaborator"}])
    stage.pool()
    stage.home("home-alice")
    monkeypatch.setattr("vdi.gateway.doctor.collect", _snapshot)
    session = stage.world.session("alice-desktop")
    assert session is not None
    await stage.history.recorder.record_end(session)
    recording = await save_recording(stage.gateway, tmp_path)
    root, page = await stage.program(ROOT), await stage.page(ROOT)
    await stage.logins.begin(
        Identity(user="old@example.com", source=SOURCE_OIDC, issuer="i", subject="1"), Device()
    )
    assert (await root.post("/api/v1/admin/users/old@example.com/release")).is_success
    assert (await root.post("/api/v1/admin/users/release")).is_success
    one = "/api/v1/sessions/alice-desktop"
    program, owner = await stage.program(), await stage.page()
    async with agent(stage) as asked:
        begun = await program.post(f"{one}/probe", json={"state": STATE})
        script = {"source": "template", "state": "Ended", "exitCode": 0, "output": "licence found"}
        asked.body = {"scripts": [script]}
        assert (await program.get(f"{one}/startup-scripts")).is_success
        asked.body = {"text": "X=1,Y=2"}
        stage.template(agents={"enabled": True, "run": True})
        assert (
            await program.post(f"{one}/computer", json={"action": "cursor_position"})
        ).is_success
        asked.body = {"exitCode": 0, "output": "done"}
        assert (await program.post(f"{one}/run", json={"command": "true"})).is_success
        assert (await owner.post(f"{one}/record", json={"on": True})).is_success
        assert (await program.post(f"{one}/human-request", json={"reason": "captcha"})).is_success
        assert (await owner.post(f"{one}/drive", json={"human": False})).is_success
    assert begun.is_success, begun.text
    for answer in (
        await program.put(f"{one}/probe/{begun.json()['id']}", json={"figures": FIGURES}),
        await program.get("/api/v1/sessions"),
        await program.post(
            "/api/v1/sessions", json={"template": "ubuntu", "name": "new", "hostname": "new"}
        ),
        await program.get(one),
        await program.post(f"{one}/extend", json={"timeout": "9h30m"}),
        await program.post(f"{one}/resize", json={"memory": "2Gi"}),
        await program.post(f"{one}/share", json={"user": "carol@example.com", "role": "viewer"}),
        await program.post(f"{one}/unshare", json={"user": "carol@example.com"}),
        await program.post(
            f"{one}/schedule", json={"schedule": {"start": "08:30", "timeZone": "Europe/Berlin"}}
        ),
        await program.post(f"{one}/schedule", json={"schedule": None}),
        await root.post(
            f"{one}/plan-end",
            json={"end": {"time": "2026-11-20T13:00:00Z", "action": "Suspend", "message": "m"}},
        ),
        await root.post(f"{one}/plan-end", json={"end": None}),
        await root.post(f"{one}/request-access", json={"role": "collaborator", "length": "10m"}),
        await owner.post(
            f"{one}/answer-access", json={"request": "2026-11-20T12:01:00Z", "allow": False}
        ),
        await owner.post(f"{one}/drive", json={"human": True}),
        await owner.post(f"{one}/drive", json={"human": False}),
        await program.post(f"{one}/restart"),
        await program.post(f"{one}/suspend"),
        await program.post(f"{one}/resume"),
        await program.delete(one, params={"deleteHome": "false"}),
        await program.get("/api/v1/templates"),
        await program.get("/api/v1/templates/ubuntu"),
        await program.get("/api/v1/homes"),
        await program.get("/api/v1/homes/home-alice"),
        await program.delete("/api/v1/homes/home-alice"),
        await program.get("/api/v1/me"),
        await program.get("/api/v1/tokens"),
        await program.get("/api/v1/history"),
        await program.get("/api/v1/usage", params={"month": "2026-11"}),
        await program.get("/api/v1/export", params={"what": "runs", "format": "jsonl"}),
        await program.get("/api/v1/recordings"),
        await root.get(f"/api/v1/recordings/{recording}"),
        *[await root.get(f"/api/v1/admin/{what}") for what in ADMIN],
        await root.get("/api/v1/admin/export", params={"what": "audit"}),
        await root.put("/api/v1/admin/banner", json={"text": "Maintenance at six"}),
        await root.post("/api/v1/admin/doctor"),
        await root.get("/api/v1/admin/doctor"),
    ):
        assert answer.is_success, answer.text
    assert answer.json()["findings"][0]["code"] == "operator_missing"
    uid = (await program.get("/api/v1/history")).json()["items"][0]["uid"]
    assert (await program.get(f"/api/v1/history/{uid}")).is_success
    made = await page.post("/api/v1/tokens", json={"label": "ci", "days": 7})
    assert (await page.delete(made.headers["location"])).is_success
    other = await stage.page(ROOT)
    ids = [
        each["id"]
        for each in (await page.get("/api/v1/logins")).json()["items"]
        if not each["current"]
    ]
    assert (await page.delete(f"/api/v1/logins/{ids[0]}")).is_success
    assert (await page.delete("/api/v1/logins")).is_success
    assert (await other.get("/api/v1/me")).status_code == 401
    async with events_of(stage.public, "/api/v1/events", dict(program.headers)) as events:
        assert events.status == 200
        kind, data = await events.next()
        assert kind == "session"
        stage.contract.check_schema({"$ref": "#/components/schemas/Session"}, data)
    stage.contract.fulfilled.add("followSessions")
    assert stage.contract.fulfilled == {operation.name for operation in OPERATIONS}


async def _snapshot(*_: object) -> Snapshot:
    """What the doctor sees of a cluster without an operator."""
    cluster = Cluster()
    operator_gone(cluster)
    return cluster.snapshot()


ADMIN = (
    "sessions",
    "queue",
    "pools",
    "templates",
    "limits",
    "users",
    "audit",
    "history",
    "usage",
    "gpus",
)


async def test_the_page_has_every_operation_and_every_problem(stage: ApiStage) -> None:
    anybody: httpx.AsyncClient = await stage.anybody()
    page = await anybody.get("/api/docs")
    assert page.status_code == 200
    for operation in OPERATIONS:
        assert f'id="{operation.name}"' in page.text
    for code in ("invalid", "not-found", "too-many-requests"):
        assert f'id="problem-{code}"' in page.text
    assert "<style" not in page.text
    assert "`" not in page.text
    for target in re.findall(r'href="#([^"]+)"', page.text):
        assert f'id="{target}"' in page.text
    assert "https://" not in page.text.replace("https://portal.vdi.localhost", "")


async def test_the_version_of_the_gateway_is_not_for_everybody(stage: ApiStage) -> None:
    """Which holes a gateway has is looked up by its version."""
    anybody = await stage.anybody()
    for address in ("/api/v1/openapi.json", "/api/docs"):
        answer = await anybody.get(address)
        assert answer.status_code == 200 and package_version() not in answer.text, address

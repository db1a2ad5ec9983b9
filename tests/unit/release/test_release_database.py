"""What a rollback does to the gateway's database: planned from the two Deployments, and done by a pod like theirs."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from alembic.migration import MigrationContext
from alembic.operations import Operations
from alembic.script import ScriptDirectory
from sqlalchemy import NullPool, create_engine, inspect

from vdi.gateway.store.migrations import FOLDER
from vdi.release import database
from vdi.release.database import (
    REVISION,
    REVISIONS,
    Downgrade,
    find_gateway,
    job_of,
    plan_downgrade,
    upgrades_database,
)
from vdi.release.errors import RefusedError

CHART = Path(__file__).parents[3] / "charts/vdi"
FIRST, GRAPHICS = "0001", "0002_graphics"


@pytest.fixture
def two_revisions(monkeypatch: pytest.MonkeyPatch) -> None:
    added = ("history_runs.renderer", "history_runs.encoder")
    monkeypatch.setattr(database, "REVISIONS", {FIRST: (), GRAPHICS: added})


def a_gateway(revision: str = "", image: str = "registry.example.com/vdi:2") -> dict[str, Any]:
    """As the chart makes it; without a revision as version 0.1.0 did."""
    labels = {"app.kubernetes.io/name": "vdi", "app.kubernetes.io/component": "gateway"}
    gateway = {
        "name": "gateway",
        "image": image,
        "args": ["gateway", "run"],
        "env": [{"name": "VDI_DATABASE_URL", "valueFrom": {"secretKeyRef": {"name": "db", "key": "url"}}}],
        "ports": [{"containerPort": 8080}],
        "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8081}},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    pod = {
        "serviceAccountName": "vdi-gateway",
        "imagePullSecrets": [{"name": "pull"}],
        "nodeSelector": {"disk": "here"},
        "initContainers": [{"name": "server-secrets", "image": image}],
        "containers": [gateway, {"name": "sidecar", "image": "other"}],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "vdi-gateway"}}],
    }
    annotations = {REVISION: revision} if revision else {}
    return {
        "kind": "Deployment",
        "metadata": {"name": "vdi-gateway", "namespace": "vdi-system", "annotations": annotations},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": pod},
        },
    }


def test_the_revisions_and_their_columns_are_those_of_the_gateways_code() -> None:
    scripts = ScriptDirectory(str(FOLDER))
    revisions = list(scripts.walk_revisions())[::-1]
    assert list(REVISIONS) == [script.revision for script in revisions]
    engine = create_engine("sqlite://", poolclass=NullPool)
    with engine.connect() as connection, Operations.context(MigrationContext.configure(connection)):

        def columns() -> set[str]:
            inspector = inspect(connection)
            inspector.clear_cache()
            tables = inspector.get_table_names()
            return {f"{table}.{column['name']}" for table in tables for column in inspector.get_columns(table)}

        for script in revisions[:1]:
            script.module.upgrade()
        for script in revisions[1:]:
            before = columns()
            script.module.upgrade()
            assert columns() - before == set(REVISIONS[script.revision])
            script.module.downgrade()
            assert columns() == before, "each revision can be undone"
            script.module.upgrade()


def test_the_chart_says_the_newest_revision() -> None:
    text = (CHART / "templates/gateway-deployment.yaml").read_text()
    (line,) = [line for line in text.splitlines() if REVISION in line]
    assert yaml.safe_load(line)[REVISION] == list(REVISIONS)[-1]


@pytest.mark.parametrize(
    ("current", "target"),
    [
        (a_gateway(GRAPHICS), a_gateway(GRAPHICS, "registry.example.com/vdi:1")),
        (a_gateway(), a_gateway(GRAPHICS, "registry.example.com/vdi:1")),
        (a_gateway(GRAPHICS), a_gateway("0009_next", "registry.example.com/vdi:3")),
        (a_gateway(GRAPHICS), a_gateway()),
        (None, a_gateway()),
        (a_gateway(GRAPHICS), {"kind": "Service", "metadata": {"name": "vdi-gateway"}}),
    ],
    ids=["same revision", "newer", "unknown and newer", "same image", "no gateway in place", "no gateway to come"],
)
@pytest.mark.usefixtures("two_revisions")
def test_where_the_database_stays_as_it_is(current: dict[str, Any] | None, target: dict[str, Any]) -> None:
    assert plan_downgrade(current, [target]) is None


@pytest.mark.usefixtures("two_revisions")
def test_an_older_gateway_gets_the_database_that_it_knows() -> None:
    plan = plan_downgrade(a_gateway(GRAPHICS), [a_gateway(image="registry.example.com/vdi:1")])
    assert plan is not None and (plan.revision, plan.current) == (FIRST, GRAPHICS)
    assert plan.words == (
        "the database goes back from revision 0002_graphics to 0001 and loses the columns "
        "history_runs.renderer, history_runs.encoder with their data; the gateway is stopped during that time"
    )


@pytest.mark.usefixtures("two_revisions")
def test_which_upgrades_helm_alone_cannot_undo() -> None:
    old = [a_gateway(image="registry.example.com/vdi:1")]
    assert upgrades_database([a_gateway(GRAPHICS)], old)
    assert not upgrades_database([a_gateway()], old)
    assert not upgrades_database([a_gateway("0009_next")], old), "a chart that is newer than this vdi"


def test_a_gateway_that_is_newer_than_this_vdi_is_refused_in_words() -> None:
    with pytest.raises(
        RefusedError, match=r"0009_next, which this vdi does not know.*Use the vdi of the deployed release"
    ):
        plan_downgrade(a_gateway("0009_next"), [a_gateway(image="registry.example.com/vdi:1")])


def test_the_job_has_the_gateways_image_database_volumes_and_labels_and_nothing_else_of_it() -> None:
    gateway = a_gateway(GRAPHICS)
    assert find_gateway([{"kind": "Service", "metadata": {"name": "vdi-gateway"}}, gateway]) is gateway
    job = job_of(Downgrade(gateway, FIRST, GRAPHICS, ()), "vdi-gateway-downgrade-1", 60.4)
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container == {
        "name": "downgrade",
        "image": "registry.example.com/vdi:2",
        "command": ["python", "-m", "vdi.gateway.store.downgrade", FIRST],
        "env": gateway["spec"]["template"]["spec"]["containers"][0]["env"],
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    assert "initContainers" not in pod and pod["automountServiceAccountToken"] is False
    assert pod["restartPolicy"] == "Never"
    assert (job["spec"]["backoffLimit"], job["spec"]["activeDeadlineSeconds"]) == (0, 60)
    assert (pod["nodeSelector"], pod["imagePullSecrets"]) == ({"disk": "here"}, [{"name": "pull"}])
    assert job["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"] == "gateway"

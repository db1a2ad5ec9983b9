"""`podTemplate` and ephemeral storage of templates, against a real API server and scheduler."""

import pytest

from cluster.operator_stage import Stage

pytestmark = pytest.mark.timeout(90)


async def test_pod_template_reaches_the_pod(stage: Stage) -> None:
    await stage.node("disk", has={"ephemeral-storage": "100Gi"})
    metadata = {"labels": {"team": "cad"}, "annotations": {"example.com/cost-centre": "4711"}}
    template = await stage.template(
        persistence={"enabled": False},
        placement={"nodeSelector": stage.here},
        podTemplate={
            "metadata": metadata,
            "spec": {"priorityClassName": "system-cluster-critical"},
        },
        resources={
            "defaultGPU": 0,
            "defaultEphemeralStorage": "5Gi",
            "maxEphemeralStorage": "20Gi",
        },
    )
    async with stage.operator():
        pod = await stage.pod_of(await stage.session("alice", template))
        assert pod["metadata"]["labels"]["team"] == "cad"
        assert pod["metadata"]["labels"]["app.kubernetes.io/managed-by"] == "vdi-operator"
        assert pod["metadata"]["annotations"]["example.com/cost-centre"] == "4711"
        assert pod["spec"]["priority"] == 2_000_000_000
        requirements = pod["spec"]["containers"][0]["resources"]
        assert (
            requirements["limits"]["ephemeral-storage"]
            == requirements["requests"]["ephemeral-storage"]
            == "5Gi"
        )

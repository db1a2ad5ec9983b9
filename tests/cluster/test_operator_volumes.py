"""Volumes for users and groups and files in the home, against a real API server with Pod Security `restricted`."""

from typing import Any

import pytest

from cluster.operator_stage import Object, Stage
from vdi.kinds import SESSIONS
from vdi.session.cluster_settings import ClusterSettings
from vdi.session.volumes import GROUPS

pytestmark = pytest.mark.timeout(90)

TEAMS: dict[str, Any] = {
    "name": "teams",
    "mountPath": "/teams/{group}",
    "subPath": "{group}",
    "groups": [{"name": "cad", "readOnly": False}, {"name": "/eng/staff"}],
    "persistentVolumeClaim": {"claimName": "teams"},
}
OWN: dict[str, Any] = {
    "name": "own",
    "mountPath": "/own",
    "subPath": "users/{user}",
    "readOnly": False,
    "persistentVolumeClaim": {"claimName": "own"},
}
DOTFILES: dict[str, Any] = {
    "name": "git",
    "mountPath": "/home/user/.config/git/config",
    "subPath": "config",
    "configMap": {"name": "dotfiles"},
}
LICENCE: dict[str, Any] = {"name": "licence", "mountPath": "/home/user/licence", "secret": {"secretName": "licence"}}


async def member(stage: Stage, name: str, template: str, groups: str | None) -> Object:
    """A session as the gateway makes it for a user whose groups it knows."""
    metadata: Object = {"name": name, "namespace": stage.namespace}
    if groups is not None:
        metadata["annotations"] = {GROUPS: groups}
    spec = {"user": f"{name}@example.com", "template": template}
    body = {"apiVersion": SESSIONS.api_version, "kind": "VDISession", "metadata": metadata, "spec": spec}
    return await stage.api.create(SESSIONS, body, namespace=stage.namespace, into=dict)


def mounts(pod: Object) -> list[Object]:
    (container,) = pod["spec"]["containers"]
    return [mount for mount in container["volumeMounts"] if mount["name"] not in ("shm", "home")]


async def test_volumes_of_users_and_groups_pass_restricted(stage: Stage) -> None:
    await stage.restrict()
    template = await stage.template(volumes=[TEAMS, OWN, DOTFILES, LICENCE], resources={"defaultGPU": 0})
    async with stage.operator(cluster=ClusterSettings(edge_middleware="vdi-edge")):
        alice = await stage.pod_of(await member(stage, "alice", template, '["cad","/eng/staff"]'))
        assert mounts(alice) == [
            {"name": "teams", "mountPath": "/teams/cad", "subPath": "cad"},
            {"name": "teams", "mountPath": "/teams/%2Feng%2Fstaff", "subPath": "%2Feng%2Fstaff", "readOnly": True},
            {"name": "own", "mountPath": "/own", "subPath": "users/alice@example.com"},
            {"name": "git", "mountPath": "/home/user/.config/git/config", "subPath": "config", "readOnly": True},
            {"name": "licence", "mountPath": "/home/user/licence", "readOnly": True},
        ]
        assert alice["spec"]["securityContext"]["fsGroup"] == 1000
        (maker,) = alice["spec"]["initContainers"]
        assert maker["command"] == ["mkdir", "-p", "--", "/home/user/.config/git"]
        bob = await stage.pod_of(await member(stage, "bob", template, None))
        assert [mount["name"] for mount in mounts(bob)] == ["own", "git", "licence"]
        assert mounts(bob)[0]["subPath"] == "users/bob@example.com"
        assert "teams" not in {volume["name"] for volume in bob["spec"]["volumes"]}

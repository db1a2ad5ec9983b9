"""Volumes for users and groups and files in the home, against a real API server with Pod Security
`restricted`.
"""

from typing import Any

import pytest

from cluster.operator_stage import Stage
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
LICENCE: dict[str, Any] = {
    "name": "licence",
    "mountPath": "/home/user/licence",
    "secret": {"secretName": "licence"},
}


async def test_volumes_of_users_and_groups_pass_restricted(stage: Stage) -> None:
    await stage.restrict()
    template = await stage.template(
        volumes=[TEAMS, OWN, DOTFILES, LICENCE], resources={"defaultGPU": 0}
    )
    alice = await stage.session("alice", template)
    await stage.patch(
        SESSIONS, "alice", {"metadata": {"annotations": {GROUPS: '["cad","/eng/staff"]'}}}
    )
    async with stage.operator(cluster=ClusterSettings(edge_middleware="vdi-edge")):
        spec = (await stage.pod_of(alice))["spec"]
        assert [
            mount
            for mount in spec["containers"][0]["volumeMounts"]
            if mount["name"] not in ("shm", "home")
        ] == [
            {"name": "teams", "mountPath": "/teams/cad", "subPath": "cad"},
            {
                "name": "teams",
                "mountPath": "/teams/%2Feng%2Fstaff",
                "subPath": "%2Feng%2Fstaff",
                "readOnly": True,
            },
            {"name": "own", "mountPath": "/own", "subPath": "users/alice@example.com"},
            {
                "name": "git",
                "mountPath": "/home/user/.config/git/config",
                "subPath": "config",
                "readOnly": True,
            },
            {"name": "licence", "mountPath": "/home/user/licence", "readOnly": True},
        ]
        assert spec["securityContext"]["fsGroup"] == 1000
        (maker,) = spec["initContainers"]
        assert maker["command"] == ["mkdir", "-p", "--", "/home/user/.config/git"]

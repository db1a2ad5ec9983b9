"""The passwords of the chart's servers, with real helm and a real API server: upgrades keep what
Helm once drew.
"""

import asyncio
import base64
import dataclasses
import json
from pathlib import Path

import pytest

from cluster.helm_tools import CHART, Tools
from tools import binaries
from vdi.devcluster.progress import Progress
from vdi.gateway.server_secrets import ServerSecret, fill
from vdi.kube.config import load_config
from vdi.kube.errors import NotFound
from vdi.kube.transport import Client

DRAWN_BY_HELM = """apiVersion: v1
kind: Secret
metadata: {name: %s, namespace: vdi-system}
stringData: {password: drawn-once, url: "redis://:drawn-once@vdi-redis.vdi-system.svc:6379/0"}
"""
FILLED_BY_THE_GATEWAY = """apiVersion: v1
kind: Secret
metadata: {name: %s, namespace: vdi-system}
type: Opaque
"""


@pytest.fixture(scope="module")
def tools(tools: Tools) -> Tools:
    tools.kubectl("create", "namespace", "vdi-system")
    return tools


def data_of(tools: Tools, name: str) -> dict[str, str]:
    data = json.loads(
        tools.kubectl("get", "secret", name, "--namespace", "vdi-system", "-o", "json")
    ).get("data", {})
    return {key: base64.b64decode(value).decode() for key, value in data.items()}


@pytest.mark.timeout(480)  # the first time, building Helm 3 takes a minute or two
@pytest.mark.parametrize("helm", ["helm", pytest.param("helm3", marks=pytest.mark.long)])
def test_upgrade_keeps_passwords_of_an_older_chart(tools: Tools, tmp_path: Path, helm: str) -> None:
    """The release before rendered `stringData`; this one renders no data at all. Both ways in which
    Helm writes.
    """
    with Progress(tmp_path) as progress:
        program = dataclasses.replace(
            tools, helm_binary=binaries.ensure([helm], progress=progress)[helm]
        )
    name = f"drawn-{helm}"
    (tmp_path / "templates").mkdir()
    (tmp_path / "Chart.yaml").write_text(f"apiVersion: v2\nname: {name}\nversion: 0.1.0\n")
    for text in (DRAWN_BY_HELM, FILLED_BY_THE_GATEWAY, FILLED_BY_THE_GATEWAY + "# once more\n"):
        (tmp_path / "templates/secret.yaml").write_text(text % name)
        done = program.helm(
            "upgrade", "--install", name, str(tmp_path), "--namespace", "vdi-system"
        )
        assert done.returncode == 0, done.stderr
        assert data_of(tools, name)["password"] == "drawn-once"


async def test_concurrent_replicas_agree_on_one_password(tools: Tools) -> None:
    tools.kubectl("create", "secret", "generic", "shared", "--namespace", "vdi-system")
    secret = ServerSecret(
        name="shared", random={"password": 32}, text={"url": "redis://:{password}@server:6379/0"}
    )
    async with Client(load_config(tools.kubeconfig), field_manager="vdi-gateway") as client:
        await asyncio.gather(*(fill(client, "vdi-system", [secret]) for _ in range(5)))
        first = data_of(tools, "shared")
        await fill(client, "vdi-system", [secret])
    assert first == data_of(tools, "shared")
    assert first["url"] == f"redis://:{first['password']}@server:6379/0"


async def test_foreign_secret_is_an_error(tools: Tools) -> None:
    async with Client(load_config(tools.kubeconfig), field_manager="vdi-gateway") as client:
        with pytest.raises(NotFound, match="absent"):
            await fill(client, "vdi-system", [ServerSecret(name="absent", random={"password": 32})])


@pytest.mark.parametrize(
    ("chart", "values", "message"),
    [
        (
            "charts/redis",
            (),
            "redis: auth.existingSecret is empty: name a Secret with the keys `password`",
        ),
        ("charts/postgresql", (), "postgresql: auth.existingSecret is empty: name a Secret"),
        (
            "",
            ("gateway.enabled=false", "redis.enabled=true"),
            "gateway.enabled: false: the gateway creates the passwords",
        ),
    ],
)
def test_passwords_must_exist_without_a_gateway(
    tools: Tools, chart: str, values: tuple[str, ...], message: str
) -> None:
    done = tools.helm(
        "template",
        "vdi",
        str(CHART / chart),
        *(word for value in values for word in ("--set", value)),
    )
    assert done.returncode == 1
    assert message in done.stderr

"""Running helm: what it prints, how it fails, how it is stopped. A script stands in for it."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from support.waiting import eventually
from vdi.helm.errors import HelmFailedError, HelmInterruptedError
from vdi.helm.run import STOPPING, Helm, run_helm

CLEANS_UP = (
    "trap 'echo undone > {folder}/undone; exit 1' INT; touch {folder}/up; while :; do sleep 0.02;"
    " done"
)
DEAF = "trap '' INT; touch {folder}/up; while :; do sleep 0.02; done"


def helm(folder: Path, body: str) -> Helm:
    path = folder / "helm"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return Helm(path, (4, 0, 0))


async def test_values_are_sent_by_stdin_and_output_returned(tmp_path: Path) -> None:
    output = await run_helm(helm(tmp_path, 'cat; echo "$@" >&2'), ["upgrade", "x"], stdin=b"{}")
    assert (output.stdout, output.stderr) == ("{}", "upgrade x\n")


async def test_helm_ignores_the_context_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HELM_KUBECONTEXT", "another-cluster")
    monkeypatch.setenv("HELM_DEBUG", "1")
    output = await run_helm(
        helm(tmp_path, 'echo "${HELM_KUBECONTEXT:-none} $HELM_DEBUG"'), ["upgrade", "x"]
    )
    assert output.stdout == "none 1\n"


async def test_helm_failure_is_explained(tmp_path: Path) -> None:
    with pytest.raises(HelmFailedError, match="helm upgrade: release: not found") as error:
        await run_helm(
            helm(tmp_path, "echo 'Error: release: not found' >&2; exit 1"), ["upgrade", "x"]
        )
    assert error.value.failure.code == "Unknown"


async def until(file: Path) -> None:
    await eventually(file.exists, f"{file} is there")


async def test_ctrl_c_is_passed_on_and_awaited(tmp_path: Path) -> None:
    said, before = list[str](), signal.getsignal(signal.SIGINT)
    stand_in = helm(tmp_path, CLEANS_UP.format(folder=tmp_path))
    running = asyncio.create_task(run_helm(stand_in, ["upgrade"], say=said.append))
    await until(tmp_path / "up")
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(HelmInterruptedError):
        await running
    assert (tmp_path / "undone").exists() and said == [STOPPING]
    assert signal.getsignal(signal.SIGINT) is before


async def test_second_ctrl_c_kills_helm(tmp_path: Path) -> None:
    said = list[str]()
    running = asyncio.create_task(
        run_helm(helm(tmp_path, DEAF.format(folder=tmp_path)), ["upgrade"], say=said.append)
    )
    await until(tmp_path / "up")
    os.kill(os.getpid(), signal.SIGINT)
    await eventually(lambda: said == [STOPPING], "the first Ctrl-C is noticed")
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(HelmInterruptedError):
        await running


async def test_cancelled_run_lets_helm_clean_up(tmp_path: Path) -> None:
    running = asyncio.create_task(
        run_helm(helm(tmp_path, CLEANS_UP.format(folder=tmp_path)), ["upgrade"])
    )
    await until(tmp_path / "up")
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert (tmp_path / "undone").exists()

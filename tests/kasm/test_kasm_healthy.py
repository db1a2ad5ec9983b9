"""Each generation installed on a real kubelet: nothing is wrong while it starts, and nothing when
it has.
"""

import json

import pytest

from kasm.kasm_ward import KasmStage
from support.waiting import wait_until
from vdi.cli.main import main


@pytest.mark.parametrize("letter", ["a", "b", "c"])
def test_healthy_start_never_has_findings(
    ward: KasmStage, letter: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ward.install(letter)

    def well() -> bool:
        assert not (wrong := ward.look()), str(wrong)
        return ward.is_well()

    wait_until(f"generation {letter} is well", well, 180)
    assert not (wrong := ward.look()), str(wrong)
    place = ["--namespace", ward.namespace, "--kubeconfig", str(ward.tools.kubeconfig)]
    assert main(["kasm", "diagnose", *place, "-o", "json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["findings"] == said["starting"] == []
    (found,) = said["namespaces"]
    assert (found["generation"], found["ready"]) == (letter.upper(), found["pods"])


def test_doctor_finds_kasm_in_its_own_namespace(
    ward: KasmStage, capsys: pytest.CaptureFixture[str]
) -> None:
    ward.install("c", components__api__image="localhost/no/such/api:1")
    ward.finds("kasm_image_unavailable", "pod/kasm-api-default-")
    assert (
        main(
            [
                "doctor",
                "--namespace",
                "default",
                "--kubeconfig",
                str(ward.tools.kubeconfig),
                "-o",
                "json",
            ]
        )
        == 1
    )
    findings = json.loads(capsys.readouterr().out)["findings"]
    mine = [finding for finding in findings if f"/{ward.namespace}/" in finding["object"]]
    assert mine[0]["code"] == "kasm_image_unavailable"
    assert all(one["caused_by"] for one in mine[1:])

"""Helm's words -> ours."""

import pytest

from vdi.helm.errors import explain_failure
from vdi.helm.run import NotReady, with_reasons

SAID = [
    (
        "Error: UPGRADE FAILED: another operation (install/upgrade/rollback) is in progress",
        "Busy",
        "another operation",
    ),
    (
        (
            'Error: Unable to continue with install: Namespace "vdi-sessions" in namespace ""'
            " exists and cannot be imported into the current release: invalid ownership metadata;"
            " label validation error"
        ),
        "NotOurs",
        "Namespace vdi-sessions already exists",
    ),
    (
        (
            "Error: unable to build kubernetes objects from release manifest: resource mapping not"
            ' found for name: "vdi" namespace: "kasm" from "": no matches for kind "PodMonitor" in'
            ' version "monitoring.coreos.com/v1"\nensure CRDs are installed first'
        ),
        "UnknownKind",
        "does not know PodMonitor (monitoring.coreos.com/v1)",
    ),
    (
        (
            'Error: Kubernetes cluster unreachable: Get "https://1.2.3.4:6443/version": dial tcp:'
            " connection refused"
        ),
        "Unreachable",
        "connection refused",
    ),
    (
        (
            "Error: UPGRADE FAILED: release vdi failed, and has been rolled back due to atomic"
            " being set: context canceled"
        ),
        "Interrupted",
        "interrupted",
    ),
    (
        (
            "Error: UPGRADE FAILED: release vdi failed, and has been rolled back due to"
            " rollback-on-failure being set: resource Deployment/kasm/vdi-operator not ready."
            " status: InProgress, message: Available: 0/2\ncontext deadline exceeded"
        ),
        "NotReadyInTime",
        "Not everything was ready in time",
    ),
    # What helm says clearly enough.
    (
        (
            "Error: values don't meet the specifications of the schema(s) in the following"
            " chart(s):\nvdi:\n- at '/urlPort': got string, want integer\n\n"
        ),
        "Unknown",
        "vdi: - at '/urlPort': got string, want integer",
    ),
    (
        (
            "Error: execution error at (vdi/templates/gateway-deployment.yaml:3:4):"
            " gateway.replicas: 2 needs PostgreSQL"
        ),
        "Unknown",
        "gateway.replicas: 2 needs PostgreSQL",
    ),
    (
        (
            'Error: secrets is forbidden: User "bob" cannot list resource "secrets" in API group ""'
            ' in namespace "kasm"'
        ),
        "Unknown",
        'secrets is forbidden: User "bob" cannot list',
    ),
    (
        'Error: UPGRADE FAILED: "vdi" has no deployed releases',
        "Unknown",
        "has no deployed releases",
    ),
    (
        (
            "Error: client rate limiter Wait returned an error: rate: Wait(n=1) would exceed"
            " context deadline"
        ),
        "NotReadyInTime",
        "Not everything was ready in time",
    ),
]


@pytest.mark.parametrize(("said", "code", "words"), SAID, ids=[code for _, code, _ in SAID])
def test_known_helm_error_becomes_a_sentence(said: str, code: str, words: str) -> None:
    failure = explain_failure(said)
    assert failure.code == code
    assert words in failure.sentence
    assert failure.sentence.strip()


def test_unknown_helm_error_is_quoted() -> None:
    said = 'level=WARN msg="noise"\nError: something quite new\n'
    assert explain_failure(said)[:2] == ("Unknown", "something quite new")
    assert explain_failure("").sentence == "helm failed without a message."
    counted = "Error: 1 error occurred:\n\t* something quite new\n"
    assert explain_failure(counted).sentence == "1 error occurred: * something quite new"


def test_helm_log_lines_are_no_reason() -> None:
    """As Helm 4 does while it rolls back what was late, when it stops listening in the middle of an
    answer.
    """
    late, code, _ = SAID[-1]
    logged = (
        'E1121 12:43:29.832602    1911 request.go:1198] "Unexpected error when reading response'
        ' body" err="{}"\n'
    )
    assert explain_failure(logged.format("context canceled") + late).code == code
    new = explain_failure(logged.format("context deadline exceeded") + "Error: something quite new")
    assert new[:2] == ("Unknown", "something quite new")


def test_reasons_belong_only_to_a_failure_to_become_ready() -> None:
    why = (NotReady("pod/kasm/vdi-operator-1", "The image x cannot be fetched.", stuck=True),)
    late = explain_failure(SAID[-1][0])
    assert (
        "pod/kasm/vdi-operator-1: The image x cannot be fetched."
        in with_reasons(late, why).sentence
    )
    assert with_reasons(late, ()) == late
    busy = explain_failure(SAID[0][0])
    assert with_reasons(busy, why) == busy

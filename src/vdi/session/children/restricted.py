"""What Pod Security `restricted` requires of a pod, and what none of ours needs: for every pod that is made here."""

from typing import Any


def restricted_pod(user_id: int, *, owns_volumes: bool = False) -> dict[str, Any]:
    """Fields of a pod's `spec`: it runs as that user and group, without a token and without Services' variables.

    `owns_volumes`: its volumes belong to that group, so that the user can write to them.
    """
    security: dict[str, Any] = {
        "runAsNonRoot": True,
        "runAsUser": user_id,
        "runAsGroup": user_id,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    if owns_volumes:
        security |= {"fsGroup": user_id, "fsGroupChangePolicy": "OnRootMismatch"}
    return {"automountServiceAccountToken": False, "enableServiceLinks": False, "securityContext": security}


def restricted_container(*, is_read_only: bool = False) -> dict[str, Any]:
    """The `securityContext` of a container."""
    read_only = {"readOnlyRootFilesystem": True} if is_read_only else {}
    return {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, **read_only}

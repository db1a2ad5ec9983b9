"""Passwords and tokens of the pod's environment: none of them stays in it."""

import secrets

from process_secrets import sha256_of

from launcher.log import refuse

_DIGESTS = {
    "SELKIES_MASTER_TOKEN": "VDI_MASTER_TOKEN_SHA256",
    "VDI_AGENT_TOKEN": "VDI_AGENT_TOKEN_SHA256",
}
# Selkies reports transfers to vdi-agent with the first; vdi-agent passes the actions of software
# agents to Selkies with the second. Programs that take that port first get a token that opens
# nothing: Selkies could then not listen.
_OWN = ("SELKIES_AUDIT_WEBHOOK_TOKEN", "SELKIES_COMPUTER_USE_TOKEN")


def take_secrets(env: dict[str, str]) -> dict[str, str]:
    """Take the secrets out of the environment. Returns those that Selkies and vdi-agent receive
    through a pipe.

    A token is only known by its digest here. Operators before this release, and people, give the
    token itself.
    """
    for token, digest in _DIGESTS.items():
        if value := env.pop(token, ""):
            env[digest] = sha256_of(value)
    hidden: dict[str, str] = {}
    if password := env.pop("SELKIES_BASIC_AUTH_PASSWORD", ""):
        hidden["SELKIES_BASIC_AUTH_PASSWORD"] = password
    if env.get("VDI_MASTER_TOKEN_SHA256"):
        # Of this container alone: vdi-agent asks Selkies with it. The gateway's own is known by its
        # digest.
        hidden["SELKIES_MASTER_TOKEN"] = secrets.token_urlsafe(32)
    if not hidden:
        refuse(
            "SELKIES_BASIC_AUTH_PASSWORD is not set: a desktop without a password would be open to"
            " whoever finds it. Set it (or VDI_MASTER_TOKEN_SHA256), from a Secret."
        )
    return hidden | {name: secrets.token_urlsafe(32) for name in _OWN}

"""The commands that give an account a right that it lacks. Pure."""

import re
import shlex

_ACCOUNT = re.compile(r"system:serviceaccount:([^:]+):([^:]+)")
UNKNOWN = "your account"
"""Who lacks a right, where the API server does not say it."""


def grant_commands(
    prefix: str, who: str, verb: str, resource: str, *, namespace: str = "", resource_name: str = ""
) -> tuple[str, ...]:
    """A role of this one right, with a name of its own so that several can be pasted, and its binding to `who`.

    `resource` as kubectl takes it: `pods`, `deployments.apps`, `pods/log`. `namespace` empty: in all of them. Where it
    is unknown who it is, the binding is left out.
    """
    kind, at = ("role", ["--namespace", namespace]) if namespace else ("clusterrole", [])
    name = "-".join(re.sub(r"[^a-z0-9-]", "-", part) for part in (prefix, verb, resource, resource_name) if part)
    named = [f"--resource-name={resource_name}"] if resource_name else []
    role = ["kubectl", "create", kind, name, *at, f"--verb={verb}", f"--resource={resource}", *named]
    if who == UNKNOWN:
        return (shlex.join(role),)
    account = _ACCOUNT.fullmatch(who)
    subject = f"--serviceaccount={account[1]}:{account[2]}" if account else f"--user={who}"
    binding = ["kubectl", "create", f"{kind}binding", name, *at, f"--{kind}={name}", subject]
    return shlex.join(role), shlex.join(binding)

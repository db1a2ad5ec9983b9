"""Environment variables `VDI_*` into values, for whatever the chart starts: all that is wrong is said at once."""

import difflib
import re
from collections.abc import Callable, Mapping, Set
from typing import Any

from vdi.session.units import parse_duration

Variables = Mapping[str, tuple[str, Callable[[str], Any]]]
"""Variable -> name of the setting, and what reads the text; that raises ValueError with what is allowed."""

LABEL = r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
SUBDOMAIN = rf"{LABEL}(\.{LABEL})*"
_OTHERS = frozenset({"VDI_CACHE", "VDI_STATE", "VDI_DEBUG", "VDI_USER", "VDI_KUBECONFIG", "VDI_CONTEXT"})
"""Variables of the other commands; a program started by hand may well see them."""


class SettingsError(Exception):
    """Raised when the environment cannot be used; the message names each variable, its value and what is allowed."""


def read_variables(
    environ: Mapping[str, str], variables: Variables, secret: Set[str] = frozenset()
) -> tuple[dict[str, Any], list[str]]:
    """Settings by name, of what is set and not empty; and what is wrong, in sentences. `secret`: values not shown.

    A variable that is almost one of ours is taken for a misspelling and refused; other `VDI_` variables belong to other
    commands, or are made by Kubernetes for Services.
    """
    problems = _misspelt(environ, variables)
    values: dict[str, Any] = {}
    for variable, (name, read) in variables.items():
        text = environ.get(variable, "").strip()
        if not text:
            continue
        try:
            values[name] = read(text)
        except ValueError as why:
            shown = "(not shown)" if variable in secret else repr(text)
            problems.append(f"{variable}={shown}: {why}")
    return values, problems


def _misspelt(environ: Mapping[str, str], variables: Variables) -> list[str]:
    problems = []
    for name in environ.keys() - variables.keys() - _OTHERS:
        near = difflib.get_close_matches(name, variables, n=1, cutoff=0.85) if name.startswith("VDI_") else []
        if near:
            problems.append(f"{name}: this setting does not exist; did you mean {near[0]}?")
    return sorted(problems)


def matching(pattern: str, allowed: str) -> Callable[[str], str]:
    """Text that matches; `allowed` is the same in words."""

    def read(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"allowed: {allowed}")
        return text

    return read


def namespaces(text: str) -> tuple[str, ...]:
    """Names of namespaces, at least one, with commas between them."""
    names = tuple(part.strip() for part in text.split(","))
    if not all(re.fullmatch(LABEL, name) for name in names):
        raise ValueError("allowed: the name of a namespace, or several with commas between them")
    if len({*names}) < len(names):
        raise ValueError("a namespace is listed twice; allowed: once each")
    return names


def number(low: int, high: int) -> Callable[[str], int]:
    """A whole number between two, both included."""

    def read(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not low <= int(text) <= high:
            raise ValueError(f"allowed: a whole number from {low} to {high}")
        return int(text)

    return read


def one_of(*allowed: str) -> Callable[[str], str]:
    """One of these words, in any case."""

    def read(text: str) -> str:
        if text.lower() not in allowed:
            raise ValueError(f"allowed: {', '.join(allowed)}")
        return text.lower()

    return read


def truth(text: str) -> bool:
    """`true` or `false`, in any case."""
    if text.lower() not in ("true", "false"):
        raise ValueError("allowed: true and false")
    return text.lower() == "true"


def address(text: str) -> tuple[str, int]:
    """HOST:PORT to listen on; `:8081` is all addresses."""
    host, _, port = text.rpartition(":")
    return host.strip("[]") or "0.0.0.0", number(0, 65535)(port)  # noqa: S104 -- said so


def duration(text: str) -> str:
    """A length of time, as it was written."""
    parse_duration(text)
    return text


LEVEL = one_of("debug", "info", "warning", "error")
FORMAT = one_of("text", "json")

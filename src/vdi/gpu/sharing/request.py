"""What somebody asks for, and whether it is something that can be asked for at all. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from vdi.gpu.sharing.config import MIG_STRATEGIES, Sharing

_KEY = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_KEY_WORDS = "1 to 63 letters, digits, inner '-', '_' and '.' (it becomes a node label's value)"
_REPLICAS_WORDS = "a whole number from 1 up (1: not shared)"


class RefusedError(Exception):
    """Raised when a request is refused; `problems` are whole sentences. `usage`: it was asked for wrongly."""

    def __init__(self, problems: Iterable[str], *, usage: bool = False) -> None:
        self.problems = tuple(problems)
        self.usage = usage
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True, slots=True)
class SharingRequest:
    """Named configurations, which of them is the default, and which nodes get another one."""

    configs: Mapping[str, Sharing]
    default: str
    nodes: Mapping[str, str] = field(default_factory=dict)


def parse_request(
    sharing: Sharing, default: str, configs: Iterable[str] = (), nodes: Iterable[str] = ()
) -> SharingRequest:
    """The request from `NAME=REPLICAS` and `NODE=NAME`. `sharing` is the default's; the others differ in replicas.

    Raises RefusedError with every problem there is.
    """
    problems: list[str] = []
    if sharing.replicas < 1:
        problems.append(f"--replicas is {sharing.replicas}; allowed: {_REPLICAS_WORDS}.")
    if sharing.mig_strategy not in ("none", "single"):
        problems.append(
            f"--mig-strategy is {sharing.mig_strategy!r}; allowed: none, single."
            + (
                " With mixed, MIG devices are separate resources (nvidia.com/mig-...), which desktops do not use."
                if sharing.mig_strategy in MIG_STRATEGIES
                else ""
            )
        )
    named = {default: sharing}
    if not _KEY.fullmatch(default):
        problems.append(f"--default is {default!r}; allowed: {_KEY_WORDS}.")
    for text in configs:
        name, _, count = text.partition("=")
        if not _KEY.fullmatch(name):
            problems.append(f"--config is {text!r}, its name is {name!r}; allowed: {_KEY_WORDS}.")
        elif not count.isascii() or not count.isdigit() or int(count) < 1:
            problems.append(f"--config is {text!r}, its replicas are {count!r}; allowed: {_REPLICAS_WORDS}.")
        elif name in named:
            problems.append(f"--config names {name!r} twice, or the default, which --replicas describes.")
        else:
            named[name] = replace(sharing, replicas=int(count))
    return SharingRequest(named, default, _parse_nodes(nodes, named, problems))


def _parse_nodes(nodes: Iterable[str], named: Mapping[str, Sharing], problems: list[str]) -> dict[str, str]:
    chosen: dict[str, str] = {}
    for text in nodes:
        node, sign, name = text.partition("=")
        if not node or not sign or name not in named:
            problems.append(f"--node is {text!r}; allowed: NODE=NAME, with NAME one of {', '.join(sorted(named))}.")
        elif node in chosen:
            problems.append(f"--node names node {node!r} twice.")
        else:
            chosen[node] = name
    if problems:
        raise RefusedError(problems, usage=True)
    return chosen

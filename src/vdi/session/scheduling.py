"""What the scheduler says -> why no node takes the desktop, in words. Pure; used by `explain` alone."""

import re

from vdi.session.conditions import Reason
from vdi.session.subject import DESKTOP, Subject

_SUMMARY = re.compile(r"(\d+)/(\d+) nodes are available: (.*?)\.?(?:\s+(?:preemption|no new claims).*)?$", re.DOTALL)
_CLAUSES: tuple[tuple[str, Reason, str], ...] = (
    # pattern of one clause, code, message; {n}: number of nodes, {what}: the group, others: of the subject
    (r"Insufficient (?P<what>\S*gpu\S*)", Reason.NO_GPU_FREE, "{n} without a free GPU ({what})"),
    (r"Insufficient memory", Reason.NO_CAPACITY, "{n} without enough free memory"),
    (r"Insufficient cpu", Reason.NO_CAPACITY, "{n} without enough free CPU"),
    (r"Insufficient (?P<what>\S+)", Reason.NO_CAPACITY, "{n} without enough {what}"),
    (r"Too many pods", Reason.NO_CAPACITY, "{n} with the maximum number of pods"),
    (
        r"(?:node\(s\) )?had volume node affinity conflict",
        Reason.HOME_ON_OTHER_NODE,
        "{n} other than the one with the {volume}",
    ),
    (r"(?:node\(s\) )?didn't find available persistent volumes", Reason.NO_VOLUME, "{n} without a volume to bind"),
    (r"(?:node\(s\) )?did not have enough free storage", Reason.NO_VOLUME, "{n} without enough free storage"),
    (
        r"(?:node\(s\) )?had untolerated taint\(?s?\)? ?(?P<what>\{.*?\})?",
        Reason.NODES_TAINTED,
        "{n} reserved by a taint ({what})",
    ),
    (
        r"(?:node\(s\) )?didn't match (?:Pod's )?node (?:affinity/)?selector",
        Reason.NO_MATCHING_NODE,
        "{n} without the labels of {selector}",
    ),
    (r"(?:node\(s\) )?were unschedulable", Reason.NODES_CORDONED, "{n} cordoned"),
)
_MISSING_CLAIM = re.compile(
    r'(?:could not find v1\.)?persistentvolumeclaim "(?:[^"/]+/)?([^"/]+)"(?: not found|$)', re.IGNORECASE
)
"""In the words of two of the scheduler's plugins, which look into caches of their own."""
_ORDER = (
    Reason.HOME_ON_OTHER_NODE,
    Reason.NO_GPU_FREE,
    Reason.NO_CAPACITY,
    Reason.NO_VOLUME,
    Reason.NO_MATCHING_NODE,
    Reason.NODES_TAINTED,
    Reason.NODES_CORDONED,
)
"""Which of several causes names the condition: the one that a person can do most about first."""


def explain_unschedulable(message: str, subject: Subject = DESKTOP) -> tuple[Reason, str]:
    """(code, sentence) for the message of a pod's `PodScheduled=False`; the scheduler's words where no rule fits."""
    claim = _MISSING_CLAIM.search(message)
    if claim:
        return Reason.MISSING_HOME, f"The volume claim {claim[1]!r} does not exist yet."
    if "unbound immediate PersistentVolumeClaims" in message:
        return Reason.HOME_PENDING, f"The {subject.volume} is not bound yet. {subject.name} starts when it is."
    if "is being deleted" in message and "persistentvolumeclaim" in message:
        return Reason.HOME_LEAVING, f"The {subject.volume} is being deleted. {subject.name} starts with a new one."
    summary = _SUMMARY.search(message.strip())
    if summary is None:
        why = message.strip() or "the scheduler reports no reason"
        return Reason.UNSCHEDULABLE, f"No node can run {subject.name}: {why}"
    found = [_explain_clause(clause.strip(), subject) for clause in _split(summary[3])]
    codes = [code for code, _ in found]
    code = next((one for one in _ORDER if one in codes), Reason.UNSCHEDULABLE)
    if int(summary[2]) == 0:
        return Reason.NO_NODE, "The cluster has no node."
    nodes = "the only node" if summary[2] == "1" else f"any of {summary[2]} nodes"
    return code, f"There is not enough capacity on {nodes}: {', '.join((words for _, words in found))}."


def _split(clauses: str) -> list[str]:
    """Clauses are separated by commas, but taints may hold some."""
    return re.split(r", (?=\d+ )", clauses)


def _explain_clause(clause: str, subject: Subject) -> tuple[Reason, str]:
    count, _, rest = clause.partition(" ")
    for pattern, code, words in _CLAUSES:
        if match := re.match(pattern, rest):
            named = match.groupdict().get("what") or ""
            taint = f"taint {named.strip('{}: ')}" if named.startswith("{") else named
            return code, words.format(
                n=count, what=taint or "tainted", volume=subject.volume, selector=subject.node_selector
            )
    return Reason.UNSCHEDULABLE, clause.rstrip(".")

"""Observation -> findings, and which levels of docs/your-image.md the image reaches. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import msgspec

from vdi.api.template import TemplateSpec
from vdi.findings.model import Finding, Remedy, Severity
from vdi.findings.render import Report, count_findings
from vdi.session.template_image import generation

# Of the session, and of the template that exists while a file is tried: one at a time.
TRIAL = "vdi-template-try"

START, START_UP, END = "image_start", "image_start_up", "image_end"
TOKENS, AGENT, NOT_CHECKED = "image_token_table", "image_agent", "image_not_checked"
_REMEDIES = {
    START: "Fix the image or the template as the message says.",
    START_UP: "Do slow work after opening the port.",
    END: (
        "Let the first process forward SIGTERM to its children, or start the image with `exec` and"
        " tini."
    ),
    TOKENS: "Start Selkies with run-selkies of our image (docs/images.md#tokens).",
    AGENT: "Build the image FROM ours, or serve docs/images.md#the-agent.",
}
_WEB = (START, END)
# Requirements of each level, the highest first.
_LEVELS = {"full": (*_WEB, TOKENS, AGENT), "Selkies 2": (*_WEB, TOKENS), "web": _WEB}

_SLOW_START_SECONDS = 30.0  # the liveness probe begins then
# Exit status after SIGKILL; HTTP status.
_KILLED, _OK = 137, 200


@dataclass
class Observation:
    """One session. `subject` as findings name it: `vditemplate/NAME`."""

    subject: str
    spec: TemplateSpec
    runs: bool = False
    # It was let in and does not start, or never will; else it waits for capacity.
    is_at_fault: bool = False
    # Of the session's status.
    message: str = ""
    ready_seconds: float = 0.0
    # The doctor's findings.
    diagnosis: Sequence[Finding] = ()
    # The reason why no request was sent.
    requests_unchecked: str = ""
    token_table: int = 0
    with_token: int = 0
    without_token: int = 0
    agent: int = 0
    # HTTP statuses; 0: no response.
    agent_without_token: int = 0
    exit_code: int | None = None
    end_seconds: float = 0.0


def judge(seen: Observation) -> list[Finding]:
    """The doctor's findings, then one for each requirement of the image's kind."""
    own = list(_judge_contract(seen))
    cause = next(
        (finding.key for finding in seen.diagnosis if finding.severity is Severity.ERROR), ""
    )
    if own[0].severity is Severity.ERROR:
        own[0] = msgspec.structs.replace(own[0], caused_by=cause)
    return [*(_outlasting(finding, seen) for finding in seen.diagnosis), *own]


def _outlasting(finding: Finding, seen: Observation) -> Finding:
    """The finding without commands about the trial's own objects, which are gone when it is
    read.
    """
    name = seen.subject.partition("/")[2]
    commands = tuple(command for command in finding.remedy.commands if TRIAL not in command)
    remedy = Remedy(finding.remedy.sentence.replace(TRIAL, name), commands)
    return msgspec.structs.replace(finding, remedy=remedy)


def find_level(findings: Sequence[Finding]) -> str:
    """The highest level of docs/your-image.md that is shown; empty: not even the first."""
    shown = {finding.code for finding in findings if finding.severity is Severity.OK}
    return next((name for name, codes in _LEVELS.items() if shown.issuperset(codes)), "")


def make_report(seen: Observation) -> Report:
    findings = judge(seen)
    level = find_level(findings)
    summary = f"{seen.subject}: level {level or 'none'}; {count_findings(findings)}."
    return Report(
        tool="vdi template try", findings=findings, summary=summary, context={"level": level}
    )


def _judge_contract(seen: Observation) -> Iterator[Finding]:
    ok, error = Severity.OK, Severity.ERROR
    if not seen.runs and not seen.is_at_fault:
        yield _not_checked(seen, f"anything: {seen.message}")
        return
    if not seen.runs:
        yield _found(seen, START, error, f"The desktop does not start: {seen.message}")
        yield _not_checked(seen, "all else: the desktop does not run")
        return
    yield _found(seen, START, ok, f"Runs as user {seen.spec.user_id}")
    slow = seen.ready_seconds > _SLOW_START_SECONDS
    words = f"Ready {seen.ready_seconds:.0f} s after its start"
    yield _found(seen, START_UP, Severity.WARNING if slow else ok, words)
    if seen.exit_code is None:
        yield _not_checked(seen, "the end: the node did not report it")
    elif seen.exit_code == _KILLED:
        yield _found(
            seen, END, error, "Did not end on SIGTERM and was killed: open files may be incomplete"
        )
    else:
        words = (
            f"Ended {seen.end_seconds:.1f} s after its deletion with exit status {seen.exit_code}"
        )
        yield _found(seen, END, ok, words)
    if generation(seen.spec) == "2" and seen.requests_unchecked:
        yield _not_checked(seen, f"token table and agent: {seen.requests_unchecked}")
    elif generation(seen.spec) == "2":
        yield _judge_tokens(seen)
        yield _judge_agent(seen)


def _judge_tokens(seen: Observation) -> Finding:
    if seen.without_token == _OK:
        return _found(seen, TOKENS, Severity.ERROR, "Accepts visitors without a token")
    message = (
        f"POST /api/tokens responds with {seen.token_table}, GET /api/sessions with a token with"
        f" {seen.with_token}"
    )
    good = seen.token_table == seen.with_token == _OK
    return _found(
        seen,
        TOKENS,
        Severity.OK if good else Severity.ERROR,
        f"{message}, without {seen.without_token}",
    )


def _judge_agent(seen: Observation) -> Finding:
    if seen.agent_without_token == _OK:
        return _found(seen, AGENT, Severity.ERROR, "The agent responds without a token")
    if seen.agent == _OK:
        return _found(seen, AGENT, Severity.OK, "Responds, and only with its token")
    message = f"No agent (status {seen.agent}): a desktop is never idle and shows no notices"
    return _found(seen, AGENT, Severity.WARNING, message)


def _not_checked(seen: Observation, what: str) -> Finding:
    return _found(seen, NOT_CHECKED, Severity.UNKNOWN, f"Not checked: {what}")


def _found(seen: Observation, code: str, severity: Severity, message: str) -> Finding:
    if severity in (Severity.ERROR, Severity.WARNING):
        remedy = Remedy(_REMEDIES[code])
    else:
        remedy = Remedy()
    return Finding(
        code=code,
        severity=severity,
        object=seen.subject,
        message=f"{message.rstrip('.')}.",
        remedy=remedy,
    )

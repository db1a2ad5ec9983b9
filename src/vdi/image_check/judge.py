"""Observation -> findings, and which levels of docs/your-image.md the image reaches. Pure.

Each check of the image's kind gives one finding, or its name in a finding `image_not_checked` with the reason.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vdi.findings.model import Finding, Remedy, Severity
from vdi.findings.render import Report, count_findings
from vdi.image_check import codes
from vdi.image_check.observation import HttpResult, Observation

_SLOW_START_SECONDS = 30.0
"""The liveness probe begins then."""
_KILLED = 137
_MEGABYTE = 1_000_000
_WEB = (codes.PULL, codes.START, codes.PORT, codes.HEALTH, codes.USER, codes.HOME, codes.END, codes.START_UP)
_SELKIES_1 = (codes.PICTURE, codes.INPUT)
_SELKIES_2 = (codes.PICTURE, codes.INPUT, codes.TOKENS)


@dataclass(frozen=True, slots=True)
class NotChecked:
    """A check without a result."""

    code: str
    why: str


@dataclass(frozen=True, slots=True)
class Level:
    """A level of docs/your-image.md."""

    name: str
    holds: str
    """yes, no, unknown"""
    missing: tuple[str, ...] = ()
    """Checks that failed, or were not made where it is unknown."""


_LEVELS: Mapping[str, tuple[tuple[str, tuple[str, ...]], ...]] = {
    "": (("web", _WEB),),
    "1": (("web", _WEB), ("Selkies 1", _SELKIES_1)),
    "2": (("web", _WEB), ("Selkies 2", _SELKIES_2), ("full", (codes.AGENT,))),
}
"""By the generation of Selkies: levels, each with what it requires beside those before it."""

Result = Finding | NotChecked


def judge(seen: Observation) -> list[Finding]:
    """All findings of a check."""
    return _merge(seen, _results(seen))


def derive_levels(seen: Observation, findings: Iterable[Finding]) -> list[Level]:
    """The levels of an image of this kind. A level needs those before it."""
    results = _results(seen)
    failed = {result.code for result in results if isinstance(result, Finding) and _breaks_a_level(result)}
    open_codes = {result.code for result in results if isinstance(result, NotChecked)}
    if any(finding.code == codes.UNUSABLE for finding in findings):
        failed |= set(_WEB)
    levels, before = [], Level("", "yes")
    required: list[str] = []
    for name, more in _LEVELS[seen.generation]:
        required += more
        missing = tuple(codes.NAMES[code] for code in required if code in failed)
        unknown = tuple(codes.NAMES[code] for code in required if code in open_codes)
        if missing or before.holds == "no":
            before = Level(name, "no", missing or before.missing)
        else:
            before = Level(name, "unknown" if unknown else "yes", unknown)
        levels.append(before)
    return levels


def _breaks_a_level(finding: Finding) -> bool:
    absent_agent = finding.code == codes.AGENT and finding.severity is Severity.WARNING
    return finding.severity is Severity.ERROR or absent_agent


def make_report(seen: Observation) -> Report:
    """The check as a report."""
    findings = judge(seen)
    levels = derive_levels(seen, findings)
    context: dict[str, Any] = {
        "subject": seen.subject,
        "image": seen.image,
        "node": seen.node,
        "levels": [{"level": level.name, "holds": level.holds, "missing": list(level.missing)} for level in levels],
    }
    notes = [*_foreign_checks(seen), "\n".join(level_lines(levels))]
    if findings[-1].is_ok:  # other findings end with an empty line
        notes[0] = f"\n{notes[0]}"
    return Report(
        tool="vdi image check",
        findings=findings,
        summary=f"{seen.subject}: {count_findings(findings)}.",
        context=context,
        notes=notes,
        rules=codes.RULES,
    )


def level_lines(levels: Iterable[Level]) -> list[str]:
    """The levels as a table."""
    rows = [("LEVEL", "HOLDS", "BECAUSE OF")]
    rows += [(level.name, level.holds, ", ".join(level.missing)) for level in levels]
    return [f"{name:<12}{holds:<10}{why}".rstrip() for name, holds, why in rows]


def _foreign_checks(seen: Observation) -> list[str]:
    """What is not part of the image's kind, so that no one takes it for checked."""
    if seen.generation == "2":
        return []
    left_out = [codes.TOKENS, codes.AGENT] if seen.generation == "1" else [codes.PICTURE, codes.INPUT, codes.TOKENS]
    names = ", ".join(codes.NAMES[code] for code in left_out)
    kind = "Selkies 1" if seen.generation == "1" else "an image with protocol Web"
    return [f"Not checked, because {kind} does not guarantee it: {names}."]


def _merge(seen: Observation, results: Iterable[Result]) -> list[Finding]:
    """The findings; what was not checked for one reason is one of them."""
    findings, reasons = [], dict[str, list[str]]()
    for result in results:
        if isinstance(result, Finding):
            findings.append(result)
        else:
            reasons.setdefault(result.why, []).append(codes.NAMES[result.code])
    root = next((finding.key for finding in findings if finding.severity is Severity.ERROR), "")
    for why, names in reasons.items():
        findings.append(
            Finding(
                code=codes.NOT_CHECKED,
                severity=Severity.UNKNOWN,
                object=seen.subject,
                message=f"Not checked: {', '.join(names)}: {why}.",
                caused_by=root if why == _NOT_RUNNING else "",
            )
        )
    return findings


_NOT_RUNNING = "the container does not run"


def _results(seen: Observation) -> list[Result]:
    if seen.unusable:
        remedy = Remedy("Choose another image, or change the template.")
        return [_finding(seen, codes.UNUSABLE, Severity.ERROR, seen.unusable, remedy=remedy)]
    return [*_start(seen), *_serving(seen), *_inside(seen), *_end(seen), *_size(seen), *_of_selkies(seen)]


def _finding(
    seen: Observation,
    code: str,
    severity: Severity,
    message: str,
    *,
    evidence: tuple[str, ...] = (),
    remedy: Remedy | None = None,
) -> Finding:
    words = message if message.endswith((".", "!")) else f"{message}."
    if severity in (Severity.ERROR, Severity.WARNING) and remedy is None:
        remedy = Remedy(codes.RULES[code].help)
    evidence = tuple(line for line in evidence if line)
    return Finding(
        code=code,
        severity=severity,
        object=seen.subject,
        message=words,
        evidence=evidence,
        remedy=remedy or Remedy(),
        remedy_url="docs/your-image.md" if severity is Severity.ERROR else "",
    )


def _ok(seen: Observation, code: str, message: str) -> Finding:
    return _finding(seen, code, Severity.OK, message)


def _error(seen: Observation, code: str, message: str, *evidence: str, remedy: Remedy | None = None) -> Finding:
    return _finding(seen, code, Severity.ERROR, message, evidence=evidence, remedy=remedy)


def _start(seen: Observation) -> Iterator[Result]:
    if seen.refused:
        yield NotChecked(codes.PULL, _NOT_RUNNING)
        if "PodSecurity" in seen.refused:
            yield _error(seen, codes.START, f"Pod Security refuses the pod: {seen.refused}")
        else:
            yield NotChecked(codes.START, f"the API server refuses the pod: {seen.refused.rstrip('.')}")
        return
    if seen.unplaced:
        for code in (codes.PULL, codes.START):
            yield NotChecked(code, seen.unplaced.rstrip("."))
        return
    if seen.pull_failed:
        yield _error(seen, codes.PULL, seen.pull_failed)
        yield NotChecked(codes.START, _NOT_RUNNING)
        return
    yield _ok(seen, codes.PULL, seen.pulled or f"Node {seen.node} has the image")
    if seen.start_failed:
        yield _error(seen, codes.START, seen.start_failed)
    elif seen.ended:
        lines = [line.strip() for line in seen.ended.message.splitlines() if line.strip()]
        how = "was killed because it used more memory than its limit" if seen.ended.reason == "OOMKilled" else "ended"
        yield _error(
            seen,
            codes.START,
            f"The container {how} with exit status {seen.ended.exit_code}"
            f" after {seen.waited_seconds:.0f} s" + (f": {lines[-1][:300]}" if lines else ""),
            *[line[:300] for line in lines[-4:-1]],
        )
    else:
        yield _ok(seen, codes.START, f"Runs as user {seen.run_as_user} without capabilities (Pod Security restricted)")


def _serving(seen: Observation) -> Iterator[Result]:
    if not seen.is_running:
        for code in (codes.PORT, codes.HEALTH, codes.START_UP):
            yield NotChecked(code, _NOT_RUNNING)
        return
    health, ready = seen.health, seen.ready_seconds
    answers = bool(health and health.status)
    there = f"port {seen.port} ({seen.scheme})"
    if answers or ready is not None or seen.probe_refused:
        yield _ok(seen, codes.PORT, f"Listens on {there}")
    else:
        why = (health.problem if health else "") or seen.probe_message
        yield _error(seen, codes.PORT, f"Nothing responds on {there} after {seen.waited_seconds:.0f} s", why)
    yield from _health(seen)
    if ready is None:
        yield NotChecked(codes.START_UP, "the container did not become ready")
    elif ready > _SLOW_START_SECONDS:
        words = f"Ready {ready:.1f} s after its start: users wait, and the liveness probe starts afterwards"
        words += f" {_SLOW_START_SECONDS:.0f} s"
        yield _finding(seen, codes.START_UP, Severity.WARNING, words)
    else:
        yield _ok(seen, codes.START_UP, f"Ready {ready:.1f} s after its start")


def _health(seen: Observation) -> Iterator[Result]:
    path, health = seen.health_path, seen.health
    status = health.status if health else 0
    if seen.ready_seconds is None:
        answered = (f"GET {path}: {status}",) if status else ()
        words = seen.not_ready or f"{path} does not respond with a status from 200 to 399"
        yield _error(seen, codes.HEALTH, words, *answered, seen.probe_message, remedy=_how_to_answer(seen))
    elif seen.probe_path:
        shown = str(status) if _is_good(health) else "with a status from 200 to 399, according to the kubelet's probe"
        yield _ok(seen, codes.HEALTH, f"{seen.probe_path} responds with {shown}")
    elif not seen.signs_in:
        yield _probed_by_connecting(seen)
    elif seen.requests_unchecked or seen.sign_in_unchecked:
        yield NotChecked(codes.HEALTH, seen.requests_unchecked or seen.sign_in_unchecked)
    elif _is_good(seen.signed_in):
        first = f"{status} without a password and " if status else ""
        yield _ok(seen, codes.HEALTH, f"{path} responds with {first}{_of(seen.signed_in)} with that of basicAuthSecret")
    else:
        words = f"{path} responds with {_of(seen.signed_in)} to user name and password of basicAuthSecret"
        yield _error(
            seen,
            codes.HEALTH,
            words,
            remedy=Remedy("Correct the Secret, or the way in which the image gets its password."),
        )


def _probed_by_connecting(seen: Observation) -> Result:
    if seen.requests_unchecked:
        return NotChecked(codes.HEALTH, seen.requests_unchecked)
    if _is_good(seen.health):
        return _ok(seen, codes.HEALTH, f"{seen.health_path} responds with {_of(seen.health)}")
    return _error(seen, codes.HEALTH, f"{seen.health_path} responds with {_of(seen.health)}")


def _how_to_answer(seen: Observation) -> Remedy | None:
    return None if seen.probe_refused else Remedy(f"Make the image respond to {seen.health_path} on port {seen.port}.")


def _is_good(result: HttpResult | None) -> bool:
    return result is not None and 200 <= result.status < 400


def _of(result: HttpResult | None) -> str:
    return (str(result.status) if result.status else f"nothing ({result.problem})") if result else "nothing"


def _inside(seen: Observation) -> Iterator[Result]:
    found, expected = seen.inside, str(seen.run_as_user)
    if found is None:
        why = seen.inside_unchecked or _NOT_RUNNING
        yield NotChecked(codes.USER, why)
        yield NotChecked(codes.HOME, why)
        return
    if found.uid == expected and found.gid == expected:
        yield _ok(seen, codes.USER, f"User {found.uid}, group {found.gid}")
    else:
        yield _error(seen, codes.USER, f"Its programs run as user {found.uid}, group {found.gid}, not as {expected}")
    home = seen.mount_path or found.home
    if not found.writable:
        yield _error(seen, codes.HOME, f"User {found.uid} cannot write to the empty home {home}")
    elif seen.mount_path and found.home.rstrip("/") != seen.mount_path.rstrip("/"):
        yield _finding(
            seen,
            codes.HOME,
            Severity.WARNING,
            f"The home is mounted at {home}, but the image's $HOME is {found.home or 'not set'}: files that "
            "programs write there are lost with the pod",
            remedy=Remedy(f"Set persistence.mountPath in the template to {found.home}.")
            if found.home.strip("/")
            else None,
        )
    else:
        yield _ok(seen, codes.HOME, f"{home} is writable" + ("" if seen.mount_path else "; it is not a volume"))


def _end(seen: Observation) -> Iterator[Result]:
    stopped = seen.stopped
    if stopped is None:
        yield NotChecked(codes.END, seen.stopped_unchecked or _NOT_RUNNING)
    elif stopped.exit_code == _KILLED:
        words = f"Did not end within {seen.grace_seconds} s of SIGTERM and was killed: open files may be incomplete"
        yield _error(seen, codes.END, words)
    else:
        yield _ok(seen, codes.END, f"Ended {stopped.seconds:.1f} s after SIGTERM with exit status {stopped.exit_code}")


def _size(seen: Observation) -> Iterator[Result]:
    if seen.size_bytes is None:
        yield NotChecked(codes.SIZE, seen.size_unchecked or _NOT_RUNNING)
        return
    where = f"on node {seen.node}; nodes do not report its layers"
    yield _ok(seen, codes.SIZE, f"{seen.size_bytes / _MEGABYTE:.0f} MB {where}")


def _of_selkies(seen: Observation) -> Iterator[Result]:
    if seen.generation == "1":
        why = _NOT_RUNNING if not seen.is_running else "Selkies 1 streams over WebRTC, but the check uses WebSocket"
        for code in _SELKIES_1:
            yield NotChecked(code, why)
    if seen.generation != "2":
        return
    why = ""
    if not seen.is_running:
        why = _NOT_RUNNING
    elif seen.ready_seconds is None:
        why = "the container did not become ready"
    else:
        why = seen.requests_unchecked
    if why:
        for code in (*_SELKIES_2, codes.AGENT):
            yield NotChecked(code, why)
        return
    yield from _stream(seen)
    yield _token_table(seen)
    yield _agent(seen)


def _stream(seen: Observation) -> Iterator[Result]:
    stream = seen.stream
    if stream is None:
        for code in (codes.PICTURE, codes.INPUT):
            yield NotChecked(code, seen.stream_unchecked)
        return
    if not stream.has_picture:
        yield _error(seen, codes.PICTURE, f"There is no picture: {stream.problem}")
        yield NotChecked(codes.INPUT, "there is no picture that could respond to a key")
        return
    first = stream.first_picture_seconds
    after = f" {first:.2f} s after connecting" if first is not None else ""
    yield _ok(seen, codes.PICTURE, f"A picture was decoded{after}")
    if stream.input_ms is not None:
        yield _ok(seen, codes.INPUT, f"The picture responds to a key after {stream.input_ms:.0f} ms (median)")
    elif seen.agent and seen.agent.status == 200:
        yield _error(seen, codes.INPUT, f"The picture does not respond to keys: {stream.problem}")
    else:
        yield NotChecked(codes.INPUT, "only the agent's mark shows the effect of a key")


def _token_table(seen: Observation) -> Result:
    posted, stranger = seen.token_table, seen.without_token
    if stranger and _is_good(stranger):
        words = f"Accepts visitors without a token: GET /api/sessions without one responds with {stranger.status}"
        return _error(seen, codes.TOKENS, words)
    if not _is_good(posted) or not _is_good(seen.with_token):
        words = f"Does not accept the gateway's token table: POST /api/tokens responds with {_of(posted)}"
        if _is_good(posted):
            words = f"Accepted the token table, but responds with {_of(seen.with_token)} to one of its tokens"
        return _error(seen, codes.TOKENS, words)
    words = f"Accepts it, and responds with {_of(stranger)} without a token: viewers can be restricted to viewing"
    return _ok(seen, codes.TOKENS, words)


def _agent(seen: Observation) -> Result:
    if seen.agent_without_token and _is_good(seen.agent_without_token):
        return _error(seen, codes.AGENT, "The agent responds without a token")
    if _is_good(seen.agent):
        return _ok(seen, codes.AGENT, "Responds on port 8082, and only with its token")
    words = (
        f"No agent: port 8082 responds with {_of(seen.agent)}. Without it a desktop is never idle and shows no notices"
    )
    return _finding(seen, codes.AGENT, Severity.WARNING, words)

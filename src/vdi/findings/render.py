"""Findings as text for people, JSON for programs, and JUnit for CI. Pure."""

import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from vdi.findings.model import Finding, Severity, fails, roots, worst
from vdi.printable import escape as escape_text
from vdi.printable import shorten_middle

# So many findings of one code under one cause are shown in full; of more, only their number.
_ALIKE = 3

_WIDTH = 100
# Characters of a line of evidence, unless evidence is printed in full.
_EVIDENCE = 160


@dataclass(frozen=True, kw_only=True)
class Report:
    """The findings of one run of `tool`, such as `vdi doctor`."""

    tool: str
    findings: Sequence[Finding]
    # A line about the run; empty: the findings are counted.
    summary: str = ""
    # Whether warnings fail the run. Exit code and JUnit say the same.
    warnings_fail: bool = False
    # More fields about the run, for JSON.
    context: Mapping[str, Any] = field(default_factory=dict)
    # Paragraphs for people, after the findings.
    notes: Sequence[str] = ()
    timestamp: str = ""
    # Whether evidence is printed in full; else each line of it is cut.
    verbose: bool = True

    @property
    def conclusion(self) -> str:
        return self.summary or (
            f"{count_findings(self.findings)}." if self.findings else "No problems found."
        )


def count_findings(findings: Sequence[Finding]) -> str:
    """`1 error, 2 warnings, 9 ok, and 3 consequences`."""
    counts = Counter(finding.severity for finding in roots(findings))
    parts = []
    for severity in Severity:
        if counts[severity]:
            parts.append(
                f"{counts[severity]}"
                f" {severity}{'s' if counts[severity] > 1 and severity in _COUNTED else ''}"
            )
    followers = len(findings) - len(roots(findings))
    if followers:
        parts[-1] += f", and {followers} consequence{'s' if followers > 1 else ''}"
    return ", ".join(parts)


# Severities that have a plural.
_COUNTED = frozenset({Severity.ERROR, Severity.WARNING})


def as_text(report: Report) -> Iterator[str]:
    """Lines for people, with a line about the run at the end."""
    yield from findings_as_text(report.findings, verbose=report.verbose)
    for note in report.notes:
        yield from [note, ""]
    yield report.conclusion


def findings_as_text(findings: Sequence[Finding], *, verbose: bool = True) -> Iterator[str]:
    """Lines for people: a cause with evidence and remedy, and its consequences below it."""
    # A new line in a name, or in a command that is there to be pasted, must not begin another one.
    return (escape_text(line) for line in _findings_as_text(findings, verbose=verbose))


def _findings_as_text(findings: Sequence[Finding], *, verbose: bool) -> Iterator[str]:
    # Two templates with two wrong images are two causes, and the second is not hidden behind a
    # number.
    groups = [(finding.code, finding.caused_by or _without_names(finding)) for finding in findings]
    shown: Counter[tuple[str, str]] = Counter()
    alike = Counter(
        group for finding, group in zip(findings, groups, strict=True) if not finding.is_ok
    )
    for finding, group in zip(findings, groups, strict=True):
        if finding.is_ok:
            yield from _ok_lines(finding)
            continue
        shown[group] += 1
        if shown[group] > _ALIKE:
            continue
        yield from _lines(finding, verbose=verbose)
        if shown[group] == _ALIKE and alike[group] > _ALIKE:
            indent = "   " if finding.caused_by else ""
            yield (
                f"{indent}... and {alike[group] - _ALIKE} more {finding.code} (-o json lists them)"
            )
            yield ""


def _without_names(finding: Finding) -> str:
    # Templates and nodes, which have no namespace, may be the cause, so their names stay.
    names = set()
    for name in (finding.object, *finding.related_objects):
        if name.count("/") > 1:
            names.add(name.rpartition("/")[2])
    longest_first = sorted(map(re.escape, names), key=len, reverse=True)
    return re.sub(rf"\b(?:{'|'.join([*longest_first, '[0-9]+'])})\b", "", finding.message)


def _ok_lines(finding: Finding) -> Iterator[str]:
    yield _heading("OK", finding) + f"  {finding.text}"
    for line in finding.evidence:
        yield from _wrapped(line, "  | ")


def _lines(finding: Finding, *, verbose: bool) -> Iterator[str]:
    indent = "   " if finding.caused_by else ""
    yield indent + _heading(
        "follows" if finding.caused_by else finding.severity.value.upper(), finding
    )
    yield from _wrapped(finding.message, f"{indent}  ")
    if not finding.caused_by:
        for name, value in (("observed", finding.observed), ("expected", finding.expected)):
            if value:
                yield from _wrapped(f"{name}: {value}", f"{indent}  ")
        for line in finding.evidence:
            yield from _wrapped(
                line if verbose else shorten_middle(line, _EVIDENCE), f"{indent}  | "
            )
        yield from _remedy_lines(finding, indent)
    yield ""


def _heading(mark: str, finding: Finding) -> str:
    return f"{mark:8} {finding.code}" + (f"  {finding.object}" if finding.object else "")


def _remedy_lines(finding: Finding, indent: str) -> Iterator[str]:
    # A command is a line of its own and is not broken up: it is there to be pasted.
    remedy = finding.remedy
    if remedy.sentence:
        yield from _wrapped(remedy.sentence, f"{indent}  > ")
    for command in remedy.commands:
        yield f"{indent}  $ {command}"
    if finding.remedy_url:
        # The page is part of a source checkout; the command says the same wherever it is installed.
        yield f"{indent}  ? vdi doctor --explain {finding.code}"


def _wrapped(text: str, indent: str) -> list[str]:
    # Names have hyphens, and are there to be pasted too.
    wrapper = textwrap.TextWrapper(
        _WIDTH, indent, indent, break_long_words=False, break_on_hyphens=False
    )
    return wrapper.wrap(text)


def as_data(report: Report) -> dict[str, Any]:
    """A report as JSON for programs."""
    return {
        **report.context,
        "summary": report.conclusion,
        "severity": worst(report.findings).value,
        "findings": [finding.public() for finding in report.findings],
    }


def as_junit(report: Report) -> str:
    """A test case for each finding; one that passes when there are none."""
    name = report.tool.replace(" ", ".")
    cases = [_case(finding, name, report) for finding in report.findings]
    cases = cases or [f'  <testcase classname="{name}" name="nothing is wrong"/>\n']
    failures = sum(
        fails(finding.severity, warnings_fail=report.warnings_fail) for finding in report.findings
    )
    skipped = sum(finding.severity is Severity.UNKNOWN for finding in report.findings)
    head = f'tests="{len(cases)}" failures="{failures}" skipped="{skipped}"'
    head += f' timestamp="{report.timestamp}"' if report.timestamp else ""
    suite = f'<testsuite name="{report.tool}" {head}>\n{"".join(cases)}</testsuite>'
    return escape_text(f'<?xml version="1.0" encoding="UTF-8"?>\n{suite}', "\n")


def _case(finding: Finding, classname: str, report: Report) -> str:
    text = quoteattr(finding.text)
    details = [
        *finding.evidence,
        f"remedy: {finding.remedy.text}",
        f"caused by: {finding.caused_by or '-'}",
    ]
    body = escape("\n".join(details))
    inner = ""
    if finding.severity is Severity.UNKNOWN:
        inner = f"<skipped message={text}/>"
    elif fails(finding.severity, warnings_fail=report.warnings_fail):
        inner = f"<failure type={quoteattr(finding.severity.value)} message={text}>{body}</failure>"
    elif not finding.is_ok:
        inner = f"<system-out>{escape(finding.text)}\n{body}</system-out>"
    return (
        f'  <testcase classname="{classname}"'
        f" name={quoteattr(finding.key.strip())}>{inner}</testcase>\n"
    )

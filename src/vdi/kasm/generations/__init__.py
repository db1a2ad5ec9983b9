"""The three generations of Kasm's Helm chart, and which one a release, a label or a set of
workloads is.

The chart changed its name twice (`kasm-single-zone`, `kasm`, `kasm-helm`) and with it its values,
the names of its objects and the order of its init containers. What is said about a Kasm begins with
knowing which of the three it is.
"""

import re
from collections.abc import Iterable

from vdi.kasm.generations.a import A
from vdi.kasm.generations.b import B
from vdi.kasm.generations.c import C
from vdi.kasm.generations.model import Generation, Version, matches, words_of

ALL = (A, B, C)
_LABEL = re.compile(r"(?P<chart>[a-z][a-z-]*?)-(?P<version>v?\d+\.\d.*)")
_NUMBERS = re.compile(r"v?(\d+(?:\.\d+)*)")


def parse_version(text: str) -> Version:
    """`1.1190.6` or `1.16.0-develop` as numbers. Raises ValueError with the text and what is
    allowed.
    """
    match = _NUMBERS.match(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a version; allowed: numbers such as 1.1190.6 or 1.17.0")
    return tuple(int(number) for number in match[1].split("."))


def kasm_version(chart_version: str) -> str:
    """Version of Kasm that a chart version installs: `1.1181.0` is 1.18.1, `1.1190.6` is 1.19.0,
    `1.17.0` itself.
    """
    version = parse_version(chart_version)
    if len(version) < 2 or version[1] < 1000:
        return words_of(version)
    digits = str(version[1])
    return f"{digits[0]}.{digits[1:-1]}.{digits[-1]}"


def by_letter(letter: str) -> Generation:
    """Generation `A`, `B` or `C`, or the one whose chart is called that. Raises ValueError with
    what is allowed.
    """
    for generation in ALL:
        if letter.upper() == generation.letter or letter == generation.chart:
            return generation
    allowed = ", ".join(f"{each.letter} ({each.chart}, {each.kasm})" for each in ALL)
    raise ValueError(f"{letter!r} is not a generation of Kasm's chart; allowed: {allowed}")


def of_chart(name: str, version: str) -> Generation | None:
    """The generation of a chart, as in Chart.yaml or in a Helm release; None when it is not one of
    Kasm's.

    Other people's charts are called `kasm` too; their versions do not follow Kasm's scheme.
    """
    for generation in ALL:
        if name and name == generation.umbrella:  # its own versions follow another scheme
            return generation
    known = next((generation for generation in ALL if generation.chart == name), None)
    if known and _is_of_scheme(known, version):
        return known
    return None


def _is_of_scheme(generation: Generation, version: str) -> bool:
    try:
        numbers = parse_version(version)
    except ValueError:
        return False
    return numbers >= generation.oldest and numbers[0] == generation.oldest[0]


def chart_of_label(label: str) -> tuple[str, str]:
    """Name and version of a chart from label helm.sh/chart (`kasm-helm-1.1190.6`); two "" when it
    has another form.
    """
    match = _LABEL.fullmatch(label)
    if match:
        return (match["chart"], match["version"])
    return ("", "")


def of_label(label: str) -> Generation | None:
    """The generation from label helm.sh/chart: what an object was made by last."""
    return of_chart(*chart_of_label(label))


def of_workloads(names: Iterable[str]) -> Generation | None:
    """The generation from the names of Deployments and StatefulSets, for installations without a
    Helm release.

    A has a workload for each part with a fixed name, B appends `-deployment` to the release's, C
    appends nothing and names the database after the version. None when no generation has at least
    its proxy, API and manager.
    """
    known = tuple(names)
    for generation in ALL:
        core = []
        for each in generation.present():
            if each.key in ("proxy", "api", "manager"):
                core.append(each.name)
        if all(any(matches(name, real) for real in known) for name in core):
            foreign = generation.foreign_suffix
            if foreign and any(name.endswith(foreign) for name in known):
                continue
            return generation
    return None

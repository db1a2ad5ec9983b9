"""Answers as hypothesis makes them up: every combination, also those that are refused."""

from dataclasses import replace
from typing import Any

from hypothesis import strategies as st

from vdi.kasm.generations import ALL
from vdi.kasm.generations.a import A
from vdi.kasm.generations.b import B
from vdi.kasm.generations.c import C
from vdi.kasm.generations.model import SIZES
from vdi.kasm.values.render import CHART, PROFILES, Ingress, InstallOptions, entries, nested

# Values as people write them who know other charts: little of it is read by any chart of Kasm's.
TUTORIAL = """
global:
  hostname: kasm.example.com
  storageClass: local-path
  image: {pullPolicy: IfNotPresent}
  ingress: {enabled: false}
postgres:
  primary:
    persistence: {storageClass: local-path}
    resources: {requests: {cpu: 250m, memory: 512Mi}, limits: {cpu: 500m, memory: 1Gi}}
redis:
  resources: {requests: {cpu: 100m, memory: 256Mi}, limits: {cpu: 200m, memory: 512Mi}}
kasmManager:
  resources: {requests: {cpu: 500m, memory: 1Gi}, limits: {cpu: 1000m, memory: 2Gi}}
kasmApi:
  resources: {requests: {cpu: 250m, memory: 512Mi}, limits: {cpu: 500m, memory: 1Gi}}
"""

names = st.from_regex(r"[a-z]([-a-z0-9]{0,18}[a-z0-9])?", fullmatch=True)
hosts = st.builds(lambda one, two: f"{one}.{two}.example.com", names, names)
versions = {
    A.letter: [(1, 16, 0), (1, 16, 1), (1, 17, 0)],
    B.letter: [(1, 1170, 0), (1, 1181, 0), (1, 1181, 1)],
    C.letter: [(1, 1190, patch) for patch in range(9)],
}


@st.composite
def options(draw: st.DrawFn) -> InstallOptions:
    generation = draw(st.sampled_from(ALL))
    return InstallOptions(
        generation=generation,
        hostname=draw(hosts),
        version=draw(st.sampled_from([None, *versions[generation.letter]])),
        release=draw(names),
        size=draw(st.sampled_from(SIZES)),
        profile=draw(st.sampled_from(PROFILES)),
        ingress=draw(st.sampled_from(Ingress)),
        storage_class=draw(st.sampled_from(["", "local-path"])),
        tls_secret=draw(st.one_of(st.just(""), names)),
    )


@st.composite
def good_options(draw: st.DrawFn) -> InstallOptions:
    """Answers that go together."""
    drawn = draw(options())
    return replace(
        drawn,
        size=drawn.size if drawn.profile is CHART else "small",
        ingress=drawn.ingress if "ingress_enabled" in drawn.generation.paths else Ingress.TRAEFIK,
        tls_secret=drawn.tls_secret or "tls",
    )


def values_of(options: InstallOptions) -> dict[str, Any]:
    """The values file of these options as data."""
    return nested(entries(options))

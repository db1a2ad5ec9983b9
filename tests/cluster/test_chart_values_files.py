"""The values files with real helm and a real API server: it takes them all, they fit, and the pages
are true.
"""

import subprocess
from pathlib import Path

import pytest
import yaml

from cluster.helm_tools import Tools
from support.variants import first_of
from tools.generate import chart, chart_pages
from tools.generate.chart_render import CHART, ROOT, VALUES_FILES, images_of, render, values_words
from tools.generate.chart_summary import identity

# Of cert-manager and the Prometheus operator, with the fields that we use and no other.
CRDS = Path(__file__).parent / "chart_crds.yaml"


@pytest.fixture(scope="module")
def tools(tools: Tools) -> Tools:
    """A control plane that knows every kind and has the namespaces; nothing of the chart is
    there.
    """
    for folder in (CRDS, CHART / "files/crds"):
        tools.kubectl("apply", "--server-side", "-f", str(folder))
    tools.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    for namespace in ("vdi-system", "vdi-sessions"):
        tools.kubectl("create", "namespace", namespace)
    return tools


@pytest.mark.parametrize("name", VALUES_FILES)
def test_api_server_accepts_every_object(tools: Tools, name: str) -> None:
    """Unknown fields are refused (`--validate=strict`), and whatever admission has to say is
    said.
    """
    objects = render(tools.helm_binary, name)
    assert len({(one["apiVersion"], identity(one)) for one in objects}) == len(objects), (
        "one object twice"
    )
    sent = yaml.safe_dump_all(objects)
    words = (
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "--validate=strict",
        "-f",
        "-",
    )
    taken = tools.kubectl(*words, stdin=sent).splitlines()
    assert len(taken) == len(objects) and all(
        line.endswith("serverside-applied (server dry run)") for line in taken
    )


def test_raw_manifests_are_refused_without_an_image(tools: Tools) -> None:
    text = chart.MANIFEST.read_text()
    apply = ("apply", "--server-side", "--dry-run=server", "--force-conflicts", "-f", "-")
    refused = tools.try_kubectl(*apply, stdin=text)
    for name in ("vdi-operator", "vdi-gateway"):
        sentence = (
            f'Deployment.apps "{name}" is invalid: spec.template.spec.containers[0].image: Required'
            " value"
        )
        assert refused.returncode == 1 and sentence in refused.stderr, refused.stderr
    tools.kubectl(*apply, stdin=text.replace('image: ""', "image: registry.example.com/vdi/vdi:1"))


def test_the_small_values_fit_a_node_of_4_and_of_8_gigabytes(tools: Tools) -> None:
    small, lean, *others = chart_pages.rows(tools.helm_binary)
    assert (small.node.gigabytes, small.node.cores) == (4, 2)
    assert all(much >= 0 for much in small.node.left(small.ours).values())
    assert 1 <= small.desktops < lean.desktops
    assert [row.node.gigabytes for row in others[:2]] == [8, 8] and all(
        row.desktops >= 4 for row in others[:2]
    )


def test_certificates_are_in_the_namespace_of_the_routes(tools: Tools) -> None:
    def made(*words: str) -> tuple[set[tuple[str, str]], object]:
        objects = render(tools.helm_binary, "values.yaml", *words)
        (route,) = [one for one in objects if one["kind"] == "IngressRoute"]
        certificates = [one for one in objects if one["kind"] == "Certificate"]
        where = {
            (certificate["metadata"]["namespace"], certificate["spec"]["secretName"])
            for certificate in certificates
        }
        return where, route["spec"]["tls"].get("secretName")

    issuer = ("--set", "traefik.certManager.issuer=ours")
    assert made() == (set(), None)
    assert made(*issuer) == ({("vdi-system", "vdi-wildcard")}, "vdi-wildcard")
    assert made(*issuer, "--set", "traefik.tlsSecret=mine") == ({("vdi-system", "mine")}, "mine")
    lone = render(
        tools.helm_binary,
        "values.yaml",
        *issuer,
        "--set",
        "gateway.enabled=false,probe.enabled=false",
    )
    assert [one["metadata"]["namespace"] for one in lone if one["kind"] == "Certificate"] == [
        "vdi-sessions"
    ]
    done = tools.helm("template", str(CHART), *issuer, "--set", "traefik.certResolver=le")
    assert done.returncode == 1 and "/traefik/certResolver" in done.stderr


@pytest.mark.long
def test_notes_name_a_missing_certificate(tools: Tools) -> None:
    def notes() -> str:
        others = "crds.install=false,sessions.createNamespace=false,traefik.tlsSecret=wildcard"
        words = (
            "install",
            "vdi",
            str(CHART),
            "--namespace",
            "vdi-system",
            "--dry-run=server",
            "--set",
            others,
        )
        done = tools.helm(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout.partition("NOTES:")[2]

    advice = "kubectl -n {} create secret tls wildcard "
    assert advice.format("vdi-system") in notes() and advice.format("vdi-sessions") not in notes()
    tools.kubectl("-n", "vdi-system", "create", "secret", "generic", "wildcard")
    assert "MISSING" not in notes()


@pytest.mark.long
def test_generated_passwords_survive_upgrade_and_rollback(tools: Tools) -> None:
    others = ("--set", "crds.install=false,sessions.createNamespace=false")
    servers = ("--set", "postgresql.enabled=true,redis.enabled=true")

    def kept() -> list[str]:
        names = ("vdi-postgresql", "vdi-redis")
        return [
            tools.kubectl("-n", "vdi-system", "get", "secret", name, "-o", "jsonpath={.data}")
            for name in names
        ]

    tools.upgrade(CHART, *others, *servers)
    assert kept() == ["", ""], "Helm makes them without contents"
    tools.fill_secrets()
    made = kept()
    assert made[0] != made[1] and all("password" in one and "url" in one for one in made)
    assert tools.fill_secrets() == "", "what exists is kept"
    tools.upgrade(CHART, *others, *servers, "--set", "logLevel=debug")
    assert kept() == made
    assert tools.helm("rollback", "vdi", "--namespace", "vdi-system").returncode == 0
    assert kept() == made
    assert tools.helm("uninstall", "vdi", "--namespace", "vdi-system").returncode == 0
    tools.upgrade(CHART, *others, *servers)
    assert kept()[0] == made[0], "PostgreSQL's volume is still there, and has the old one"
    assert tools.helm("uninstall", "vdi", "--namespace", "vdi-system").returncode == 0


@pytest.mark.parametrize("name", first_of(VALUES_FILES))
def test_two_renders_are_equal(tools: Tools, name: str) -> None:
    """A GitOps tool compares renders; templates and pools are in them, though Helm sees no CRD."""
    assumed = ("--set", "crds.assumeInstalled=true", "--set", "pools.warm.template=small")
    words = (
        "template",
        "vdi",
        str(CHART),
        "--namespace",
        "vdi-system",
        *values_words(name),
        *assumed,
    )
    first, second = (tools.helm(*words) for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    kinds = [made["kind"] for made in yaml.safe_load_all(first.stdout) if made]
    assert "VDITemplate" in kinds and kinds.count("VDIPool") == 1


@pytest.mark.long
def test_one_apply_is_enough_after_the_crds(tools: Tools) -> None:
    """The steps of docs/install-variants.md. The CRDs are there already, as its second step makes
    them.
    """
    others = "crds.install=false,sessions.createNamespace=false"
    words = (
        "--namespace",
        "vdi-system",
        "--set",
        f"crds.assumeInstalled=true,pools.warm.template=small,{others}",
    )
    rendered = tools.helm("template", "vdi", str(CHART), *words, "--skip-tests")
    tools.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=rendered.stdout)
    made = tools.kubectl("get", "vdit,vdipool", "-o", "name").split()
    templates = [
        "vditemplate.vdi.kasm.io/small",
        "vditemplate.vdi.kasm.io/vdi-probe.vdi-system.vdi",
    ]
    assert made == [*templates, "vdipool.vdi.kasm.io/warm"]
    tools.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=rendered.stdout)


def test_documented_image_list_is_complete(tools: Tools) -> None:
    """The pipe that docs/install-variants.md tells people to use, against what is in the
    objects.
    """
    page = (ROOT / "docs/install-variants.md").read_text()
    (pipe,) = [
        part.split("```")[0] for part in page.split("```sh\n") if part.startswith("helm template")
    ]
    script = pipe.replace("helm ", f"{tools.helm_binary} ", 1)
    for name in VALUES_FILES:
        words = script.replace("-f my-values.yaml", " ".join(values_words(name)))
        done = subprocess.run(
            ["sh", "-ec", words], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
        )
        assert done.stdout.split() == sorted(images_of(render(tools.helm_binary, name)))

"""Installs and upgrades Kasm with helm: checked first, backed up first, watched, and undone by helm where it fails."""

import asyncio
import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

from vdi.findings.model import errors
from vdi.helm import arguments
from vdi.helm.arguments import Change, Values
from vdi.helm.binary import Helm
from vdi.helm.errors import HelmFailed, HelmInterrupted
from vdi.helm.place import Place
from vdi.helm.releases import PENDING, Revision, deployed, read_revisions
from vdi.helm.watch import View, Watch, run_watched, stop_telling
from vdi.kasm.backup import Backup, Kubectl, back_up, check_free
from vdi.kasm.errors import KasmFailedError, KasmRefusedError
from vdi.kasm.generations import Generation, Version, of_chart, parse_version
from vdi.kasm.generations.upgrades import Database, Side, Upgrade, notes, refusals
from vdi.kasm.install.chart import KasmChart, merged, without_own_keys
from vdi.kasm.install.waits import tell_waits
from vdi.kasm.value_paths import set_at, value_at
from vdi.kasm.values.check import check_values
from vdi.kasm.values.rules import Subject, deletes_database, in_words
from vdi.kube.errors import NotFound
from vdi.kube.resource import CLAIMS, SECRETS, STATEFUL_SETS
from vdi.kube.transport import Client

Object = dict[str, Any]


class Progress(View, Protocol):
    """Where stages are shown."""

    def stage(self, text: str, seconds: float) -> None:
        """One stage is over."""


@dataclass(frozen=True, slots=True)
class Running:
    """What an installation, an upgrade or a removal needs."""

    client: Client
    helm: Helm
    view: Progress
    release: str
    place: Place
    seconds: float


@dataclass(frozen=True, slots=True)
class Plan:
    """What will be done once it is agreed to."""

    chart: KasmChart
    values: dict[str, Any]
    warnings: tuple[str, ...]
    backup: bool = False
    """Whether there is a bundled database to back up first."""
    before: Revision | None = None


def check(chart: KasmChart, values: Mapping[str, Any], helm: Version) -> tuple[str, ...]:
    """Warnings about values. Raises KasmRefusedError with every error."""
    subject = Subject(chart.generation, chart.version, values, helm=helm)
    found = without_own_keys(check_values(subject), chart.defaults)
    if refused := errors(found):
        raise KasmRefusedError(*map(in_words, refused))
    known_issues = chart.generation.known_issues_of(chart.version)
    return (*map(in_words, found), *(f"{issue.what}: {issue.remedy}" for issue in known_issues))


async def plan_install(run: Running, chart: KasmChart, values: dict[str, Any]) -> Plan:
    """Raises KasmRefusedError where Kasm is there already, or an older database would stay locked or might be lost."""
    warnings = check(chart, values, run.helm.version)
    revisions = await read_revisions(run.client, run.place.namespace, run.release)
    if revisions and revisions[0].status in PENDING:
        raise KasmRefusedError(_pending(run, revisions[0]))
    if (there := deployed(revisions)) is not None:
        raise KasmRefusedError(
            f"release {run.release} already exists in namespace {run.place.namespace} ({there.chart_words}): vdi "
            f"kasm upgrade {run.place.options}, or another --release"
        )
    claims = await _database_claims(run, chart.generation)
    name = passwords_secret(chart.generation, run.release, values)
    passwords = await read_passwords(run.client, run.place.namespace, name) if claims else {}
    if passwords is None:
        raise KasmRefusedError(
            f"the volume of an earlier database exists (PersistentVolumeClaim {', '.join(claims)}), but Secret "
            f"{name} with its password does not: the chart would create one with another password. Restore the "
            f"Secret, or delete the volume with all data: kubectl {run.place.options} delete pvc "
            f"{' '.join(claims)}"
        )
    replaced = chart.generation.new_passwords.items()
    if other := [path for path, key in replaced if key in passwords and value_at(values, path) != passwords[key]]:
        raise KasmRefusedError(
            f"the volume of an earlier database exists (PersistentVolumeClaim {', '.join(claims)}), but this chart "
            f"creates new passwords at every installation, which do not match it. Take {', '.join(other)} from "
            f"Secret {name} and name that file last (-f passwords.yaml): "
            f"{take_passwords(chart.generation, run.place, name)}"
        )
    if claims and deletes_database(Subject(chart.generation, chart.version, merged(chart.defaults, values))):
        raise KasmRefusedError(
            f"the volume of an earlier database exists (PersistentVolumeClaim {', '.join(claims)}), and with "
            f"{chart.generation.paths['retention']}: Delete, which is the default of some charts, it would be deleted "
            "if this installation fails and helm removes it again. Write Retain there."
        )
    if claims:
        warnings = (*warnings, f"the database of an earlier installation will be used again: {', '.join(claims)}")
    return Plan(chart, values, warnings)


async def plan_upgrade(run: Running, chart: KasmChart, values: dict[str, Any] | None) -> Plan:
    """`values` None: the release's own go on. Raises KasmRefusedError where data would be lost."""
    revisions = await read_revisions(run.client, run.place.namespace, run.release)
    if revisions and revisions[0].status in PENDING:
        raise KasmRefusedError(_pending(run, revisions[0]))
    before = _in_place(run, deployed(revisions))
    generation = generation_of_release(before)
    if values is None and generation is not chart.generation:
        raise KasmRefusedError(
            f"values of {generation.chart} do not fit {chart.generation.chart}; carry them over and name the file (-f):"
            f" helm get values {run.release} {run.place.helm_options} | vdi kasm values migrate - --from"
            f" {generation.letter} --to {chart.generation.letter} -w new.yaml"
        )
    requested = before.config or {} if values is None else values
    old, new = before.chart.metadata, chart
    upgrade = Upgrade(
        run.release,
        run.place,
        Side(generation, parse_version(old.version), old.app_version, merged(before.chart.values, before.config or {})),
        Side(new.generation, new.version, new.app_version, merged(new.defaults, requested)),
        await _databases(run, generation),
    )
    if problems := refusals(upgrade):
        raise KasmRefusedError(*problems)
    warnings = (*check(chart, requested, run.helm.version), *notes(upgrade))
    return Plan(chart, requested, warnings, backup=bool(upgrade.databases), before=before)


async def installed_generation(run: Running) -> Generation:
    """Which generation the release is now. Raises KasmRefusedError where no release is installed."""
    return generation_of_release(
        _in_place(run, deployed(await read_revisions(run.client, run.place.namespace, run.release)))
    )


def _in_place(run: Running, revision: Revision | None) -> Revision:
    if revision is None:
        raise KasmRefusedError(
            f"there is no release {run.release} in namespace {run.place.namespace} to upgrade: vdi kasm install "
            f"{run.place.options}"
        )
    return revision


def generation_of_release(revision: Revision) -> Generation:
    """Which generation a release is. Raises KasmRefusedError for one that is not Kasm's."""
    found = of_chart(revision.chart.metadata.name, revision.chart.metadata.version)
    if found is None:
        raise KasmRefusedError(f"release {revision.name} is {revision.chart_words}, which is not Kasm")
    return found


async def save_database(run: Running, plan: Plan, kubectl: Kubectl, file: Path) -> Backup | None:
    """The dump before an upgrade; None where the database is not the chart's. Raises KasmError, KubeError."""
    if not plan.backup or plan.before is None:
        return None
    check_free(file)
    began = monotonic()
    run.view.waiting("the database is being dumped, and the dump is verified")
    done = await back_up(run.client, kubectl, generation_of_release(plan.before), run.release, file)
    run.view.stage(f"database saved to {done.file} ({done.size:,} bytes, verified)", monotonic() - began)
    return done


async def apply(run: Running, plan: Plan) -> Revision:
    """Run helm, and tell what waits for what. Raises KasmFailedError, which says what was left; KubeError."""
    chart = plan.chart
    change = Change(run.release, chart.source, run.place, Values(plan.values), chart.more)
    words = arguments.upgrade(run.helm, change, seconds=run.seconds)
    watch = Watch(run.client, [run.place.namespace], run.view)
    telling = asyncio.create_task(tell_waits(run.client, run.place.namespace, chart.generation, run.view))
    began = monotonic()
    try:
        await run_watched(run.helm, words, watch, stdin=change.values.stdin)
    except (HelmFailed, HelmInterrupted) as error:
        left = state_left(run, await read_revisions(run.client, run.place.namespace, run.release))
        raise KasmFailedError(f"{error}\n{left}", interrupted=isinstance(error, HelmInterrupted)) from error
    finally:
        await stop_telling(telling, run.view)
    run.view.stage("helm: everything is ready", monotonic() - began)
    found = deployed(await read_revisions(run.client, run.place.namespace, run.release))
    if found is None:
        raise KasmFailedError(f"helm succeeded, but no revision of {run.release} is deployed.")
    return found


def state_left(run: Running, after: list[Revision]) -> str:
    """What a failed run of helm has left, and how to go on."""
    good, where = deployed(after), run.place.options
    if after and after[0].status in PENDING:
        return _pending(run, after[0])
    if good is not None:
        return f"Revision {good.version} of {run.release} is deployed ({good.chart_words})."
    if not after:
        kept = "its Secrets and the database's volume may remain"
        return f"It was removed again; there is no release {run.release} ({kept}). Why: vdi kasm diagnose {where}"
    return (
        f"Revision {after[0].version} of {run.release} is {after[0].status}; no revision is deployed.\nRemove it: "
        f"vdi kasm uninstall {where} --release {run.release}"
    )


def _pending(run: Running, revision: Revision) -> str:
    if revision.version > 1:
        fix = f"helm rollback {run.release} {run.place.helm_options}"
    else:  # helm uninstall would delete the database's volume where its policy is Delete
        fix = f"vdi kasm uninstall {run.place.options} --release {run.release}"
    return (
        f"revision {revision.version} of {run.release} is {revision.status}: helm is working on it, or was killed. "
        f"If no one is working on it: {fix}"
    )


async def _databases(run: Running, generation: Generation) -> tuple[Database, ...]:
    found = []
    for one in await run.client.list(STATEFUL_SETS, namespace=run.place.namespace, into=Object):
        labels = one["spec"]["template"]["metadata"].get("labels") or {}
        component = generation.component_of(labels)
        if component and component.key == "db" and labels.get("app.kubernetes.io/instance", "") in ("", run.release):
            policy = one["spec"].get("persistentVolumeClaimRetentionPolicy") or {}
            found.append(Database(one["metadata"]["name"], policy.get("whenDeleted", "Retain")))
    return tuple(found)


async def _database_claims(run: Running, generation: Generation) -> list[str]:
    claims = await run.client.list(CLAIMS, namespace=run.place.namespace, into=Object)
    found = []
    for claim in claims:
        labels = claim["metadata"].get("labels") or {}
        component = generation.component_of(labels)
        if component and component.key == "db" and labels.get("app.kubernetes.io/instance", "") in ("", run.release):
            found.append(str(claim["metadata"]["name"]))
    return sorted(found)


def passwords_secret(generation: Generation, release: str, values: Mapping[str, Any]) -> str:
    """Name of the Secret with the passwords: the one that these values name, else the chart's own."""
    path = generation.paths.get("passwords_secret", "")
    return str((value_at(values, path) if path else None) or generation.secrets.format(release=release))


def take_passwords(generation: Generation, place: Place, secret: str) -> str:
    """The command that writes the passwords of a Secret into a private values file."""
    tree: dict[str, Any] = {}
    for path, key in generation.new_passwords.items():
        set_at(tree, path, f"<{key}>")
    template = json.dumps(tree, separators=(",", ":"))
    for key in generation.new_passwords.values():
        value = f'{{{{with index .data "{key}"}}}}{{{{. | base64decode | printf "%q"}}}}{{{{else}}}}""{{{{end}}}}'
        template = template.replace(f'"<{key}>"', value)
    return f"(umask 077; kubectl {place.options} get secret {secret} -o go-template='{template}' > passwords.yaml)"


async def read_passwords(client: Client, namespace: str, name: str) -> dict[str, str] | None:
    """What is in that Secret; None: it does not exist. For comparison only; nothing of it is shown."""
    try:
        found = await client.get(SECRETS, name, namespace=namespace, into=Object)
    except NotFound:
        return None
    return {key: base64.b64decode(value).decode("utf-8", "replace") for key, value in (found.get("data") or {}).items()}

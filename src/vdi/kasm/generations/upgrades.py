"""Which upgrades are refused, and what to do in their place. Pure.

The bundled database's StatefulSet is named after Kasm's version, so a new Kasm replaces it. Unless the values have the
data carried over, the new one is empty, and the old volume goes with the old StatefulSet where its policy is Delete.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from vdi.helm.place import Place
from vdi.kasm.generations import ALL, Generation, Version, successor
from vdi.kasm.value_paths import value_at


@dataclass(frozen=True, slots=True)
class Database:
    """A bundled database that runs now."""

    statefulset: str
    when_deleted: str
    """`Retain` or `Delete`: what becomes of its volume when the StatefulSet goes."""


@dataclass(frozen=True, slots=True)
class Side:
    """One side of an upgrade: a chart and the values that were given to it."""

    generation: Generation
    version: Version
    app_version: str
    values: Mapping[str, Any]

    def get(self, path: str, default: Any = None) -> Any:
        """A value; a null is as good as none."""
        found = value_at(self.values, path)
        return default if found is None else found

    @property
    def external(self) -> bool:
        """Whether its database is somebody else's."""
        return self.get("database.standalone") is True

    @property
    def words(self) -> str:
        """`kasm-helm 1.1190.6`."""
        return f"{self.generation.chart} {'.'.join(map(str, self.version))}"


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What is installed, and what is requested."""

    release: str
    place: Place
    before: Side
    after: Side
    databases: tuple[Database, ...] = ()

    @property
    def replaced(self) -> tuple[Database, ...]:
        """The databases whose StatefulSets go."""
        if self.after.external or self.after.generation is not self.before.generation:
            return self.databases
        if not self.after.generation.has_versioned_database:
            return ()
        name = f"{self.release}-db-{self.after.app_version.replace('.', '-')}"[:63].removesuffix("-")
        return tuple(database for database in self.databases if database.statefulset != name)


def refusals(upgrade: Upgrade) -> tuple[str, ...]:
    """Why it is not done, each with what to do; empty when nothing speaks against it."""
    return tuple(_order(upgrade)) or (*_erased(upgrade), *_deleted(upgrade))


def _order(upgrade: Upgrade) -> Iterator[str]:
    before, after = upgrade.before, upgrade.after
    if after.generation is before.generation:
        if after.version < before.version:
            yield (
                f"{upgrade.release} is {before.words}, and {after.words} is older: the database cannot be "
                f"downgraded. To undo an upgrade: helm rollback {upgrade.release} {upgrade.place.helm_options}"
            )
        return
    following = successor(before.generation)
    if following is None or ALL.index(after.generation) < ALL.index(before.generation):
        yield f"{upgrade.release} is {before.words}; it cannot be downgraded to {after.words}."
    elif following is not after.generation:
        yield (
            f"from {before.words} there is no direct way to {after.words}: upgrade to {following.chart}"
            f" ({following.kasm}) first, then on from there. Values: vdi kasm values migrate --from"
            f" {before.generation.letter} --to {following.letter}"
        )


def _erased(upgrade: Upgrade) -> Iterator[str]:
    """The data-loss trap: a new, empty database in the place of the one that is there."""
    if not upgrade.replaced or upgrade.after.external:
        return
    after, names = upgrade.after, ", ".join(each.statefulset for each in upgrade.replaced)
    if after.get("dbManagement.initialize", default=True) is not False or not after.get("dbManagement.upgrade.enable"):
        versions = f"Kasm {upgrade.before.app_version} -> {after.app_version}"
        yield (
            f"This upgrade would erase the database: StatefulSet {names} is replaced ({versions}), and an empty one "
            "is initialised in its place. In the values set dbManagement.initialize: false and "
            "dbManagement.upgrade.enable: true - the chart then dumps the database before the change and restores "
            "it afterwards - and database.storage.retentionPolicy.whenDeleted: Retain"
        )


def _deleted(upgrade: Upgrade) -> Iterator[str]:
    """The policy that counts is that of the StatefulSet that goes, so the new values cannot change it."""
    for each in upgrade.replaced:
        if each.when_deleted == "Delete":
            patch = '{"spec":{"persistentVolumeClaimRetentionPolicy":{"whenDeleted":"Retain"}}}'
            yield (
                f"The volume of StatefulSet {each.statefulset} would be deleted with it (whenDeleted is Delete), "
                f"and the dump would be the only copy of the data. Keep the volume: kubectl {upgrade.place.options} "
                f"patch statefulset {each.statefulset} --type merge -p '{patch}'"
            )


def notes(upgrade: Upgrade) -> tuple[str, ...]:
    """What one should know, and what does not stand in the way."""
    found = []
    before, after = upgrade.before, upgrade.after
    if after.external and before.generation.postgres_major != after.generation.postgres_major:
        found.append(
            f"The database is external: it must be PostgreSQL {after.generation.postgres_major} now (it was "
            f"{before.generation.postgres_major}); pods wait until it is."
        )
    if not upgrade.replaced and not after.external and after.get("dbManagement.initialize", default=True) is not False:
        found.append(
            "dbManagement.initialize is on: the db-init Job may never end, because the database is already initialised."
        )
    if before.generation is not after.generation:
        found.append("Workloads are renamed: Kasm is not available until the new ones are running.")
    return tuple(found)

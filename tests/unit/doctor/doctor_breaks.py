"""Ways to break the healthy cluster of `doctor_builders`, by name."""

import copy
from collections.abc import Callable
from typing import Any

from unit.doctor.doctor_builders import Cluster

Break = Callable[[Cluster], object]


class Faults(dict[str, tuple[frozenset[str], Break]]):
    """Faults by name: the codes of their causes, and the function that breaks a healthy cluster in
    one place.

    As a decorator it adds one. `on`: what the cluster has beside that of `Cluster`.
    """

    def __init__(self, on: Break = lambda _: None, prefix: str = "") -> None:
        super().__init__()
        self._on, self._prefix = on, prefix

    def __call__(
        self, *codes: str, name: str = "", on: Break | None = None
    ) -> Callable[[Break], Break]:
        def add(make: Break) -> Break:
            def both(cluster: Cluster) -> None:
                (on or self._on)(cluster)
                make(cluster)

            self[self._prefix + (name or make.__name__)] = frozenset(codes), both
            return make

        return add

    def table(self, *rows: tuple[str, str, Break], on: Break | None = None) -> None:
        """Add faults of one cause each: its code or "", the name of the fault, the function that
        breaks.
        """
        for code, name, make in rows:
            self(*([code] if code else []), name=name, on=on)(make)

    def broken(self, name: str, sessions: int = 1) -> Cluster:
        """A cluster with this fault."""
        cluster = Cluster(sessions)
        self[name][1](cluster)
        return cluster


def put(where: str, path: str, value: object) -> Break:
    """Sets a field ("spec.routes.0.match") of an object ("plural/name"), or of the first of that
    kind ("plural").
    """

    def change(cluster: Cluster) -> None:
        plural, _, name = where.partition("/")
        *keys, field = path.split(".")
        found: Any = cluster.one(plural, name)
        for key in keys:
            found = found[int(key) if key.isdigit() else key]
        found[field] = copy.deepcopy(value)

    return change


def gone(plural: str, name: str = "") -> Break:
    """Takes an object away."""
    return lambda cluster: cluster.drop(plural, name)

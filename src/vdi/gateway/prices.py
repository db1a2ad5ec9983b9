"""What an hour of a desktop and a month of a home cost. Pure; default: no prices, and no cost anywhere.

    currency: EUR
    gpuHour: 1.20
    cpuHour: 0.03
    memoryGiBHour: 0.005
    homeGiBMonth: 0.10
    templates: {cad: 2.50}

A desktop of a template that is named in `templates` costs that per hour, whatever its size; every other one costs what
its GPUs, CPUs and memory cost.
"""

from collections.abc import Iterable

import msgspec
import yaml

_NUMBERS = {
    "gpu_hour": "gpuHour",
    "cpu_hour": "cpuHour",
    "memory_gib_hour": "memoryGiBHour",
    "home_gib_month": "homeGiBMonth",
}
"""Each price, and its name in the file."""
_LONGEST_CURRENCY = 16


class PricesError(Exception):
    """Raised when a prices file cannot be used; names the field, the value and what is allowed."""


class Prices(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename=_NUMBERS):
    """All prices. What has none costs nothing."""

    currency: str = ""
    """As it is shown behind amounts, such as EUR."""
    gpu_hour: float = 0.0
    """An hour of a GPU, or of a share of one."""
    cpu_hour: float = 0.0
    memory_gib_hour: float = 0.0
    home_gib_month: float = 0.0
    templates: dict[str, float] = {}
    """An hour of a desktop, by the name of its template; in place of the prices of its resources."""

    @property
    def is_set(self) -> bool:
        """Whether anything has a price."""
        return any(price for _, price in self.named())

    def named(self) -> Iterable[tuple[str, float]]:
        """Each price with its field."""
        yield from ((field, getattr(self, name)) for name, field in _NUMBERS.items())
        yield from ((f"templates.{name}", price) for name, price in self.templates.items())

    def desktop_hour(self, template: str, *, gpus: float, cpu: float, memory_gib: float) -> float:
        """An hour of a desktop of this size."""
        if template in self.templates:
            return self.templates[template]
        return gpus * self.gpu_hour + cpu * self.cpu_hour + memory_gib * self.memory_gib_hour

    def gpu_part(self, template: str, gpus: float) -> float:
        """What of it is for the GPUs; of a template with a price of its own, all of it."""
        if not gpus:
            return 0.0
        return self.templates.get(template, gpus * self.gpu_hour)


def read_prices(text: str, source: str) -> Prices:
    """Prices from YAML; an empty file has none. Raises PricesError."""
    try:
        raw = yaml.safe_load(text)
        prices = msgspec.convert(raw if raw is not None else {}, Prices)
    except (yaml.YAMLError, msgspec.ValidationError) as error:
        raise PricesError(f"{source}: {error}; allowed: {_ALLOWED}") from error
    for field, price in prices.named():
        if not 0 <= price < float("inf"):
            raise PricesError(f"{source}: {field}: {price} is not allowed; allowed: 0 or more")
    if len(prices.currency) > _LONGEST_CURRENCY or not prices.currency.isprintable():
        allowed = f"at most {_LONGEST_CURRENCY} characters, such as EUR"
        raise PricesError(f"{source}: currency: {prices.currency!r} is not allowed; allowed: {allowed}")
    if prices.is_set and not prices.currency.strip():
        raise PricesError(f"{source}: currency: it is not set, but there are prices; allowed: a text such as EUR")
    return prices


_ALLOWED = f"currency (a text), {', '.join(_NUMBERS.values())} and templates.NAME (numbers)"

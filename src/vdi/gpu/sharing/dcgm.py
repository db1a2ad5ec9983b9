"""The metrics page of NVIDIA's DCGM exporter, as values of a node's GPUs. Pure;
`vdi.gpu.cluster.measure` fetches it.

Its numbers are those of whole GPUs: under time-slicing the share of one desktop is not known.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from prometheus_client.parser import text_string_to_metric_families

# Share of the time in which the engines worked, from 0 to 1. Also for MIG devices; not on GPUs
# before Volta.
ENGINE_ACTIVE = "DCGM_FI_PROF_GR_ENGINE_ACTIVE"
# The same in percent. With MIG it is missing or 0.
UTILIZATION = "DCGM_FI_DEV_GPU_UTIL"
# In MiB; with MIG, of each device.
MEMORY_USED, MEMORY_FREE = "DCGM_FI_DEV_FB_USED", "DCGM_FI_DEV_FB_FREE"
# DCGM writes numbers from there on (about 2**47 and 2**63) in the place of those that it does not
# have.
_BLANK = float(2**40)


class BadPageError(ValueError):
    """Raised when a page is not one of the DCGM exporter's; the message is a sentence without
    dot.
    """


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU now. Values that the exporter lacks: None. Memory in MiB, `memory` is used and free
    together.
    """

    index: str
    model: str
    # Share of the time in which it works, from 0 to 1; with MIG the mean of its devices.
    busy: float | None
    memory_used: int | None
    memory: int | None


@dataclass(frozen=True, slots=True)
class GpuMeasurements:
    """GPUs by node, and for other nodes why nothing is known. `exporters`: DaemonSets, as
    NAMESPACE/NAME.
    """

    exporters: tuple[str, ...] = ()
    nodes: Mapping[str, tuple[Gpu, ...]] = field(default_factory=dict)
    problems: Mapping[str, str] = field(default_factory=dict)

    def busy(self, node: str) -> float | None:
        """The mean of the node's GPUs; None unless it is known of all of them."""
        shares = [gpu.busy for gpu in self.nodes.get(node, ())]
        known = [share for share in shares if share is not None]
        if known and len(known) == len(shares):
            return sum(known) / len(known)
        return None


def read_page(text: str) -> tuple[Gpu, ...]:
    """The GPUs on an exporter's page. Raises BadPageError."""
    gpus: dict[str, _Parts] = {}
    models: dict[str, str] = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                gpu = sample.labels.get("gpu")
                if gpu is None or not sample.name.startswith("DCGM_FI_"):
                    continue
                models[gpu] = sample.labels.get("modelName", models.get(gpu, ""))
                # Where the exporter names the pods that share a GPU, each has the GPU's own value
                # once more.
                values = gpus.setdefault(gpu, {}).setdefault(sample.name, {})
                if 0 <= sample.value < _BLANK:
                    values[sample.labels.get("GPU_I_ID", "")] = sample.value
    except (ValueError, KeyError) as error:
        raise BadPageError(f"its metrics are not in Prometheus' format: {error}") from error
    if not gpus:
        raise BadPageError("its metrics name no GPU")
    return tuple(_gpu(gpu, models[gpu], gpus[gpu]) for gpu in sorted(gpus, key=_by_number))


# Values by metric and by the GPU's part: empty for the whole GPU, MIG's number of the part
# otherwise.
_Parts = dict[str, dict[str, float]]


def _by_number(index: str) -> tuple[int, str]:
    return (int(index) if index.isdigit() else 1 << 30, index)


def _gpu(index: str, model: str, parts: _Parts) -> Gpu:
    busy = None
    if active := parts.get(ENGINE_ACTIVE):
        busy = sum(active.values()) / len(active)
    elif percent := parts.get(UTILIZATION):
        busy = sum(percent.values()) / len(percent) / 100
    used, memory = _mebibytes(parts, MEMORY_USED), None
    free = _mebibytes(parts, MEMORY_FREE)
    if used is not None and free is not None:
        memory = used + free
    return Gpu(index, model, busy, used, memory)


def _mebibytes(parts: _Parts, name: str) -> int | None:
    values = parts.get(name)
    return round(sum(values.values())) if values else None

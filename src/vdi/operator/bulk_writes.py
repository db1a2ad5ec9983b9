"""Many independent writes at once, of which the API server may refuse some."""

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from typing import Any

from vdi.kube.apply import Applier
from vdi.kube.errors import AlreadyExists, ApiError, Forbidden, Invalid, NotFound

log = logging.getLogger(__name__)


async def write_all(*writes: Coroutine[Any, Any, object], kind: str) -> bool:
    """Whether the API server refused one: that is logged, and no reason to give up. Raises KubeError for the rest."""
    refused = False
    for result in await asyncio.gather(*writes, return_exceptions=True):
        if isinstance(result, ApiError) and _is_refusal(result):
            log.warning("a %s is refused: %s", kind, result.message)
            refused = True
        elif isinstance(result, BaseException):
            raise result
    return refused


async def create_unless_exists(applier: Applier[Any], desired: Mapping[str, Any]) -> None:
    """Create it; one of this name is our own create whose answer was lost, and the watch brings it."""
    try:
        await applier.create(desired)
    except AlreadyExists:
        return


def _is_refusal(error: ApiError) -> bool:
    return isinstance(error, Forbidden | Invalid) or (isinstance(error, NotFound) and error.api_missing)

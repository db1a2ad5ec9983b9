"""What is requested of a desktop that runs, through forwarded ports: health path, token table, agent, stream."""

import time
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from vdi.http_client import HTTP_ERRORS, LOOPBACK, HttpClient, open_client, reason_of, unverified
from vdi.image_check.forward import ForwardError, forward
from vdi.image_check.observation import HttpResult, Observation, Stream
from vdi.image_check.pod import Tokens
from vdi.latency_probe.client import MAX_MESSAGE_BYTES, StageError, measure, receive_first_picture
from vdi.latency_probe.mark import Mark
from vdi.latency_probe.measurements import percentile
from vdi.session.selkies_tokens import direct_table, direct_token, subprotocols

if TYPE_CHECKING:  # installed with the extra `probe` only
    from websockets.asyncio.client import ClientConnection

_ANSWER_SECONDS = 10.0
_ARMED_SECONDS = 30
_KEYS = 5
_SCREEN = 1280, 720
_AFTER_THE_PICTURE = frozenset({"the mark", "measuring"})
"""Stages that begin once a picture was decoded."""
Headers = Mapping[str, str]


async def observe_serving(
    seen: Observation,
    kubectl: Sequence[str],
    namespace: str,
    pod: str,
    tokens: Tokens,
    agent_port: int,
    credentials: tuple[str, str] | None,
) -> None:
    """Fill in what the running container answers."""
    try:
        async with forward(kubectl, namespace, pod, seen.port) as port:
            url = f"{seen.scheme.lower()}://{LOOPBACK}:{port}"
            async with open_client(url, seconds=_ANSWER_SECONDS, tls=unverified()) as http:
                await _observe_page(seen, http, url, credentials)
                if seen.generation != "2" or seen.ready_seconds is None:
                    return
                await _observe_tokens(seen, http, url, tokens.master)
            async with forward(kubectl, namespace, pod, agent_port) as agent:
                mark = await _observe_agent(seen, f"http://{LOOPBACK}:{agent}", tokens.agent)
            await _observe_stream(seen, url, tokens.master, mark)
    except ForwardError as error:
        seen.requests_unchecked = str(error).rstrip(".")


async def _observe_page(seen: Observation, http: HttpClient, url: str, credentials: tuple[str, str] | None) -> None:
    address = f"{url}{seen.health_path}"
    seen.health = await _request(http, "GET", address)
    if credentials:
        seen.signed_in = await _request(http, "GET", address, auth=credentials)


async def _observe_tokens(seen: Observation, http: HttpClient, url: str, master: str) -> None:
    sessions = f"{url}/api/sessions"
    seen.token_table = await _request(
        http, "POST", f"{url}/api/tokens", json=direct_table(master), headers=_bearer(master)
    )
    seen.with_token = await _request(http, "GET", sessions, headers=_bearer(direct_token(master)))
    seen.without_token = await _request(http, "GET", sessions)


async def _observe_agent(seen: Observation, url: str, token: str) -> Mark | None:
    """Where a mark follows keys, where there is an agent that shows one."""
    async with open_client(url, seconds=_ANSWER_SECONDS) as http:
        seen.agent = await _request(http, "GET", f"{url}/activity", headers=_bearer(token))
        if not seen.agent.status:
            return None
        seen.agent_without_token = await _request(http, "GET", f"{url}/activity")
        try:
            body = {"seconds": _ARMED_SECONDS}
            armed = await http.request("POST", f"{url}/photon", json=body, headers=_bearer(token))
            return armed.json(Mark) if armed.status == HTTPStatus.OK else None
        except HTTP_ERRORS:
            return None


async def _observe_stream(seen: Observation, url: str, master: str, mark: Mark | None) -> None:
    missing = [module for module in ("av", "websockets") if find_spec(module) is None]
    if seen.uses_webrtc:
        seen.stream_unchecked = "the template's transport is WebRTC, which cannot pass a forwarded port"
    elif missing:
        names = " and ".join(missing)
        seen.stream_unchecked = f"{names} is not installed here (pip install 'vdi-kubernetes[probe]')"
    else:
        seen.stream = await _receive_stream(url, direct_token(master), mark)


async def _receive_stream(url: str, token: str, mark: Mark | None) -> Stream:
    from websockets.asyncio.client import connect
    from websockets.exceptions import InvalidHandshake, InvalidStatus
    from websockets.typing import Origin, Subprotocol

    address = f"ws{url.removeprefix('http')}/api/websockets"
    begun = time.perf_counter()
    try:
        async with connect(
            address,
            ssl=unverified() if address.startswith("wss:") else None,
            subprotocols=[Subprotocol(name) for name in subprotocols(token).split(", ")],
            origin=Origin(url),
            proxy=None,
            open_timeout=_ANSWER_SECONDS,
            ping_interval=None,
            compression=None,
            max_size=MAX_MESSAGE_BYTES,
        ) as socket:
            return await _measure(socket, mark, begun)
    except InvalidStatus as error:
        return Stream(problem=f"the response to the WebSocket handshake is {error.response.status_code}")
    except (InvalidHandshake, *HTTP_ERRORS) as error:
        return Stream(problem=f"there is no WebSocket: {reason_of(error)}")


async def _measure(socket: "ClientConnection", mark: Mark | None, begun: float) -> Stream:
    try:
        if mark is None:
            first = await receive_first_picture(socket, *_SCREEN, begun)
            return Stream(has_picture=True, first_picture_seconds=first)
        found = await measure(socket, mark, _KEYS, begun)
    except StageError as error:
        return Stream(problem=str(error), has_picture=error.stage in _AFTER_THE_PICTURE)
    median = percentile(found.input_to_photon_ms, 0.5)
    problem = "" if median is not None else "no key had an effect in time"
    return Stream(True, found.first_picture_seconds, median, problem)


async def _request(http: HttpClient, method: str, url: str, **options: Any) -> HttpResult:
    try:
        # The body of a page may be large; its status is enough.
        async with http.stream(method, url, **options) as response:
            return HttpResult(response.status)
    except HTTP_ERRORS as error:
        return HttpResult(problem=reason_of(error))


def _bearer(token: str) -> Headers:
    return {"Authorization": f"Bearer {token}"}

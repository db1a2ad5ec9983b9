"""Bytes of the API server to values; URLs of its kinds."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vdi.kube.errors import Gone, UnexpectedAnswer, error_from
from vdi.kube.resource import NODES, PODS, Resource
from vdi.kube.wire import (
    LineSplitter,
    decode,
    name_in,
    parse_event,
    parse_page,
    parse_retry_after,
    version_in,
)

lines = st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b"")), max_size=20)


@given(lines, st.data())
def test_lines_are_whole_wherever_the_stream_is_cut(
    lines: list[bytes], data: st.DataObject
) -> None:
    stream = b"".join(line + b"\n" for line in lines) + b"rest"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    splitter = LineSplitter(2**20)
    out = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        out += splitter.feed(stream[start:end])
    assert out == [line for line in lines if line]
    assert splitter.rest() == b"rest"


def test_a_long_line_in_small_chunks_takes_linear_time() -> None:
    splitter = LineSplitter(10_000_000)
    for _ in range(100_000):
        assert splitter.feed(b"x" * 100) == []
    assert splitter.feed(b"\n") == [b"x" * 10_000_000]


def test_a_line_without_an_end_comes_in_pieces() -> None:
    splitter = LineSplitter(100)
    found = [line for _ in range(5) for line in splitter.feed(b"x" * 60)]
    assert found == [b"x" * 120] * 2
    assert splitter.feed(b"\ny\n") == [b"x" * 60, b"y"]


def test_deep_nesting_is_refused() -> None:
    deep = b'{"a":' * 20_000
    for parse in (
        lambda: decode(deep, dict, "GET x"),
        lambda: parse_event(deep, "x"),
        lambda: parse_page(deep, "x"),
    ):
        with pytest.raises(UnexpectedAnswer, match="recursion"):
            parse()
    assert name_in(deep) == "an object without readable metadata"


def test_an_error_event_is_raised() -> None:
    line = (
        b'{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too'
        b' old"}}'
    )
    with pytest.raises(Gone, match="too old"):
        parse_event(line, "WATCH x")


@pytest.mark.parametrize("line", [b"<html>", b"{}", b'{"type":1,"object":{}}', b'"\xff"'])
def test_a_line_that_is_no_event_is_shown(line: bytes) -> None:
    with pytest.raises(UnexpectedAnswer, match="not a watch event"):
        parse_event(line, "WATCH x")


def test_a_version_must_be_a_number() -> None:
    event = parse_event(
        b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"abc"}}}', "WATCH x"
    )
    with pytest.raises(UnexpectedAnswer, match="'abc'"):
        version_in(event)


def test_an_object_is_named_as_far_as_it_can_be() -> None:
    assert name_in(b'{"kind":"Pod","metadata":{"name":"a","namespace":"ns"}}') == "Pod ns/a"
    assert name_in(b'{"metadata":{"name":1}}') == "an object without readable metadata"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [(None, None), ("", None), ("5", 5.0), ("-1", 0.0), ("Wed, 21 Oct 2026 07:28:00 GMT", None)],
)
def test_retry_after(text: str | None, seconds: float | None) -> None:
    assert parse_retry_after(text) == seconds


def test_the_delay_may_stand_in_the_status_too() -> None:
    body = (
        b'{"kind":"Status","code":429,"reason":"TooManyRequests","details":{"retryAfterSeconds":7}}'
    )
    assert error_from(429, body).retry_after == 7
    assert error_from(429, body, retry_after=2.0).retry_after == 2


def test_a_proxys_page_is_quoted() -> None:
    assert "Bad Gateway" in str(error_from(502, b"<h1>Bad Gateway</h1>", request="GET /x"))


THINGS = Resource("example.org", "v1beta1", "things", "Thing")


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (PODS.path(), "/api/v1/pods"),
        (PODS.path("ns"), "/api/v1/namespaces/ns/pods"),
        (PODS.path("ns", "a", "log"), "/api/v1/namespaces/ns/pods/a/log"),
        (NODES.path(name="n.example"), "/api/v1/nodes/n.example"),
        (THINGS.path("ns", "a"), "/apis/example.org/v1beta1/namespaces/ns/things/a"),
        (
            THINGS.path("n/s", "../pods"),
            "/apis/example.org/v1beta1/namespaces/n%2Fs/things/..%2Fpods",
        ),
    ],
)
def test_paths(path: str, expected: str) -> None:
    assert path == expected
    assert (PODS.api_version, THINGS.api_version) == ("v1", "example.org/v1beta1")


@pytest.mark.parametrize(
    ("namespace", "name", "subresource"),
    [(None, "a", None), ("", "a", None), ("ns", "", None), ("ns", None, "status")],
)
def test_parts_that_do_not_fit_together_are_refused(
    namespace: str | None, name: str | None, subresource: str | None
) -> None:
    with pytest.raises(ValueError, match="Pod"):
        PODS.path(namespace, name, subresource)
    with pytest.raises(ValueError, match="cluster-scoped"):
        NODES.path("ns")


THREADS_THAT_MEET_NEW_TYPES = """
import sys, threading, msgspec
from vdi.kube.wire import convert, decode

BODY = b'{"object": {"i19": [{"f19": "a"}]}}'

def read(number, kind):
    together.wait()
    for _ in range(20):
        read = convert(msgspec.json.decode(BODY), kind) if number % 2 else decode(BODY, kind, "x")
        assert read.object.i19[0].f19 == "a"

sys.setswitchinterval(1e-6)
together = threading.Barrier(4)
for _ in range(60):
    leaf = msgspec.defstruct("Leaf", [(f"f{n}", str | None, None) for n in range(20)], gc=False)
    inner = msgspec.defstruct("Inner", [(f"i{n}", list[leaf] | None, None) for n in range(20)], gc=False)
    outer = [msgspec.defstruct("Outer", [("object", inner)], gc=False) for _ in range(4)]
    threads = [threading.Thread(target=read, args=(number, kind)) for number, kind in enumerate(outer)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_threads_may_meet_a_new_type_at_the_same_time() -> None:
    """The worst is a crash, so in a process of its own."""
    command = [sys.executable, "-c", THREADS_THAT_MEET_NEW_TYPES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")

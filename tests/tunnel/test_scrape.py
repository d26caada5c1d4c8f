from __future__ import annotations

import selectors
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wesper.errors import ConfigError
from wesper.tunnel.openmetrics import CONTENT_TYPE
from wesper.tunnel.scrape import (
    MAX_CONNECTIONS,
    MAX_REQUEST,
    PATIENCE_NS,
    ScrapeFailed,
    ScrapeServer,
    answer,
    parse_listen,
)

BODY = b"# EOF\n"


def collect() -> bytes:
    return BODY


def status(request: bytes) -> str:
    response = answer(request, collect)
    assert response is not None
    return response.split(b"\r\n")[0].decode()


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK"),
        (b"GET /metrics?name[]=x HTTP/1.0\r\n\r\n", "200 OK"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", "200 OK"),
        (b"POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
        (b"GET / HTTP/1.1\r\n\r\n", "404 Not Found"),
        (b"GET /metrics\r\n\r\n", "400 Bad Request"),
        (b"\r\n\r\n", "400 Bad Request"),
        (b"x" * MAX_REQUEST, "431 Request Header Fields Too Large"),
    ],
)
def test_each_request_gets_the_status_that_fits(request_: bytes, expected: str) -> None:
    assert status(request_) == f"HTTP/1.1 {expected}"


def test_head_says_how_long_the_body_would_be() -> None:
    got, head = (answer(method + b" /metrics HTTP/1.1\r\n\r\n", collect) for method in (b"GET", b"HEAD"))
    assert got == (head or b"") + BODY
    assert b"Content-Length: 6\r\n" in got


def test_half_a_request_waits() -> None:
    whole = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    assert [answer(whole[:end], collect) for end in range(len(whole))] == [None] * len(whole)


@given(st.binary(max_size=200))
def test_any_octets_get_a_response_or_wait(octets: bytes) -> None:
    for request in (octets, octets + b"\r\n\r\n"):
        response = answer(request, collect)
        assert response is None or response.startswith(b"HTTP/1.1 ")


@pytest.mark.parametrize(("text", "place"), [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:9464", ("::1", 9464))])
def test_places_to_listen(text: str, place: tuple[str, int]) -> None:
    assert parse_listen(text) == place


@pytest.mark.parametrize(
    "text", ["", "9464", ":9464", "localhost:9464", "::1:9464", "127.0.0.1:", "127.0.0.1:65536", "[127.0.0.1]:1"]
)
def test_what_is_no_place_is_told(text: str) -> None:
    with pytest.raises(ConfigError, match=r"metrics\.listen"):
        parse_listen(text)


@pytest.fixture
def selector() -> Iterator[selectors.BaseSelector]:
    """Return what a daemon's loop waits with."""
    with selectors.DefaultSelector() as selector:
        yield selector


def serve(selector: selectors.BaseSelector, seconds: float = 0.0) -> None:
    """Call what has something to read."""
    for key, _ in selector.select(seconds):
        key.data()


@pytest.fixture
def server(selector: selectors.BaseSelector) -> Iterator[ScrapeServer]:
    """Return a server that a thread looks after."""
    server = ScrapeServer("127.0.0.1:0", collect, selector)
    stop = threading.Event()

    def run() -> None:
        while not stop.is_set():
            serve(selector, 0.01)

    thread = threading.Thread(target=run)
    thread.start()
    yield server
    stop.set()
    thread.join()
    server.close()
    server.close()


def test_a_scraper_gets_its_metrics(server: ScrapeServer) -> None:
    host, port = server.address
    with urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10) as response:
        assert response.read() == BODY
        assert response.headers["Content-Type"] == CONTENT_TYPE
    with pytest.raises(urllib.error.HTTPError, match="404") as failure:
        urllib.request.urlopen(f"http://{host}:{port}/", timeout=10)
    failure.value.close()


def test_those_who_say_nothing_are_bounded_in_number_and_time(selector: selectors.BaseSelector) -> None:
    server = ScrapeServer("127.0.0.1:0", collect, selector)

    def connect() -> socket.socket:
        connection = socket.create_connection(server.address, timeout=10)
        serve(selector, 10)
        return connection

    silent = [connect() for _ in range(MAX_CONNECTIONS)]
    one_more = connect()
    assert one_more.recv(1) == b"", "it was let go at once"
    server.tend(1)
    server.tend(PATIENCE_NS)
    assert len(selector.get_map()) == MAX_CONNECTIONS + 1
    server.tend(1 + PATIENCE_NS)
    assert len(selector.get_map()) == 1, "only the listener is left"
    late = connect()
    late.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
    serve(selector, 10)
    assert late.recv(100).startswith(b"HTTP/1.1 200 OK")
    server.close()
    assert len(selector.get_map()) == 0
    for each in (*silent, one_more, late):
        each.close()


def test_a_port_that_is_taken_is_told(selector: selectors.BaseSelector) -> None:
    server = ScrapeServer("127.0.0.1:0", collect, selector)
    host, port = server.address
    with pytest.raises(ScrapeFailed, match="metrics can't listen on"):
        ScrapeServer(f"{host}:{port}", collect, selector)
    server.close()

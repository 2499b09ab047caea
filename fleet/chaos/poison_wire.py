"""What is no sound HTTP, or never ends: bytes on a connection of their own."""

from __future__ import annotations

from fleet.chaos.case import DROPPED, JOBS, Then, Wire

BODY = b'{"text": "x", "task": "mood"}'
LENGTH = b"Content-Length: %d\r\n\r\n" % len(BODY)
REFUSED = (DROPPED, 400)
CHUNK = 2**16


def head(rest: bytes, *, path: str = JOBS, method: str = "POST") -> bytes:
    """The beginning of a request that is sound so far."""
    begun = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n"
    return begun.encode() + b"Connection: close\r\nContent-Type: application/json\r\n" + rest


CHUNKED = head(b"Transfer-Encoding: chunked\r\n\r\n")


def wire(name: str, *pieces: bytes, statuses: tuple[int, ...] = REFUSED, then: Then = "waits") -> Wire:
    return Wire(name, pieces, statuses, then)


LENGTHS = [
    wire("a length of letters", head(b"Content-Length: abc\r\n\r\n"), BODY),
    wire("a length below nothing", head(b"Content-Length: -1\r\n\r\n"), BODY),
    wire("two lengths", head(b"Content-Length: 5\r\nContent-Length: 29\r\n\r\n"), BODY),
    wire("a length that is too short", head(b"Content-Length: 5\r\n\r\n"), BODY, statuses=(422,)),
    wire("a length of 26 digits", head(b"Content-Length: 99999999999999999999999999\r\n\r\n"), BODY,
         statuses=(DROPPED, 400, 413)),
    wire("a length of 6,000 digits", head(b"Content-Length: " + b"9" * 6000 + b"\r\n\r\n"), BODY,
         statuses=(DROPPED, 400, 413)),
    wire("a length that never comes", head(b"Content-Length: 30000\r\n\r\n"), BODY, then="ends"),
    wire("no length at all", head(b"\r\n"), BODY, statuses=(422,)),
    wire("a length and chunks", head(b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"),
         b"1d\r\n" + BODY + b"\r\n0\r\n\r\n", statuses=(DROPPED, 200, 400)),
]  # fmt: skip
CHUNKS = [
    wire("chunks of no length", CHUNKED, b"zz\r\n" + BODY),
    wire("a chunk of too great a length", CHUNKED, b"f" * 40 + b"\r\n" + BODY),
    wire("chunks without the last", CHUNKED, b"1d\r\n" + BODY + b"\r\n", then="ends"),
    wire("an encoding that is none", head(b"Transfer-Encoding: gzip\r\n\r\n"), BODY,
         statuses=(DROPPED, 400, 422, 501)),
    wire("byte by byte", head(LENGTH), *(bytes([byte]) for byte in BODY), statuses=(200,)),
    wire("chunk by chunk", CHUNKED,
         *(b"1\r\n" + bytes([byte]) + b"\r\n" for byte in BODY), b"0\r\n\r\n", statuses=(200,)),
    wire("who asks before it sends", head(b"Expect: 100-continue\r\n" + LENGTH), BODY, statuses=(200,)),
]  # fmt: skip
HEADS = [
    wire("a NUL in a header's name", head(b"X\x00Y: 1\r\n\r\n")),
    wire("a header of 200,000 characters", head(b"X: " + b"y" * 200_000 + b"\r\n" + LENGTH), BODY,
         statuses=(DROPPED, 200, 400, 431)),
    wire("a header without a colon", head(b"no colon\r\n\r\n")),
    wire("a head that never ends", head(b"X: y\r\n" * 10), then="ends"),
    wire("no host", head(LENGTH).replace(b"Host: localhost\r\n", b""), BODY, statuses=(200, 400)),
    wire("two hosts", head(b"Host: fleet.example\r\n" + LENGTH), BODY, statuses=(DROPPED, 400, 403)),
    wire("a method that is none", head(LENGTH, method="FLEET"), BODY, statuses=(400, 405)),
    wire("a method with a NUL", b"PO\x00ST /v1/jobs HTTP/1.1\r\nHost: localhost\r\n\r\n"),
    wire("a version that is none", b"POST /v1/jobs HTTP/9.9\r\nHost: localhost\r\n\r\n"),
    wire("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", statuses=REFUSED),
    wire("an upgrade to a socket", head(b"Upgrade: websocket\r\nConnection: Upgrade\r\n\r\n", method="GET"),
         statuses=(DROPPED, 400, 403, 404, 405)),
    wire("a path with bytes", head(LENGTH, path="/v1/%ff%00"), BODY, statuses=(404,)),
    wire("a path that climbs", head(b"\r\n", path="/v1/../../etc/passwd", method="GET"), statuses=(404,)),
    wire("a path that is a name", head(b"\r\n", path="http://fleet.example/healthz", method="GET"),
         statuses=(DROPPED, 200, 400, 403, 404)),
    wire("a path that is a star", head(b"\r\n", path="*", method="OPTIONS"),
         statuses=(DROPPED, 400, 404, 405)),
    wire("half a percent sign", head(b"\r\n", path="/v1/models/%", method="GET"), statuses=(404,)),
    wire("a greeting of TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", then="ends"),
    wire("a hundred zeros", b"\x00" * 100, then="ends"),
    wire("a connection without a word", b"", statuses=(DROPPED,), then="ends"),
]  # fmt: skip
GONE = [
    Wire("who leaves within the head", (head(b"Content-"),), (DROPPED,), then="leaves"),
    Wire("who leaves within the body", (head(LENGTH), BODY[:9]), (DROPPED,), then="leaves"),
    Wire("who leaves before the answer", (head(LENGTH), BODY), (DROPPED,), then="leaves"),
    Wire("who leaves before the last chunk",
         (CHUNKED, b"1d\r\n" + BODY + b"\r\n"), (DROPPED,), then="leaves"),
]  # fmt: skip
WIRES = [*LENGTHS, *CHUNKS, *HEADS, *GONE]
OPEN = (
    head(LENGTH) + BODY[:9],
    head(b"X: y\r\n"),
    CHUNKED + b"1d\r\n",
    b"POST /v1/",
)
"""Requests whose clients stay and send nothing more: they are held open beside all the others."""


def endless(max_body: int) -> list[Wire]:
    """Bodies that go on until somebody says that it is enough."""
    chunk = b"%x\r\n" % CHUNK + b" " * CHUNK + b"\r\n"
    often = 4 * max_body // CHUNK + 4
    return [
        Wire("chunks without an end", (CHUNKED, *(chunk,) * often), (413,)),
        Wire(
            "more than was declared as too much",
            (head(b"Content-Length: %d\r\n\r\n" % (often * CHUNK)), *(b" " * CHUNK,) * often),
            (413,),
        ),
    ]

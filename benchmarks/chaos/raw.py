"""An HTTP/2 connection without manners: what is sent over it is up to its user. Knows gRPC's framing of messages."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections import Counter
from collections.abc import Sequence
from types import TracebackType

from google.protobuf.message import Message
from hpack import Encoder
from hyperframe.frame import DataFrame, Frame, HeadersFrame, SettingsFrame, WindowUpdateFrame

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
PATIENCE_SECONDS = 2.0
"""For the server to take what is sent; after that the connection is given up."""


class Raw:
    """A connection, begun.

    Args:
        target: host and port
        window: bytes of each stream that the server may send before it has to wait; None: what HTTP/2 says
    """

    def __init__(self, target: str, window: int | None = None) -> None:
        host, _, port = target.rpartition(":")
        self.socket = socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS)
        self._encoder = Encoder()
        self._stream = -1
        self._received = b""
        self._initial, self._windows = 65_535, Counter[int]()
        """Bytes that a stream may carry, at first and in addition; those of stream 0 are the connection's."""
        settings = {} if window is None else {SettingsFrame.INITIAL_WINDOW_SIZE: window}
        self.socket.sendall(PREFACE + SettingsFrame(0, settings=settings).serialize())

    def __enter__(self) -> Raw:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, at: TracebackType | None
    ) -> None:
        self.socket.close()

    def headers(self, path: str, more: Sequence[tuple[str, str]] = (), *, complete: bool = True) -> HeadersFrame:
        """The frame that begins a call, in the next stream."""
        self._stream += 2
        fields = [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            *more,
        ]
        flags = ["END_HEADERS"] if complete else []
        return HeadersFrame(self._stream, self._encoder.encode(fields), flags=flags)

    def send(self, *frames: Frame) -> None:
        """Send frames at once.

        Raises:
            OSError: the server ended the connection, or takes nothing more.
        """
        self.socket.sendall(b"".join(frame.serialize() for frame in frames))

    def skip(self) -> None:
        """Read away what has come, but for how much more the server takes.

        Raises:
            OSError: the server has ended the connection.
        """
        self.socket.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            content = self.socket.recv(1 << 20)
            if not content:
                raise ConnectionResetError("the server has ended the connection")
            self._received += content
        self.socket.settimeout(PATIENCE_SECONDS)
        while len(self._received) >= 9 + (size := int.from_bytes(self._received[:3], "big")):
            kind, flags, stream = struct.unpack_from(">BBI", self._received, 3)
            body, self._received = self._received[9 : 9 + size], self._received[9 + size :]
            if kind == WindowUpdateFrame.type:
                self._windows[stream] += int.from_bytes(body, "big")
            elif kind == SettingsFrame.type and not flags:
                for name, value in struct.iter_unpack(">HI", body):
                    self._initial = value if name == SettingsFrame.INITIAL_WINDOW_SIZE else self._initial

    def send_some(self, stream: int, content: bytes) -> int:
        """Send as much of a request as one frame and the server's windows hold; returns how many bytes that were.

        Raises:
            OSError: as of `send`.
        """
        self.skip()
        room = min(self._initial + self._windows[stream], 65_535 + self._windows[0], 16_384, len(content))
        if room > 0:
            self.send(data(stream, content[:room], last=False))
            for one in (0, stream):
                self._windows[one] -= room
        return max(room, 0)

    def reset(self) -> None:
        """End it as if this machine had crashed and come back: with a TCP reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


def data(stream: int, content: bytes, *, last: bool = True) -> DataFrame:
    """A frame of a call's request."""
    return DataFrame(stream, content, flags=["END_STREAM"] if last else [])


def message(content: Message | bytes, *, compressed: bool = False) -> bytes:
    """A message as gRPC frames it."""
    body = content if isinstance(content, bytes) else content.SerializeToString()
    return struct.pack(">BI", compressed, len(body)) + body

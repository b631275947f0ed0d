"""Messages of one line over a pipe, within limits of time and length.

In: two file descriptors. Out: lines. Invariant: no more is read than the limit says, and nobody
waits beyond the deadline, whatever the other end does.
"""

from __future__ import annotations

import os
import select
import time

PIECE = 65_536


class Ended(Exception):
    """The other end has closed its pipe."""


class TooLate(Exception):
    """The deadline has passed."""


class TooMuch(Exception):
    """The other end has written more than it may."""


class Lines:
    """deadline: of time.monotonic(). most: bytes that may be read in all; None for no limit."""

    def __init__(self, source: int, sink: int, deadline: float = 1e18, most: int | None = None):
        self._source, self._sink, self._deadline, self._most = source, sink, deadline, most
        self._held = b""

    def read(self) -> str:
        """The next line. Raises Ended, TooLate, TooMuch."""
        while b"\n" not in self._held:
            self._wait(self._source, reading=True)
            piece = os.read(self._source, PIECE)
            if not piece:
                raise Ended
            self._held += piece
            if self._most is not None:
                self._most -= len(piece)
                if self._most < 0:
                    raise TooMuch
        line, _, self._held = self._held.partition(b"\n")
        return line.decode("utf-8", "replace")

    def write(self, line: str) -> None:
        """Send a line. Raises Ended, TooLate."""
        left = line.encode() + b"\n"
        while left:
            self._wait(self._sink, reading=False)
            try:
                left = left[os.write(self._sink, left[: select.PIPE_BUF]) :]
            except BrokenPipeError:
                raise Ended from None

    def _wait(self, descriptor: int, reading: bool) -> None:
        if self._deadline >= 1e18:
            return
        left = self._deadline - time.monotonic()
        wanted = ([descriptor], []) if reading else ([], [descriptor])
        if left <= 0 or not any(select.select(*wanted, [], left)):
            raise TooLate

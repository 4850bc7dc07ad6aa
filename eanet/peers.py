"""Connections between the processes that train together: a star around process 0.

They notice at once that a process has ended, and in about 30 seconds that a machine is lost, also between two steps, where
JAX would wait for minutes or abort. And they carry what is not a tensor: options, settings, the checkpoint, and the message
of a process that stopped with an error.
Process 0 listens on the coordinator's port until all have arrived, and then leaves the port to JAX's service.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import platform
import queue
import socket
import struct
import sys
import threading
import time
from pathlib import Path

from eanet.cli import UserError, masked, printable

HEADER = struct.Struct("!cQ")  # kind and size of a message
HELLO, DATA, STOP, BYE = b"h", b"d", b"s", b"b"
MAX_SIZE = {HELLO: 10_000, DATA: 2**34, STOP: 100_000, BYE: 1}  # bytes; whoever announces more is not a process of a run
MAX_TEXT = 5_000  # characters of an error message; JSON makes at most 12 bytes of one
STOP_WAIT = 2.0
AGAIN = "start all processes again, with the same commands, to resume after the last completed epoch"
# Seconds of silence after which the system asks a peer's machine whether it is there, between questions, and their number;
# and milliseconds that sent data may stay unconfirmed.
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30_000}


@dataclasses.dataclass(frozen=True)
class Place:
    """The place of a process among those of a run.

    Attributes:
        coordinator: HOST:PORT at which the others find process 0.
        count: number of processes, at least 2.
        index: of this process, 0 to count - 1.
    """

    coordinator: str
    count: int
    index: int

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the coordinator."""
        host, _, port = self.coordinator.rpartition(":")
        return host.strip("[]"), int(port)


class Peer:
    """Another process: its connection, its name, and what it has sent."""

    def __init__(self, connection: socket.socket, index: int, host: str):
        self.connection, self.index, self.name = connection, index, f"process {index} ({host})"
        self.inbox: queue.Queue = queue.Queue()
        self.left = self.gone = False  # it has said goodbye; its connection has ended
        self.complete = False  # at its goodbye, it had lost no process
        self._lock = threading.Lock()
        connection.settimeout(None)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def send(self, kind: bytes, payload: bytes = b"") -> None:
        """Send a message; a peer that is gone is noticed where its messages are read.

        STOP waits at most STOP_WAIT seconds for another thread that is sending, perhaps to a machine that is lost.
        """
        if self._lock.acquire(timeout=STOP_WAIT if kind == STOP else -1):
            try:
                with contextlib.suppress(OSError):
                    _send(self.connection, kind, payload)
            finally:
                self._lock.release()

    def hung_up(self) -> bool:
        """Return whether a peer that has nothing to say yet has ended."""
        try:
            return self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True


class Peers:
    """The other processes of a run: all of them for process 0, and process 0 for the others.

    While this exists, a peer that ends or stops with an error ends this process too, with one line on standard error.

    Args:
        place: of this process.
        timeout: seconds in which all must arrive.

    Raises:
        UserError: a process is missing, or two have the same id or other numbers of processes.
    """

    def __init__(self, place: Place, timeout: float):
        self.place, self.closing, self._stderr = place, False, sys.stderr
        self._ending = threading.Lock()
        self.all = _wait_for_peers(place, timeout) if place.index == 0 else [_find_main(place, timeout)]
        for peer in self.all:
            threading.Thread(target=self._listen, args=(peer,), daemon=True).start()

    def share(self, payload: bytes | None) -> bytes:
        """Return `payload` of process 0 in all processes."""
        if self.place.index:
            return self.all[0].inbox.get()
        assert payload is not None
        for peer in self.all:
            peer.send(DATA, payload)
        return payload

    def mirror(self, folder: Path, names) -> None:
        """Copy those of the files `names` that process 0 has in its folder to the folders of the others."""
        for name in names:
            path = folder / name
            found = self.share(path.read_bytes() if self.place.index == 0 and path.is_file() else b"")
            if self.place.index and found:
                path.write_bytes(found)

    def agree(self, facts: dict) -> None:
        """Raise UserError in all processes unless they give the same facts, which are JSON."""
        verdict = ""
        if self.place.index:
            self.all[0].send(DATA, json.dumps(facts).encode())
        for peer in self.all if self.place.index == 0 else ():
            theirs = json.loads(peer.inbox.get())
            verdict = verdict or _difference(peer.name, theirs, json.loads(json.dumps(facts)))
        if verdict := self.share(verdict.encode()).decode():
            self.closing = True  # all say so themselves
            raise UserError(verdict)

    def leave(self) -> bool:
        """Say goodbye after the last message; the others wait for that of process 0.

        Returns:
            Whether all were still there when process 0 said goodbye, the same in all processes.
        """
        complete = not any(peer.gone for peer in self.all)
        for peer in self.all:
            peer.send(BYE, bytes([complete]))
        for peer in self.all if self.place.index else ():
            while not peer.left:
                peer.inbox.get()
            complete = peer.complete
        self.closing = True
        return complete

    def wait_for_loss(self) -> None:
        """After an error of JAX, give the threads that notice a lost peer time to end this process."""
        time.sleep(5)

    def stop(self, text: str, status: int) -> None:
        """Tell the others why this process ends; they end too."""
        self.closing = True
        for peer in self.all:
            peer.send(STOP, _stop(text, status))

    def _listen(self, peer: Peer) -> None:
        text, status = f"{peer.name} is gone: it was killed, or its machine or the network failed; {AGAIN}", 1
        try:
            while True:
                kind, payload = _receive(peer.connection, (DATA, STOP, BYE))
                if kind == DATA:
                    peer.inbox.put(payload)
                elif kind == BYE:
                    peer.complete, peer.left = payload == b"\x01", True
                    peer.inbox.put(b"")
                else:
                    text, status = _read_stop(payload)
                    text = f"{peer.name} stopped: {text}"
                    break
        except (OSError, ValueError):
            peer.gone = True
        if not peer.left:
            self._end(text, status)

    def _end(self, text: str, status: int) -> None:
        """End this process from whatever it is doing: JAX may be waiting for the peer, for minutes."""
        with self._ending:
            if self.closing:
                return
            if self.place.index == 0:
                self.stop(text, status)
            program = Path(sys.argv[0]).name
            with contextlib.suppress(OSError, ValueError):
                print(f"{program}: error: {printable(masked(text))}", file=self._stderr, flush=True)
            os._exit(status)


def _wait_for_peers(place: Place, timeout: float) -> list[Peer]:
    """Return all other processes, in order, for process 0."""
    _, port = place.address
    found: dict[int, Peer] = {}
    end = time.monotonic() + timeout
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    try:
        listener = socket.create_server(("", port), family=family, backlog=max(128, place.count), dualstack_ipv6=both)
    except OSError as error:
        raise UserError(f"coordinator {place.coordinator}: cannot listen on port {port} ({error.strerror})") from None
    with listener:
        while len(found) < place.count - 1:
            try:
                _limit_time(listener, end)
                connection, _ = listener.accept()
            except TimeoutError:
                missing = ", ".join(str(i) for i in range(1, place.count) if i not in found)
                text = f"process {missing} of {place.count} did not come to {place.coordinator} in {timeout:g} s"
                raise _refused(found.values(), f"{text}; start it, with this address") from None
            hello = _receive_hello(connection, min(end, time.monotonic() + 5))
            if hello is None:  # a stranger, such as a check of the port
                connection.close()
                continue
            peer = Peer(connection, hello["index"], hello["host"])
            other, found[peer.index] = found.get(peer.index), peer
            if hello["count"] != place.count:
                text = f"{peer.name} was started for {hello['count']} processes, process 0 for {place.count}"
                raise _refused(found.values(), text)
            if other and not other.hung_up():  # else it was started again
                text = f"process_id {peer.index}: {other.name} and {peer.name} both have it"
                raise _refused([other, *found.values()], text)
    for peer in found.values():
        peer.send(HELLO, _hello(place))
    return [found[i] for i in sorted(found)]


def _refused(peers, text: str) -> UserError:
    for peer in peers:
        peer.send(STOP, _stop(text, 2))
    return UserError(text)


def _find_main(place: Place, timeout: float) -> Peer:
    """Connect to process 0, which may start later than this one, and wait until it has found all others."""
    end, reason = time.monotonic() + timeout, ""
    while time.monotonic() < end:
        try:
            connection = socket.create_connection(place.address, timeout=5)
            _send(connection, HELLO, _hello(place))
            kind, payload = _receive(connection, (HELLO, STOP), time.monotonic() + timeout + 10)
            if kind == HELLO:
                return Peer(connection, 0, _read_hello(payload)["host"])
            text, _ = _read_stop(payload)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            time.sleep(0.5)
            continue
        raise UserError(f"process 0 stopped: {text}")
    raise UserError(f"coordinator {place.coordinator}: no answer in {timeout:g} s ({reason}); start process 0 there")


def _hello(place: Place) -> bytes:
    return json.dumps({"index": place.index, "count": place.count, "host": platform.node()}).encode()


def _read_hello(payload: bytes) -> dict:
    """Return what a process of a run says first. Raises ValueError."""
    match _read_json(payload):
        case {"index": int(index), "count": int(count), "host": str(host)} if 0 <= index < count:
            return {"index": index, "count": count, "host": host}
    raise ValueError("not a process of train.py")


def _receive_hello(connection: socket.socket, end: float) -> dict | None:
    """Return what another process says first, for process 0; None for a stranger, or if it takes beyond the time `end`."""
    try:
        hello = _read_hello(_receive(connection, (HELLO,), end)[1])
    except (OSError, ValueError):
        return None
    return hello if hello["index"] > 0 else None


def _stop(text: str, status: int) -> bytes:
    return json.dumps([text[:MAX_TEXT], status]).encode()


def _read_stop(payload: bytes) -> tuple[str, int]:
    """Return why a process stopped, and its exit status. Raises ValueError."""
    match _read_json(payload):
        case [str(text), int(status)] if 0 <= status < 256:
            return text, status
    raise ValueError("not a process of train.py")


def _read_json(payload: bytes):
    try:
        return json.loads(payload)
    except RecursionError:
        raise ValueError("not a process of train.py") from None


def _send(connection: socket.socket, kind: bytes, payload: bytes) -> None:
    connection.sendall(HEADER.pack(kind, len(payload)))
    connection.sendall(payload)


def _receive(connection: socket.socket, kinds: tuple[bytes, ...], end: float | None = None) -> tuple[bytes, bytes]:
    """Return kind and payload of the next message.

    Raises:
        OSError: it is of another kind or too long, the connection ends, or the time is `end`.
    """
    kind, size = HEADER.unpack(_read(connection, HEADER.size, end))
    if kind not in kinds or size > MAX_SIZE[kind]:
        raise ConnectionError("not a process of train.py")
    return kind, _read(connection, size, end)


def _read(connection: socket.socket, size: int, end: float | None) -> bytes:
    parts = bytearray()
    while len(parts) < size:
        if end is not None:
            _limit_time(connection, end)
        part = connection.recv(min(size - len(parts), 2**20))
        if not part:
            raise ConnectionError("the connection was closed")
        parts += part
    return bytes(parts)


def _limit_time(connection: socket.socket, end: float) -> None:
    """Let the next operation last until the time `end`. Raises TimeoutError if that has passed."""
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError("timed out")
    connection.settimeout(left)


def _difference(name: str, theirs: dict, ours: dict) -> str:
    """Return in what a process differs from process 0, or ""."""
    for key in ours:
        if theirs.get(key) != ours[key]:
            values = [str(value) for value in (theirs.get(key), ours[key])]
            shown = f"{values[0]}, process 0 has {values[1]}" if max(map(len, values)) < 60 else "others than process 0"
            return f"{name} has {key} {printable(shown)}; start all with the same versions, options and data"
    return ""

"""Processes that train together, as threads of a test."""

import socket
import threading
import time

from eanet.cli import UserError
from eanet.peers import Peers, Place


def free_port():
    """Return a port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def places(count=2):
    """Return the places of processes on this machine."""
    address = f"127.0.0.1:{free_port()}"
    return [Place(address, count, i) for i in range(count)]


def in_threads(*functions):
    """Call the functions at the same time; return their results, or the UserErrors they raised."""
    results = [None] * len(functions)

    def call(i):
        try:
            results[i] = functions[i]()
        except UserError as error:
            results[i] = error

    threads = [threading.Thread(target=call, args=(i,)) for i in range(len(functions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def connected(count=2):
    """Return the `Peers` of processes that are threads here."""
    return in_threads(*(lambda place=place: Peers(place, 10) for place in places(count)))


def connection_to(address):
    """Return a connection to a process 0 that may not listen yet."""
    end = time.monotonic() + 10
    while True:
        try:
            return socket.create_connection(address, timeout=5)
        except ConnectionRefusedError:
            if time.monotonic() > end:
                raise
            time.sleep(0.01)

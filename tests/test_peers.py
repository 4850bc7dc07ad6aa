"""Connections between processes that train together."""

import queue
import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT, only_line
from processes import connected, connection_to, in_threads, places

from eanet.peers import HEADER, Peers, Place


def test_process_0_shares_its_files(tmp_path):
    peers, folders = connected(3), [tmp_path / str(i) for i in range(3)]
    for i, folder in enumerate(folders):
        folder.mkdir()
        (folder / "own").write_text(str(i))
    (folders[0] / "a").write_bytes(bytes(3_000_000))
    in_threads(*(lambda p=p, f=f: p.mirror(f, ("a", "b", "c")) for p, f in zip(peers, folders, strict=True)))
    assert [sorted(path.name for path in folder.iterdir()) for folder in folders] == [["a", "own"]] * 3
    assert (folders[2] / "a").read_bytes() == bytes(3_000_000)
    assert in_threads(*(p.leave for p in peers)) == [True] * 3


def test_processes_that_differ_all_say_so():
    peers = connected(3)
    facts = [{"batch_size": size, "set": None} for size in (64, 64, 32)]
    assert in_threads(*(lambda p=p: p.agree({"batch_size": 64}) for p in peers)) == [None] * 3
    errors = in_threads(*(lambda p=p, f=f: p.agree(f) for p, f in zip(peers, facts, strict=True)))
    host = socket.gethostname()
    expected = f"process 2 ({host}) has batch_size 32, process 0 has 64; start all with the same versions, options and data"
    assert [str(error) for error in errors] == [expected] * 3


def test_missing_processes_are_named():
    main, other = places()
    assert str(in_threads(lambda: Peers(main, 0.2))[0]) == (
        f"process 1 of 2 did not come to {main.coordinator} in 0.2 s; start it, with this address"
    )
    start = time.monotonic()
    assert str(in_threads(lambda: Peers(other, 0.2))[0]) == (
        f"coordinator {other.coordinator}: no answer in 0.2 s (Connection refused); start process 0 there"
    )
    assert time.monotonic() - start < 5


def test_two_processes_with_the_same_id_or_other_numbers_are_refused():
    main, other, third = places(3)
    same = in_threads(*(lambda p=p: Peers(p, 10) for p in (main, other, other)))
    assert all("process_id 1: process 1 (" in str(error) and "both have it" in str(error) for error in same)
    numbers = in_threads(lambda: Peers(main, 10), lambda: Peers(Place(main.coordinator, 4, 2), 10))
    assert all("was started for 4 processes, process 0 for 3" in str(error) for error in numbers)


def test_strangers_at_the_port_do_not_count():
    main, other = places()

    def stranger():
        hellos = ['{"index": Infinity, "count": 2, "host": ""}', "[" * 9000, "[]", "1"]
        hellos += [f'{{"index": {index}, "count": 2, "host": ""}}' for index in (-1, 0, 2, '"1"', 10**400)]
        for words in (b"GET / HTTP/1.1\r\n\r\n", b"", *(HEADER.pack(b"h", len(text)) + text.encode() for text in hellos)):
            with connection_to(main.address) as connection:
                connection.sendall(words)
        return Peers(other, 10)

    peers = in_threads(lambda: Peers(main, 10), stranger)
    assert in_threads(*(p.leave for p in peers)) == [True, True]


def test_silent_stranger_does_not_prolong_the_start():
    main, _ = places()
    start = time.monotonic()
    error, connection = in_threads(lambda: Peers(main, 1), lambda: connection_to(main.address))
    connection.close()
    assert "process 1 of 2 did not come" in str(error) and time.monotonic() - start < 4


def test_answer_of_a_stranger_is_not_that_of_process_0():
    _, other = places()
    with socket.create_server(other.address) as listener:

        def stranger():
            with listener.accept()[0] as connection:
                connection.sendall(HEADER.pack(b"s", 2) + b"{}")
                connection.recv(1000)

        error, _ = in_threads(lambda: Peers(other, 0.3), stranger)
    assert "no answer in 0.3 s (not a process of train.py)" in str(error)


@pytest.mark.parametrize("words", [
    HEADER.pack(b"s", 3) + b"[1]",
    HEADER.pack(b"s", 10) + b'["", 1000]',
    HEADER.pack(b"s", 9000) + b"[" * 9000,
    HEADER.pack(b"d", 2**60),
    HEADER.pack(b"?", 0),
])  # fmt: skip
def test_message_of_no_process_ends_the_connection(words, monkeypatch):
    ended = queue.Queue()
    main, other = connected()
    monkeypatch.setattr(main, "_end", lambda text, status: ended.put((text, status)))
    main.closing = other.closing = True  # for the end of the test
    other.all[0].connection.sendall(words)
    text, status = ended.get(timeout=10)
    assert text.startswith("process 1 (") and "is gone" in text and status == 1


def test_goodbye_says_whether_all_are_there():
    main, other, lost = connected(3)
    lost.closing = True
    lost.all[0].send(b"b")
    lost.all[0].connection.shutdown(socket.SHUT_RDWR)
    while not main.all[1].gone:
        time.sleep(0.01)
    assert in_threads(main.leave, other.leave) == [False, False]


def test_stop_does_not_wait_for_a_peer_that_takes_no_data(monkeypatch):
    monkeypatch.setattr("eanet.peers.STOP_WAIT", 0.1)
    main, other = connected()
    main.closing = other.closing = True
    with main.all[0]._lock:
        main.stop("data x: no such file", 2)


PEER = """
import sys, time
sys.path.insert(0, sys.argv[1])
from eanet.peers import Peers, Place
peers = Peers(Place(sys.argv[2], 3, int(sys.argv[3])), 20)
print("joined", flush=True)
if sys.argv[4:] == ["stop"]:
    time.sleep(0.2)
    peers.stop("data x: no such file", 2)
time.sleep(60)
"""


@pytest.mark.parametrize("end, lost", [("kill", 0), ("kill", 2), ("stop", 1)])
def test_end_of_one_process_is_one_line_of_the_others(end, lost):
    address = places()[0].coordinator
    words = [sys.executable, "-c", PEER, str(ROOT), address]
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    running = [subprocess.Popen([*words, str(i), *([end] if i == lost else [])], **pipes) for i in range(3)]
    assert [process.stdout.readline() for process in running] == ["joined\n"] * 3
    if end == "kill":
        running[lost].kill()
    for i, process in enumerate(running):
        if i != lost:
            line = only_line(process.communicate(timeout=10)[1])
            assert line.startswith("-c: error: process ") and process.returncode == (1 if end == "kill" else 2)
            assert f"process {lost} (" in line
            assert ("is gone" in line and "with the same commands" in line) if end == "kill" else "no such file" in line
    running[lost].kill()
    running[lost].communicate()

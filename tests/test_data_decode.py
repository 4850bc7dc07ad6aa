"""Decoding on all cores: order, processes, errors, and memory."""

import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
from conftest import encoded, noise, tiny_config

from eanet.data import decode, storage
from eanet.data.decode import Sample, read_samples
from eanet.data.files import LeftOut
from modeling_eanet import UserError


def samples(count):
    """Images of which every seventh is empty, as content, function and path in turn."""
    content = [b"" if i % 7 == 3 else encoded(noise(12, 12, i), "PNG").read() for i in range(count)]
    return [Sample(str(i), (lambda data=data: data) if i % 2 else data, i) for i, data in enumerate(content)]


def read(listed):
    left_out = LeftOut()
    x, labels, _ = read_samples(listed, tiny_config(), left_out, "train")
    return x, labels, left_out


@pytest.mark.parametrize(("cores", "processes"), [(1, False), (3, False), (2, True)])
def test_images_come_in_order_whoever_decodes_them(monkeypatch, cores, processes):
    monkeypatch.setattr(decode, "count_cores", lambda: cores)
    monkeypatch.setattr(decode, "CHUNK", 8)
    monkeypatch.setattr(decode, "MIN_FOR_PROCESSES", 1 if processes else 10**9)
    x, labels, left_out = read(samples(100))
    assert labels == [i for i in range(100) if i % 7 != 3]
    assert [entry["path"] for entry in left_out.entries] == [str(i) for i in range(100) if i % 7 == 3]
    assert (left_out.images, left_out.broken) == (100, 14)
    for image, label in zip(x, labels, strict=True):
        array, (reason,) = decode.decode_chunk([encoded(noise(12, 12, label), "PNG").read()], tiny_config())
        assert reason is None
        np.testing.assert_array_equal(image, array[0])


def test_processes_start_for_a_stream_that_turns_out_long(monkeypatch):
    started = []
    monkeypatch.setattr(decode, "count_cores", lambda: 2)
    monkeypatch.setattr(decode, "MIN_FOR_PROCESSES", 150)
    popen = subprocess.Popen
    monkeypatch.setattr(decode.subprocess, "Popen", lambda *args, **kwargs: started.append(1) or popen(*args, **kwargs))
    assert len(read(sample for sample in samples(100))[0]) == 86 and started == []
    assert len(read(sample for sample in samples(300))[0]) == 257 and len(started) == 2


def test_processes_end_with_their_standard_input():
    code = "from eanet.data.decode import work; work()"
    done = subprocess.run(
        [sys.executable, "-c", code], input=b"", capture_output=True, cwd=os.path.dirname(os.path.dirname(__file__))
    )
    assert (done.returncode, done.stdout) == (0, b"")


def test_process_that_dies_is_one_line(monkeypatch):
    monkeypatch.setattr(decode, "count_cores", lambda: 2)
    monkeypatch.setattr(decode, "MIN_FOR_PROCESSES", 1)
    monkeypatch.setattr(decode.sys, "executable", "/bin/false")
    with pytest.raises(UserError, match="a process that decodes images ended unexpectedly"):
        read(samples(100))


def test_large_sets_go_to_disk_chunk_by_chunk(monkeypatch):
    monkeypatch.setattr(storage, "MAX_MEMORY_BYTES", 50 * 32 * 32 * 3)
    in_file, labels, _ = read(sample for sample in samples(100))
    monkeypatch.undo()
    in_memory, same, _ = read(samples(100))
    assert isinstance(in_file, storage.DiskImages) and isinstance(in_memory, np.ndarray) and labels == same
    np.testing.assert_array_equal(in_file[:], in_memory)


def test_error_of_a_source_is_the_reason():
    def fail():
        raise PermissionError(13, "Permission denied")

    assert read([Sample("a.png", fail, 0)])[2].entries == [{"path": "a.png", "reason": "cannot be read (Permission denied)"}]


def test_filters_of_warnings_are_restored():
    before = list(warnings.filters)
    read(samples(200))
    assert warnings.filters == before

"""python -m eanet.predict_many: sources, shards and restarts, with a stand-in for Ray and with Ray itself."""

import os
import shlex
import signal
import subprocess
import sys
import time
import types
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import yaml
from conftest import ROOT, encoded, noise, only_line, png, run_main, write_table

pytest.importorskip("pyarrow")
import fsspec
from pyarrow import parquet

from eanet import predict_many, shards
from eanet.batch import classify_files, load_model
from eanet.shards import ShardClassifier, close_job, open_job
from eanet.sources import list_source


class Inline:
    """As much of Ray as predict_many uses; `map_batches` runs in this process."""

    exceptions = types.SimpleNamespace(RayError=type("RayError", (Exception,), {}))

    def __init__(self):
        self.options, self.shards = {}, 0
        context = types.SimpleNamespace()
        self.data = types.SimpleNamespace(
            DataContext=types.SimpleNamespace(get_current=lambda: context),
            ActorPoolStrategy=lambda **options: options,
            from_items=self.from_items,
        )

    def init(self, **options):
        self.options = options

    def shutdown(self):
        self.options = {}

    def cluster_resources(self):
        return {"CPU": 2.0}

    def from_items(self, items, override_num_blocks):
        def map_batches(kind, fn_constructor_args, **options):
            return types.SimpleNamespace(iter_rows=lambda: self.rows(kind(*fn_constructor_args), items))

        return types.SimpleNamespace(map_batches=map_batches)

    def rows(self, worker, items):
        for item in items:
            result = worker({"shard": np.array([item["shard"]])})
            self.shards += 1
            yield {key: values[0] for key, values in result.items()}


@pytest.fixture
def ray(monkeypatch):
    """A stand-in for Ray."""
    inline = Inline()
    monkeypatch.setitem(sys.modules, "ray", inline)
    monkeypatch.setitem(sys.modules, "ray.data", inline.data)
    for name in ("RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_AUTO_CONNECT", "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"):
        monkeypatch.setenv(name, "")  # restored afterwards
        monkeypatch.delenv(name)
    return inline


@pytest.fixture(scope="module")
def model():
    """The ONNX export of this repository."""
    pytest.importorskip("onnxruntime")
    return load_model(str(ROOT), "onnx")


def onnx_file():
    return (ROOT / "onnx/model.onnx").read_bytes()


def rows(folder):
    """Return the rows of a destination, in order."""
    return parquet.read_table(str(folder)).to_pylist()


def run(*args):
    return run_main(predict_many, *args)


# ------------------------------------------------------------------------------------------------------------ one worker


def test_a_shard_has_the_predictions_of_inference(photos, model, tmp_path):
    source = list_source(str(photos))
    open_job(str(tmp_path / "out"), {"top_k": 3})
    worker = ShardClassifier(source, str(tmp_path / "out"), onnx_file(), 3)
    assert worker.classify(0, next(source.shards(100))) == (12, 2)
    found = {row["path"]: row for row in rows(tmp_path / "out")}
    for result in classify_files(model, list(source.files), 3):
        row = found.pop(result.path)
        assert (row["predictions"], row["error"]) == (result.predictions, result.error)
        first = result.predictions[0] if result.predictions else {"label": None, "score": None}
        assert {key: row[key] for key in first} == first
    assert not found


def test_names_that_are_no_text_are_escaped(tmp_path, model):
    (tmp_path / "photos").mkdir()
    Path(os.fsdecode(bytes(tmp_path) + b"/photos/\xff.png")).write_bytes(png(0))
    source = list_source(str(tmp_path / "photos"))
    open_job(str(tmp_path / "out"), {})
    worker = ShardClassifier(source, str(tmp_path / "out"), onnx_file(), 1)
    assert worker.classify(0, next(source.shards(9))) == (1, 0)
    assert rows(tmp_path / "out")[0]["path"] == f"{tmp_path}/photos/\\udcff.png"


def test_a_worker_that_cannot_go_on_says_why(ray, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "getcwd", lambda: "/elsewhere")  # as on a machine without the folder
    assert run("photos", "memory://elsewhere/out") == 2
    line = only_line(capsys.readouterr().err)
    assert "error: a worker failed (/elsewhere/photos: not there on the worker " in line
    assert line.endswith("or a bucket); the same command goes on from the finished shards")


# ---------------------------------------------------------------------------------------------------------------- the job


def test_a_job_is_one_row_per_image(ray, photos, tmp_path, capsys):
    assert run(photos, tmp_path / "out", "--shard-size", 5, "--top-k", 2) == 0
    assert [row["path"] for row in rows(tmp_path / "out")] == list(list_source(str(photos)).files)
    assert sorted(os.listdir(tmp_path / "out")) == ["_job.json", *(f"part-00000{i}.parquet" for i in range(3))]
    line = only_line(capsys.readouterr().out)
    assert line.startswith(f"{tmp_path}/out: 12 images (") and line.endswith("; 2 with an error")


def test_a_job_in_which_no_image_could_be_read_fails(ray, tmp_path, capsys):
    (tmp_path / "labels.csv").write_text("file,label\n")
    assert [run(tmp_path / "labels.csv", tmp_path / "out") for _ in range(2)] == [2, 0]  # then nothing is left to do
    assert capsys.readouterr().out.splitlines()[0].endswith("; 1 with an error")


def test_a_folder_that_a_storage_service_lists_in_itself_is_empty(tmp_path, monkeypatch):
    (tmp_path / "out").mkdir()
    listed = type(fsspec.filesystem("file")).ls
    monkeypatch.setattr(type(fsspec.filesystem("file")), "ls", lambda self, path, **options: [f"{path}/"])
    assert open_job(str(tmp_path / "out"), {"top_k": 3}) == set()
    monkeypatch.setattr(type(fsspec.filesystem("file")), "ls", listed)
    assert open_job(str(tmp_path / "out"), {"top_k": 3}) == set()


def test_a_restart_skips_finished_shards(ray, photos, tmp_path, capsys):
    args = (photos, tmp_path / "out", "--shard-size", 5)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/._job.json.999999999.tmp").touch()  # killed while it began the job
    assert run(*args) == 0
    expected, kept = rows(tmp_path / "out"), (tmp_path / "out/part-000000.parquet").stat().st_mtime_ns
    (tmp_path / "out/part-000001.parquet").unlink()
    (tmp_path / "out/.part-000001.parquet.999999999.tmp").touch()
    capsys.readouterr()
    assert run(*args) == 0 and ray.shards == 4
    assert rows(tmp_path / "out") == expected and (tmp_path / "out/part-000000.parquet").stat().st_mtime_ns == kept
    assert "5 images (" in (line := only_line(capsys.readouterr().out)) and ", 7 before;" in line
    assert run(*args) == 0 and ray.shards == 4
    assert not [name for name in os.listdir(tmp_path / "out") if name.endswith(".tmp")]


def test_old_temporary_files_are_removed_where_possible(tmp_path, monkeypatch):
    old, recent = tmp_path / ".part-000000.parquet.1.tmp", tmp_path / ".part-000001.parquet.1.tmp"
    old.touch()
    recent.touch()  # another run of the job may be writing it
    os.utime(old, (0, 0))
    close_job(str(tmp_path))
    assert os.listdir(tmp_path) == [recent.name]
    monkeypatch.setattr(shards, "filesystem", Mock(side_effect=Exception("of a client")))
    close_job(str(tmp_path))


def test_a_bucket_gets_the_same_files(ray, photos, tmp_path):
    assert run(photos, tmp_path / "out") == 0 == run(photos, "memory://results/out")
    memory = fsspec.filesystem("memory")
    assert memory.cat_file("/results/out/part-000000.parquet") == (tmp_path / "out/part-000000.parquet").read_bytes()
    assert [Path(name).name for name in memory.ls("/results/out", detail=False)] == ["_job.json", "part-000000.parquet"]


def test_another_job_is_refused(ray, photos, tmp_path, monkeypatch, capsys):
    def refused(*args):
        capsys.readouterr()
        assert run("photos", tmp_path / "out", *args) == 2
        return only_line(capsys.readouterr().err)

    monkeypatch.chdir(tmp_path)
    assert run("photos", tmp_path / "out") == 0
    assert refused("--top-k", 3).endswith("out: holds a job with another top k (5, now 3); use a new folder")
    assert "another shard size (1000, now 7)" in refused("--shard-size", 7)
    assert "another model checksum" in refused("--model", ROOT / "onnx/model_fp16.onnx")
    (photos / "a/new.png").write_bytes(png(0))
    assert "another images (12, now 13)" in refused()
    (photos / "a/0.png").unlink()
    assert "another source checksum" in refused()
    (tmp_path / "b").mkdir()
    photos.rename("b/photos")
    monkeypatch.chdir("b")
    assert f"another source ({photos}, now {tmp_path}/b/photos)" in refused()


@pytest.mark.parametrize(
    "args, message",
    [
        (("nowhere", "out"), "nowhere: no such file or folder"),
        (("empty", "out"), "empty: no images and no Parquet files there"),
        (("memory://nothing", "out"), "memory://nothing: no images and no Parquet files there"),
        (("no-such-protocol://x", "out"), "no-such-protocol://x: cannot be listed (Protocol not known: no-such-protocol)"),
        (("photos", "photos"), "photos: is not empty, and holds no job; use a new folder"),
        (("photos", "photos/a/0.png"), "photos/a/0.png"),
        (("t.parquet", "out", "--image-column", "x"), "t.parquet: no column x with the bytes of images; it has image"),
        (("photos", "out", "--image-column", "x"), "photos: holds image files, which have no column x"),
        (("tables", "tables/out"), "tables/out: is inside the source; use another folder"),
        (("photos", "out", "--workers", "1000"), "workers 1000: must be at most"),
        (("photos", "out", "--top-k", "1000"), "top_k 1000: the model has only 100 classes"),
        (("photos", "out", "--model", "empty"), "empty: has no onnx/model.onnx"),
        (("photos", "out", "--address", "127.0.0.1:9"), "127.0.0.1:9: does not answer"),
        (("photos", "out", "--address", "ray://x:10001"), "ray://x:10001: must be auto, or host:port of a cluster"),
    ],
)
def test_bad_input_is_one_line(ray, photos, tmp_path, monkeypatch, capsys, args, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    write_table(tmp_path / "t.parquet", 1)
    write_table(tmp_path / "tables/t.parquet", 1)
    assert run(*args) == 2
    assert message in only_line(capsys.readouterr().err)


@pytest.mark.parametrize(
    "source, destination, inside",
    [
        ("memory://tables/in/", "memory://tables/in/out", True),
        ("memory://tables/in", "memory://tables/in/out/", True),
        ("memory://tables/in/", "memory://tables/in/", True),
        ("memory://tables/in/*.parquet", "memory://tables/in/out", False),
        ("memory://tables/in/**/*.parquet", "memory://tables/in/out", True),
        ("memory://tables/in", "memory://tables/into", False),
        ("file://{}/tables/", "file://{}/tables/out", True),
        ("file://{}/tables/", "{}/tables/out", True),
        ("{}/tables/", "file://{}/tables/out/", True),
        ("{}/tables", "memory://{}/tables/out", False),
    ],
)
def test_a_destination_that_the_source_would_list_is_refused(ray, tmp_path, capsys, source, destination, inside):
    table = write_table(tmp_path / "tables/t.parquet", 1)
    memory = fsspec.filesystem("memory")
    memory.pipe_file("/tables/in/t.parquet", table.read_bytes())
    source, destination = source.format(tmp_path), destination.format(tmp_path)
    for _ in range(2):  # with its own output in the source, the second run would fail
        assert run(source, destination) == (2 if inside else 0)
        message = f"{destination}: is inside the source; use another folder"
        assert not inside or message in only_line(capsys.readouterr().err)
    memory.rm("/tables", recursive=True)


def test_without_ray_it_says_how_to_get_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert run(tmp_path, tmp_path / "out") == 2
    assert 'ray is not installed; `pip install "ray[data]"`' in only_line(capsys.readouterr().err)


def test_a_cluster_without_cores_is_one_line(ray, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ray, "cluster_resources", dict)
    assert run(photos, tmp_path / "out") == 2
    assert "Ray: has no cores for workers" in only_line(capsys.readouterr().err)


def test_a_local_run_listens_on_this_machine_only(ray, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "init", init := Mock())
    assert run(photos, tmp_path / "out") == 0
    assert init.call_args.kwargs["address"] == "local" and init.call_args.kwargs["include_dashboard"] is False
    assert os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] == os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


def test_progress_is_a_line_now_and_then(monkeypatch, capsys):
    clock = iter(range(0, 1000, 20))
    monkeypatch.setattr(predict_many.time, "monotonic", lambda: next(clock))
    list(predict_many.with_progress([{"images": 10}] * 4, 100, 60))
    assert capsys.readouterr().err.splitlines() == [
        "80 of 100 images, 0 images/s, 40 s left",
        "100 of 100 images, 0 images/s, 0 s left",
    ]


# --------------------------------------------------------------------------------------------------------------- with Ray


def start(*args, **options):
    """Start `python -m eanet.predict_many ARGS`; return the Popen."""
    command = [sys.executable, "-m", "eanet.predict_many", *map(str, args)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, cwd=ROOT, **pipes, **options)


def expected_rows(model, folder):
    """Return the rows that inference.py gives."""
    return [(r.path, r.predictions, r.error) for r in classify_files(model, list(list_source(str(folder)).files), 5)]


def as_results(rows):
    return [(row["path"], row["predictions"], row["error"]) for row in rows]


def besides_progress(err):
    return [line for line in err.splitlines() if "images/s" not in line]


def workers(parent):
    """Return the numbers of Ray's worker processes below the process `parent`."""
    psutil = pytest.importorskip("psutil")
    below = psutil.Process(parent).children(recursive=True)
    return [process.pid for process in below if "MapWorker" in "".join(process.cmdline()[:1])]


@pytest.fixture
def many(photos):
    """The folder of `photos` with 500 images more, of which 200 are broken."""
    for i in range(300):
        (photos / f"a/more-{i}.png").write_bytes(png(i))
    for i in range(200):
        (photos / f"b/bad-{i}.jpg").write_bytes(encoded(noise(seed=i), "JPEG").read()[: 2 * i])
    return photos


@pytest.mark.slow
def test_ray_gives_the_rows_of_inference_though_a_worker_is_killed(many, model, tmp_path):
    pytest.importorskip("ray")
    process = start(many, tmp_path / "out", "--shard-size", 20, "--workers", 2)
    killed = 0
    while process.poll() is None:
        time.sleep(0.2)
        if killed < len(list(tmp_path.glob("out/part-*"))) // 5 and (found := workers(process.pid)):
            os.kill(found[0], signal.SIGKILL)
            killed += 1
    out, err = process.communicate()
    assert process.returncode == 0 and killed >= 2, err
    assert only_line(out).endswith("; 202 with an error")
    assert as_results(rows(tmp_path / "out")) == expected_rows(model, many)


@pytest.mark.slow
def test_ray_goes_on_after_the_program_was_killed(many, model, tmp_path):
    pytest.importorskip("ray")
    process = start(many, tmp_path / "out", "--shard-size", 50)
    while len(list(tmp_path.glob("out/part-*"))) < 3:
        time.sleep(0.2)
    process.kill()
    process.wait()
    out, err = start(many, tmp_path / "out", "--shard-size", 50).communicate()
    assert " before; " in only_line(out) and besides_progress(err) == []
    assert as_results(rows(tmp_path / "out")) == expected_rows(model, many)


@pytest.mark.slow
def test_the_ray_job_runs_on_two_nodes(photos, model, tmp_path):
    """The manifest's cluster and entry point, with folders instead of buckets and two of its worker nodes."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    spec = yaml.safe_load((ROOT / "examples/ray_job.yaml").read_text())["spec"]
    cluster_spec, group = spec["rayClusterSpec"], spec["rayClusterSpec"]["workerGroupSpecs"][0]
    head = int(cluster_spec["headGroupSpec"]["rayStartParams"]["num-cpus"])
    cores = int(group["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    python, *arguments = shlex.split(spec["entrypoint"])
    places = {"s3://BUCKET/photos": str(photos), "s3://BUCKET/predictions": str(tmp_path / "out")}
    arguments = [places.pop(argument, argument) for argument in arguments]
    assert python == "python" and not places
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": head, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=cores)
        command = [sys.executable, *arguments, "--shard-size", "2"]
        env = {**os.environ, "RAY_ADDRESS": cluster.address}
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    finally:
        cluster.shutdown()
    assert (done.returncode, besides_progress(done.stderr)) == (0, [])
    assert as_results(rows(tmp_path / "out")) == expected_rows(model, photos)


@pytest.mark.slow
@pytest.mark.parametrize("address", ["auto", "127.0.0.1:9"])
def test_without_a_cluster_it_is_one_line_within_a_minute(photos, tmp_path, address):
    pytest.importorskip("ray")
    env = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    process = start(photos, tmp_path / "out", "--address", address, env=env)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2 and f"error: {address}: " in only_line(err)

"""Shared by the tests: a tiny architecture, generated data, and ways to run the programs."""

import atexit
import fcntl
import io
import os
import pickle
import shutil
import struct
import subprocess
import sys
import tempfile
import weakref
import zlib
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as `prepare_tensorflow` does on x86
os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the public Hub for anything
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # compiles in half the time

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import modeling_eanet  # noqa: E402

# Two stages, both kinds of block part, few parameters. run_program makes the preset known to the programs.
TINY = dict(embed_dims=(16, 24), depths=(1, 1), num_heads=(2, 2), slots=(4, 4), head_dims=(8, 12), drop_path=0.2)
modeling_eanet.PRESETS["tiny"] = TINY
LABELS = ("red", "green", "blue")
# TensorFlow and Keras import these where they are installed, which takes a third of the time of a short process.
LEAN = (
    "import os, sys; lean = os.environ.get('KERAS_BACKEND') != 'jax'; "
    "sys.modules.update(dict.fromkeys(('jax', 'matplotlib', 'pandas', 'IPython') if lean else ()))"
)
COLOURS = {"red": (200, 50, 50), "green": (50, 200, 50), "blue": (50, 50, 200)}


def copy_repository(folder, *ignored):
    """Copy this repository without what git ignores, and without `ignored` names; return the copy."""
    generated = (".git", ".venv", "runs", ".clients", "__pycache__", ".*_cache", "node_modules", "dist")
    return shutil.copytree(ROOT, folder, ignore=shutil.ignore_patterns(*generated, *ignored))


def tiny_config(**changes):
    """Return the config of the preset "tiny": 32x32 images, the classes red, green and blue."""
    return modeling_eanet.EANetConfig.preset("tiny", **{"id2label": LABELS, **changes})


def colour_images(count, seed=0):
    """Return noisy images, mostly red, green or blue: uint8 (count, 32, 32, 3) and the class of each, (count,)."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 3, count)
    x = rng.integers(0, 100, (count, 32, 32, 3))
    x[np.arange(count), :, :, y] += 150
    return x.astype(np.uint8), y


def noise(height=32, width=32, seed=0):
    """Return a random uint8 image (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def random_images(count=4, seed=0, size=32):
    """Return random uint8 images (count, size, size, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3)).astype(np.uint8)


def sample_crops(count, config):
    """Return images for the model of the repository, none from CIFAR-100: the samples, and crops of them."""
    from eanet.images import load_image

    rng, paths = np.random.default_rng(0), sorted((ROOT / "samples").glob("*.png"))
    out = [load_image(path, config) for path in paths[:count]]
    while len(out) < count:
        image = Image.open(paths[len(out) % len(paths)]).convert("RGB")
        side = int(rng.integers(64, min(image.size)))
        left, top = (int(rng.integers(0, length - side + 1)) for length in image.size)
        out.append(load_image(image.crop((left, top, left + side, top + side)), config))
    return np.stack(out)


def random_weights(model, seed=0, scale=0.3):
    """Give every weight of `model` a random value, biases and norms included."""
    rng = np.random.default_rng(seed)
    for weight in model.weights:
        positive = weight.path.endswith("moving_variance")
        weight.assign(rng.uniform(0.5, 2, weight.shape) if positive else rng.normal(0, scale, weight.shape))
    return model


def paint(path, colour="red", size=(32, 32), **options):
    """Save an image of one colour at `path`, and return the path as text."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, COLOURS[colour]).save(path, **options)
    return str(path)


def encoded(image, fmt, **options):
    """Return the PIL image (or array) as an open file of the format."""
    file = io.BytesIO()
    (Image.fromarray(image) if isinstance(image, np.ndarray) else image).save(file, fmt, **options)
    file.seek(0)
    return file


def png(seed):
    """Return a random image as a PNG file's bytes."""
    return encoded(noise(seed=seed), "PNG").read()


def write_table(path, count=10, group=4, name="image", first=0):
    """Write a Parquet file with the images `first`, ..., as the datasets library does."""
    import pyarrow as pa
    from pyarrow import parquet

    cells = [{"bytes": png(first + i), "path": f"{i}.png"} for i in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.table({name: cells, "label": list(range(count))}), path, row_group_size=group)
    return path


def without_crc32(model):
    """Return an `onnx.ModelProto` that does not say what its graph was, as a stranger would forge it."""
    kept = [entry for entry in model.metadata_props if entry.key != "crc32"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    return model


def png_header(width, height):
    """Return the bytes of a PNG that claims this size and has few pixels."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


def write_official(folder, train=192, test=48, labels=LABELS):
    """Write colour images in the official python layout of CIFAR-100."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, count) in enumerate((("train", train), ("test", test))):
        x, y = colour_images(count, seed)
        record = {b"data": x.transpose(0, 3, 1, 2).reshape(count, 3072), b"fine_labels": y.tolist()}
        (folder / name).write_bytes(pickle.dumps(record, protocol=2))
    meta = {b"fine_label_names": [label.encode() for label in labels]}
    (folder / "meta").write_bytes(pickle.dumps(meta, protocol=2))
    return folder


def copy_files(names, source, target):
    """Copy the files and folders `names` of `source` to the new folder `target`, and return it."""
    target.mkdir()
    for name in names:
        copy = shutil.copytree if (source / name).is_dir() else shutil.copy
        copy(source / name, target / name)
    return target


def run_program(name, *args, env=None, timeout=300, stdin=None, **kwargs):
    """Run `python NAME.py ARGS` with the preset "tiny"; return the CompletedProcess, with text output."""
    code = (
        f"{LEAN}; sys.path.insert(0, {str(ROOT)!r}); sys.argv[0] = '{name}.py'; import modeling_eanet; "
        f"modeling_eanet.PRESETS['tiny'] = {TINY!r}; import {name}; from eanet.cli import run; sys.exit(run({name}.main))"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, args)],
        env={**os.environ, **(env or {})},
        timeout=timeout,
        capture_output=True,
        text=not isinstance(stdin, bytes),
        input=stdin,
        **kwargs,
    )


class MeanColour:
    """A stand-in for a model, without Keras: red, green or blue, by the mean colour."""

    config = tiny_config()

    def predict_on_batch(self, batch):
        """Return float32 probabilities (n, 3) of images (n, height, width, 3)."""
        score = np.exp((np.asarray(batch).mean((1, 2)) - 128) / 20)
        return (score / score.sum(-1, keepdims=True)).astype(np.float32)


def run_main(program, *args):
    """Return the exit status of `python PROGRAM.py ARGS`, run in this process; `program` is the imported module."""
    from eanet import cli

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [f"{program.__name__}.py"])
        try:
            return cli.run(program.main, [str(arg) for arg in args])
        except SystemExit as stop:  # from argparse
            return stop.code


def only_line(text):
    """Return `text` without its line end; it must be exactly one line."""
    assert text.endswith("\n") and text.count("\n") == 1, text
    return text[:-1]


def pytest_configure(config):
    """Make the folder of `shared`; the workers of pytest-xdist inherit its name."""
    if "EANET_SHARED" not in os.environ:
        os.environ["EANET_SHARED"] = folder = tempfile.mkdtemp(prefix="eanet-tests-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)


def shared(name, build):
    """Return a folder with what `build(folder)` writes: built once, for all worker processes. Must not be changed."""
    folder = Path(os.environ["EANET_SHARED"]) / name
    done = folder.with_name(f"{name}.done")
    with open(folder.with_name(f"{name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            build(folder)
            done.touch()
    return folder


# Files that take longest, by far: they are begun first, so that no core is idle at the end. Those of HUB share the process
# of a Session with TensorFlow and a Hub client, so one worker runs them all.
HUB = ("card_push", "hub_faults", "hub_push", "hub_staging", "hub_pull")
LONG = (*HUB, "train_resume", "trainer", "distillation", "promote", "readme", "run_dir", "shipped", "train_cli",
        "compatibility")  # fmt: skip


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Give the files of HUB to one worker, with `--dist loadfile`."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class Files(LoadFileScheduling):
        def _split_scope(self, nodeid):
            file = super()._split_scope(nodeid)
            return "hub" if Path(file).stem.removeprefix("test_") in HUB else file

    return Files(config, log)


def pytest_collection_modifyitems(items):
    """Put the long files first."""
    rank = {f"test_{name}": i for i, name in enumerate(LONG)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(LONG)))


@pytest.fixture
def fake_download(monkeypatch):
    """A function that makes every download from the Hub a local folder; it returns a list of (repo id, files asked for)."""
    import huggingface_hub

    def fake(folder):
        asked = []

        def snapshot_download(repo_id, allow_patterns, **options):
            asked.append((repo_id, sorted(allow_patterns)))
            return str(folder)

        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
        return asked

    return fake


@pytest.fixture(scope="session")
def official(tmp_path_factory):
    """A folder with CIFAR-100's layout and colour images."""
    return write_official(tmp_path_factory.mktemp("data") / "cifar-100-python")


@pytest.fixture(scope="session")
def tiny_model():
    """A freshly initialised tiny model, the same in all worker processes."""
    import keras

    keras.utils.set_random_seed(20)
    return modeling_eanet.build_eanet(tiny_config())


@pytest.fixture(scope="session")
def tiny_folder(tiny_model):
    """A folder with all that `save_pretrained_keras` writes."""
    from eanet.saving import save_pretrained_keras

    return shared("model", lambda folder: save_pretrained_keras(tiny_model, folder / "tiny", saved_model=True)) / "tiny"


@pytest.fixture(scope="session")
def colour_folder(tmp_path_factory):
    """A tiny model whose classifier is fitted to the colour images, so that a wrong answer shows."""
    import keras

    from eanet.saving import save_pretrained_keras

    model = modeling_eanet.build_eanet(tiny_config())
    x, y = colour_images(64)
    features = keras.Model(model.input, model.get_layer("pool").output).predict_on_batch(x)
    features = np.c_[np.asarray(features), np.ones(len(x))]
    wanted = 10 * np.eye(3)[y] - 5
    kernel = np.linalg.solve(features.T @ features + 1e-3 * np.eye(features.shape[1]), features.T @ wanted)
    model.get_layer("classifier").set_weights([kernel[:-1], kernel[-1]])
    folder = tmp_path_factory.mktemp("colours") / "model"
    save_pretrained_keras(model, folder, saved_model=False)
    return folder


@pytest.fixture(scope="session")
def colour_model(colour_folder):
    """The model in `colour_folder`."""
    return modeling_eanet.from_pretrained_keras(colour_folder)


@pytest.fixture
def mixed_bfloat16():
    """Build layers in mixed precision."""
    import keras

    keras.config.set_dtype_policy("mixed_bfloat16")
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture
def most_alive(monkeypatch):
    """A function that returns the largest number of results of `load_image` that existed at the same time."""
    from eanet import batch, images, predict

    alive, most, load = [], 0, images.load_image

    def spy(*args):
        nonlocal most, alive
        array = load(*args)
        alive = [ref for ref in alive if ref() is not None] + [weakref.ref(array)]
        most = max(most, len(alive))
        return array

    for module in (batch, images, predict):
        monkeypatch.setattr(module, "load_image", spy)
    return lambda: most


@pytest.fixture
def photos(tmp_path):
    """A folder with 12 images in two subfolders, of which two are broken; and a hidden one."""
    for i in range(10):
        path = tmp_path / f"photos/{'ab'[i % 2]}/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(noise(40, 30, i), "PNG").read())
    (tmp_path / "photos/a/broken.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "photos/b/empty.png").touch()
    (tmp_path / "photos/.hidden.png").write_bytes(b"")
    return tmp_path / "photos"

"""The kinds of hostile input. Each family makes inputs from a seed, runs a program on them, and counts what it answered.

A family is a function (rng, folder, materials) -> (tried, answered, outcomes): the number of inputs, how many of them were
accepted, and one `Outcome` per call. It raises `Violation` for what must not happen.
"""

import base64
import functools
import io
import json
import math
import os
import pickle
import shutil
import tarfile
import zipfile
import zlib

import h5py
import numpy as np
from conftest import paint, random_images, run_main, without_crc32
from PIL import Image

from fuzz.attempt import Violation, attempt
from fuzz.mutate import mutate_bytes, mutate_json, to_json

SUFFIXES = {"PNG": ".png", "JPEG": ".jpg", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif", "WEBP": ".webp", "PPM": ".ppm",
            "ICO": ".ico", "TGA": ".tga"}  # fmt: skip


class Materials:
    """Valid inputs, to be damaged.

    Args:
        model: folder of a tiny model with onnx/model.onnx.
        saved_model: folder with its SavedModel.
        home: an empty folder.
    """

    def __init__(self, model, saved_model, home):
        self.model, self.saved_model, self.home = model, saved_model, home
        self.image = paint(home / "good" / "red.png", "red")
        self.config = json.loads((model / "config.json").read_text())
        self.images = []
        for seed, (fmt, suffix) in enumerate(SUFFIXES.items()):
            for mode, size in (("RGB", 40), ("P", 17), ("L", 64)):
                file = io.BytesIO()
                image = Image.fromarray(random_images(1, seed, size)[0]).convert(mode)
                options = {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"} if fmt == "JPEG" else {}
                image.convert("RGB" if fmt in ("JPEG", "PPM") else mode).save(file, fmt, **options)
                self.images.append((suffix, file.getvalue()))

    @functools.cache  # noqa: B019 - there is one object
    def keras_model(self):
        """Return the model."""
        from modeling_eanet import from_pretrained_keras

        return from_pretrained_keras(self.model)

    def copy_model(self, folder):
        """Return a fresh copy of the model's three Keras files and its ONNX file in `folder`."""
        target = folder / "model"
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.model, target)
        return target


def _fresh(folder):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _check_scores(out, count=None):
    """Check that the answers are probabilities; return how many images were answered."""
    try:
        answers = json.loads(out) if out.strip() else []
    except ValueError:
        raise Violation(f"not JSON: {out[:300]!r}") from None
    for answer in answers:
        scores = [p["score"] for p in answer["predictions"]]
        if not all(math.isfinite(s) and 0 <= s <= 1 + 1e-6 for s in scores):
            raise Violation(f"scores {scores}")
    return len(answers)


def _classify(materials, folder, paths, *options, lines=1):
    import inference

    call = ["--format", "json", *options]
    return attempt(lambda: run_main(inference, *paths, *call), folder, lines=lines)


def images(rng, folder, materials, count=32):
    """Damaged image files, 32 to a call."""
    inputs = _fresh(folder / "images")
    for i in range(count):
        suffix, content = materials.images[rng.integers(len(materials.images))]
        (inputs / f"{i}{suffix}").write_bytes(mutate_bytes(rng, content))
    done = _classify(materials, folder, [inputs], "--model", materials.model, "--runtime", "onnx", lines=count + 1)
    answered = _check_scores(done.out)
    named = {line.split(":")[1].strip() for line in done.err.splitlines() if ": " in line}
    if answered + len([name for name in named if str(inputs) in name]) != count:
        raise Violation(f"{answered} answered, of {count}: {done.err[-300:]}")
    return count, answered, [done]


def configs(rng, folder, materials):
    """A model whose config.json is damaged."""
    model = materials.copy_model(folder)
    (model / "config.json").write_bytes(to_json(rng, materials.config))
    done = _classify(materials, folder, [materials.image], "--model", model)
    return 1, _check_scores(done.out), [done]


def weights(rng, folder, materials):
    """A model whose HDF5 file is damaged, or declares what it does not hold."""
    model = materials.copy_model(folder)
    path = model / "model.weights.h5"
    if rng.random() < 0.6:
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))
    else:
        _forge_weights(rng, path)
    done = _classify(materials, folder, [materials.image], "--model", model)
    return 1, _check_scores(done.out), [done]


def _forge_weights(rng, path):
    with h5py.File(path, "r+") as file:
        names = []
        file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        name = names[rng.integers(len(names))]
        shape = file[name].shape
        kind = rng.integers(8)
        if kind == 0:
            file[name][...] = np.nan
        elif kind == 1:
            file[name][...] = 1e38
        elif kind == 2:
            file.create_group("/".join("g" * 3000))
        elif kind == 3:
            file.create_dataset("huge", (30000, 30000), "f4", chunks=(100, 100))
        else:
            del file[name]
            if kind == 4:
                file.create_dataset(name, (30000, 30000), "f4", chunks=(100, 100))
            elif kind == 5:
                file[name] = h5py.ExternalLink("/etc/passwd", "/x")
            elif kind == 6:
                file[name] = h5py.SoftLink(name)
            else:
                file.create_dataset(name, shape, h5py.string_dtype())


def onnx_files(rng, folder, materials):
    """An ONNX file that is damaged, or another program's."""
    import onnx

    path = materials.copy_model(folder) / "onnx" / "model.onnx"
    if rng.random() < 0.5:
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))
    else:
        graph = onnx.load(path)
        _forge_onnx(rng, graph)
        path.write_bytes(without_crc32(graph).SerializeToString())
    done = _classify(materials, folder, [materials.image], "--model", path, "--runtime", "onnx")
    return 1, _check_scores(done.out), [done]


def _forge_onnx(rng, model):
    kind = rng.integers(5)
    if kind == 0 and model.metadata_props:
        entry = model.metadata_props[rng.integers(len(model.metadata_props))]
        try:
            entry.value = json.dumps(mutate_json(rng, {"value": json.loads(entry.value)})["value"])
        except (ValueError, KeyError):
            entry.value = "x"
    elif kind == 1:
        del model.metadata_props[:]
    elif kind == 2:
        model.graph.output[0].name = model.graph.node[rng.integers(len(model.graph.node))].output[0]
    elif kind == 3:
        node = model.graph.node[rng.integers(len(model.graph.node))]
        node.op_type = ("Identity", "Neg", "Exp", "Shape", "Nonsense")[rng.integers(5)]
    else:
        tensor = model.graph.initializer[rng.integers(len(model.graph.initializer))]
        tensor.raw_data = np.full(len(tensor.raw_data) // 4, (np.nan, 1e38, -1e38)[rng.integers(3)], "f4").tobytes()


def onnx_graphs(rng, folder, materials):
    """An ONNX file with control flow, or with operators that would take gigabytes or minutes."""
    import onnx
    from fuzz.onnx_graphs import hostile_graph

    path = materials.copy_model(folder) / "onnx" / "model.onnx"
    model = onnx.load(path)
    hostile_graph(rng, model)
    path.write_bytes(without_crc32(model).SerializeToString())
    done = _classify(materials, folder, [materials.image], "--model", path, "--runtime", "onnx")
    return 1, _check_scores(done.out), [done]


def _inspect(folder, path):
    import train

    done = attempt(lambda: run_main(train, "--data", path, "--inspect"), folder, lines=3)
    if done.status == 0:
        json.loads(done.out)
    return 1, int(done.status == 0), [done]


def archives(rng, folder, materials):
    """A zip or tarball of class folders that is damaged, leads out of its folder, or is much larger than it seems."""
    inputs = _fresh(folder / "archives")
    files = {f"data/train/{c}/{i}.png": materials.images[i][1] for c in ("cat", "dog") for i in range(3)}
    if rng.random() < 0.5:
        evil = ("../victim.png", "/tmp/victim.png", "a/../../victim.png", "C:\\victim.png", "data/" + "d/" * 500 + "x.png",
                "data/train/cat/\x1b[31m.png", "data/train/\udcff/x.png", "data/train/cat/x.png/y.png")  # fmt: skip
        files[evil[rng.integers(len(evil))]] = b"victim"
    path = inputs / ("data.zip", "data.tar", "data.tar.gz")[kind := int(rng.integers(3))]
    if kind == 0:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name.encode("utf-8", "replace").decode(), content)
            if rng.random() < 0.1:
                archive.writestr("data/train/cat/bomb.png", bytes(2**26))
    else:
        with tarfile.open(path, "w:gz" if kind == 2 else "w") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
            for type_ in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
                if rng.random() < 0.2:
                    info = tarfile.TarInfo("data/train/cat/link.png")
                    info.type, info.linkname = type_, "../../../../victim"
                    archive.addfile(info)
    if rng.random() < 0.7:
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))
    return _inspect(folder, path)


class Payload:
    """Runs a command when it is unpickled by `pickle.load`."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def pickles(rng, folder, materials):
    """CIFAR in its python version, damaged, or with a program in its pickle."""
    inputs = _fresh(folder / "pickles")
    x = random_images(20, int(rng.integers(1000)))
    record = {b"data": x.transpose(0, 3, 1, 2).reshape(20, 3072), b"fine_labels": [i % 2 for i in range(20)]}
    victim = str(folder.parent / "victim")
    nested = [0]
    for _ in range(30):
        nested = [nested, nested]
    hostile = (
        Payload(os.system, f"touch {victim}"), Payload(open, victim, "w"), Payload(eval, f"open({victim!r}, 'w')"),
        nested, [nested] * 20, "x" * 20, b"\xff" * 20, {1: 2}, 10**400, [10**400] * 20, [-1] * 20, [1.5] * 20, [None] * 20,
        np.zeros((20, 0)), np.full((20, 3072), np.nan), np.zeros((5000, 3072), np.uint8), np.array(["a"] * 20, object),
    )  # fmt: skip
    if rng.random() < 0.5:
        record[(b"data", b"fine_labels")[rng.integers(2)]] = hostile[rng.integers(len(hostile))]
    content = pickle.dumps(record, protocol=int(rng.integers(2, 6)))
    for name in ("train", "test"):
        (inputs / name).write_bytes(mutate_bytes(rng, content) if rng.random() < 0.7 else content)
    forged = (b"\x80\x04B\xff\xff\xff\x7f.", b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.", b"\x80\x02]r\xff\xff\xff\x7f.")
    if rng.random() < 0.05:
        (inputs / "train").write_bytes(forged[rng.integers(3)])
    (inputs / "meta").write_bytes(pickle.dumps({b"fine_label_names": [b"a", b"b"]}, protocol=2))
    return _inspect(folder, inputs)


@functools.cache
def _matlab_bombs():
    from test_data_versions import cells, element, matrix

    whole = matrix(9, (2**31 - 1, 2**31 - 1), element(2, b"a"))
    return [element(15, zlib.compress(part)) for part in (bytes(2**26), cells(2000), whole)] + [
        element(15, bytes(100)),
        whole,
    ]


def matlab(rng, folder, materials):
    """CIFAR in its MATLAB version, damaged or forged."""
    from test_data_versions import element, matrix

    inputs, x = _fresh(folder / "matlab"), random_images(20, int(rng.integers(1000)))
    data = matrix(9, (20, 3072), element(2, x.transpose(0, 3, 1, 2).reshape(20, 3072).tobytes("F")))
    labels = matrix(9, (20, 1), element(2, bytes(i % 2 for i in range(20))), b"fine_labels")
    names = matrix(1, (2, 1), b"".join(matrix(4, (1, 1), element(16, c), b"") for c in (b"a", b"b")), b"fine_label_names")
    for name, parts in (("train", [data, labels]), ("test", [data, labels]), ("meta", [names])):
        if rng.random() < 0.3:
            parts.insert(int(rng.integers(len(parts) + 1)), _matlab_bombs()[rng.integers(5)])
        if rng.random() < 0.5:
            parts = [element(15, zlib.compress(part)) for part in parts]
        content = b"MATLAB 5.0".ljust(124) + b"\0\1IM" + b"".join(parts)
        (inputs / f"{name}.mat").write_bytes(mutate_bytes(rng, content) if rng.random() < 0.5 else content)
    return _inspect(folder, inputs)


def payloads(rng, folder, materials):
    """Requests to the endpoint."""
    if not hasattr(materials, "handler"):
        from handler import EndpointHandler

        materials.handler = EndpointHandler(str(materials.model))
    suffix, content = materials.images[rng.integers(len(materials.images))]
    damaged = mutate_bytes(rng, content) if rng.random() < 0.7 else content
    text = base64.b64encode(damaged).decode()
    request = {"inputs": text, "parameters": {"top_k": 2, "batch_size": 4}}
    match rng.integers(5):
        case 0:
            request = mutate_json(rng, request)
        case 1:
            request["inputs"] = [text] * int(rng.integers(1, 6))
        case 2:
            request["inputs"] = mutate_bytes(rng, text.encode()).decode("latin1")
        case 3:
            request["inputs"] = damaged
    return _answer(materials.handler, request, folder)


def _answer(handler, request, folder):
    import sys

    from modeling_eanet import UserError

    answers = []

    def call():
        try:
            answers.append(handler(request))
            return 0
        except UserError as error:
            print(error, file=sys.stderr)
            return 2

    done = attempt(call, folder)
    for row in answers:
        for label in row if row and isinstance(row[0], dict) else [item for items in row for item in items]:
            if not 0 <= label["score"] <= 1 + 1e-6:
                raise Violation(f"score {label}")
    return 1, len(answers), [done]


def cards(rng, folder, materials):
    """A card on the Hub that somebody edited, and text from data that enters a new card."""
    from fuzz.cards import new_card, updated_card

    return (new_card if rng.random() < 0.5 else updated_card)(rng, folder, materials)


def records(rng, folder, materials):
    """A folder to pull into, with a record of an earlier pull that we did not write, and with links."""
    from fuzz.pulls import pull_into

    return pull_into(rng, folder, materials)


def saved_models(rng, folder, materials):
    """A SavedModel that is to be pushed, damaged or with a program in its graph."""
    from fuzz.saved_models import check

    return check(rng, folder, materials)


FAMILIES = {
    family.__name__: family
    for family in (
        images, configs, weights, onnx_files, onnx_graphs, saved_models, archives, pickles, matlab, payloads, cards, records
    )
}  # fmt: skip

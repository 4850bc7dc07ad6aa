"""The page of the demo, in Node.js and in headless Chromium; after `npm ci --prefix demo`."""

import base64
import functools
import http.server
import json
import os
import shutil
import subprocess
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, tiny_config
from PIL import Image

from eanet.images import load_image
from modeling_eanet import attention_layer_name, from_pretrained_keras

DEMO, SAMPLES = ROOT / "demo", sorted((ROOT / "samples").glob("*.png"))
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FILTERS = ("nearest", "bilinear", "bicubic", "lanczos", "box")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")


# Resizing -------------------------------------------------------------------------------------------------------------

RESIZE = """
import { readFileSync, writeFileSync } from "node:fs";
import { toSquare } from "DEMO/resize.js";
const jobs = JSON.parse(readFileSync("jobs.json"));
for (const { file, width, height, config } of jobs) {
  const pixels = readFileSync(file);
  const read = (x, y, w, h) => {
    const out = new Uint8ClampedArray(w * h * 4);
    for (let row = 0; row < h; row++) {
      const start = ((y + row) * width + x) * 4;
      out.set(pixels.subarray(start, start + w * 4), row * w * 4);
    }
    return out;
  };
  writeFileSync(`${file}.out`, toSquare({ width, height, read }, config));
}
"""


@needs_node
def test_the_page_resizes_as_pillow_does(tmp_path):
    """300 images of all sizes and shapes, every filter and way of making a square: the same bytes."""
    rng, jobs, images = np.random.default_rng(0), [], []
    for i in range(300):
        height, width = (int(size) for size in np.exp(rng.uniform(0, np.log(700), 2)).round())
        if i < 6:
            height, width = [(2500, 1300), (1, 2000), (1999, 3), (32, 32), (32, 500), (500, 32)][i]
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8) if i % 2 else _smooth(rng, height, width)
        settings = dict(image_size=(32, 24, 64)[i % 3], interpolation=FILTERS[2] if i % 2 else FILTERS[i // 2 % 5],
                        resize=("squash", "crop", "pad")[i // 3 % 3])  # fmt: skip
        rgba = np.concatenate([image, np.full((height, width, 1), 255, np.uint8)], axis=2)
        (tmp_path / f"{i}").write_bytes(rgba.tobytes())
        jobs.append({"file": f"{i}", "width": width, "height": height, "config": settings})
        images.append((image, settings))
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    (tmp_path / "resize.mjs").write_text(RESIZE.replace("DEMO", str(DEMO)))
    subprocess.run(["node", "resize.mjs"], cwd=tmp_path, check=True, timeout=120)
    different = 0
    for i, (image, settings) in enumerate(images):
        expected = load_image(Image.fromarray(image), tiny_config(**settings)).astype(int)
        found = np.frombuffer((tmp_path / f"{i}.out").read_bytes(), np.uint8).reshape(expected.shape)
        assert np.abs(found - expected).max() <= 1, (image.shape, settings)
        different += (found != expected).sum()
    assert different == 0


def _smooth(rng, height, width):
    small = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))


@needs_node
@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_build_does_not_replace_other_files(kind, tmp_path):
    demo, output = tmp_path / "demo", tmp_path / "notes"
    shutil.copytree(DEMO, demo, ignore=shutil.ignore_patterns("node_modules", "dist"))
    runtime = demo / "node_modules/onnxruntime-web/dist"
    runtime.mkdir(parents=True)
    for name in ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm"):
        (runtime / name).touch()
    (tmp_path / "model.onnx").touch()
    command = ["node", demo / "build.mjs", "--model", tmp_path / "model.onnx", "--output", output]
    mine = output if kind == "file" else output / "thesis.md"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and done.stderr.endswith("notes: is not an earlier page; give a new folder\n")
    assert mine.read_text() == "mine" and len(list(tmp_path.iterdir())) == 3
    mine.unlink()
    (tmp_path / "notes.building").mkdir()
    for _ in range(2):
        assert subprocess.run(command, capture_output=True, timeout=60).returncode == 0
        assert (output / "site.json").is_file() and len(list(tmp_path.iterdir())) == 4


# The page -------------------------------------------------------------------------------------------------------------


class _Handler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def build(tmp_path_factory):
    """A function that builds the page with an ONNX file, and serves it; returns its address."""
    if shutil.which("node") is None or not (DEMO / "node_modules" / "axe-core").is_dir():
        pytest.skip("`npm ci --prefix demo` did not run")
    servers = []

    def make(model, samples=ROOT / "samples"):
        folder = tmp_path_factory.mktemp("demo")
        options = {"model": model, "samples": samples, "output": folder / "dist"}
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        subprocess.run(["node", str(DEMO / "build.mjs"), *words], check=True, timeout=60)
        handler = functools.partial(_Handler, directory=folder / "dist")
        servers.append(http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}/"

    yield make
    for server in servers:
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def model():
    return from_pretrained_keras(ROOT)


@pytest.fixture(scope="module")
def address(build):
    return build(ROOT / "onnx" / "model.onnx")


@pytest.fixture(scope="module")
def page(browser, address):
    page = open_page(browser, address)
    yield page
    assert [url for url in page.asked if not url.startswith((address, "blob:", "data:"))] == []
    page.close()


def open_page(browser, address, **options):
    page = browser.new_page(bypass_csp=True, **options)  # the page's policy forbids `eval`, which Playwright needs
    page.asked = []
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(address)
    page.wait_for_selector("main[data-state=ready]", timeout=30_000)
    return page


def answers(page):
    found = page.evaluate("Array.from(document.querySelectorAll('#answers li'), (item) => ({ ...item.dataset }))")
    return {answer["label"]: float(answer["score"]) for answer in found}


def drop(page, path):
    """Drop a file on the page, and wait until it is dealt with."""
    content = base64.b64encode(Path(path).read_bytes()).decode()
    page.evaluate(
        """([content, name]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([Uint8Array.from(atob(content), (c) => c.charCodeAt(0))], name));
          document.querySelector('#drop').dispatchEvent(new DragEvent('drop', { dataTransfer: transfer, bubbles: true }));
        }""",
        [content, Path(path).name],
    )
    page.wait_for_selector("main[data-state=ready]", timeout=10_000)


def test_the_samples_get_the_answers_of_python(page, model):
    images = np.stack([load_image(path, model.config) for path in SAMPLES])
    expected = model.predict_on_batch(images)
    for path, row in zip(SAMPLES, expected, strict=True):
        drop(page, path)
        found = answers(page)
        assert next(iter(found)) == model.config.id2label[int(row.argmax())]
        for label, score in found.items():
            assert score == pytest.approx(float(row[model.config.label2id[label]]), abs=1e-3)
        assert len(found) == 5


def test_images_of_any_kind_get_the_answers_of_python(page, model, tmp_path):
    rocket = Image.open(ROOT / "samples" / "rocket.png").convert("RGB").resize((300, 200))
    exif = Image.Exif()
    exif[0x0112] = 6  # on its side
    clear = rocket.copy()
    clear.putalpha(Image.linear_gradient("L").resize(rocket.size))
    kinds = {"on_its_side.jpg": (rocket, dict(exif=exif, quality=95, subsampling=0)), "clear.png": (clear, {})}
    kinds |= {
        "grey.png": (rocket.convert("L"), {}),
        "palette.png": (rocket.convert("P"), {}),
        "a.webp": (rocket, dict(lossless=True)),
    }
    kinds |= {"deep.png": (Image.fromarray(np.asarray(rocket.convert("L"), np.uint16) * 257), {})}
    for name, (image, options) in kinds.items():
        image.save(tmp_path / name, **options)
        drop(page, tmp_path / name)
        row = model.predict_on_batch(load_image(tmp_path / name, model.config)[None])[0]
        found = answers(page)
        assert len(found) == 5, name
        for label, score in found.items():
            assert score == pytest.approx(float(row[model.config.label2id[label]]), abs=5e-3), name


def test_an_image_can_be_chosen_photographed_and_pasted(page):
    for i, field in enumerate(("#file", "#camera")):
        page.set_input_files(field, SAMPLES[i])
        page.wait_for_function(
            f"document.querySelector('#image').ariaLabel === 'The image {SAMPLES[i].stem.replace('_', ' ')}'"
        )
    paste = "(data) => document.dispatchEvent(new ClipboardEvent('paste', { clipboardData: data }))"
    file = "new File([await (await fetch('samples/clock.png')).blob()], 'pasted.png')"
    page.evaluate(f"async () => {{ const data = new DataTransfer(); data.items.add({file}); ({paste})(data); }}")
    page.wait_for_function("document.querySelector('#image').ariaLabel === 'The image pasted'")
    assert next(iter(answers(page))) == "clock"
    page.evaluate(f"() => {{ const data = new DataTransfer(); data.setData('text/plain', 'a'); ({paste})(data); }}")
    assert "not an image file" in page.text_content("#status")


def test_slot_maps_are_the_attention(page, model):
    import keras

    blocks = range(sum(model.config.depths))
    layers = [model.get_layer(attention_layer_name(i)).output for i in blocks]
    expected = keras.Model(model.input, layers)(load_image(SAMPLES[0], model.config)[None])
    drop(page, SAMPLES[0])
    found = page.evaluate(
        """async () => {
          const { loadClassifier } = await import('./classifier.js');
          const { decode } = await import('./decode.js');
          const { slotMap } = await import('./maps.js');
          const blob = await (await fetch('samples/apple.png')).blob();
          const { attention } = await (await loadClassifier('model.onnx')).classify(await decode(blob));
          return attention.map(block => Array.from({ length: block.heads }, (_, head) =>
            Array.from({ length: block.slots }, (_, slot) => Array.from(slotMap(block, head, slot)))));
        }"""
    )
    for block, attention in zip(found, expected, strict=True):
        np.testing.assert_allclose(np.array(block), np.asarray(attention)[0].transpose(1, 2, 0), atol=1e-3)


def test_a_map_of_many_tokens_is_drawn(page):
    """JavaScript passes no more than 65,536 arguments in every browser."""
    side, corner = (
        512,
        """async (side) => {
      const { drawMap } = await import("./maps.js");
      const canvas = Object.assign(document.createElement("canvas"), { width: side, height: side });
      drawMap(canvas, Float32Array.from({ length: side * side }, (_, i) => -i), side, [255, 0, 0]);
      const alpha = (x) => canvas.getContext("2d").getImageData(x, x, 1, 1).data[3];
      return [alpha(0), alpha(side - 1)];
    }""",
    )
    assert page.evaluate(corner, side) == [230, 0]


def test_tokens_are_read_with_the_keyboard(page):
    drop(page, SAMPLES[0])
    page.focus("#overlay")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert page.text_content("#token").startswith("The token in row 2, column 2 reads most from slots ")
    assert page.locator("#slots [data-read]").count() == 1
    page.select_option("#block", index=5)
    page.focus("#slots input:checked")
    page.keyboard.press("ArrowRight")
    assert page.input_value("#slots input:checked") == "1" and "reads much of slot 2" in page.text_content("#token")


def test_the_first_answer_comes_soon(browser, address):
    page, errors, begin = browser.new_page(), [], time.perf_counter()
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.goto(address)
    page.wait_for_selector("#answers li", timeout=30_000)  # of the first sample
    seconds = time.perf_counter() - begin
    page.close()
    assert errors == []  # the content security policy allows what the page does
    assert seconds < 3 * (1 + os.getloadavg()[0])


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("a.png", b"", "empty"),
        ("a.txt", b"hello", "could not be read as an image"),
        ("a.png", SAMPLES[0].read_bytes()[:2000], "could not be read as an image"),
        ("a.heic", b"\0\0\0\x18ftypheic" + bytes(100), "HEIC"),
        ("a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\xff\xff\0\0\xff\xff\x08\x02\0\0\0" + bytes(9), "4295 megapixels"),
    ],
    ids=["empty", "text", "cut", "HEIC", "huge"],
)
def test_what_cannot_be_read_gets_a_reason(name, content, text, page, tmp_path):
    (tmp_path / name).write_bytes(content)
    drop(page, tmp_path / name)
    assert text in page.text_content("#status") and not answers(page)
    drop(page, SAMPLES[0])
    assert len(answers(page)) == 5


def test_without_webassembly_the_page_says_so(browser, address):
    page = browser.new_page(bypass_csp=True)
    page.add_init_script("delete globalThis.WebAssembly")
    page.goto(address)
    page.wait_for_function("document.querySelector('#status').textContent.includes('no WebAssembly')", timeout=10_000)
    page.close()


WINDOWS = {1200: {}, 390: dict(is_mobile=True, has_touch=True)}


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1200, "light"),
        (390, "dark"),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in ((1200, "dark"), (390, "light"))),
    ],
)
def test_axe_finds_nothing_serious(width, scheme, browser, address):
    page = open_page(browser, address, color_scheme=scheme, viewport={"width": width, "height": 900}, **WINDOWS[width])
    assert len(answers(page)) == 5  # of the first sample
    assert page.is_visible("#photo") == (width == 390) and page.is_visible("#hint") == (width == 1200)
    if width == 390:
        page.tap("#overlay")  # what a finger chose stays when it leaves
        assert page.text_content("#token").startswith("The token in row ")
    page.evaluate((DEMO / "node_modules" / "axe-core" / "axe.min.js").read_text())
    found = page.evaluate("axe.run().then(result => result.violations)")
    assert [(v["id"], v["nodes"][0]["html"]) for v in found if v["impact"] in ("serious", "critical")] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.close()


def test_a_model_of_own_classes_shows_them(browser, build, tmp_path):
    from eanet.export import export_onnx
    from modeling_eanet import build_eanet

    labels = ("ant", "bee", "crow", "dove & owl", "<b>eel</b>")
    export_onnx(build_eanet(tiny_config(id2label=labels, image_size=48)), tmp_path / "m.onnx")
    page = open_page(browser, build(tmp_path / "m.onnx", samples=tmp_path))
    assert page.text_content("#status") == "Ready. Choose an image."
    assert "5 classes" in page.text_content("#about") and "48×48" in page.text_content("#about")
    assert page.is_hidden("#samples-part")
    drop(page, SAMPLES[0])
    assert set(answers(page)) == set(labels)
    page.close()


def test_a_padded_image_has_black_bars_and_what_is_transparent_is_white(browser, build, tmp_path):
    from eanet.export import export_onnx
    from modeling_eanet import build_eanet

    export_onnx(build_eanet(tiny_config(resize="pad")), tmp_path / "m.onnx")
    Image.new("RGBA", (60, 20), (0, 0, 0, 0)).save(tmp_path / "clear.png")
    page = open_page(browser, build(tmp_path / "m.onnx", samples=tmp_path / "none"))
    drop(page, tmp_path / "clear.png")
    shown = """(y) => {
      const canvas = document.querySelector("#image");
      return [...canvas.getContext("2d").getImageData(canvas.width / 2, canvas.height * y, 1, 1).data];
    }"""
    assert [page.evaluate(shown, y) for y in (0.1, 0.5)] == [[0, 0, 0, 255], [255, 255, 255, 255]]
    page.close()

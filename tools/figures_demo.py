"""The screenshot of the demo, with its page built from demo/ and the shipped ONNX file."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import shutil
import subprocess
import threading
from pathlib import Path

from PIL import Image, ImageDraw

from eanet.cli import UserError, require, temporary_folder
from eanet.figures import PIXELS, Drawing

WIDTH, RADIUS = 1200, 24  # of the window, and of the corners
SAMPLE, TOKEN = "rocket", (0.49, 0.42)  # what is clicked, and where the pointer is over the map, in shares of its side


def demo(shipped) -> Drawing:
    """Draw the page with a sample and the memory slots that one token reads.

    Args:
        shipped: a `figures_common.Shipped`.

    Raises:
        UserError: Chromium, playwright or Node.js is missing, or the page cannot be built.
    """
    with temporary_folder(prefix="eanet-demo-") as folder:
        build(shipped.root, folder / "dist")
        with serve(folder / "dist") as address, browser() as chromium:
            page = chromium.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light", bypass_csp=True)
            open_sample(page, address, SAMPLE)
            label, score = page.locator("#answers li:first-child span").all_text_contents()
            slots = page.locator("#slots .slot").count()
            side = page.locator("#overlay").bounding_box()["width"]
            page.hover("#overlay", position={"x": TOKEN[0] * side, "y": TOKEN[1] * side})
            image = Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGBA")
    return Drawing(
        rounded(image),
        f"The demo with the sample image {SAMPLE}: the most likely classes, and where each of the {slots} memory slots of "
        "one head is read.",
        f"The page in a browser. Image: {SAMPLE}; answer: {label} {score}. Below, the map of one memory slot over the "
        f"image, and small maps of all {slots} slots.",
        photographs=True,
    )


def build(root: Path, output: Path) -> None:
    """Build the page into the folder `output`."""
    if shutil.which("node") is None:
        raise UserError("Node.js is not installed, which builds the page of the demo")
    command = ["node", str(root / "demo" / "build.mjs"), "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise UserError(f"demo: {(done.stderr.strip().splitlines() or ['not built'])[-1]}")


@contextlib.contextmanager
def serve(folder: Path):
    """Serve a folder on loopback and yield its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@contextlib.contextmanager
def browser():
    """Start the system's Chromium and yield it."""
    api = require("playwright.sync_api", "`pip install playwright`")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise UserError("Chromium is not installed; `apt-get install chromium`")
    with api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield started
        started.close()


def open_sample(page, address: str, name: str) -> None:
    """Open the page, choose a sample and wait for its answer."""
    page.goto(address)
    page.click(f"#samples button[title='{name}']")
    page.wait_for_function(f"document.querySelector('#image').ariaLabel === 'The image {name}'")
    page.wait_for_timeout(300)  # the bars grow


def rounded(image):
    """Return a screenshot with transparent corners and a border."""
    mask = Image.new("L", image.size, 0)
    box = (0, 0, image.width - 1, image.height - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, RADIUS, fill=255)
    ImageDraw.Draw(image).rounded_rectangle(box, RADIUS, outline="#8b93a0", width=PIXELS)
    image.putalpha(mask)
    return image

"""What the figures share: colours, sizes, fonts, and the shipped model that they show."""

from __future__ import annotations

import dataclasses
import functools
import io
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont
from PIL import Image, ImageFont

from eanet.cli import UserError, read_json

# Figures are transparent. These have a contrast of 4.3:1 on white and on #0b0f19, the most that is possible on both.
INK, BLUE, ORANGE = "#737a87", "#2f75e6", "#ce5310"
PIXELS = 2  # of the file per CSS pixel
WIDTH = 520  # CSS pixels
TEXT = 12  # CSS pixels on a screen that shows the figure 400 wide

matplotlib.rcParams.update(
    {
        "font.family": "DejaVu Sans",  # comes with matplotlib, so every machine draws the same
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "axes.titlecolor": INK,
        "axes.titlelocation": "left",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": INK,
        "grid.alpha": 0.25,
        "xtick.color": INK,
        "ytick.color": INK,
        "lines.linewidth": 2,
    }
)


@dataclasses.dataclass
class Drawing:
    """A finished figure.

    Attributes:
        image: RGBA PIL image with `PIXELS` pixels per CSS pixel.
        caption: one or two sentences to print under it.
        alt: what it shows, for people who cannot see it.
        photographs: reduce it to 255 colours; nothing on it may be half transparent.
    """

    image: Image.Image
    caption: str
    alt: str
    photographs: bool = False


@dataclasses.dataclass
class Shipped:
    """The model, results and samples in `root`, each read when it is first needed."""

    root: Path

    @functools.cached_property
    def config(self):
        """The model's EANetConfig; needs no TensorFlow."""
        from eanet.loaded_model import load_config

        return load_config(self.root)

    @functools.cached_property
    def model(self):
        """The Keras model."""
        from eanet.cli import quiet_tensorflow

        quiet_tensorflow()
        from eanet import from_pretrained_keras

        return from_pretrained_keras(self.root)

    def results(self, name):
        """Read a JSON file that describes the model's weights.

        Args:
            name: path below `root`; the file names the weights by "checksum", on top or under "model".

        Raises:
            UserError: it describes other weights.
        """
        from eanet.saving import checksum_matches

        found = read_json(self.root / name)
        recorded = found.get("checksum") or found.get("model", {}).get("checksum")
        if not checksum_matches(self.model, recorded):
            raise UserError(f"{name} describes other weights (checksum {recorded}); measure the shipped ones again")
        return found

    def sample(self, name):
        """Path of a sample image."""
        return self.root / "samples" / f"{name}.png"

    def attention(self, names):
        """Compute the attention maps of sample images.

        Args:
            names: names of samples, without folder and suffix.

        Returns:
            uint8 images (n, size, size, 3) as the model gets them; per block, float32 (n, side, side, heads, slots).
        """
        import keras

        from eanet import load_image
        from modeling_eanet import attention_layer_name

        images = np.stack([load_image(self.sample(name), self.config) for name in names])
        layers = [self.model.get_layer(attention_layer_name(i)).output for i in range(sum(self.config.depths))]
        maps = [np.asarray(a) for a in keras.Model(self.model.input, layers)(images)]
        return images, [a.reshape(len(a), *2 * (round(a.shape[1] ** 0.5),), *a.shape[2:]) for a in maps]


def text_size(width=WIDTH):
    """Return the smallest text size, in CSS pixels, for a figure of `width` CSS pixels."""
    return TEXT * max(1, width / 400)


def new_figure(width=WIDTH, height=WIDTH):
    """Return an empty matplotlib figure of `width` x `height` CSS pixels and set the font size to match."""
    matplotlib.rcParams["font.size"] = text_size(width) * 0.72 + 0.1  # 100 CSS pixels are one inch here
    for name in ("axes.titlesize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize"):
        matplotlib.rcParams[name] = matplotlib.rcParams["font.size"]
    return Figure(figsize=(width / 100, height / 100), layout="constrained")


def rendered(figure):
    """Return a matplotlib figure as a transparent RGBA PIL image."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=100 * PIXELS, transparent=True)
    return Image.open(file).convert("RGBA")


def font(size, bold=False):
    """Return a PIL font of `size` CSS pixels."""
    family = "DejaVu Sans:bold" if bold else "DejaVu Sans"
    return ImageFont.truetype(findfont(family), round(size * PIXELS))


def canvas(width, height):
    """Return a transparent RGBA PIL image of `width` x `height` pixels, with `INK` under the transparency for clean text."""
    return Image.new("RGBA", (width, height), (*bytes.fromhex(INK[1:]), 0))


def png(drawing):
    """Encode a drawing as a PNG; photographs, which would be too large, get a palette."""
    image, options = drawing.image, {}
    if drawing.photographs:
        image = drawing.image.convert("RGB").quantize(255, Image.Quantize.MEDIANCUT, kmeans=1)
        image.putpalette((image.getpalette() + [0] * 768)[:768])
        image.paste(255, mask=drawing.image.getchannel("A").point(lambda alpha: 255 * (alpha < 128)))
        options["transparency"] = 255
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True, **options)
    return file.getvalue()

"""What the figures of the shipped model share: the model, its results and samples, and fonts."""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import numpy as np
from matplotlib.font_manager import findfont
from PIL import Image, ImageFont

from eanet.cli import UserError, read_json
from eanet.figures import INK, PIXELS


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
        from eanet.cli import prepare_tensorflow

        prepare_tensorflow()
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


def font(size, bold=False):
    """Return a PIL font of `size` CSS pixels."""
    family = "DejaVu Sans:bold" if bold else "DejaVu Sans"
    return ImageFont.truetype(findfont(family), round(size * PIXELS))


def canvas(width, height):
    """Return a transparent RGBA PIL image of `width` x `height` pixels, with `INK` under the transparency for clean text."""
    return Image.new("RGBA", (width, height), (*bytes.fromhex(INK[1:]), 0))

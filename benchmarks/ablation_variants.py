"""train.py with a change to the blocks that the model file does not offer, for benchmarks/ablation.py.

    python benchmarks/ablation_variants.py squeeze-excitation --data cifar-100-dev.tar.gz --output runs/variant

The first argument is one of `VARIANTS`, the others are train.py's. What it writes is no model to use: config.json does not
record the change.
"""

from __future__ import annotations

import contextlib
import os
import sys
from unittest import mock

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

import train
from eanet.cli import UserError, run


class Layers:
    """Keras' layers, with another depthwise convolution.

    Args:
        depthwise: a function with the arguments of `keras.layers.DepthwiseConv2D` that returns a function of a tensor.
    """

    def __init__(self, depthwise):
        self.DepthwiseConv2D = depthwise

    def __getattr__(self, name):
        import keras

        return getattr(keras.layers, name)


def squeeze_excitation(kernel_size, *, name, **options):
    """Scale the channels after the convolution by a function of their means (Hu et al. 2018, arXiv:1709.01507)."""
    from keras import layers

    def call(x):
        y = layers.DepthwiseConv2D(kernel_size, name=name, **options)(x)
        width = y.shape[-1]
        scale = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_squeeze")(y)
        scale = layers.Dense(max(4, width // 16), "relu", name=f"{name}_reduce")(scale)
        scale = layers.Dense(width, "sigmoid", name=f"{name}_excite")(scale)
        return layers.Multiply(name=f"{name}_scale")([y, scale])

    return call


def branches(kernel_size, *, name, **options):
    """Add a 1x1 convolution and the input, each with a batch norm: one convolution after training (arXiv:2101.03697)."""
    from keras import layers

    def call(x):
        parts = {
            f"{name}_full": layers.DepthwiseConv2D(kernel_size, name=f"{name}_full", **options)(x),
            f"{name}_point": layers.DepthwiseConv2D(1, name=f"{name}_point", **options)(x),
            f"{name}_input": x,
        }
        normed = [layers.BatchNormalization(momentum=0.9, name=f"{part}_norm")(y) for part, y in parts.items()]
        return layers.Add(name=name)(normed)

    return call


def linear(x, *, name, **_):
    """Take the place of `modeling_eanet.external_attention`: a linear map of every token, which sees no other token."""
    from keras import layers

    return layers.Dense(x.shape[-1], name=f"{name}_value")(x)


VARIANTS = {
    "squeeze-excitation": {"layers": Layers(squeeze_excitation)},
    "branches": {"layers": Layers(branches)},
    "no-attention": {"external_attention": linear},
}


@contextlib.contextmanager
def changed_blocks(variant: str | None):
    """Build models with a variant of the blocks within the context; skip the SavedModel, which cannot fold variants."""
    if variant is None:
        yield
        return
    import modeling_eanet
    from eanet import trainer

    no_saved_model, load_teacher = {"can_write_saved_model": lambda: False}, trainer.load_teacher
    shipped = {name: getattr(modeling_eanet, name) for name in VARIANTS[variant]}

    def load_shipped_teacher(*args):
        with mock.patch.multiple(modeling_eanet, **shipped):
            return load_teacher(*args)

    with (
        mock.patch.multiple(modeling_eanet, **VARIANTS[variant]),
        mock.patch.multiple("eanet.saving", **no_saved_model),
        mock.patch.multiple(trainer, load_teacher=load_shipped_teacher, **no_saved_model),
    ):
        yield


def main(argv=None) -> int:
    """Run train.py with the variant that the first argument names."""
    name, *options = (sys.argv[1:] if argv is None else argv) or [""]
    if name in ("-h", "--help"):
        print(f"{__doc__}\nVariants: {', '.join(VARIANTS)}. Options: `python train.py --help`.")
        return 0
    if name not in VARIANTS:
        raise UserError(f"{name!r}: the first argument must be one of {', '.join(VARIANTS)}")
    with changed_blocks(name):
        return train.main(options)


if __name__ == "__main__":
    sys.exit(run(main))

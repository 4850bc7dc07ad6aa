"""A faithful reimplementation of the Keras example "Image classification with EANet".

https://keras.io/examples/vision/eanet/: the other models are compared with it. Its augmentation is part of the model,
its attention has four linear layers with biases, two transposes and an epsilon, and Keras decides whether to use XLA.
"""

from __future__ import annotations

import keras
from keras import layers, ops

IMAGES, EPOCHS, BATCH = 40_000, 50, 128  # 50,000 images, of which a fifth is for validation
DIM, HEADS, COEFFICIENT, BLOCKS, MLP, DROPOUT = 64, 4, 4, 8, 64, 0.2


class Patches(layers.Layer):
    """2x2 patches."""

    def call(self, x):
        """Cut images (batch, 32, 32, 3) into patches."""
        x = ops.image.extract_patches(x, (2, 2), strides=(2, 2), dilation_rate=1, padding="valid")
        return ops.reshape(x, (-1, 256, 12))


class Embedding(layers.Layer):
    """A projection of the patches plus a learned position embedding."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.project = layers.Dense(DIM)
        self.position = layers.Embedding(256, DIM)

    def call(self, x):
        """Embed patches (batch, 256, 12) to tokens (batch, 256, DIM)."""
        return self.project(x) + self.position(ops.arange(256))


def attention(x):
    """External attention of tokens (batch, 256, DIM)."""
    heads, width = HEADS * COEFFICIENT, DIM // HEADS
    x = layers.Dense(DIM * COEFFICIENT)(x)
    x = ops.transpose(ops.reshape(x, (-1, 256, heads, width)), (0, 2, 1, 3))
    a = layers.Dense(DIM // COEFFICIENT)(x)
    a = layers.Softmax(axis=2)(a)
    a = a / (1e-9 + ops.sum(a, axis=-1, keepdims=True))
    a = layers.Dropout(DROPOUT)(a)
    x = layers.Dense(width)(a)
    x = ops.reshape(ops.transpose(x, (0, 2, 1, 3)), (-1, 256, DIM * COEFFICIENT))
    return layers.Dropout(DROPOUT)(layers.Dense(DIM)(x))


def block(x):
    """One transformer block on tokens (batch, 256, DIM)."""
    x = layers.Add()([x, attention(layers.LayerNormalization(epsilon=1e-5)(x))])
    y = layers.Dense(MLP, activation=ops.gelu)(layers.LayerNormalization(epsilon=1e-5)(x))
    y = layers.Dropout(DROPOUT)(y)
    y = layers.Dropout(DROPOUT)(layers.Dense(DIM)(y))
    return layers.Add()([x, y])


def build(images=None):
    """Build the example's model, compiled as there.

    Args:
        images: (n, 32, 32, 3) to adapt the normalisation to; None leaves it the identity.
    """
    normalise = layers.Normalization()
    if images is not None:
        normalise.adapt(images)
    augment = keras.Sequential(
        [
            normalise,
            layers.RandomFlip("horizontal"),
            layers.RandomRotation(factor=0.1),
            layers.RandomContrast(factor=0.1),
            layers.RandomZoom(height_factor=0.2, width_factor=0.2),
        ]
    )
    inputs = keras.Input((32, 32, 3))
    x = Embedding()(Patches()(augment(inputs)))
    for _ in range(BLOCKS):
        x = block(x)
    outputs = layers.Dense(100, activation="softmax")(layers.GlobalAveragePooling1D()(x))
    model = keras.Model(inputs, outputs)
    model.compile(
        loss=keras.losses.CategoricalCrossentropy(label_smoothing=0.1),
        optimizer=keras.optimizers.AdamW(learning_rate=1e-3, weight_decay=1e-4),
        metrics=[keras.metrics.CategoricalAccuracy(), keras.metrics.TopKCategoricalAccuracy(5)],
    )
    return model

"""Faster layers for training: the same function of the same weights in fewer passes over large tensors.

Only training uses them. What is saved is made of Keras' own layers (`eanet.saving.inference_copy`).
"""

from __future__ import annotations

import keras
from keras import layers, ops


def with_fused_layers(model):
    """Copy a model with the layers of this module where they are faster.

    - With `shared_memory` external attention has four linear maps, two before the memory's normalisation and two after it.
      Nothing nonlinear stands between the two of a pair, so the small kernels are multiplied first, and the tokens by the
      product.
    - On TensorFlow without XLA, batch norm, dropout and the attention's double normalisation get cheaper operations; XLA and
      JAX fuse Keras' own.
    - On JAX a depthwise convolution is a sum of shifted products, which XLA fuses; its own takes several times as long.

    Args:
        model: from `build_eanet`.

    Returns:
        A `keras.Model` with the same weights in the same order, so `get_weights` of one fits `set_weights` of the other.
    """
    swaps: dict = {}
    if keras.backend.backend() == "jax":
        swaps = {layers.DepthwiseConv2D: ShiftedDepthwiseConv2D}
    elif keras.backend.backend() == "tensorflow" and not model.jit_compile:
        swaps = {layers.BatchNormalization: FusedBatchNormalization, layers.Dropout: FastDropout}
        swaps[layers.Softmax] = DoubleNormalization

    def clone(layer):
        kind = type(layer)
        if getattr(layer, "noise_shape", None) is None:  # drop_path draws one number per image
            kind = swaps.get(kind, kind)
        return kind.from_config(layer.get_config())

    first = {}  # block name: its query or value layer, until the other layer of the pair is called

    def call(layer, x, *args, **kwargs):
        if layers.Softmax in swaps and layer.name.endswith(("_log_mass", "_log_attention")):
            return x[0] if isinstance(x, list) else x  # the logits: DoubleNormalization does what these two do
        name, _, part = layer.name.rpartition("_memory_") if "_memory_" in layer.name else layer.name.rpartition("_")
        if model.config.shared_memory and name.startswith("block_"):
            if part in ("query", "value"):
                first[name] = layer
            if part in ("query", "heads", "value", "merge"):
                return x
            if part in ("key", "projection"):
                shape = model.get_layer(f"{name}_heads").output.shape[2:]
                pair = FusedKeyProjection if part == "key" else FusedValueProjection
                return pair(first[name], layer, shape, name=f"{name}_fused_{part}")(x)
        return layer(x, *args, **kwargs)

    fused = keras.models.clone_model(model, clone_function=clone, call_function=call)
    fused.config, fused.jit_compile = model.config, model.jit_compile
    fused.set_weights(model.get_weights())
    return fused


class FusedKeyProjection(layers.Layer):
    """Query projection and memory keys as one matrix, W_q M_k: tokens (batch, N, d) to logits (batch, N, H S).

    Args:
        query: Dense(H c) without bias.
        key: Dense(S) without bias.
        shape: (H, c), number of heads and width of a head.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, query, key, shape, **kwargs):
        super().__init__(dtype=key.dtype_policy, **kwargs)
        self.query, self.key, self.shape = query, key, shape

    def build(self, input_shape):
        """Build the two layers, in the order of the unfused model's weights."""
        self.query.build(input_shape)
        self.key.build((None, *self.shape))

    def call(self, x):
        """Multiply the kernels, then the tokens."""
        kernel = ops.reshape(self.query.kernel, (-1, *self.shape))
        return ops.matmul(x, ops.reshape(ops.matmul(kernel, self.key.kernel), (x.shape[-1], -1)))


class FusedValueProjection(layers.Layer):
    """Memory values and output projection as one matrix, M_v W_o: attention (batch, N, H, S) to tokens (batch, N, d).

    The bias of the values passes through every head's projection, whatever the attention and its dropout are.

    Args:
        value: Dense(c), with a bias if `projection` has one.
        projection: Dense(d).
        shape: (H, c), number of heads and width of a head.
        **kwargs: of `keras.layers.Layer`.
    """

    def __init__(self, value, projection, shape, **kwargs):
        super().__init__(dtype=projection.dtype_policy, **kwargs)
        self.value, self.projection, self.shape = value, projection, shape

    def build(self, input_shape):
        """Build the two layers, in the order of the unfused model's weights."""
        self.value.build(input_shape)
        self.projection.build((*input_shape[:2], self.shape[0] * self.shape[1]))

    def call(self, x):
        """Multiply the kernels, then the attention."""
        out = ops.reshape(self.projection.kernel, (*self.shape, -1))
        kernel = ops.reshape(ops.einsum("sc,hcd->hsd", self.value.kernel, out), (-1, out.shape[-1]))
        y = ops.matmul(ops.reshape(x, (-1, x.shape[1], kernel.shape[0])), kernel)
        if not self.projection.use_bias:
            return y
        return y + (self.projection.bias + ops.matmul(self.value.bias, ops.sum(out, axis=0)))


class FusedBatchNormalization(layers.BatchNormalization):
    """Batch norm in one TensorFlow kernel; Keras takes about ten passes, in float32 at any precision."""

    def call(self, inputs, training=None, mask=None):
        """Normalise; at inference as Keras does."""
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        gamma = self.gamma if self.scale else tf.ones_like(self.moving_mean)
        beta = self.beta if self.center else tf.zeros_like(self.moving_mean)
        gamma, beta = (tf.cast(tf.convert_to_tensor(v), tf.float32) for v in (gamma, beta))
        # In bfloat16 the kernel is fast for multiples of 16 channels, and takes six times as long as in float32 for others.
        x = tf.cast(inputs, tf.float32) if inputs.shape[-1] % 16 else inputs
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=x, scale=gamma, offset=beta, mean=[], variance=[], epsilon=self.epsilon, is_training=True
        )
        outputs = tf.cast(outputs, inputs.dtype)
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
        variance *= 1 - 1 / count  # the kernel returns the unbiased estimate, Keras keeps the biased one
        for moving, batch in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + batch * (1.0 - self.momentum))
        return outputs


class DoubleNormalization(layers.Softmax):
    """Softmax over the tokens, divided by its sum over the slots: logits (batch, N, H, S) to attention, in float32.

    Takes fewer passes over the logits in a training step than Keras' operations. A token whose softmax underflows in all
    slots gets no attention.
    """

    def call(self, inputs, mask=None):
        """Normalise."""
        import tensorflow as tf

        @tf.custom_gradient
        def normalise(logits):
            mass = tf.exp(logits - tf.reduce_max(logits, axis=1, keepdims=True))
            mass *= 1 / tf.reduce_sum(mass, axis=1, keepdims=True)
            attention = tf.math.divide_no_nan(mass, tf.reduce_sum(mass, axis=-1, keepdims=True))

            def gradient(upstream):
                change = attention * upstream
                change -= attention * tf.reduce_sum(change, axis=-1, keepdims=True)
                return change - mass * tf.reduce_sum(change, axis=1, keepdims=True)

            return attention, gradient

        return normalise(inputs)


class FastDropout(layers.Dropout):
    """Dropout from 16 random bits per value, where Keras draws a 32-bit float; the rate is exact to 1 in 65,536."""

    def call(self, inputs, training=False):
        """Drop values in training."""
        if not training or self.rate == 0:
            return inputs
        import tensorflow as tf

        count, dropped = tf.size(inputs), min(round(self.rate * 2**16), 2**16 - 1)
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        bits = tf.random.stateless_uniform([(count + 1) // 2], seed, minval=None, maxval=None, dtype=tf.int32)
        bits = tf.reshape(tf.reshape(tf.bitcast(bits, tf.uint16), [-1])[:count], tf.shape(inputs))
        kept = tf.cast(bits >= tf.constant(dropped, tf.uint16), inputs.dtype)
        return inputs * (kept * (2**16 / (2**16 - dropped)))


class ShiftedDepthwiseConv2D(layers.DepthwiseConv2D):
    """Depthwise convolution of stride 1 as a sum over the kernel's positions, in float32."""

    def call(self, inputs):
        """Convolve (batch, height, width, channels)."""
        _, height, width, _ = inputs.shape
        size = self.kernel_size[0]
        padded = ops.pad(inputs, ((0, 0), (size // 2, size // 2), (size // 2, size // 2), (0, 0)))
        padded, kernel = ops.cast(padded, "float32"), ops.cast(self.kernel, "float32")
        y = ops.cast(self.bias, "float32") if self.use_bias else 0.0
        for row in range(size):
            for column in range(size):
                y += padded[:, row : row + height, column : column + width] * kernel[row, column, :, 0]
        return ops.cast(y, self.compute_dtype)

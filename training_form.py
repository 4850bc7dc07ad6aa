"""The form in which a model is trained: the same function of the same weights, in fewer passes over large tensors.

`training_form` is to training what `modeling_eanet.fold` is to prediction. It swaps layers of Keras for the ones here, with
the same weights in the same order. What is shipped is made of Keras' own layers (`modeling_eanet.inference_copy`).
"""

from __future__ import annotations

import keras
from keras import layers, ops


def training_form(model):
    """`model` with the layers of this file where they are faster.

    - The paper's form of external attention has four linear maps, two before the memory's normalisation and two after it.
      Nothing nonlinear stands between the two of a pair, so their kernels are multiplied first (small) and the tokens once.
    - On TensorFlow without XLA, which would fuse them, batch norms and dropout have cheaper operations.

    Args:
        model: of `build_eanet`.

    Returns:
        A `keras.Model` with the weights of `model`, of which `get_weights` and `set_weights` have the same order.
    """
    fuses = model.jit_compile or keras.backend.backend() != "tensorflow"
    swaps = {} if fuses else {layers.BatchNormalization: FusedBatchNormalization, layers.Dropout: MaskedDropout}

    def clone(layer):
        kind = type(layer)
        if getattr(layer, "noise_shape", None) is None:  # drop_path draws one number a picture
            kind = swaps.get(kind, kind)
        return kind.from_config(layer.get_config())

    first = {}

    def call(layer, x, *args, **kwargs):
        name, _, part = layer.name.rpartition("_memory_") if "_memory_" in layer.name else layer.name.rpartition("_")
        if model.config.shared_memory and name.startswith("block_"):
            if part in ("query", "value"):
                first[name] = layer
            if part in ("query", "heads", "value", "merge"):
                return x
            if part in ("key", "projection"):
                shape = model.get_layer(f"{name}_heads").output.shape[2:]
                pair = KeyPair if part == "key" else ValuePair
                return pair(first[name], layer, shape, name=f"{name}_{part}_pair")(x)
        return layer(x, *args, **kwargs)

    form = keras.models.clone_model(model, clone_function=clone, call_function=call)
    form.config, form.jit_compile = model.config, model.jit_compile
    form.set_weights(model.get_weights())
    return form


class KeyPair(layers.Layer):
    """Tokens (batch, N, d) to logits (batch, N, H S): the query projection and the memory's keys, W_q M_k, as one matrix.

    Args:
        query, key: the layers, Dense(H c) and Dense(S), without bias.
        shape: H and c, heads and the width of a head.
    """

    def __init__(self, query, key, shape, **kwargs):
        super().__init__(dtype=key.dtype_policy, **kwargs)
        self.query, self.key, self.shape = query, key, shape

    def build(self, input_shape):
        self.query.build(input_shape)
        self.key.build((None, *self.shape))

    def call(self, x):
        kernel = ops.reshape(self.query.kernel, (-1, *self.shape))
        return ops.matmul(x, ops.reshape(ops.matmul(kernel, self.key.kernel), (x.shape[-1], -1)))


class ValuePair(layers.Layer):
    """Attention (batch, N, H, S) to tokens (batch, N, d): the memory's values and the output projection, M_v W_o, as one.

    The bias of the values goes through the projection of every head, whatever the attention and its dropout are.

    Args:
        value, projection: the layers, Dense(c) and Dense(d), both with a bias.
        shape: H and c, heads and the width of a head.
    """

    def __init__(self, value, projection, shape, **kwargs):
        super().__init__(dtype=projection.dtype_policy, **kwargs)
        self.value, self.projection, self.shape = value, projection, shape

    def build(self, input_shape):
        self.value.build(input_shape)
        self.projection.build((*input_shape[:2], self.shape[0] * self.shape[1]))

    def call(self, x):
        out = ops.reshape(self.projection.kernel, (*self.shape, -1))
        kernel = ops.reshape(ops.einsum("sc,hcd->hsd", self.value.kernel, out), (-1, out.shape[-1]))
        bias = self.projection.bias + ops.matmul(self.value.bias, ops.sum(out, axis=0))
        return ops.matmul(ops.reshape(x, (-1, x.shape[1], kernel.shape[0])), kernel) + bias


class FusedBatchNormalization(layers.BatchNormalization):
    """Trains by TensorFlow's one kernel; Keras takes ten passes or so, in float32 whatever the precision."""

    def call(self, inputs, training=None, mask=None):
        if not (training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        import tensorflow as tf

        gamma, beta = (tf.cast(tf.convert_to_tensor(v), tf.float32) for v in (self.gamma, self.beta))
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs, scale=gamma, offset=beta, mean=[], variance=[], epsilon=self.epsilon, is_training=True
        )
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
        variance *= 1 - 1 / count  # the kernel's is that of a sample
        for moving, now in ((self.moving_mean, mean), (self.moving_variance, variance)):
            moving.assign(moving * self.momentum + now * (1.0 - self.momentum))
        return outputs


class MaskedDropout(layers.Dropout):
    """Draws 16 random bits a value, where Keras draws 32 and makes a float of them; the rate is exact to 1 in 65,536."""

    def call(self, inputs, training=False):
        if not training or self.rate == 0:
            return inputs
        import tensorflow as tf

        count, dropped = tf.size(inputs), min(round(self.rate * 2**16), 2**16 - 1)
        seed = tf.cast(self.seed_generator.next(), tf.int32)
        bits = tf.random.stateless_uniform([(count + 1) // 2], seed, minval=None, maxval=None, dtype=tf.int32)
        bits = tf.reshape(tf.reshape(tf.bitcast(bits, tf.uint16), [-1])[:count], tf.shape(inputs))
        kept = tf.cast(bits >= tf.constant(dropped, tf.uint16), inputs.dtype)
        return inputs * (kept * (2**16 / (2**16 - dropped)))

"""The ONNX graph: every architecture, and the layers that architectures are made of."""

import numpy as np
import pytest
from conftest import random_images, random_weights, tiny_config

from eanet.export import OnnxModel, export_onnx
from eanet.export.agreement import check_images
from eanet.export.onnx_graph import onnx_graph
from modeling_eanet import EANetConfig, UserError, attention_layer_name, build_eanet

ARCHITECTURES = {
    "folded": dict(),
    "layer norm, gelu": dict(norm="layer", activation="gelu"),
    "inner norms": dict(inner_norm=True, shared_memory=True, norm="layer"),
    "no norm, silu, dropout": dict(norm="none", activation="silu", attention_dropout=0.1, mlp_dropout=0.1),
    "three stages, patch size 1, odd heads": dict(
        embed_dims=(8, 12, 16), depths=(1, 1, 1), num_heads=(1, 2, 4), slots=(4, 1, 3), head_dims=(2, 3, 4), patch_size=1,
        redundant_bias=False, image_size=16,
    ),
    "patches": dict(tokenizer="patch", patch_size=4, position_embedding=True, norm="layer", activation="gelu_tanh"),
    "one token, one head, one slot": dict(
        image_size=4, patch_size=4, tokenizer="patch", embed_dims=(8,), depths=(1,), num_heads=(1,), slots=(1,),
        head_dims=(1,),
    ),
    "shared memory, not folded": dict(shared_memory=True, head_dims=(2, 3), slots=(9, 9), depthwise_kernel=5, image_size=8),
}  # fmt: skip


@pytest.mark.parametrize("changes", ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_every_architecture_has_an_onnx_form(changes, tmp_path):
    import keras

    model = random_weights(build_eanet(tiny_config(**changes)), scale=0.2)
    export_onnx(model, tmp_path / "m.onnx")  # compares the probabilities
    session = OnnxModel(tmp_path / "m.onnx").session
    blocks = range(sum(model.config.depths))
    images = check_images(model.config)
    layers = [model.get_layer(attention_layer_name(i)).output for i in blocks]
    expected = keras.Model(model.input, layers)(images)
    for i, attention in zip(blocks, expected if isinstance(expected, list) else [expected], strict=True):
        (found,) = session.run([f"attention_{i}"], {"image": images})
        np.testing.assert_allclose(found.transpose(0, 3, 1, 2), attention, atol=1e-5)


def test_squeeze_and_excitation_and_hard_activations_have_an_onnx_form():
    import keras
    import onnxruntime
    from keras import layers

    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, 2, padding="same", activation="hard_silu")(image)
    for squash in ("hard_sigmoid", "sigmoid"):
        gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
        gate = layers.Activation(squash)(layers.Dense(8)(layers.Dense(4, activation="relu")(gate)))
        x = layers.Multiply()([gate, x])
    x = layers.GlobalAveragePooling2D()(layers.BatchNormalization()(layers.Activation("hard_silu")(x)))
    model = random_weights(keras.Model(image, layers.Dense(3, activation="softmax")(x)))
    session = onnxruntime.InferenceSession(onnx_graph(model, {}).SerializeToString())
    images = random_images(3, size=8).astype(np.float32)
    (found,) = session.run(["probabilities"], {"image": images})
    np.testing.assert_allclose(found, model(images), atol=1e-5)


def test_an_unknown_layer_is_named():
    import keras

    image = keras.Input((8, 8, 3), name="image")
    with pytest.raises(UserError, match="layer odd .UpSampling2D.: the ONNX export does not know"):
        onnx_graph(keras.Model(image, keras.layers.UpSampling2D(name="odd")(image)), {})
    with pytest.raises(UserError, match="odd: the ONNX export does not know the activation elu"):
        onnx_graph(keras.Model(image, keras.layers.Activation("elu", name="odd")(image)), {})


def test_the_graph_is_small_and_any_batch_fits():
    from eanet.folding import fold

    model = onnx_graph(fold(build_eanet(EANetConfig.preset("small"))), {})
    kinds = {node.op_type for node in model.graph.node}
    assert len(model.graph.node) <= 150 and not kinds & {"Cast", "IsInf", "IsNaN", "Shape", "Gather", "Where"}
    assert model.opset_import[0].version >= 17
    for value in (*model.graph.input, *model.graph.output):
        first, *others = value.type.tensor_type.shape.dim
        assert first.dim_param == "batch" and all(dim.dim_value for dim in others)

"""Check a SavedModel and the Keras half of config.json against a model, without loading or running them.

Both describe programs. The graph of a SavedModel can write files, and TensorFlow runs some of it while it is loaded, so
it is read as data: every operation must be one of those that compute, and every variable must hold the model's weights.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from eanet.cli import UserError, first_line
from eanet.folding import deployment_form

MAX_BYTES = 2**26  # of the graph and of its metadata
# Operations that compute, of the SavedModels that TensorFlow and tf_keras write of an EANet. None sees files or Python.
COMPUTE = frozenset("""
    Add AddN AddV2 AvgPool BatchMatMul BatchMatMulV2 BatchMatMulV3 BiasAdd BroadcastTo Cast ConcatV2 Const Conv2D
    DepthwiseConv2dNative Div Einsum Elu Equal Erf Erfc Exp ExpandDims Expm1 Fill FusedBatchNormV3 Gather GatherV2
    Greater GreaterEqual Identity IdentityN Inv IsFinite IsInf IsNan LeakyRelu Less LessEqual Log Log1p LogSoftmax
    LogicalAnd LogicalNot LogicalOr MatMul Max Maximum Mean Min Minimum Mul Neg NoOp NotEqual OnesLike Pack Pad PadV2
    PartitionedCall Placeholder PlaceholderWithDefault Pow Prod Range Rank ReadVariableOp RealDiv Reciprocal Relu
    Reshape Rsqrt Select SelectV2 Selu Shape Sigmoid Slice Softmax Softplus Split SplitV Sqrt Square SquaredDifference
    Squeeze StatefulPartitionedCall StopGradient StridedSlice Sub Sum Tanh Tile Transpose Unpack VarHandleOp ZerosLike
""".split())  # fmt: skip
_RESTORE = frozenset("AssignVariableOp DisableCopyOnRead RestoreV2".split())
_SAVE = frozenset("DisableCopyOnRead MergeV2Checkpoints SaveV2 ShardedFilename StaticRegexFullMatch StringJoin".split())
# Keras builds these classes from keras_metadata.pb; a Lambda layer would bring code along.
_CLASSES = frozenset("EANet Functional InputLayer InputSpec TensorShape TypeSpec __tuple__".split())


def check_saved_model(folder: Path, model) -> bool:
    """Check a SavedModel without running any of it.

    Args:
        folder: where saved_model.pb, keras_metadata.pb and variables/ are.
        model: the Keras model that it was written from.

    Returns:
        Whether its variables and its signature are those of the model.

    Raises:
        UserError: it is damaged, or holds more than the graph of an EANet.
        ImportError: TensorFlow is not installed.
    """
    from tensorflow.core.protobuf import saved_model_pb2  # type: ignore[import-not-found]

    found = _parse(saved_model_pb2.SavedModel(), folder / "saved_model.pb")
    if len(found.meta_graphs) != 1:
        raise UserError(f"has {len(found.meta_graphs)} graphs instead of one")
    (graph,) = found.meta_graphs
    _check_operations(graph)
    _check_metadata(folder / "keras_metadata.pb")
    return _has_signature(graph, model.config) and _has_weights(folder / "variables" / "variables", model)


def same_keras_config(path: Path, model) -> bool:
    """Return whether a config.json describes the graph of `model` to Keras; nothing is built from it.

    Keys that only one of them has are settings of another version of Keras.
    """
    ours = json.loads(model.to_json())
    theirs = json.loads(path.read_text(encoding="utf-8"))
    return theirs.keys() >= {"module", "class_name", "config"} and _agree(
        {key: theirs[key] for key in ours if key in theirs}, ours
    )


def _agree(theirs, ours) -> bool:
    if isinstance(ours, dict) and isinstance(theirs, dict):
        extra = [value for key, value in theirs.items() if key not in ours]
        common = ours.keys() & theirs.keys() - {"shared_object_id"}
        return not any(isinstance(value, dict) for value in extra) and all(_agree(theirs[k], ours[k]) for k in common)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(_agree, theirs, ours))
    return bool(theirs == ours)


def _parse(message, path: Path):
    """Parse a protobuf file, up to a size."""
    if path.stat().st_size > MAX_BYTES:
        raise UserError(f"{path.name} has {path.stat().st_size:,} bytes; a graph of an EANet has at most {MAX_BYTES:,}")
    try:
        message.ParseFromString(path.read_bytes())
    except Exception as error:  # protobuf's DecodeError; its module moved between versions
        raise UserError(f"{path.name} is damaged ({first_line(error)})") from None
    return message


def _check_operations(graph) -> None:
    """Raise UserError for an operation that does more than compute, outside of the functions that save and restore."""
    if graph.asset_file_def:
        raise UserError("has asset files")
    called = {node.name: node.attr["f"].func.name for node in graph.graph_def.node if "f" in node.attr}
    more = {
        called.get(graph.saver_def.save_tensor_name.partition(":")[0]): _SAVE,
        called.get(graph.saver_def.restore_op_name): _RESTORE,
    }
    nodes: list[tuple] = [(node, frozenset()) for node in graph.graph_def.node]
    for function in graph.graph_def.library.function:
        nodes += [(node, more.get(function.signature.name, frozenset())) for node in function.node_def]
    for node, extra in nodes:
        if node.op not in COMPUTE and node.op not in extra:
            raise UserError(f"has the operation {node.op[:50]!r}, which no EANet has")


def _check_metadata(path: Path) -> None:
    """Raise UserError if keras_metadata.pb names classes that an EANet does not have."""
    from tensorflow.python.keras.protobuf import saved_metadata_pb2  # type: ignore[import-not-found]

    for node in _parse(saved_metadata_pb2.SavedMetadata(), path).nodes:
        try:
            described = [json.loads(node.metadata)]
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path.name} is damaged ({first_line(error)})") from None
        for value in described:
            if isinstance(value, dict):
                described += value.values()
                name = value.get("class_name", "EANet")
                if name not in _CLASSES:
                    raise UserError(f"{path.name} names the class {str(name)[:50]!r}, which no EANet has")
            elif isinstance(value, list):
                described += value


def _has_signature(graph, config) -> bool:
    """Return whether the graph takes the model's images and returns its number of classes."""
    signature = graph.signature_def["serving_default"]
    shapes = [
        [[axis.size for axis in value.tensor_shape.dim] for value in ends.values()]
        for ends in (signature.inputs, signature.outputs)
    ]
    return shapes == [[[-1, config.image_size, config.image_size, 3]], [[-1, config.num_classes]]]


def _has_weights(prefix: Path, model) -> bool:
    """Return whether a checkpoint's variables are those of the model's deployment form, in tf_keras' order."""
    import tensorflow as tf

    form = deployment_form(model)
    variables = [*form.trainable_variables, *form.non_trainable_variables]
    names = [f"variables/{i}/.ATTRIBUTES/VARIABLE_VALUE" for i in range(len(variables))]
    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = reader.get_variable_to_shape_map()
        if shapes.keys() - {"_CHECKPOINTABLE_OBJECT_GRAPH"} != set(names):
            return False
        return all(
            shapes[name] == list(variable.shape)
            and ("seed_generator" in variable.path or _close(reader.get_tensor(name), np.asarray(variable)))
            for name, variable in zip(names, variables, strict=True)
        )
    except Exception as error:  # the reader raises anything, by the words of its message
        raise UserError(f"variables/ is damaged ({first_line(error)})") from None


def _close(found, weight) -> bool:
    """Compare to what folding on another machine may differ by."""
    return bool(np.allclose(found, weight, rtol=1e-3, atol=1e-4 * max(1e-6, float(np.abs(weight).max(initial=0)))))

"""Fuzz what a push checks: a damaged or forged SavedModel is refused, and nothing in it runs."""

import shutil
import sys

from fuzz.attempt import Violation, attempt
from fuzz.mutate import mutate_bytes

FILES = ("saved_model.pb", "keras_metadata.pb", "variables/variables.index", "variables/variables.data-00000-of-00001")
HOSTILE = "WriteFile ReadFile PyFunc EagerPyFunc SaveV2 RestoreV2 MatchingFiles PrintV2 While Assert".split()


def check(rng, folder, materials):
    """Check a SavedModel with damaged files, or with an operation that does more than compute."""
    from eanet.cli import UserError
    from eanet.hub.saved_model import check_saved_model

    area, victim = folder / "saved", folder / "victim"
    shutil.rmtree(area, ignore_errors=True)
    shutil.copytree(materials.saved_model, area)
    forged = rng.random() < 0.4
    if forged:
        _forge(rng, area / FILES[0], str(victim))
    else:
        path = area / FILES[rng.integers(len(FILES))]
        path.write_bytes(mutate_bytes(rng, path.read_bytes()))

    def call():
        try:
            return (
                0 if check_saved_model(area, materials.keras_model()) else 1 + bool(print("another run's", file=sys.stderr))
            )
        except UserError as error:
            print(" ".join(str(error).split()), file=sys.stderr)
            return 2

    done = attempt(call, folder)
    if victim.exists() or forged and done.status != 2:
        raise Violation(f"a forged graph: exit status {done.status}, {'its file was written' * victim.exists()}")
    return 1, int(done.status == 0), [done]


def _forge(rng, path, victim):
    """Add an operation to the graph, or to one of its functions, or make it the one that runs when the graph is loaded."""
    from tensorflow.core.protobuf import saved_model_pb2

    model = saved_model_pb2.SavedModel()
    model.ParseFromString(path.read_bytes())
    graph = model.meta_graphs[0].graph_def
    functions = [f for f in graph.library.function if not {n.op for n in f.node_def} & {"SaveV2", "RestoreV2"}]
    nodes = graph.node if rng.random() < 0.3 else functions[rng.integers(len(functions))].node_def
    for name, value in (("evil_name", victim), ("evil_text", "x")):
        constant = nodes.add(name=name, op="Const")
        constant.attr["dtype"].type = 7
        constant.attr["value"].tensor.dtype = 7
        constant.attr["value"].tensor.string_val.append(value.encode())
        constant.attr["value"].tensor.tensor_shape.SetInParent()
    inputs = ["evil_name", "evil_text"] if nodes is graph.node else ["evil_name:output:0", "evil_text:output:0"]
    nodes.add(name="evil", op=HOSTILE[rng.integers(len(HOSTILE))], input=inputs)
    if nodes is graph.node and rng.random() < 0.5:
        next(node for node in graph.node if node.op == "NoOp").input.append("^evil")
    path.write_bytes(model.SerializeToString())

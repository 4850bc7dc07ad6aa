"""The rules that keep the code livable: sizes, private names, and the direction of imports."""

import ast
import subprocess

import pytest
from conftest import ROOT

PYTHON = sorted(
    path
    for path in (
        *ROOT.glob("*.py"),
        *(p for part in ("eanet", "benchmarks", "tools", "tests") for p in (ROOT / part).rglob("*.py")),
    )
    if ".clients" not in path.parts
)
NAMES = [path.relative_to(ROOT).as_posix() for path in PYTHON]
PROGRAMS = {"train", "inference", "push_to_hub", "handler", "export"}


def imports(path):
    """Yield (module, imported name or None, imported at module level) for all imports of ours in a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name, id(node) in top) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, None, id(node) in top) for alias in node.names)


@pytest.mark.parametrize("name", NAMES)
def test_module_and_its_functions_are_short(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert text.count("\n") <= 500
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert {f.name: f.end_lineno - f.lineno + 1 for f in functions if f.end_lineno - f.lineno + 1 > 60} == {}


@pytest.mark.parametrize("name", NAMES)
def test_no_private_name_is_imported(name):
    private = [
        (module, what) for module, what, _ in imports(ROOT / name) if what and what.startswith("_") and what != "__version__"
    ]
    assert private == []


@pytest.mark.parametrize("name", [n for n in NAMES if n.startswith("eanet/") or n == "modeling_eanet.py"])
def test_imports_point_one_way(name):
    found = {module.split(".")[0] for module, _, _ in imports(ROOT / name)}
    assert not found & PROGRAMS
    if name == "modeling_eanet.py":
        assert "eanet" not in found


def test_there_is_no_import_cycle():
    def module_of(name):
        return name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    modules = {module_of(name): ROOT / name for name in NAMES if not name.startswith(("tests/", "benchmarks/", "tools/"))}
    graph = {
        module: {f"{m}.{what}" if f"{m}.{what}" in modules else m for m, what, _ in imports(path)} & set(modules)
        for module, path in modules.items()
    }
    done, path = set(), []

    def visit(module):
        assert module not in path, " -> ".join([*path, module])
        if module not in done:
            path.append(module)
            for other in sorted(graph[module] - {module}):
                visit(other)
            path.pop()
            done.add(module)

    for module in graph:
        visit(module)


def test_the_root_holds_what_the_design_lists():
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    root = {line.split("/")[0] for line in listed.stdout.splitlines() if (ROOT / line).exists()}
    folders = set(".ci benchmarks demo eanet examples figures logs models onnx samples tests tools variables".split())
    programs = {f"{name}.py" for name in PROGRAMS | {"modeling_eanet"}}
    artefacts = {"config.json", "metadata.json", "model.weights.h5", "saved_model.pb", "keras_metadata.pb", "fingerprint.pb"}
    results = {"eval_results.json", "history.json"}
    project = {"README.md", "CONTRIBUTING.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", "requirements.txt", ".gitignore"}
    assert root - {".gitattributes", "litert"} == folders | programs | artefacts | results | project
    for folder, suffixes in (
        ("figures", {".png", ".json"}),
        ("samples", {".png", ".jpg", ".md"}),
        ("examples", {".ipynb", ".md", ".sh", ".yaml"}),
    ):
        assert {path.suffix for path in (ROOT / folder).iterdir() if path.is_file()} <= suffixes


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("tests/")])
def test_names_are_imported_from_where_they_are_defined(name):
    """The names that modeling_eanet still finds elsewhere are for users of the version before."""
    defined = vars(__import__("modeling_eanet"))
    assert [
        what for module, what, _ in imports(ROOT / name) if module == "modeling_eanet" and what and what not in defined
    ] == []

"""What goes up: only listed files of one complete run, without links and tokens, from any kind of installation."""

import dataclasses
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import zlib

import numpy as np
import pytest
from conftest import ROOT
from hub_session import REPO, SECRET, error_line

import modeling_eanet
from eanet.cli import UserError
from eanet.export import export_onnx
from eanet.hub import provenance, staging, tokens, upload
from eanet.hub.card import render_card
from eanet.hub.card_facts import collect_facts
from eanet.saving import save_pretrained_keras

pytest_plugins = ["hub_fixtures"]


def break_results(run):
    (run / "eval_results.json").write_text("{")


def remove_artefacts(run):
    shutil.rmtree(run)
    run.mkdir()
    (run / "notes.txt").write_text("hello")


def remove_saved_model(run):
    (run / "saved_model.pb").unlink()


def results_of_another_run(run):
    results = json.loads((run / "eval_results.json").read_text())
    results["model"]["checksum"] = "00000000"
    (run / "eval_results.json").write_text(json.dumps(results))


def results_without_a_key(run):
    results = json.loads((run / "eval_results.json").read_text())
    del results["training"]["wall_time_s"]
    (run / "eval_results.json").write_text(json.dumps(results))


def labels_of_another_run(run):
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(text.replace('"red"', '"rouge"'))


def history_of_another_run(run):
    history = json.loads((run / "history.json").read_text())
    (run / "history.json").write_text(json.dumps({k: v[::-1] for k, v in history.items()}))


def other_model(run):
    return modeling_eanet.build_eanet(modeling_eanet.EANetConfig.from_json_file(run / "config.json"))


def saved_model_of_another_run(run):
    save_pretrained_keras(other_model(run), run.parent / "other", saved_model=True)
    shutil.rmtree(run / "variables")
    shutil.copytree(run.parent / "other" / "variables", run / "variables")


def onnx_of_another_run(run):
    export_onnx(other_model(run), run / "onnx" / "model.onnx")


def old_onnx_of_another_run(run):
    shutil.rmtree(run / "onnx")
    export_onnx(other_model(run), run / "model.onnx")


def damaged_saved_model(run):
    (run / "saved_model.pb").write_bytes(b"x")


def forged_graph(run, change):
    from tensorflow.core.protobuf import saved_model_pb2

    path, model = run / "saved_model.pb", saved_model_pb2.SavedModel()
    model.ParseFromString(path.read_bytes())
    change(model.meta_graphs[0])
    path.write_bytes(model.SerializeToString())


def saved_model_that_writes(run):
    forged_graph(run, lambda graph: graph.graph_def.library.function[-1].node_def.add(name="w", op="WriteFile"))


def saved_model_that_saves_when_restored(run):
    def change(graph):
        graph.saver_def.restore_op_name = graph.saver_def.save_tensor_name.partition(":")[0]

    forged_graph(run, change)


def saved_model_of_other_classes(run):
    def change(graph):
        for output in graph.signature_def["serving_default"].outputs.values():
            output.tensor_shape.dim[1].size = 100

    forged_graph(run, change)


def metadata_with_a_lambda(run):
    from tensorflow.python.keras.protobuf import saved_metadata_pb2

    path, metadata = run / "keras_metadata.pb", saved_metadata_pb2.SavedMetadata()
    metadata.ParseFromString(path.read_bytes())
    metadata.nodes[2].metadata = metadata.nodes[2].metadata.replace('"class_name": "EANet"', '"class\\u005fname": "Lambda"')
    path.write_bytes(metadata.SerializeToString())


def config_with_a_lambda(run):
    config = json.loads((run / "config.json").read_text())
    layer = config["config"]["layers"][1]
    layer |= {"module": "keras.layers", "class_name": "Lambda", "registered_name": None}
    (run / "config.json").write_text(json.dumps(config))


def damaged_history(run):
    (run / "history.json").write_text("{}")


def damaged_figures(run):
    (run / "figures").mkdir(exist_ok=True)
    (run / "figures" / "figures.json").write_text("[]")


def link_within(run):
    (run / ".env").write_text("secret")
    (run / "samples").mkdir()
    (run / "samples" / "notes.md").symlink_to("../.env")


def linked_folder(run):
    (run / "logs").rename(run.parent / "logs")
    (run / "logs").symlink_to(run.parent / "logs")


def linked_card(run):
    (run.parent / "private.md").write_text("secret")
    (run / "README.md").symlink_to("../private.md")


def card_in_latin_1(run):
    (run / "README.md").write_bytes(b"caf\xe9")


def link_out(run):
    (run.parent / "secret.png").write_bytes(b"secret")
    (run / "samples").mkdir()
    (run / "samples" / "a.png").symlink_to(run.parent / "secret.png")


def broken_card(run):
    (run / "README.md").write_text("---\nlanguage: en\ntags: [a\nlicense: x\n---\nhello\n")


def token_in_card(run):
    (run / "README.md").write_text(f"# mine\n\n{SECRET}\n")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (shutil.rmtree, ["no such folder"]),
        (remove_artefacts, ["holds no model", "train.py"]),
        (remove_saved_model, ["saved_model.pb is missing", "--export", "--no-saved-model"]),
        (break_results, ["eval_results.json: damaged"]),
        (results_of_another_run, ["different runs", "eval_results.json"]),
        (history_of_another_run, ["different runs", "history.json"]),
        (labels_of_another_run, ["different runs", "config.json"]),
        (saved_model_of_another_run, ["different runs", "SavedModel"]),
        (onnx_of_another_run, ["different runs", "model.onnx"]),
        (old_onnx_of_another_run, ["different runs", "model.onnx"]),
        (damaged_saved_model, ["SavedModel", "saved_model.pb is damaged"]),
        (saved_model_that_writes, ["SavedModel", "'WriteFile'"]),
        (saved_model_that_saves_when_restored, ["SavedModel", "no EANet has"]),
        (saved_model_of_other_classes, ["different runs", "SavedModel"]),
        (metadata_with_a_lambda, ["keras_metadata.pb", "'Lambda'"]),
        (config_with_a_lambda, ["config.json", "other layers"]),
        (damaged_history, ["history.json is damaged"]),
        (damaged_figures, ["figures.json: damaged"]),
        (results_without_a_key, ["eval_results.json", "wall_time_s is missing", "train.py"]),
        (link_out, ["samples/a.png", "link"]),
        (link_within, ["samples/notes.md", "link"]),
        (linked_folder, ["logs/", "link"]),
        (linked_card, ["README.md", "link"]),
        (card_in_latin_1, ["README.md", "UTF-8"]),
        (broken_card, ["README.md, line 4", "broken YAML"]),
        (token_in_card, ["README.md", "token"]),
    ],
)
def test_a_run_that_does_not_belong_together_is_not_pushed(spoil, words, session, run, hub):
    spoil(run)
    line = error_line(session.push(run), 2)
    assert all(word in line for word in words), line
    assert hub.count("", "POST") == 0


def test_only_listed_files_go_up_and_no_token(session, run, hub):
    """A secret lies in every place that a careless upload would take along."""
    places = [".env", ".git/config", "notes.txt", "logs/notes.txt", "logs/train/.env", "samples/.env", "variables/x.txt"]
    places += ["figures/secret.txt", ".ipynb_checkpoints/a.ipynb", "__pycache__/a.pyc", "data/a.png", "token", "onnx/x.txt"]
    places += ["teacher/0.npy", "benchmarks/mine.npy"]
    for name in places:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).write_text(SECRET)
    saved = session.home / "token"
    saved.write_text(hub.token)
    done = session.push(run, HF_TOKEN="")  # with the saved login
    saved.unlink()
    assert done.code == 0, done.err
    files = hub.repos[REPO].head().files
    assert "checkpoint.npz" not in files and "settings.json" not in files
    for name, file in files.items():
        assert SECRET.encode() not in file.content and hub.token.encode() not in file.content, name
        assert name.rpartition("/")[2] not in (".env", "notes.txt", "token", "x.txt")
    for path in run.rglob("*"):
        assert path.is_dir() or hub.token.encode() not in path.read_bytes()
    (run / "history.json").write_text(json.dumps({"note": SECRET}))
    line = error_line(session.push(run), 2)
    assert "history.json" in line and "token" in line and SECRET not in line


OTHER_TOKENS = (SECRET, "hf_" + "oauth_eyJhbGciOiJFZERTQSJ9.eyJzY29wZSI6W.x-_y", "api_org_" + "x" * 34, "api_" + "x" * 34)


@pytest.mark.parametrize("token", OTHER_TOKENS)
@pytest.mark.parametrize(
    "written",
    [
        str.encode,
        lambda token: token.encode("utf-16"),
        lambda token: token.encode("utf-16-be"),
        lambda token: token.encode("utf-32"),
        lambda token: token.encode("utf-7").replace(b"_", b"+AF8-"),
        lambda token: json.dumps("é" + token).replace("_", "\\u005f").encode(),
        lambda token: token.replace("_", "%5F").replace("f", "%66").encode(),
        lambda token: "".join(f"&#{ord(c)};" for c in token).encode(),
        lambda token: b"x" * (2**20 - 8) + token.encode("utf-16-le"),  # across two blocks
    ],
    ids="utf-8 utf-16 utf-16-be utf-32 utf-7 json url html blocks".split(),
)
def test_a_token_is_found_in_any_encoding_and_never_shown(written, token, tmp_path):
    path = tmp_path / f"{SECRET}.md"
    path.write_bytes(b"a\0\xff " + written(token) + b" b")
    with pytest.raises(UserError, match=r"hf_\*\*\*\.md: contains a Hub token") as error:
        tokens.check_file(path, path)
    assert SECRET not in str(error.value) and token not in tokens.without_token(f"a {token} b")
    with pytest.raises(UserError, match="^the message contains a Hub token"):
        tokens.check_no_token(f"a {token}", "the message")


def test_what_only_looks_like_a_token_goes_up(tmp_path):
    path = tmp_path / "notes.md"
    path.write_text(
        "hf_hub_download, hf_small_cifar100_model_2026-11-25_final.png, api_reference_of_the_whole_package HF_TOKEN"
    )
    tokens.check_file(path, path)


def test_tokens_in_names_and_messages_do_not_go_up(session, run, hub):
    (run / "samples").mkdir()
    (run / "samples" / f"{SECRET}.png").write_bytes(b"x")
    renamed = run.rename(run.with_name(f"run-{SECRET}"))
    for where, options in (("the folder's name", ()), ("the message", ("--message", f"by {SECRET}")), ("the name ", ())):
        renamed = renamed if where == "the folder's name" else renamed.rename(run) if renamed != run else run
        line = error_line(session.push(renamed, *options), 2)
        assert f"error: {where}" in line and "contains a Hub token" in line and hub.requests == []


def test_results_of_earlier_versions_are_still_staged(run, tmp_path):
    """With the checksum that covered the configuration, and the earlier name of the parent run."""
    model = modeling_eanet.from_pretrained_keras(run)
    newer = ("redundant_bias", "resize", "inner_norm")
    settings = {k: v for k, v in model.config.to_dict().items() if k not in newer}
    checksum = zlib.crc32(json.dumps(settings, sort_keys=True).encode())
    for array in model.get_weights():
        checksum = zlib.crc32(np.ascontiguousarray(array, np.float32), checksum)
    results = json.loads((run / "eval_results.json").read_text())
    results["model"]["checksum"] = f"{checksum:08x}"
    parent = {**results["training"], "command": "python train.py --seed 7", "recipe": None}
    results["training"] = {k: v for k, v in results["training"].items() if k != "parent_run"} | {"begun_with": parent}
    (run / "eval_results.json").write_text(json.dumps(results))
    staged = staging.stage_run(run, tmp_path / "staged")
    facts = collect_facts(staged.folder, staged.results, staged.model, REPO)
    assert [r["command"] for r in facts["runs"]] == ["python train.py --seed 7", results["training"]["command"]]


@pytest.fixture
def snapshot(tmp_path):
    """The code as the Hub's cache holds it: every file is a link into blobs/."""
    home = tmp_path / "hub" / "models--user--name"
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    names = names or [p.relative_to(ROOT).as_posix() for p in ROOT.rglob("*.*") if ".venv" not in p.parts]
    code = (".py", ".md", ".txt", ".toml")
    for i, name in enumerate(name for name in names if name.endswith(code) and (ROOT / name).is_file()):
        (home / "blobs").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, home / "blobs" / str(i))
        link = home / "snapshots" / "abc" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(home / "blobs" / str(i), link.parent))
    return home / "snapshots" / "abc"


def test_the_program_works_where_every_file_is_a_link(run, snapshot, tmp_path):
    env = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
    command = [sys.executable, snapshot / "push_to_hub.py", "push", run, "--repo-id", REPO, "--dry-run"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name in ("train.py", "modeling_eanet.py", "eanet/hub/upload.py", "eanet/hub/templates/card.md", "model.weights.h5"):
        assert f"bytes  {name}\n" in done.stdout
    (snapshot / "train.py").unlink()
    (snapshot / "train.py").symlink_to(tmp_path / "elsewhere.py")
    (tmp_path / "elsewhere.py").write_text("secret")
    with pytest.raises(UserError, match=r"train\.py: is a link"):
        staging.stage_run(run, tmp_path / "staged", snapshot)


def test_a_snapshot_in_the_cache_is_a_run_itself(run, snapshot, tmp_path, monkeypatch):
    for i, path in enumerate(path for path in run.rglob("*") if path.is_file()):
        blob, link = snapshot.parents[1] / "blobs" / f"run{i}", snapshot / path.relative_to(run)
        shutil.copyfile(path, blob)
        link.unlink(missing_ok=True)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    stage_run = staging.stage_run
    monkeypatch.setattr(staging, "stage_run", functools.partial(stage_run, tree=snapshot))
    assert upload.write_card(snapshot, REPO) == f"wrote {snapshot / 'README.md'}"
    with pytest.raises(UserError, match="is a link"):
        stage_run(snapshot, tmp_path / "staged", ROOT)


def test_the_message_about_a_token_names_the_file_itself(run, snapshot, tmp_path):
    (snapshot / "train.py").unlink()
    (snapshot / "train.py").write_text(SECRET)
    with pytest.raises(UserError, match=re.escape(f"{snapshot / 'train.py'}: contains a Hub token")):
        staging.stage_run(run, tmp_path / "staged", snapshot)


def test_exports_and_figures_go_up_with_their_own_weights_and_architecture(run, tmp_path, capsys):
    shutil.copy(run / "onnx" / "model.onnx", run / "onnx" / "model_int8.onnx")
    shutil.copy(ROOT / "onnx" / "model.onnx", run / "onnx" / "model_other.onnx")
    (run / "figures").mkdir(exist_ok=True)
    shutil.copy(ROOT / "figures" / "architecture.png", run / "figures")  # of another architecture
    shutil.copy(ROOT / "figures" / "slots.png", run / "figures" / "slots.svg")
    (run / "litert").mkdir()
    own = json.loads((run / "eval_results.json").read_text())["model"]["checksum"]
    for name, checksum in (("eanet", own), ("other", "00000000")):
        (run / "litert" / f"{name}.tflite").write_text(json.dumps({"checksum": checksum}))  # as in the file's zip archive
    staged = staging.stage_run(run, tmp_path / "staged")
    assert {path.name for path in staged.folder.glob("onnx/*")} == {"model.onnx", "model_int8.onnx"}
    assert [path.name for path in staged.folder.glob("litert/*")] == ["eanet.tflite"]
    said = capsys.readouterr().err
    left_out = ["litert/other.tflite", "onnx/model_other.onnx", "figures/slots.svg"]
    assert re.findall(r"(\S+) is left out", said) == left_out
    assert not (staged.folder / "figures" / "architecture.png").exists()
    config = modeling_eanet.EANetConfig.from_json_file(ROOT / "config.json")
    model = modeling_eanet.build_eanet(dataclasses.replace(config, id2label=["a", "b"]))
    save_pretrained_keras(model, tmp_path / "same", saved_model=False)
    assert staging.same_architecture(tmp_path / "same", ROOT) and not staging.same_architecture(run, ROOT)


def test_a_report_goes_up_without_the_names_of_images_and_with_its_own_weights(run, tmp_path, capsys):
    found = json.loads((run / "report.json").read_text())
    mistake = {"image": "private/anna.png", "label": "red", "predicted": "blue", "probability": 0.9}
    (run / "report.json").write_text(json.dumps({**found, "mistakes": [mistake]}))
    table = "## Most confident mistakes\n\n| Image |\n| --- |\n| private/anna.png |\n"
    (run / "report.md").write_text(f"# Results\n\nMy words.\n\n{table}")
    staged = staging.stage_run(run, tmp_path / "staged").folder
    assert json.loads((staged / "report.json").read_text()) == {k: v for k, v in found.items() if k != "mistakes"}
    assert (staged / "report.md").read_text() == "# Results\n\nMy words.\n"
    (run / "report.json").write_text(json.dumps({**found, "checksum": "00000000"}))
    staged = staging.stage_run(run, tmp_path / "again").folder
    assert not list(staged.glob("report.*")) and "report.md is left out: report.json" in capsys.readouterr().err


def test_the_architecture_keeps_its_caption_next_to_the_run_figures(run, tmp_path):
    record = ROOT / provenance.FIGURES_RECORD
    before = provenance.figures_record(run / provenance.FIGURES_RECORD)
    provenance.add_to_record(run, "architecture.png", record)
    after = provenance.figures_record(run / provenance.FIGURES_RECORD)
    assert before and after == before | {"architecture.png": provenance.figures_record(record)["architecture.png"]}
    (tmp_path / "figures").mkdir()
    provenance.add_to_record(tmp_path, "architecture.png", record)
    assert list(provenance.figures_record(tmp_path / provenance.FIGURES_RECORD)) == ["architecture.png"]


def test_an_installed_package_pushes_its_own_code_alone(run, tmp_path):
    packages = tmp_path / "site-packages"
    shutil.copytree(ROOT / "eanet", packages / "eanet")
    shutil.copy(ROOT / "modeling_eanet.py", packages)
    (packages / "tests").mkdir()
    (packages / "tests" / "theirs.py").write_text("someone else's")
    staged = staging.stage_run(run, tmp_path / "staged", packages)
    names = {p.relative_to(staged.folder).as_posix() for p in staged.folder.rglob("*") if p.is_file()}
    assert not staged.with_programs and {"modeling_eanet.py", "eanet/cli.py"} <= names
    assert not {"train.py", "tests/theirs.py"} & names
    card = render_card(collect_facts(staged.folder, staged.results, staged.model, "me/new"))
    card = re.sub(r"(?m)^python train\.py .*", "", card)  # what trained the run
    assert not re.search(r"requirements\.txt|inference\.py|train\.py|push_to_hub\.py", card) and "## Training\n" in card


def test_a_run_takes_the_programs_along_and_a_copy_of_the_repository_the_rest_too(run, tmp_path):
    top = """train.py inference.py push_to_hub.py handler.py export.py modeling_eanet.py requirements.txt pyproject.toml
        LICENSE config.json metadata.json model.weights.h5 saved_model.pb keras_metadata.pb fingerprint.pb eval_results.json
        history.json report.json report.md"""
    extra = {"tests/test_cli.py", "tests/hub_server/hub.py", "CONTRIBUTING.md", "examples/eanet_cifar100.ipynb"}

    def staged_names(name):
        folder = staging.stage_run(run, tmp_path / name).folder
        return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}

    names = staged_names("plain")
    assert {name for name in names if "/" not in name} == set(top.split())
    assert {name.split("/")[0] for name in names if "/" in name} == {"eanet", "variables", "logs", "onnx", "figures"}
    for name in extra:
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, run / name)
    assert staged_names("copy") - names == extra


def test_the_larger_model_goes_along_with_results_of_its_weights_only(run, tmp_path, capsys):
    four = {f"models/base/{name}" for name in ("config.json", "metadata.json", "model.weights.h5", "eval_results.json")}
    larger = run / "models" / "base"
    shutil.copytree(ROOT / "models" / "base", larger)
    for private in (larger / "left_out.json", run / "models" / "mine" / "report.json"):
        private.parent.mkdir(exist_ok=True)
        private.write_text("{}")

    def staged_names(name):
        folder = staging.stage_run(run, tmp_path / name).folder
        return {p.relative_to(folder).as_posix() for p in folder.glob("models/*/*")}

    assert staged_names("all") == four and "left out" not in capsys.readouterr().err
    results = json.loads((larger / "eval_results.json").read_text())
    for i, damage in enumerate((
        {"model": None}, {"model": {**results["model"], "checksum": "00000000"}}, {"training": "a"}, {"accuracy": "high"},
        {"training": {**results["training"], "epochs": "many"}}, {"training": {**results["training"], "teacher_run": "a"}},
        {"dataset": {"id": 1}},
    )):  # fmt: skip
        (larger / "eval_results.json").write_text(json.dumps(results | damage))
        assert not staged_names(f"damaged-{i}")
        assert "models/base is left out: its eval_results.json does not" in capsys.readouterr().err
    (larger / "eval_results.json").unlink()
    assert not staged_names("none")

"""A push to a repository with a full card: everything becomes about the new weights, and a person's words stay."""

import json
import re
import subprocess

import pytest
import yaml
from conftest import ROOT, run_main, write_official
from hub_server import LFS_NAMES, File, card_errors, front_matter
from hub_session import REPO, card_on, change_accuracy, commit_by_hand, error_line
from training_runs import cifar_run, quick_runs

import train
from eanet.cli import duration
from eanet.evaluation import interval_text
from eanet.export import OnnxModel
from eanet.hub.card import REGION, escape
from eanet.predict import classify
from eanet.run_dir import training_runs
from eanet.saving import ONNX_FILE, checksum_matches
from modeling_eanet import CIFAR100_LABELS, from_pretrained_keras

pytest_plugins = ["hub_fixtures"]

REGIONS = "summary results samples evaluation training-speed prediction-speed exports architecture scaling training ablation"
# A card of the earlier layout: figures outside of the regions, and tables that are in benchmarks/README.md now.
OLD_CARD = """---
thumbnail: https://huggingface.co/user/colours-eanet/resolve/main/figures/slots.png
widget:
- src: https://huggingface.co/user/colours-eanet/resolve/main/samples/apple.png
  output:
  - {label: apple, score: 0.7896}
---
# EANet

![What the memory slots of one head look at](figures/slots.png)

CIFAR-100 carries no explicit licence.

![Training curves](figures/curves.png)

![Time and peak memory](figures/scaling.png)

""" + "\n".join(
    f"### {name}\n\n<!-- {name} -->\n73.66 %\n<!-- /{name} -->\n\nWords on {name}.\n" for name in REGIONS.split()
)
OLD_NUMBERS = re.compile(r"73\.66|92\.40|1\.023|82\.7 ?%|65\.2 ?%|78\.96|0\.7896|0\.9665|1\.0226|0\.7366")


def as_files(folder):
    """Return the files of a folder as a Hub holds them."""
    names = subprocess.run(["git", "ls-files"], cwd=folder, capture_output=True, text=True).stdout.split()
    names = names or [p.relative_to(folder).as_posix() for p in folder.rglob("*") if ".venv" not in p.parts]
    large = tuple(pattern.strip("*") for pattern in LFS_NAMES)
    return {
        name: File((folder / name).read_bytes(), any(part in name.rpartition("/")[2] for part in large))
        for name in names
        if (folder / name).is_file() and "__pycache__" not in name and ".clients" not in name
    }


@pytest.fixture
def full_hub(session, hub):
    """A repository that holds this tree, whose card a person has added to."""
    assert session.python(f"from huggingface_hub import create_repo\ncreate_repo('{REPO}')").code == 0
    files = as_files(ROOT)
    card = (ROOT / "README.md").read_text().replace("## Limits", "My own words.\n\n## Limits") + "\nThe end, by hand.\n"
    files["README.md"] = File(card.encode(), False)
    files["figures/mine.png"] = File(b"a person's figure", True)
    files["model.onnx"] = File(b"an export of an earlier layout", True)
    files["benchmarks/theirs.json"] = File(b'{"checksum": "7b3ac65b"}', False)
    files["benchmarks/list.json"], files["tests/conftest.py"] = File(b"[1]", False), File(b"an older one", False)
    hub.uploads |= {file.sha256: file.content for file in files.values() if file.lfs}
    commit_by_hand(hub, files)
    return hub


def test_a_new_run_replaces_everything_about_the_old_weights(full_hub, session, tmp_path):
    before = full_hub.repos[REPO].head().files
    done = session.push(cifar_run())
    assert done.code == 0, done.err
    after = full_hub.repos[REPO].head().files
    for name, file in after.items():
        (tmp_path / "hub" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "hub" / name).write_bytes(file.content)
    model, results = from_pretrained_keras(tmp_path / "hub"), json.loads(after["eval_results.json"].content)
    card = card_on(full_hub)

    # numbers
    assert checksum_matches(model, results["model"]["checksum"])
    assert f"**{100 * results['accuracy']:.2f}% top-1 accuracy**" in card and "--epochs 1 " in card
    assert not OLD_NUMBERS.search(card)
    index = front_matter(card)["model-index"][0]["results"]
    assert [m["value"] for m in index[0]["metrics"]] == [results[k] for k in ("accuracy", "top5_accuracy", "loss")]
    assert "The shipped weights are the final weights of the training." in card
    for name, file in after.items():
        if name.startswith("benchmarks/") and name.endswith(".json") and name != "benchmarks/list.json":
            assert json.loads(file.content).get("checksum") is None, name
    assert "benchmarks/evaluation.json" in before and "<!-- weights" in before["benchmarks/README.md"].content.decode()
    assert "<!-- weights" not in after["benchmarks/README.md"].content.decode()
    assert all(after[name] == before[name] for name in ("tests/conftest.py", "CONTRIBUTING.md", "benchmarks/list.json"))

    # figures
    figures = {name for name in after if name.startswith("figures/") and name.endswith(".png")}
    ours = {f"figures/{name}.png" for name in ("calibration", "confusion", "curves")}
    assert figures == {"figures/mine.png", "figures/scaling.png", "figures/distillation.png", *ours}  # another architecture
    assert all(after[name].content == (cifar_run() / name).read_bytes() != before[name].content for name in ours)
    assert set(re.findall(r"figures/\w+\.png", card)) <= figures
    assert after["figures/mine.png"] == before["figures/mine.png"]

    # sample answers
    samples = sorted((tmp_path / "hub" / "samples").glob("*.png"))
    answers = classify(model, samples, top_k=3)
    widget = front_matter(card)["widget"]
    assert [entry["src"] for entry in widget] == [f"samples/{path.name}" for path in samples[:6]]
    for entry, answer in zip(widget, answers, strict=False):
        assert [(o["label"], o["score"]) for o in entry["output"]] == [(a["label"], round(a["score"], 4)) for a in answer]
    for path, answer in zip(samples, answers, strict=True):
        shown = re.search(rf"\]\(samples/{path.name}\): \**(\w+?)\** (\d+)%", card)
        assert shown and shown.groups() == (answer[0]["label"], f"{100 * answer[0]['score']:.0f}")
    (notebook,) = (name for name in after if name.endswith(".ipynb"))
    assert all(not cell.get("outputs") for cell in json.loads(after[notebook].content)["cells"])

    # exports
    exported = OnnxModel(tmp_path / "hub" / ONNX_FILE)
    assert checksum_matches(model, exported.checksum) and ONNX_FILE in card
    assert "model.onnx" not in after and not re.search("1.39 ms|4.57 s", card)

    # a person's words
    words = REGION.sub("", (ROOT / "README.md").read_text().split("---\n", 2)[2])
    words = words.replace("keras-io/Image-Classification-using-EANet", REPO).replace(
        "## Limits", "My own words.\n\n## Limits"
    )
    assert REGION.sub("", card.split("---\n", 2)[2]) == words + "\nThe end, by hand.\n"
    assert card_errors(card) == []
    assert "nothing to push" in session.push(cifar_run()).out


def test_a_card_of_the_earlier_layout_is_brought_up_to_date(full_hub, session):
    commit_by_hand(full_hub, {"README.md": OLD_CARD.encode()})
    assert session.push(cifar_run()).code == 0
    card = card_on(full_hub)
    assert not OLD_NUMBERS.search(card) and "thumbnail" not in front_matter(card)
    assert "figures/slots.png" not in card and card.count("figures/curves.png") == 1 and "figures/scaling.png" in card
    assert card.count("Measured in [benchmarks/README.md](benchmarks/README.md).") == 4
    assert "CIFAR-100 carries no explicit licence." in card
    assert all(f"Words on {name}." in card for name in REGIONS.split())


def test_samples_on_the_hub_stay_and_are_answered_again(full_hub, session, run):
    """Of a model with other classes, whose folder has no samples."""
    samples = {k: v for k, v in full_hub.repos[REPO].head().files.items() if k.startswith("samples/")}
    done = session.push(run)
    assert done.code == 0 and "CIFAR-100" in done.err and "--new-card" in done.err  # words about other data: a warning
    files, card = full_hub.repos[REPO].head().files, card_on(full_hub)
    assert samples and all(files[name] == file for name, file in samples.items())
    assert "[apple](samples/apple.png)" in card and "top-1 right" not in card
    assert {o["label"] for entry in front_matter(card)["widget"] for o in entry["output"]} == {"red", "green", "blue"}
    assert "uoft-cs/cifar100" not in front_matter(card).get("datasets", [])


def test_without_the_onnx_packages_the_export_goes_with_its_text(full_hub, session):
    code = """
import eanet.cli, push_to_hub
from eanet.export import onnx
found = onnx.require
def require(package, hint):
    raise eanet.cli.UserError(f"{package} is not installed; {hint}")
onnx.require = require
try:
    sys.exit(eanet.cli.run(push_to_hub.main, sys.argv[1:]))
finally:
    onnx.require = found
"""
    done = session.python(code, "push", cifar_run(), "--repo-id", REPO)
    assert done.code == 0 and "onnx/model.onnx is left out: onnx is not installed" in done.err
    assert ONNX_FILE not in full_hub.repos[REPO].head().files
    assert "<!-- exports -->\n<!-- /exports -->" in card_on(full_hub)


def test_a_fine_tuned_model_says_nothing_of_its_base_but_its_name(session, hub, tmp_path):
    """Fine-tuned on other classes from the weights of this repository, without TensorFlow's SavedModel."""
    data, run = write_official(tmp_path / "fruits", train=64, test=24, labels=("tomato", "lime", "plum")), tmp_path / "run"
    options = ["--epochs", 1, "--batch-size", 64, "--freeze", "backbone", "--init-from", ROOT, "--output", run]
    with quick_runs(figures=True):
        assert run_main(train, "--data", data, *options) == 0
    assert "or push with --no-saved-model" in error_line(session.push(run), 2)
    done = session.push(run, "--no-saved-model", "--dataset-name", "Market fruits")
    assert done.code == 0, done.err
    files, card, base = hub.repos[REPO].head().files, card_on(hub), "keras-io/Image-Classification-using-EANet"
    assert not re.search("cifar", card, re.IGNORECASE) and not OLD_NUMBERS.search(card) and card_errors(card) == []
    head = front_matter(card)
    assert head["base_model"] == base and not {"datasets", "license", "widget", "thumbnail"} & set(head)
    assert f"Fine-tuned from [{base}](https://huggingface.co/{base})." in card and f" --init-from {base}" in card
    for run_of_base in training_runs(json.loads((ROOT / "eval_results.json").read_text())["training"]):
        assert run_of_base["command"] not in card and duration(run_of_base["wall_time_s"]) not in card
        assert f"| {run_of_base['epochs']} |" not in card
    labels = {label for label in CIFAR100_LABELS if re.search(rf"\b{label}\b", card)}
    assert labels <= {"train", "table"} and "`tomato`, `lime`, `plum`" in card
    results = json.loads(files["eval_results.json"].content)
    right = round(24 * results["accuracy"])
    assert f"on Market fruits ({right} of 24 images, test split{interval_text(results['accuracy'], 24)}): 3" in card
    assert "There is no SavedModel here" in card and not {"saved_model.pb", "keras_metadata.pb"} & set(files)

    record = json.loads(files["figures/figures.json"].content)
    assert record["checksum"] == results["model"]["checksum"] == json.loads(files["report.json"].content)["checksum"]
    assert set(record["figures"]) == {f"{n}.png" for n in ("architecture", "calibration", "confusion", "curves")}
    for name, entry in record["figures"].items():
        assert card.count(f'<img src="figures/{name}"') == 1 and f"*{escape(entry['caption'])}*" in card
    for name in ("calibration", "confusion", "curves"):
        assert files[f"figures/{name}.png"].content == (run / "figures" / f"{name}.png").read_bytes()
    assert "| Hardest classes |" in card and "Superclass" not in card
    assert "mistakes" not in json.loads(files["report.json"].content)
    assert b"mistakes" not in files["report.md"].content


# What a person wrote --------------------------------------------------------------------------------------------------


def test_every_word_a_person_wrote_on_the_hub_stays(session, run, hub):
    assert session.push(run).code == 0
    card = card_on(hub)
    card = card.replace("language: en\n", "language: de  # a comment\nthumbnail: mine.png\n")
    card = card.replace("tags:\n", "tags:\n- birds\n")
    card = card.replace("## Results\n", "My own words.\n\n## Results of mine\n") + "\nThe end, by hand.\n"
    other = {
        "task": {"type": "image-classification"},
        "dataset": {"type": "other/birds", "name": "Birds"},
        "metrics": [{"type": "accuracy", "value": 0.25}],
    }
    (entry,) = yaml.safe_load(card.split("---\n")[1])["model-index"]
    index = yaml.safe_dump({"model-index": [{**entry, "results": entry["results"] + [other]}]})
    card = re.sub(r"^model-index:\n(?:(?: |- ).*\n)*", lambda _: index, card, flags=re.M)
    commit_by_hand(hub, {"README.md": card.encode()})
    change_accuracy(run, 0.5)
    assert session.push(run).code == 0
    after = card_on(hub)
    kept = ["language: de  # a comment\n", "thumbnail: mine.png\n", "- birds\n", "\nThe end, by hand.\n"]
    for words in (*kept, "My own words.\n\n## Results of mine\n"):
        assert words in after
    results = front_matter(after)["model-index"][0]["results"]
    assert [r["dataset"]["name"] for r in results] == ["colours", "Birds"] and results[1] == other
    assert results[0]["metrics"][0]["value"] == 0.5 and "**50.00%" in after and "**100.00%" not in after


def test_a_card_without_our_markers_keeps_its_text_and_gets_the_results(session, run, hub):
    session.python(f"from huggingface_hub import create_repo\ncreate_repo('{REPO}')")
    theirs = "# My birds\n\nAll mine.\n"
    commit_by_hand(hub, {"README.md": theirs.encode()})
    assert session.push(run).code == 0
    body = card_on(hub).split("---\n", 2)[2]
    assert body.startswith(theirs) and "## Results\n\n<!-- results -->\n| Model | Parameters" in body
    assert front_matter(card_on(hub))["library_name"] == "keras"


def test_a_model_of_own_data_claims_no_cifar(session, run, hub):
    assert session.push(run).code == 0
    card = card_on(hub)
    assert "top-1 accuracy** on colours (48 of 48 images, test split, 95% interval 93–100%): 3 classes" in card
    body = REGION.sub("", card.split("---\n", 2)[2])
    assert "cifar" not in body.lower() and "datasets" not in front_matter(card)
    assert "`red`, `green`, `blue`" in card and "3 classes" in card
    assert "43.91%" not in card  # no comparison with models of other data
    result = front_matter(card)["model-index"][0]["results"][0]
    assert result["dataset"] == {"type": "imagefolder", "name": "colours", "split": "test"}


def test_an_edited_card_of_a_pull_is_pushed_and_any_other_is_left_out(session, run, hub, tmp_path):
    assert session.push(run).code == 0
    assert session.pull(tmp_path / "back").code == 0
    card = tmp_path / "back" / "README.md"
    card.write_text(card.read_text().replace("## Results", "My own words.\n\n## Results"))
    done = session.push(tmp_path / "back")
    assert done.code == 0 and re.findall(r"changed +(\S+)", done.out) == ["README.md"]
    assert "My own words." in card_on(hub)

    (run / "README.md").write_text("# Another card\n")
    done = session.push(run)
    assert "nothing to push" in done.out and "is left out (--new-card takes it)" in done.err
    assert session.push(run, "--new-card").code == 0
    assert "# Another card" in card_on(hub) and "My own words." not in card_on(hub)


def test_a_broken_card_on_the_hub_is_left_and_named(session, run, hub):
    assert session.push(run).code == 0
    broken = b"---\nlanguage: en\ntags: [a\nlicense: x\n---\nhello\n"
    commit_by_hand(hub, {"README.md": broken})
    line = error_line(session.push(run), 2)
    assert f"README.md of {REPO} on the Hub, line 4" in line and "broken YAML" in line
    assert hub.repos[REPO].head().files["README.md"].content == broken


def test_card_writes_the_card_into_the_run_only(session, run, hub):
    done = session.run("card", run, "--repo-id", REPO)
    assert done.code == 0 and done.out == f"wrote {run / 'README.md'}\n" and hub.requests == []
    card = (run / "README.md").read_text()
    assert f'load_model("hf://{REPO}")' in card and card_errors(card) == []
    (run / "README.md").write_text(card.replace("## Limits", "My own words.\n\n## Limits"))
    assert session.run("card", run, "--repo-id", "user/other").code == 0
    assert "My own words." in (run / "README.md").read_text() and "hf://user/other" in (run / "README.md").read_text()


def test_the_front_matter_is_what_the_hub_expects(session, run, hub):
    assert session.push(run).code == 0
    for card, folder in ((card_on(hub), run), ((ROOT / "README.md").read_text(), ROOT)):
        data, results = front_matter(card), json.loads((folder / "eval_results.json").read_text())
        assert card_errors(card) == []
        assert data["library_name"] == "keras" and data["pipeline_tag"] == "image-classification"
        assert data.get("license") == ("apache-2.0" if folder == ROOT else None) and "arxiv.org/abs/2105.02358" in card
        assert {"tf-keras", "keras", "tensorflow", "image-classification"} <= set(data["tags"])
        (entry,) = data["model-index"]
        values = {m["type"]: m["value"] for m in entry["results"][0]["metrics"]}
        top5 = {"top_5_accuracy": results["top5_accuracy"]} if data.get("datasets") else {}  # not among three classes
        assert values == {"accuracy": results["accuracy"], **top5, "loss": results["loss"]}
        assert entry["results"][0]["source"]["name"] == "eval_results.json"

"""What a run changes in a card, and what stays."""

import json
import shutil

import pytest
import yaml
from conftest import ROOT, tiny_config

from card_regions import METRICS, REGIONS
from model_card import _with_key, _with_region, _with_repo_id, build_card, model_index, split_card

RESULTS = {
    "accuracy": 0.5,
    "top5_accuracy": 0.75,
    "loss": 1.25,
    "num_images": 48,
    "dataset": {"id": "", "name": "fruits", "split": "test", "note": ""},
    "model": {"preset": "tiny", "parameters": 9475},
    "training": None,
    "versions": {"backend": "jax"},
}


def card(base, folder, results=RESULTS):
    return build_card(base, folder, results, "me/new", where="README.md")


@pytest.mark.parametrize(
    "head",
    [
        "tags:\n- a\n- b\n",
        "tags: [a, b]\n",
        "tags: [\n  a,\n  b,\n]\n",
        "tags:\n- a\n# why b\n- b\n",
        '"tags":\n  - a\n  - b  # why b\n',
        "tags: [a, b]  # both\n",
        "tags:\n",
        "",
    ],
)
@pytest.mark.parametrize("before", ["", "license: mit  # mine\n\n# about tags\n"])
@pytest.mark.parametrize("after", ["", "\n# about x\nx: |\n  # text\n  more\n", "z: [1,\n 2]\n"])
def test_a_key_is_set_and_all_other_lines_stay(head, before, after):
    text = _with_key(before + head + after, "tags", ["new"])
    data = yaml.safe_load(text)
    assert data == {**(yaml.safe_load(before + after) or {}), "tags": ["new"]}
    assert text.startswith(before) and after in text and text.count("tags") == 1 + before.count("tags")
    gone = _with_key(before + head + after, "tags", None)
    assert yaml.safe_load(gone) == yaml.safe_load(before + after)


@pytest.mark.parametrize(
    ("text", "head", "body"),
    [
        ("no front matter\n---\n", "", "no front matter\n---\n"),
        ("---\na: 1\n---\nbody", "a: 1\n", "body"),
        ("---\na: 1\n---", "a: 1\n", ""),
        ("\n\n---\r\na: 1\r\n---  \r\nbody\r\n", "a: 1\n", "body\n"),
        ("\ufeff---\n---\nbody", "", "body"),
    ],
)
def test_front_matter_is_found_where_the_hub_finds_it(text, head, body):
    assert split_card(text) == (head, body)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("---\na: 1\n", "does not end"),
        ("---\na: 1\nb: [\n---\n", "README.md, line 4"),
        ("\n\n---\na: 1\nb: c: d\n---\n", "README.md, line 5"),
        ("---\n- a\n---\n", "mapping"),
    ],
)
def test_broken_front_matter_is_named_with_its_line(text, words):
    with pytest.raises(ValueError, match=words):
        split_card(text)


@pytest.mark.parametrize(
    "text",
    [
        "# mine\n\n<!-- results -->\nold\n\nMy words.\n",
        "<!-- /results -->\nMy words.\n<!-- results -->\n",
        "<!-- results -->\n<!-- results -->\nMy words.\n<!-- /results -->\n",
    ],
)
def test_a_marker_without_its_other_is_named_and_no_word_is_lost(text, tiny_folder):
    with pytest.raises(ValueError, match="README.md: the lines <!-- results -->"):
        card(text, tiny_folder)


def test_markers_count_only_on_a_line_of_their_own(tiny_folder):
    text = "Ours stand between `<!-- results -->` and <!-- /results -->\n"
    text += "\n<!-- results -->\nstale\n<!-- /results -->\nMy words.\n"
    new = card(text, tiny_folder)
    assert "Ours stand between `<!-- results -->` and <!-- /results -->\n" in new and new.endswith("My words.\n")
    assert "stale" not in new and "50.00 %" in new
    assert _with_region("<!-- a -->\n<!-- /a -->", "a", r"\1 \g<0>") == "<!-- a -->\n\\1 \\g<0>\n<!-- /a -->"


def test_only_our_results_are_replaced():
    def result(name, value, **more):
        return {"task": {"type": "image-classification"}, "dataset": {"type": "imagefolder", "name": name}, **more,
                "metrics": [{"type": "accuracy", "value": value}]}  # fmt: skip

    ours = result("older fruits", 0.1, source={"name": "eval_results.json"})
    birds, text = result("birds", 0.9), result("fish", "0.91")
    by_hand, empty = result("fruits", 0.2), result("x", [])
    index = model_index([{"name": "a", "results": [ours, birds, by_hand, empty, text]}, {"name": "b", "results": [birds]}],
                        RESULTS, METRICS, "me/new")  # fmt: skip
    assert [entry["name"] for entry in index] == ["a", "b"] and index[1]["results"] == [birds]
    assert index[0]["results"][1:] == [birds, text]
    assert [metric["value"] for metric in index[0]["results"][0]["metrics"]] == [0.5, 0.75, 1.25]
    for broken in (None, 3, [], [{"name": "c", "results": 3}], [{"results": ["x"]}]):
        (entry,) = model_index(broken, RESULTS, METRICS, "me/new")
        assert len(entry["results"]) == 1


def test_a_persons_data_sets_stay(tiny_folder):
    data = yaml.safe_load(split_card(card("---\ndatasets: [me/birds, uoft-cs/cifar100]\n---\n", tiny_folder))[0])
    assert data["datasets"] == ["me/birds"]
    cifar = {**RESULTS, "dataset": {**RESULTS["dataset"], "id": "uoft-cs/cifar100"}}
    data = yaml.safe_load(split_card(card("---\ndatasets: [me/birds]\n---\n", tiny_folder, cifar))[0])
    assert data["datasets"] == ["me/birds", "uoft-cs/cifar100"]


@pytest.mark.parametrize("claim", ["---\ntags: [cifar100]\n---\n", "Trained on CIFAR-100.\n"])
def test_a_claim_of_other_data_is_refused(claim, tiny_folder):
    with pytest.raises(ValueError, match="fruits"):
        card(claim, tiny_folder)


@pytest.mark.parametrize("head", ["tags: [{a: b}]\n", "tags: x\n", "datasets: {a: 1}\n"])
def test_front_matter_of_another_shape_is_named(head, tiny_folder):
    with pytest.raises(ValueError, match="must be a list of texts"):
        card(f"---\n{head}---\n", tiny_folder)


def test_the_repository_is_named_in_the_calls_that_load_it_and_nowhere_else():
    text = """Compare hf://keras-io/base and from_pretrained_keras("me/old").
```python
model = keras.saving.load_model("hf://me/old")
```
~~~
model = from_pretrained_keras('me/old', revision="x")
python train.py --init-from me/old
~~~
"""
    new = _with_repo_id(text, "me/new")
    assert new.count("me/new") == 2 and 'load_model("hf://me/new")' in new and "from_pretrained_keras('me/new'" in new
    assert "--init-from me/old" in new and new.startswith(text[:60])
    two = text.replace("'me/old'", "'you/other'")  # whose is whose cannot be told
    assert _with_repo_id(two, "me/new") == two


def test_names_stay_in_their_cells(tiny_folder):
    name = {**RESULTS, "dataset": {**RESULTS["dataset"], "name": "a | b\nc"}}
    row = next(line for line in card(None, tiny_folder, name).splitlines() if line.startswith("| a"))
    assert row.startswith("| a \\| b c | 48 |")


@pytest.mark.parametrize(("classes", "there"), [(3, False), (5, False), (6, True)])
def test_top_5_is_stated_where_it_says_something(classes, there, tmp_path):
    tiny_config(id2label=[f"class {i}" for i in range(classes)]).to_json_file(tmp_path / "config.json")
    new = card(None, tmp_path)
    kinds = [m["type"] for m in yaml.safe_load(split_card(new)[0])["model-index"][0]["results"][0]["metrics"]]
    assert kinds == ["accuracy", *["top_5_accuracy"] * there, "loss"]
    assert ("| Top-5 accuracy |" in new, "| 75.00 % |" in new) == (there, there)
    assert "on 48 pictures of fruits" in new and "wrong about 24 of the 48" in new


def test_how_a_model_was_trained_is_told_with_every_setting(tiny_folder):
    recipe = dict(cutmix=0.5, batch_size=64, learning_rate=0.005, warmup_epochs=2.0, weight_decay=0.1, label_smoothing=0.05)
    recipe |= dict(precision="float32", ema=0.9975)
    training = dict(command="python train.py", seed=7, epochs=1, num_images=1, wall_time_s=4.2, hardware="a laptop")
    training |= dict(date="2026-01-31", init_from="me/base", final_loss=1.0)
    old = card(None, tiny_folder, {**RESULTS, "training": training})
    assert "seed 7, 1 epoch over 1 picture, 4 seconds on a laptop with jax; finished on 2026-01-31." in old
    assert "It began with the weights of `me/base`." in old and "The recipe" not in old  # of an older train.py
    new = card(None, tiny_folder, {**RESULTS, "training": {**training, "recipe": recipe, "wall_time_s": 5400}})
    assert "1.5 hours" in new
    for words in ("CutMix on 50 %", "batches of 64", "rate of 0.005, reached in 2 epochs", "decay of 0.1", "of 0.05;"):
        assert words in new
    plain = card(None, tiny_folder, {**RESULTS, "training": {**training, "recipe": {**recipe, "cutmix": 0.0}}})
    assert "CutMix" not in plain and "the moving average of the weights (momentum 0.9975)" in plain
    short = card(None, tiny_folder, {**RESULTS, "training": {**training, "recipe": {**recipe, "ema": 0.0}}})
    assert "What is shipped is the last weights." in short
    first = {**training, "command": "python train.py --epochs 3", "recipe": {**recipe, "precision": "mixed_bfloat16"}}
    first |= dict(init_from=None, epochs=3, seed=8)
    both = card(None, tiny_folder, {**RESULTS, "training": {**training, "recipe": recipe, "begun_with": first}})
    assert "```bash\npython train.py --epochs 3\npython train.py\n```\n\nmade these weights, each run with" in both
    assert "The run before: seed 8, 3 epochs over 1 picture, 4 seconds on a laptop; finished on 2026-01-31." in both
    assert "Its recipe was the same but for precision mixed_bfloat16." in both
    for damaged in ("a word", {"command": "python train.py"}):
        with pytest.raises(ValueError, match="eval_results.json"):
            card(None, tiny_folder, {**RESULTS, "training": {**training, "begun_with": damaged}})


def test_a_widget_follows_the_model_and_goes_where_there_are_no_samples(tiny_folder, tmp_path):
    head = "---\nwidget:\n- src: old.png\n---\n"
    assert "widget" not in yaml.safe_load(split_card(card(head, tiny_folder))[0])
    folder = shutil.copytree(tiny_folder, tmp_path / "m")
    (folder / "samples").mkdir()
    shutil.copy(ROOT / "samples" / "apple.png", folder / "samples")
    (entry,) = yaml.safe_load(split_card(card(head, folder))[0])["widget"]
    assert entry["src"] == "https://huggingface.co/me/new/resolve/main/samples/apple.png"
    assert {o["label"] for o in entry["output"]} == {"red", "green", "blue"}
    assert sum(o["score"] for o in entry["output"]) == pytest.approx(1, abs=1e-3)
    assert "widget" not in card("---\n---\n", folder)  # a card without one is given none


def test_an_evaluation_of_other_weights_is_not_shown(tiny_folder, tmp_path):
    tiny_config().to_json_file(tmp_path / "config.json")
    text = "<!-- evaluation -->\n<!-- /evaluation -->\n"
    assert "Not measured for these weights" in card(text, tmp_path)
    measured = dict(
        checksum="abc",
        dataset="fruits",
        split="test",
        num_images=48,
        accuracy=0.5,
        mean_confidence=0.25,
        superclass_accuracy=0.875,
        expected_calibration_error=0.125,
        bins=15,
        calibration=[{}] * 15,
        rows=[{"superclass": "red ones", "pictures": 20, "top-1 accuracy": 0.45, "some class": 0.9}],
        confusions=[{"classes": ["red", "green"], "count": 7, "of": 40}],
        easiest=[{"class": "blue", "accuracy": 0.75}],
        hardest=[{"class": "red", "accuracy": 0.25}],
    )
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "evaluation.json").write_text(json.dumps(measured))
    assert "Not measured for these weights" in card(text, tmp_path)
    new = card(text, tmp_path, {**RESULTS, "model": {**RESULTS["model"], "checksum": "abc"}})
    assert "| red ones | 20 | 45.0 % | 90.0 % |" in new and "red and green (7 of 40)" in new and "less sure" in new
    for broken in ("{", "[]", json.dumps({"checksum": "abc"})):
        (tmp_path / "benchmarks" / "evaluation.json").write_text(broken)
        with pytest.raises(ValueError, match=r"evaluation\.json: damaged"):
            card(text, tmp_path, {**RESULTS, "model": {**RESULTS["model"], "checksum": "abc"}})
    assert "`blue` (75 %)" in new and "`red` (25 %)" in new and "calibration error (15 bins) is 12.5 %" in new


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "0.5"])
def test_a_result_that_is_no_number_is_refused(value, tiny_folder):
    with pytest.raises(ValueError, match="top5_accuracy"):
        card(None, tiny_folder, {**RESULTS, "top5_accuracy": value})


MEASURED = {"evaluation", "training-speed", "prediction-speed", "scaling", "exports", "ablation"}  # by benchmarks/


FILES = {"training-speed": "train_speed", "prediction-speed": "predict_speed", "scaling": "attention_scaling"}


@pytest.mark.parametrize("name", sorted(MEASURED - {"evaluation"}))
def test_what_was_measured_elsewhere_stays_and_a_damaged_file_is_named(name, tiny_folder, tmp_path):
    tiny_config().to_json_file(tmp_path / "config.json")
    text = f"<!-- {name} -->\nas it was\n<!-- /{name} -->\n"
    bound = name == "exports"  # it has an accuracy, which is of certain weights
    assert ("Not measured for these weights" if bound else "as it was") in card(text, tmp_path)
    shutil.copytree(ROOT / "benchmarks", tmp_path / "benchmarks")
    results = RESULTS
    if bound:
        assert "Not measured for these weights" in card(text, tmp_path)
        measured = json.loads((ROOT / "benchmarks" / "exports.json").read_text())["checksum"]
        results = {**RESULTS, "model": {**RESULTS["model"], "checksum": measured}}
    new = card(text, tmp_path, results)
    found = json.loads((ROOT / "benchmarks" / f"{FILES.get(name, name)}.json").read_text())
    made_by = f"`{found['command']}` on {found['hardware']}, {found['date']}."
    assert "as it was" not in new and "Not measured" not in new and made_by in new
    for damage in (
        {"checksum": results["model"].get("checksum")},
        {"checksum": results["model"].get("checksum"), "rows": []},
    ):
        for path in (tmp_path / "benchmarks").glob("*.json"):
            path.write_text(json.dumps(damage))
        with pytest.raises(ValueError, match=r"\.json: damaged"):
            card(text, tmp_path, results)


def test_the_template_has_every_region_but_the_samples_and_the_readme_all_but_the_classes():
    for name, missing in (("card_template.md", {"samples", *MEASURED}), ("README.md", {"classes"})):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert {r for r in REGIONS if f"\n<!-- {r} -->\n" not in text} == missing

"""The card as a function of its facts: regions, front matter, escaping, and what a person wrote."""

import copy
import functools
import json
import re

import numpy as np
import pytest
import yaml
from conftest import ROOT, tiny_config
from test_lineage import FIRST, RECIPE, TRAINING, TUNED, publish

from eanet.cli import UserError
from eanet.hub import card, card_facts, front_matter, lineage
from eanet.hub.card_facts import collect_facts
from eanet.hub.records import read_record
from eanet.report import describe_predictions
from eanet.saving import model_checksum
from modeling_eanet import build_eanet

RESULTS = {
    "accuracy": 0.5,
    "top5_accuracy": 0.75,
    "loss": 1.25,
    "num_images": 48,
    "dataset": {"id": "", "name": "fruits", "split": "test", "note": ""},
    "model": {"preset": "tiny", "parameters": 9475, "checksum": "abc"},
    "training": None,
    "versions": {"backend": "jax"},
}
HEAD = "---\n---\n"


@pytest.fixture(scope="module")
def plain_facts(tiny_model, tmp_path_factory):
    facts = collect_facts(tmp_path_factory.mktemp("empty"), RESULTS, tiny_model, "me/new")
    return facts | {"saved_model": True}


@pytest.fixture
def facts(plain_facts):
    return copy.deepcopy(plain_facts)


@pytest.fixture
def training_facts(tiny_model, tmp_path):
    """Return a function from the training record to the facts."""

    def collect(training):
        path = tmp_path / "eval_results.json"
        path.write_text(json.dumps({**RESULTS, "training": training}))
        return collect_facts(tmp_path, read_record(path, path.name, "train again"), tiny_model, "me/new")

    return collect


def metadata(text):
    return yaml.safe_load(front_matter.split_card(text)[0])


# Front matter ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["tags: [{a: b}]\n", "tags: x\n", "datasets: {a: 1}\n"])
def test_front_matter_of_another_type_is_named(head, facts):
    with pytest.raises(UserError, match="must be a list of strings"):
        card.update_card(f"---\n{head}---\n", facts)


def test_only_our_results_are_replaced(facts):
    def result(name, value, **more):
        return {"task": {"type": "image-classification"}, "dataset": {"type": "imagefolder", "name": name}, **more,
                "metrics": [{"type": "accuracy", "value": value}]}  # fmt: skip

    ours = result("older fruits", 0.1, source={"name": "eval_results.json"})
    birds, text = result("birds", 0.9), result("fish", "0.91")
    by_hand, empty = result("fruits", 0.2), result("x", [])
    facts["labels"] = list("abcdef")
    index = [{"name": "a", "results": [ours, birds, by_hand, empty, text]}, {"name": "b", "results": [birds]}]
    index = front_matter.model_index(index, facts)
    assert [entry["name"] for entry in index] == ["a", "b"] and index[1]["results"] == [birds]
    assert index[0]["results"][1:] == [birds, text]
    assert [metric["value"] for metric in index[0]["results"][0]["metrics"]] == [0.5, 0.75, 1.25]
    for broken in (None, 3, [], [{"name": "c", "results": 3}], [{"results": ["x"]}]):
        (entry,) = front_matter.model_index(broken, facts)
        assert len(entry["results"]) == 1


def test_a_persons_datasets_stay(facts):
    text = card.update_card("---\ndatasets: [me/birds, uoft-cs/cifar100]\n---\n", facts)
    assert metadata(text)["datasets"] == ["me/birds"]
    facts["results"]["dataset"]["id"] = "me/fish"
    old = "---\ndatasets: [me/birds, uoft-cs/cifar100]\n---\n"
    assert metadata(card.update_card(old, facts))["datasets"] == ["me/birds", "me/fish"]
    facts["cifar100_parent"] = True
    assert metadata(card.update_card(old, facts))["datasets"] == ["me/birds", "uoft-cs/cifar100", "me/fish"]
    facts["results"]["dataset"]["id"], facts["cifar100"] = "uoft-cs/cifar100", True
    text = card.update_card("---\ndatasets: [me/birds]\n---\n", facts)
    assert metadata(text)["datasets"] == ["me/birds", "uoft-cs/cifar100"]


def test_a_widget_follows_the_samples(facts):
    head = "---\nwidget:\n- src: old.png\n---\n"
    assert "widget" not in metadata(card.update_card(head, facts))  # no samples
    answers = [{"label": name, "score": score} for name, score in (("red", 0.5), ("green", 0.25), ("blue", 0.25))]
    facts["samples"] = [{"file": "red_one.png", "label": None, "answers": answers, "top1": False, "top5": False}]
    (entry,) = metadata(card.update_card(head, facts))["widget"]
    assert entry == {"src": "samples/red_one.png", "example_title": "red one", "output": answers}
    assert "widget" not in metadata(card.update_card(HEAD, facts))  # a person's card without one gets none
    assert "widget" in metadata(card.render_card(facts))


def test_a_thumbnail_is_a_figure_of_this_repository(facts):
    facts["figures"], facts["removed_figures"] = {"curves.png": dict(alt="", caption="", width=300)}, ["slots.png"]
    base = "https://huggingface.co/keras-io/base/resolve/main/"
    new = "https://huggingface.co/me/new/resolve/main/"
    for old, kept in (("figures/slots.png", None), ("figures/curves.png", new + "figures/curves.png"),
                      ("figures/mine.png", base + "figures/mine.png"), ("logo.png", base + "logo.png")):  # fmt: skip
        assert metadata(card.update_card(f"---\nthumbnail: {base}{old}\n---\n", facts)).get("thumbnail") == kept


# Regions --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "# mine\n\n<!-- results -->\nold\n\nMy words.\n",
        "<!-- /results -->\nMy words.\n<!-- results -->\n",
        "<!-- results -->\n<!-- results -->\nMy words.\n<!-- /results -->\n",
    ],
)
def test_a_marker_without_its_counterpart_is_named(text, facts):
    with pytest.raises(UserError, match="README.md: the lines <!-- results -->"):
        card.update_card(text, facts)


def test_markers_count_only_on_a_line_of_their_own(facts):
    text = "Ours stand between `<!-- results -->` and <!-- /results -->\n"
    text += "\n<!-- results -->\nstale\n<!-- /results -->\nMy words.\n"
    new = card.update_card(text, facts)
    assert "Ours stand between `<!-- results -->` and <!-- /results -->\n" in new and new.endswith("My words.\n")
    assert "stale" not in new and "50.00%" in new
    assert card.set_region("<!-- a -->\n<!-- /a -->", "a", r"\1 \g<0>") == "<!-- a -->\n\\1 \\g<0>\n<!-- /a -->"


def test_an_update_changes_nothing_the_second_time(facts):
    once = card.update_card((ROOT / "README.md").read_text(), facts)
    assert card.update_card(once, facts) == once
    new = card.render_card(facts)
    assert card.update_card(new, facts) == new


def test_every_word_outside_the_regions_stays(facts):
    """On the card of this tree, for a model of which nothing is known but its results."""
    old = (ROOT / "README.md").read_text()
    words = front_matter.split_card(card.REGION.sub("", old))[1]
    words = words.replace("keras-io/Image-Classification-using-EANet", "me/new")
    kept = front_matter.split_card(card.REGION.sub("", card.update_card(old, facts)))[1]
    assert kept == words


def test_regions_without_content_are_empty(facts):
    old = "\n".join(f"<!-- {name} -->\n73.66 %\n<!-- /{name} -->" for name in card.card_regions(facts))
    new = card.update_card(old, facts)
    assert "73.66" not in new
    for name in ("samples", "evaluation", "exports", "training-speed", "prediction-speed", "scaling", "ablation"):
        assert f"<!-- {name} -->\n<!-- /{name} -->" in new
    facts["benchmarks_readme"] = True
    assert "<!-- scaling -->\nMeasured in [benchmarks/README.md](benchmarks/README.md).\n<!-- /scaling -->" in (
        card.update_card(old, facts)
    )


def test_figures_are_shown_once_and_only_those_that_are_there(facts):
    text = "![Old](figures/slots.png)\n\nMy words ![small](figures/curves.png) here.\n\n![Mine](figures/mine.png)\n"
    text += '<img src="figures/architecture.png" alt="x">\n\n<!-- architecture -->\n<!-- /architecture -->\n'
    new = card.update_card(text, facts)
    assert not re.search("slots.png|curves.png|architecture.png", new)
    assert "My words  here." in new and "![Mine](figures/mine.png)" in new
    shown = {"alt": 'a "b" <c>', "caption": "Parts *of* it", "width": 300}
    facts["figures"], facts["removed_figures"] = {"architecture.png": shown}, ["slots.png", "curves.png"]
    new = card.update_card(text, facts)
    assert new.count("figures/architecture.png") == 1 and r"*Parts \*of\* it*" in new
    assert '<img src="figures/architecture.png" width="300" alt="a &quot;b&quot; &lt;c&gt;">' in new


def test_the_space_of_a_stranger_is_not_linked(tiny_model, tmp_path):
    record = {"space": "me/demo", "checksum": model_checksum(tiny_model)}
    (tmp_path / "eanet_demo.json").write_text(json.dumps(record))
    for repo, expected in (("me/new", "me/demo"), ("someone/new", None)):
        assert collect_facts(tmp_path, RESULTS, tiny_model, repo)["space"] == expected


def test_the_demo_is_linked_and_shown_where_there_is_one(facts):
    assert "huggingface.co/spaces" not in card.render_card(facts)
    samples = card.card_regions({**facts, "space": "me/new_demo"})["samples"]
    assert samples == "[Try it in your browser](https://huggingface.co/spaces/me/new_demo): images stay on your device."
    facts |= {"onnx_bytes": 1, "demo": True}
    for alt, there in (("The page", True), ("", False)):  # without a description it is a person's own image
        figures = {"demo.png": {"alt": alt, "caption": "The demo.", "width": 600}}
        assert ("figures/demo.png" in card.card_regions({**facts, "figures": figures})["exports"]) == there


def test_the_template_and_the_readme_have_every_region(facts):
    retired = {"training-speed", "prediction-speed", "scaling", "ablation"}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for text in (readme, card.render_card(facts)):
        assert {match["name"] for match in card.REGION.finditer(text)} == set(card.card_regions(facts)) - retired


# Facts ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("claim", ["---\ntags: [cifar100]\n---\n", "Fine-tuned from the CIFAR-100 EANet.\n"])
def test_words_about_other_data_are_a_warning(claim, facts):
    (warning,) = card.card_warnings(claim, facts)
    assert "CIFAR" in warning.upper() and "fruits" in warning
    assert claim.splitlines()[-1] in card.update_card(claim, facts)
    facts["results"]["dataset"]["name"] = "CIFAR-10 (1,000 images)"
    assert card.card_warnings(claim.replace("100", "10").replace("EANet", "model"), facts) == []
    assert len(card.card_warnings(claim, facts)) == 1
    facts["cifar100"] = True
    assert card.card_warnings(claim, facts) == []


def test_the_repository_is_named_in_the_code_that_loads_it():
    text = """Compare hf://keras-io/base and from_pretrained_keras("me/old"), or `hf download me/old --local-dir x`.
```python
repo = "me/old"
model = keras.saving.load_model("hf://me/old")
```
~~~
hf download me/old --local-dir eanet
model = from_pretrained_keras('me/old', revision="x")
python train.py --init-from me/old
~~~
"""
    new = card.name_repository(text, "me/new")
    assert new.count("me/new") == 5 and 'load_model("hf://me/new")' in new and "from_pretrained_keras('me/new'" in new
    assert "--init-from me/old" in new and new.startswith(text[:60])
    two = text.replace("'me/old'", "'you/other'")  # it cannot be told which is which
    assert card.name_repository(two, "me/new") == two


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("a | b\nc", r"a \| b c"),
        ("<script>x</script>", "&lt;script&gt;x&lt;/script&gt;"),
        ("*bold* _it_ a_b `c` [d](e)", r"\*bold\* \_it\_ a_b \`c\` \[d\](e)"),
        ("<!-- /results -->", "&lt;!-- /results --&gt;"),
        ("a\x1b[0m", r"a\\x1b\[0m"),
        ("~~x~~ $y$", r"\~\~x\~\~ \$y\$"),
    ],
)
def test_data_is_escaped_wherever_it_is_shown(value, shown, facts):
    facts["results"]["dataset"]["name"] = value
    facts["labels"] = [value, "b", "c"]
    text = card.render_card(facts)
    assert f"top-1 accuracy** on {shown} (24 of 48 images, test split, 95% interval 36–64%)" in text
    body = front_matter.split_card(text)[1]
    assert "<script>" not in body and "\x1b" not in text
    assert card.update_card(text, facts) == text  # no marker was forged
    assert yaml.safe_load(front_matter.split_card(text)[0])["model-index"]


def test_a_command_cannot_leave_its_block(training_facts):
    command = "python train.py --data '```\n<!-- /training -->\n'"
    text = card.render_card(training_facts({**TRAINING, "command": command}))
    assert len(re.findall("^<!-- /training -->$", text, re.MULTILINE)) == 1
    assert r"python train.py --data '```\n<!-- /training -->\n'" in text and "\n````bash\n" in text
    assert card.code("a`b|c") == "<code>a&#96;b&#124;c</code>" and card.code("a_b") == "`a_b`"


@pytest.mark.parametrize(("classes", "there"), [(3, False), (5, False), (6, True)])
def test_top_5_is_stated_where_it_says_something(classes, there, tmp_path):
    model = build_eanet(tiny_config(id2label=[f"class {i}" for i in range(classes)]))
    new = card.render_card(collect_facts(tmp_path, RESULTS, model, "me/new"))
    kinds = [m["type"] for m in metadata(new)["model-index"][0]["results"][0]["metrics"]]
    assert kinds == ["accuracy", *["top_5_accuracy"] * there, "loss"]
    assert ("Top-5 accuracy 75.00%" in new) == there
    assert "on fruits (24 of 48 images, test split," in new and "ross-entropy 1.250" in new


def test_the_training_is_told_with_every_setting(training_facts):
    old = card.render_card(training_facts({k: v for k, v in TRAINING.items() if k != "recipe"}))
    assert "| 1 | 1 | 1 | seed 7 | 4 s | a laptop | 2026-01-31 |" in old  # of an older train.py
    assert "Initial weights: `runs/base`." in old and "shipped weights" not in old
    new = card.render_card(training_facts({**TRAINING, "epochs": 2, "wall_time_s": 5400, "backend": "jax 1", "devices": 8}))
    for words in ("1 h 30 min", "a laptop (8 devices), jax 1", "CutMix on 50%, none in the last epoch", "batch 64",
                  "peak learning rate 0.005, 2 warm-up epochs",
                  "weight decay 0.1", "label smoothing 0.05", "float32; seed 7",
                  "The shipped weights are the moving average of the weights (momentum 0.9975)."):  # fmt: skip
        assert words in new
    plain = card.render_card(training_facts({**TRAINING, "recipe": {**RECIPE, "cutmix": 0.0, "ema": 0.0}}))
    assert "CutMix" not in plain and "average of the weights" not in plain
    assert "The shipped weights are the final weights of the training." in plain
    assert "CutMix" not in card.render_card(training_facts({**TRAINING, "epochs": 1}))
    assert "CutMix on 50%, none in the last tenth;" in card.render_card(training_facts({**TRAINING, "epochs": 20}))
    assert "distilled" not in new
    taught = {**RECIPE, "teacher": "models/base", "distill": 0.9, "distill_temperature": 1.5}
    distilled = card.render_card(training_facts({**TRAINING, "recipe": taught}))
    assert "; distilled from `models/base` (90% of the loss, temperature 1.5); float32; seed 7" in distilled
    first = {**TRAINING, "command": "python train.py --epochs 3", "init_from": None, "epochs": 3, "seed": 8}
    for data, known in (("", True), (" --data cifar-100-dev.tar.gz", True), (" --data cifar10", False)):
        parent = {**first, "command": f"python train.py{data}"}
        assert training_facts({**TRAINING, "parent_run": parent})["cifar100_parent"] == known
    for key in ("begun_with", "parent_run"):
        both = card.render_card(training_facts({**TRAINING, key: first}))
        assert "```bash\npython train.py --epochs 3\npython train.py\n```" in both
        assert "| 1 | 3 | 1 |" in both and "seed 8 |" in both and "| 2 | 1 | 1 |" in both
        assert "Each run starts from the weights of the run before." in both and "Initial weights" not in both
        both = card.render_card(training_facts({**TRAINING, key: {**first, "init_from": "me/b"}}))
        assert "of the run before. Initial weights of run 1: `me/b`." in both
        others = ({"command": "python train.py"}, {**first, "recipe": 3}, {**first, "recipe": {"ema": 0}})
        for damaged in ("a word", *others):
            with pytest.raises(UserError, match="eval_results.json"):
                card.render_card(training_facts({**TRAINING, key: damaged}))


@pytest.fixture
def published(tmp_path, monkeypatch):
    """The folder of the code is a copy of the published model me/base."""
    folder = publish(tmp_path / "published")
    for name in ("split_lineage", "name_sources", "own_teachers"):
        monkeypatch.setattr(card_facts, name, functools.partial(getattr(lineage, name), tree=folder))
    return folder


def test_a_fine_tuned_model_names_its_base_and_tells_its_own_training_only(training_facts, published):
    text = card.render_card(facts := training_facts(TUNED))
    assert metadata(text)["base_model"] == "me/base" and facts["epochs"] == 1
    assert "Fine-tuned from [me/base](https://huggingface.co/me/base).\n<!-- /summary -->" in text
    assert "python train.py --data 'my shapes' --init-from me/base\n" in text and "Initial weights: `me/base`." in text
    assert "--epochs 3\n" not in text and "seed 8" not in text and "`.`" not in text and "me/base\n```\n" in text
    kept = card.update_card("---\nbase_model: [you/x, me/base]  # two\n---\n", facts)
    assert "base_model: [you/x, me/base]  # two\n" in kept
    old = "---\nbase_model: you/x\n---\n"
    assert metadata(card.update_card(old, facts))["base_model"] == "me/base"
    assert "base_model" not in metadata(card.update_card(old, training_facts(FIRST)))  # trained from scratch
    assert "Initial weights: those of another model." in card.render_card(training_facts({**TUNED, "parent_run": None}))


def test_a_teacher_or_base_inside_a_published_repository_is_named_by_its_path_there(training_facts, published):
    larger, taught = {**FIRST, "seed": 5}, {**RECIPE, "distill": 0.9, "distill_temperature": 1.5}
    for path, record, shown in (("models/base", larger, "me/base/models/base"), (".", FIRST, "me/base")):
        run = {**TUNED, "recipe": {**taught, "teacher": path}, "teacher_run": record}
        text = card.render_card(training_facts(run))
        assert f"distilled from `{shown}` (90% of the loss" in text and "seed 5 |" not in text
        lineage.name_sources([run], "me/base", None, published)
        assert run["recipe"]["teacher"] == path  # as in the card of the repository itself
    tuned = {**TUNED, "command": "python train.py --init-from . --output runs/tuned"}  # of the published model
    run = {**FIRST, "seed": 7, "recipe": {**taught, "teacher": "runs/tuned"}, "teacher_run": tuned}
    text = card.render_card(training_facts(run))
    commands = "python train.py --init-from me/base --output runs/tuned\npython train.py --epochs 3"
    assert f"```bash\n{commands}\n```" in text and "distilled from run 1 (`runs/tuned`;" in text and "seed 8 |" not in text
    command = "python train.py --init-from models/base"
    text = card.render_card(training_facts({**TUNED, "init_from": "models/base", "parent_run": larger, "command": command}))
    assert metadata(text)["base_model"] == "me/base" and "Initial weights: `me/base/models/base`." in text
    assert f"{command}\n" in text  # of a clone: a command takes no folder of a repository


def test_nobody_licenses_a_model_of_a_persons_data(facts):
    text = card.render_card(facts)
    assert "license" not in metadata(text) and text.startswith("---\n# license: ") and "The code is Apache-2.0" in text
    assert "license: mit\n" in card.update_card("---\nlicense: mit\n---\n", facts)
    assert card.update_card(text, facts) == text
    assert metadata(card.render_card({**facts, "cifar100": True}))["license"] == "apache-2.0"


def test_accuracy_on_few_images_has_its_interval(tiny_model, tmp_path):
    results = {**RESULTS, "accuracy": 1.0, "num_images": 8}
    results["dataset"] = {**RESULTS["dataset"], "split": "hold-out", "name": "shots (held out)", "note": "held out"}
    text = card.render_card(collect_facts(tmp_path, results, tiny_model, "me/new", "Fruits | 2026"))
    assert r"accuracy** on Fruits \| 2026 (8 of 8 held-out images, 95% interval 68–100%): 3 classes" in text
    assert "| hold-out, 8 images | **100.00%**, 95% interval 68–100% |" in text and "shots" not in text
    assert metadata(text)["model-index"][0]["results"][0]["dataset"]["name"] == "Fruits | 2026 (held out)"
    assert results["dataset"]["name"] == "shots (held out)"
    many = card.render_card(collect_facts(tmp_path, {**results, "num_images": 1000}, tiny_model, "me/new"))
    assert "(1,000 held-out images): 3" in many and "interval" not in many


def test_a_card_without_the_saved_model_says_so(facts):
    (with_it, old), text = (
        (card.render_card(facts), card.render_card(facts)),
        card.render_card({**facts, "saved_model": False}),
    )
    assert card.OLD_CLIENT in with_it and "There is no SavedModel" not in with_it and "tf-keras" in metadata(old)["tags"]
    assert card.OLD_CLIENT not in text and "There is no SavedModel here" in text and "tf-keras" not in metadata(text)["tags"]
    facts["saved_model"] = False
    new = card.update_card(old, facts)
    assert "There is no SavedModel here" in new and "tf-keras" not in metadata(new)["tags"]
    assert "needs the SavedModel that is left out" in card.card_warnings(new, facts)[0]
    assert card.card_warnings(text, facts) == []


def test_the_report_of_a_run_takes_the_place_of_the_evaluation(tiny_model, tmp_path):
    y = np.array([0] * 6 + [1] * 2)
    found = describe_predictions(np.eye(3)[[0, 0, 0, 0, 0, 1, 1, 1]] * 0.7 + 0.1, y, ("red", "green", "blue"))
    report = {"checksum": model_checksum(tiny_model), **found}
    (tmp_path / "report.json").write_text(json.dumps(report))
    text = card.card_regions(collect_facts(tmp_path, RESULTS, tiny_model, "me/new"))["evaluation"]
    assert "| Easiest classes | green 100% of 2 |" in text and "| Hardest classes | red 83% of 6 |" in text
    assert "red / green (1 of 8)" in text
    assert "accuracy 87.5%, 95% interval 53–98%, expected" in text and "uperclass" not in text
    (tmp_path / "report.json").write_text(json.dumps({**report, "checksum": "00000000"}))
    assert card.card_regions(collect_facts(tmp_path, RESULTS, tiny_model, "me/new"))["evaluation"] == ""


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, "0.5"])
def test_a_result_that_is_not_a_finite_number_is_refused(value, tiny_model, tmp_path):
    with pytest.raises(UserError, match="top5_accuracy"):
        collect_facts(tmp_path, {**RESULTS, "top5_accuracy": value}, tiny_model, "me/new")


EVALUATION = dict(
    dataset="fruits",
    split="test",
    num_images=48,
    accuracy=0.5,
    mean_confidence=0.25,
    superclass_accuracy=0.875,
    expected_calibration_error=0.125,
    bins=15,
    rows=[{"superclass_accuracy": 0.9, "top1_accuracy": 0.45, "num_images": 20, "superclass": "red ones"}],
    confusions=[{"classes": ["red", "green"], "count": 7, "of": 40}],
    easiest=[{"class": "blue", "accuracy": 0.75}],
    hardest=[{"class": "red", "accuracy": 0.25}],
)
EXPORTS = dict(split="hold-out", num_images=5, hardware="a laptop", date="2026-01-31", command="python x.py")
EXPORTS["rows"] = [dict(cold_start_s=None, one_image_ms=1.5, same_answers=0.8, top1_accuracy=0.25, size_mb=2.0, form="ONNX")]


@pytest.mark.parametrize(
    ("name", "found", "shown"),
    [
        ("evaluation", EVALUATION, ["| Superclass accuracy | 87.5% |", "red / green (7 of 40)", "under-confident",
                                    "blue 75%", "red 25%", "expected calibration error 12.5% (15 bins)"]),
        ("evaluation", EVALUATION | {"interval": [0.2, 0.8]}, ["| Calibration | neither over- nor under-confident"]),
        ("exports", EXPORTS, ["Its top-1 label matches Keras' on 4 of 5 images."]),
    ],
)  # fmt: skip
def test_measurements_are_read_by_key_and_only_of_these_weights(name, found, shown, tiny_model, tmp_path):
    path = tmp_path / "benchmarks" / f"{name}.json"
    path.parent.mkdir()
    (tmp_path / "onnx").mkdir()
    (tmp_path / "onnx" / "model.onnx").write_bytes(b"x")

    def region(content):
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return card.card_regions(collect_facts(tmp_path, RESULTS, tiny_model, "me/new"))[name]

    checksum = model_checksum(tiny_model)
    assert not any(words in region({**found, "checksum": "00000000"}) for words in shown)
    text = region({**found, "checksum": checksum})
    assert all(words in text for words in shown)
    assert region(dict(reversed({**found, "checksum": checksum}.items()))) == text  # the order of keys says nothing
    damaged = {**found, "checksum": checksum, "rows": [{}], "easiest": [{}]}
    for broken in ("{", "[]", {"checksum": checksum}, damaged):
        with pytest.raises(UserError, match=rf"benchmarks/{name}\.json: damaged"):
            region(broken)


def test_no_paragraph_of_a_region_is_longer_than_three_lines(plain_facts):
    text = (ROOT / "README.md").read_text()
    for match in card.REGION.finditer(text):
        for paragraph in match["text"].split("\n\n"):
            if not paragraph.lstrip().startswith(("|", "`", "<", "*")):
                assert len(paragraph) < 3 * 125, paragraph
    assert " %" not in card.render_card(plain_facts)


@pytest.mark.parametrize(("resize", "sentence"), [
    ("squash", "An image of another shape is squashed to the square, not\ncropped. `config.json`"),
    ("crop", "An image of another shape is cropped to its middle square. `config.json`"),
    ("pad", "An image of another shape is padded to a square with black bars; `eanet.load_image` does that."),
])  # fmt: skip
def test_the_card_says_how_images_become_square(facts, resize, sentence):
    assert sentence in card.render_card({**facts, "resize": resize})  # and test_card_snippets.py what the code does


def test_card_tells_which_run_taught_which(training_facts):
    first = {**TRAINING, "init_from": None, "command": "python train.py --output runs/base"}
    taught = {**RECIPE, "teacher": "runs/base", "distill": 0.9, "distill_temperature": 1.5}
    second = {**first, "command": "python train.py --teacher runs/base", "recipe": taught, "teacher_run": first}
    third = {**second, "command": "python train.py --init-from runs/base --teacher .", "parent_run": first}
    third |= {"recipe": {**taught, "teacher": "."}, "teacher_run": second}
    last = {**second, "command": "python train.py --teacher runs/third", "teacher_run": third}
    last["recipe"] = {**taught, "teacher_epochs": 16}
    text = card.render_card(training_facts(last))
    assert "```bash\n" + "\n".join(run["command"] for run in (first, second, third, last)) + "\n```" in text
    rows = [next(line for line in text.splitlines() if line.startswith(f"| {i}")) for i in ("1,", "2,", "3,", "4 ")]
    assert "distilled" not in rows[0] and "| initial weights of run 1; AdamW" in rows[2] and "first 16 epochs)" in rows[3]
    for row, teacher in zip(rows[1:], ("1 (`runs/base`", "2 (`.`", "3 (`runs/base`"), strict=True):
        assert f"distilled from run {teacher}; 90% of the loss" in row

"""Write README.md from the JSON files in this folder.

    python benchmarks/readme.py

A benchmark calls this when it has written its JSON. Values are read by key; a section without a JSON file is left out.
"""

from __future__ import annotations

import argparse
import html
import os
import re
import sys
from pathlib import Path
from statistics import fmean

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from eanet.cli import UserError, read_json, run, write_text

HERE = Path(os.path.abspath(__file__)).parent
EXAMPLE = "× Keras example"

PERCENT = {"top1_accuracy", "superclass_accuracy", "same_answers"}  # keys of fractions that are shown as per cent

INTRODUCTION = """# Benchmarks

Every script writes `<name>.json` (values, and the versions of the libraries) and then this file. Contenders take turns in
one process and figures are medians, because a shared machine is sometimes slow: read the ratios, compare within a column.
"Keras example" is [Image classification with EANet](https://keras.io/examples/vision/eanet/), in `keras_io_example.py`.

| command | measures |
| --- | --- |
| `python benchmarks/train_speed.py --data DATA` | training speed, and the time to the example's accuracy |
| `python benchmarks/predict_speed.py` | prediction speed and cold start |
| `python benchmarks/exports.py --data DATA` | size, accuracy and latency of the exports |
| `python benchmarks/attention_scaling.py` | time and memory of attention over the number of tokens |
| `python benchmarks/ablation.py --data DATA` | what each choice of the recipe is worth |
| `python benchmarks/distillation.py STUDENT TEACHER ...` | epochs of a distilled run and of its teacher |
| `python benchmarks/reproduction.py --data DATA` | whether the same command gives the same weights |
| `python benchmarks/evaluation.py --data DATA` | superclasses, confusions and calibration of the shipped weights |
| `python benchmarks/reading.py` | what three loaders read of people's folders, tables and archives |
| `python benchmarks/fine_tuning.py` | training on a few hundred images of one's own, with default settings |
| `python benchmarks/large_sets.py` | decoding speed, and memory of training, with 200,000 images |
| `python benchmarks/scaling.py` | prediction and training on several cores and processes |
| `python benchmarks/endpoint.py` | an Inference Endpoint under load, and its most expensive requests |
| `python benchmarks/robustness.py` | more than 10,000 hostile and damaged inputs |
| `python benchmarks/readme.py` | nothing; rewrites this file from the JSON files |

`DATA` is CIFAR-100 as train.py takes it; `python benchmarks/hold_out.py` makes the `cifar-100-dev.tar.gz` of these
figures from the official archive. Run from the repository's root after `pip install -e ".[dev,ray]" scikit-learn`.
"""


def table(columns: dict, rows: list) -> str:
    """Return a Markdown table.

    Args:
        columns: key in a row to the column's heading.
        rows: dicts; a missing key or None is shown as a dash.
    """
    lines = [list(columns.values()), ["---"] * len(columns)]
    lines += [[cell(key, row.get(key)) for key in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def cell(key: str, value) -> str:
    """Return the text of one table cell; keys in `PERCENT` are fractions and shown as per cent."""
    if value is None:
        return "–"
    if key in PERCENT:
        return f"{100 * value:.2f}"
    if isinstance(value, float) and value:
        return f"{value:,.0f}" if value >= 1000 else f"{value:#.3g}".rstrip(".")
    return f"{value:,.0f}" if isinstance(value, (int, float)) else str(value)


def measured(found: dict) -> str:
    """Return how a table was made: command, hardware and date."""
    return f"`{found['command']}` on {found['hardware']}, {found['date']}."


def train_speed(found: dict) -> str:
    """Return the section about training speed."""
    columns = {"model": "model", "images_per_second": "images/s", "fastest_step_ms": "step, ms, in the fastest round"}
    columns |= {"times_the_example": EXAMPLE}
    if any("times_small" in row for row in found["rows"]):
        columns |= {"times_small": "× small preset"}
    names = " ".join(row["model"] for row in found["rows"])
    precision = "float32 unless a row says bfloat16" if "bfloat16" in names else "float32"
    stored = " Stored: an epoch that repeats images and the teacher's answers." if "stored" in names else ""
    parts = [
        "## Training speed",
        table(columns, found["rows"]),
        f"Full training steps with the input pipeline, {precision}, batches of 128.{stored} {measured(found)}",
    ]
    if reached := found.get("time_to_43_91"):
        rows = [
            {"model": "small preset", "epochs": reached["epochs"], "top1_accuracy": reached["accuracy"],
             "time": duration(reached["seconds"])},
            {"model": "Keras example", "epochs": 50, "top1_accuracy": 0.4391, "time": duration(reached["example_seconds"])},
        ]  # fmt: skip
        columns = {"model": "time to 43.91%", "epochs": "epochs", "top1_accuracy": "top-1, %", "time": "time"}
        parts += [
            table(columns, rows),
            f"The small preset is measured on the {reached['split']} split, start-up and export included "
            f"(`{reached['command']}`). The example's accuracy is the published one; its time is 50 epochs of 40,000 images "
            f"at the speed above, {reached['times_sooner']:.0f} times as long.",
        ]
    return "\n\n".join(parts)


def duration(seconds: float) -> str:
    """Return minutes, or hours from 90 minutes on."""
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{seconds / 60:.1f} min"


def prediction(speed: dict, exports: dict | None) -> str:
    """Return the section about prediction speed: both benchmarks in one table, one condition per column."""
    rows = {row["model"]: dict(row) for row in speed["rows"]}
    shipped = f"{speed['preset']} preset"
    rows[shipped]["cold_start_s"] = speed["cold_start_s"]
    columns = {
        "model": "model",
        "parameters": "parameters",
        "images_per_second": "images/s, batch of 128, all cores",
        "times_the_example": EXAMPLE,
        "one_image_ms": "one image, ms, all cores",
        "times_the_example_one_image": EXAMPLE,
        "cold_start_s": "cold start, s, all cores",
    }
    caption = (
        f"All cores: {measured(speed)} Cold start is the process `python inference.py samples/apple.png`; importing "
        f"TensorFlow and Keras is {speed['import_s']:.1f} s of it."
    )
    if exports:
        columns |= {"one_image_ms_one_core": "one image, ms, one core", "cold_start_s_one_core": "cold start, s, one core"}
        shipped = f"{exports['preset']} preset"
        names = {"Keras": shipped, "Keras, folded": f"{shipped}, folded", "ONNX": f"{shipped}, ONNX"}
        for row in exports["rows"]:
            if row["form"] not in names:  # they are in the section about the exports
                continue
            name = names[row["form"]]
            rows.setdefault(name, {"model": name})
            rows[name] |= {f"{key}_one_core": row[key] for key in ("one_image_ms", "cold_start_s")}
        caption += f"\nOne core: {measured(exports)} Importing TensorFlow takes {exports['import_s']:.1f} s there."
    return "\n\n".join(["## Prediction speed", table(columns, list(rows.values())), caption])


SPEED = "images/s, batch of 128"


def exports(found: dict) -> str:
    """Return the section about the exports: accuracy and latency, other networks, and converters' default settings."""
    columns = {
        "form": "form",
        "size_mb": "size, MB",
        "top1_accuracy": "top-1, %",
        "same_answers": "same top-1 as Keras, %",
        "largest_difference": "largest difference of a probability",
    }
    if any("images_per_second" in row for row in found["rows"]):
        columns |= {
            "one_image_ms": "one image, ms",
            "images_per_second": "images/s, batch of 128",
            "cold_start_s": "start, s",
        }
    where = "all on one core" if "one_image_ms" in columns else "latency is in the table above"
    parts = ["## Exports", table(columns, found["rows"])]
    parts.append(f"On {found['num_images']:,} images ({found['split']}); {where}. {measured(found)}")
    if earlier := found.get("earlier"):
        parts.append(
            f"Today's exporter makes {earlier['times_one_image']:.2f} times as fast a file (batch of 128: "
            f"{earlier['times_batch']:.2f}) of earlier weights ({earlier['parameters']:,} parameters) as the one they came "
            f"with; {100 * earlier['same_answers']:.2f}% of the answers are the same."
        )
    if defaults := found.get("defaults"):
        columns = {"form": "what a converter's default settings leave", "top1_accuracy": "top-1, %",
                   "same_answers": "same answers as Keras, %"}  # fmt: skip
        parts.append(table(columns, defaults))
    if peers := found.get("peers"):
        columns = {"model": "other networks, same run", "parameters": "parameters", "top1_accuracy": "published top-1, %"}
        columns |= {"one_image_ms": "one image, ms", "images_per_second": SPEED, "source": "accuracy from"}
        parts += [table(columns, peers), "Their weights are random: latency is measured, accuracy is the published one."]
    return "\n\n".join(parts)


def scaling(found: dict) -> str:
    """Return the section about attention over the number of tokens: time and memory, one row per number of tokens."""
    kinds = [(kind, mode) for mode in ("forward", "training_step") for kind in ("external", "self")]
    columns = {f"{kind} {mode}": f"{kind}, {mode.replace('_', ' ')}" for kind, mode in kinds}
    parts = ["## Attention over the number of tokens"]
    for title, key, slope in (
        ("tokens; time, ms", "milliseconds", "time"),
        ("tokens; peak memory, MB", "megabytes", "memory"),
    ):
        rows = {}
        for row in found["rows"]:
            cells = rows.setdefault(row["tokens"], {"tokens": row["tokens"]})
            cells[f"{row['attention']} {row['mode']}"] = row[key]
        growth = {"tokens": "growth"}
        for row in found["slopes"]:
            growth[f"{row['attention']} {row['mode']}"] = None if row[slope] is None else f"N^{row[slope]:.2f}"
        parts.append(table({"tokens": title, **columns}, [*rows.values(), growth]))
    parts.append(
        "One attention layer: batch 4, width 64, 8 heads, 16 slots, float32. A dash is out of memory; growth is fitted from "
        f"1,024 tokens on. {measured(found)}"
    )
    return "\n\n".join(parts)


def distillation(found: dict) -> str:
    """Return the section about the epochs of a distilled run and of its teacher."""
    teacher, student = found["rows"]
    columns = {"model": "model", "preset": "preset", "parameters": "parameters", "epochs": "epochs",
               "top1_accuracy": "top-1, %", "hardware": "hardware"}  # fmt: skip
    rows = [{**row, "hardware": ", ".join(dict.fromkeys(run["hardware"] for run in row["runs"]))} for row in found["rows"]]
    commands = "\n".join(f"- `{run['command']}`, {run['date']}" for row in found["rows"] for run in row["runs"])
    repeat = "python benchmarks/distillation.py runs/distilled runs/small runs/tuned"
    text = (
        f"Top-1 accuracy on the {student['split']} images, after the commands below, in which `.` was the second run's "
        f"folder. To repeat the last one, give it `--teacher runs/tuned`; then `{repeat}`. {measured(found)}"
    )
    return "\n\n".join(["## Distillation", table(columns, rows), text, commands])


def ablation(found: dict) -> str:
    """Return the section about the ablation: a table for each number of epochs, compared with its first row."""
    parts, columns = ["## Ablation"], {"parameters": "parameters", "macs": "MACs per image"}
    for epochs in dict.fromkeys(row["epochs"] for row in found["rows"]):
        rows, first = [row for row in found["rows"] if row["epochs"] == epochs], {}
        tried = sorted({each["seed"] for row in rows for each in row["seeds"]})
        for row in rows:
            seeds = {each["seed"]: each["top1_accuracy"] for each in row["seeds"]}
            first = first or seeds
            row["each"] = " / ".join(f"{100 * seeds[seed]:.2f}" if seed in seeds else "–" for seed in tried)
            differences = [seeds[seed] - first[seed] for seed in first if seed in seeds]
            row["difference"] = f"{100 * fmean(differences):+.2f}" if seeds is not first and differences else None
            row["macs"] = f"{row['macs'] / 1e6:.1f}M"
        heading = {"setting": f"{epochs} epochs", "each": f"top-1 with seed {' / '.join(map(str, tried))}, %"}
        parts.append(table(heading | {"difference": "difference, points"} | columns, rows))
    places: dict[str, list] = {}
    for row in found["rows"]:
        for each in row["seeds"]:
            machines = each["hardware"].replace("; ", ", then ")
            named = f'"{row["setting"]}"' + (f" with seed {each['seed']}" if each["seed"] else "")
            places.setdefault(f"on {machines}, {each['trained']}", []).append(named)
    several = any(each["seed"] for row in found["rows"] for each in row["seeds"])
    note = "Seeds above 0 train with `--seed N --validation-split 0`. " if several else ""
    for row in found["rows"]:
        repeated = re.search(r"--teacher-epochs (\d+)", row["seeds"][0]["command"])
        if repeated and "repeated" not in row["setting"]:
            note += f'"{row["setting"]}" in {row["epochs"]} epochs repeats images and answers after epoch {repeated[1]}. '
    (place, _), *others = places.items()
    trained = "; ".join([place, *(f"{' and '.join(settings)} {place}" for place, settings in others)])
    commands = "\n".join(
        f"- {row['setting']}, {row['epochs']} epochs: `{row['seeds'][0]['command']}`" for row in found["rows"]
    )
    accuracy = found["rows"][0]["seeds"][0]["top1_accuracy"]
    images, error = f"{found['num_images']:,} images", 100 * (accuracy * (1 - accuracy) / found["num_images"]) ** 0.5
    parts.append(
        f"Trained {trained}; {found['split']}. Standard error of {images}: {error:.1f} points. {note}{measured(found)}"
    )
    again = "As they were run. To repeat one, run what `python benchmarks/ablation.py --data DATA --commands` prints for it."
    return "\n\n".join([*parts, f"<details><summary>Commands</summary>\n\n{again}\n\n{commands}\n\n</details>"])


def reproduction(found: dict) -> str:
    """Return the section about the same command run twice."""
    columns = {"run": "run", "top1_accuracy": "top-1, %", "loss": "cross-entropy", "checksum": "checksum of the weights",
               "hardware": "hardware"}  # fmt: skip
    rows = [{**row, "loss": f"{row['loss']:.6f}"} for row in found["rows"]]
    verdict = "The weights are the same, bit for bit." if found["same"] else "The weights differ."
    caption = f"`{found['train']}`, {found['split']}. {verdict} {measured(found)}"
    return "\n\n".join(["## Reproduction", table(columns, rows), caption])


def evaluation(found: dict) -> str:
    """Return the section about superclasses, confusions and calibration."""
    columns = {"superclass": "superclass", "num_images": "images", "top1_accuracy": "top-1, %"}
    columns["superclass_accuracy"] = "right superclass, %"
    easiest, hardest = (
        ", ".join(f"`{c['class']}` {100 * c['accuracy']:.0f}%" for c in found[key]) for key in ("easiest", "hardest")
    )
    bias = "under-confident" if found["mean_confidence"] < found["accuracy"] else "over-confident"
    if abs(found["mean_confidence"] - found["accuracy"]) < 0.01:
        bias = "well calibrated"
    pairs = [
        {"pair": " / ".join(f"`{c}`" for c in p["classes"]), "count": p["count"], "of": p["of"]} for p in found["confusions"]
    ]
    parts = [
        "## Evaluation by superclass",
        table(columns, found["rows"]),
        f"{found['num_images']:,} images of {found['dataset']} ({found['split']}): top-1 {100 * found['accuracy']:.2f}%, "
        f"right superclass {100 * found['superclass_accuracy']:.2f}%.\n{measured(found)}",
        f"- Easiest classes: {easiest}.\n- Hardest classes: {hardest}.\n- Calibration: the model is {bias}. Its mean "
        f"confidence is {100 * found['mean_confidence']:.1f}%, its expected calibration error ({found['bins']} bins) "
        f"{100 * found['expected_calibration_error']:.1f}%.",
        table({"pair": "most confused pairs", "count": "confused", "of": "images of both"}, pairs),
    ]
    return "\n\n".join(parts)


def reading(found: dict) -> str:
    """Return the section about what is read of people's data sets."""
    loaders = {"ours": "this repository", "datasets": '`load_dataset("imagefolder")`'}
    loaders["keras"] = "`image_dataset_from_directory`"
    rows: dict = {}
    for row in (*found["rows"], *({**row, "group": "all"} for row in found["rows"])):
        total = rows.setdefault(row["group"], {"group": row["group"], "cases": 0, **dict.fromkeys(loaders, 0)})
        total["cases"] += 1
        for name in loaders:
            total[name] += row[name]["right"]
    each = []
    for row in found["rows"]:
        shown = {"case": f"{row['case']}: {row['about']}".replace("|", r"\|"), "images": row["images"]}
        for name in loaders:
            read = row[name]
            several = f"{read['images']} images, {read['classes']} classes"
            shown[name] = "right" if read["right"] else "an error" if read["error"] else several
        each.append(shown)
    caption = (
        "Cases that are read right: classes, and the number of images in each split. `image_dataset_from_directory` reads "
        "one folder, and is given the best one for each split. Each case has 10 to 40 images, generated by "
        f"`reading_cases.py`; datasets {found['datasets_version']}, Keras {found['versions']['keras']}.\n"
        f"{measured(found)}"
    )
    details = table({"case": "case", "images": "images", **loaders}, each)
    return "\n\n".join(
        [
            "## What is read of people's folders, tables and archives",
            table({"group": "kind", "cases": "cases", **loaders}, list(rows.values())),
            caption,
            f"<details><summary>Each case</summary>\n\n{details}\n\n</details>",
        ]
    )


def fine_tuning(found: dict) -> str:
    """Return the section about small sets of images."""
    columns = {"run": "data and initial weights", "num_images": "images", "steps": "steps", "batch_size": "batch"}
    columns |= {"top1_accuracy": "top-1 on the test split, %", "num_test_images": "of images", "time": "time"}
    rows = [row | {"time": duration(row["seconds"])} for row in found["rows"]]
    caption = (
        "No option of train.py but the data and the initial weights. The shapes are 5 generated classes of 80 images, one "
        "in 20 broken; the digits are those of scikit-learn, 8x8 pixels. Time includes start-up and export.\n"
        f"{measured(found)}"
    )
    return "\n\n".join(["## Small sets of one's own images", table(columns, rows), caption])


def large_sets(found: dict) -> str:
    """Return the section about a set that does not fit into the memory budget."""
    columns = {"cores": "cores", "images_per_second": "images decoded per second", "times_one_core": "times one core"}
    caption = (
        f"JPEGs of 64 pixels in class folders; median of {found['rounds']} rounds of {found['decoded_images']:,} images. "
        f"`{found['training_command']}` on {found['num_images']:,} of them, in {duration(found['training_seconds'])}: peak "
        f"memory {found['peak_memory_gb']:.2f} GB, of all processes.\n{measured(found)}"
    )
    return "\n\n".join(["## Large sets of images", table(columns, found["rows"]), caption])


def several(found: dict) -> str:
    """Return the section about several cores and processes; parts that were not measured are left out."""
    parts = ["## Several cores and processes"]
    if job := found.get("prediction"):
        columns = {"program": "program", "threads": "threads", "processes": "processes", "images_per_second": "images/s"}
        columns |= {"times_one_thread": "times one thread", "times_plain": "times the plain loop"}
        mb, least, agree = job["peak_memory_mb"], job["peak_memory_mb_part"], f"{100 * job['same_answers']:.2f}%"
        parts += [
            table(columns, found["rows"]),
            f"JPEGs of 300 to 1,500 pixels, medians of {job['rounds']} rounds of {job['images_per_round']:,} images, "
            f"start-up included. The plain loop is Pillow and onnxruntime in one process per core; {agree} of its labels "
            f"are the same. {job['num_images']:,} images take {duration(job['seconds'])}; peak memory is {mb:,.0f} MB, and "
            f"{least:,.0f} MB for a round. Killed {job['kills']} times at random moments and resumed: "
            f"{job['rows_after_kills']:,} rows, one per image. `--part prediction`, {job['date']}.",
        ]
    if job := found.get("ray"):
        parts.append(
            f"`python -m eanet.predict_many` on Ray Data, {job['workers']} workers, {job['images']:,} of these images: "
            f"{job['ray_images_per_second']:,.0f} images/s with its start, {job['ray_times_inference']:.2f} times "
            f"inference.py's {job['inference_images_per_second']:,.0f}. `--part ray`, {job['date']}."
        )
    if job := found.get("training"):
        columns = {"case": "training", "images_per_second": "images/s", "times_one_core": "times one core"}
        parts += [
            table(columns, job["processes"]),
            "train.py on JAX, preset pyramid, float32, global batches of 128, all processes on this machine.",
            "What limits more hosts, on paper: a step takes 128 / images/s of a host (16 such cores, or an H200). Its "
            f"ring all-reduces take 2 (n − 1) / n × 4 bytes × {job['parameters']:,} parameters / bandwidth, and "
            f"{job['reductions_per_step']} × 2 (n − 1) × latency (30 µs at 10 Gbit/s, 5 µs at 200). For so small a model "
            "the latency is the limit. Shards are those of a prediction job: 1,000,000 images, 20,000 each.",
        ]
        columns = {"host": "on paper, from arithmetic: host", "network": "network", "hosts": "hosts"}
        columns |= {"megabytes_per_host_and_step": "MB per host and step", "communication_ms": "communication, ms"}
        columns |= {"compute_ms": "computation, ms", "images_per_second": "images/s", "shards_per_host": "shards per host"}
        parts.append(table(columns, job["on_paper"]))
    return "\n\n".join([*parts, measured(found)])


def robustness(found: dict) -> str:
    """Return the section about hostile inputs; the table by kind of input is in robustness.md."""
    total = found["rows"][-1]
    kinds = len(found["rows"]) - 1
    return (
        f"## Hostile and damaged inputs\n\n{total['tried']:,} inputs of {kinds} kinds: {total['refused']:,} refused in one "
        f"line, {total['answered']:,} answered, {total['violations']:,} with anything else; at most {total['seconds']:.1f} "
        f"s of processor time. By kind: [robustness.md](robustness.md).\n{measured(found)}"
    )


def endpoint(found: dict) -> str:
    """Return the section about the load of an Inference Endpoint."""
    columns = {"request": "largest request accepted", "images": "images", "megapixels": "megapixels", "seconds": "s",
               "cpu_seconds": "processor time, s", "peak_gb": "peak memory of the process, GB"}  # fmt: skip
    crowd, row = found["concurrent"], found["in_a_row"]
    memory = row["memory_mb"]
    caption = (
        f"Images are noise, which is slowest to decode. {crowd['requests']:,} requests at the same moment: "
        f"{crowd['right']:,} right, in {crowd['seconds']:.1f} s. {row['requests']:,} in a row: memory {memory[0]:,.0f} MB "
        f"after a tenth of them, {memory[-1]:,.0f} MB at the end.\n{measured(found)}"
    )
    return "\n\n".join(["## Inference Endpoint", table(columns, found["rows"]), caption])


def figure(name: str, folder) -> str:
    """Return the figure of a section with its caption; nothing if it has none, or the figure is not there."""
    figures, name = Path(folder).parent / "figures", f"{FIGURES.get(name)}.png"
    if not (figures / name).is_file() or not (figures / "figures.json").is_file():
        return ""
    shown = read_json(figures / "figures.json")["figures"].get(name)
    if shown is None:
        return ""
    image = f'<img src="../figures/{name}" width="{shown["width"]}" alt="{html.escape(shown["alt"])}">'
    return f"\n\n{image}\n\n*{shown['caption']}*"


def render(folder=HERE, checksum: str | None = None) -> str:
    """Return the text of README.md.

    Sections that depend on the weights stand between `<!-- weights CHECKSUM -->` and `<!-- end -->`.

    Args:
        folder: where the JSON files are.
        checksum: leave out what was measured on weights with another checksum; None keeps everything.

    Raises:
        UserError: a JSON file is damaged.
    """
    found = {name: read_json(path) for name in SECTIONS if (path := Path(folder, f"{name}.json")).is_file()}
    if checksum is not None:
        found = {name: values for name, values in found.items() if values.get("checksum", checksum) == checksum}
    sections = [INTRODUCTION.rstrip()]
    for name, values in found.items():
        try:
            section = prediction(values, found.get("exports")) if name == "predict_speed" else SECTIONS[name](values)
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise UserError(f"{name}.json: damaged ({error!r}); `python benchmarks/{name}.py` writes it") from error
        section += figure(name, folder)
        if mark := values.get("checksum"):
            section = f"<!-- weights {mark} -->\n{section}\n<!-- end -->"
        sections.append(section)
    return "\n\n".join(sections) + "\n"


SECTIONS = {
    "train_speed": train_speed,
    "predict_speed": prediction,
    "exports": exports,
    "attention_scaling": scaling,
    "ablation": ablation,
    "reproduction": reproduction,
    "distillation": distillation,
    "evaluation": evaluation,
    "reading": reading,
    "fine_tuning": fine_tuning,
    "large_sets": large_sets,
    "scaling": several,
    "endpoint": endpoint,
    "robustness": robustness,
}
FIGURES = {"attention_scaling": "scaling", "distillation": "distillation"}  # of sections


def write(folder=HERE) -> None:
    """Write README.md from the JSON files in `folder`."""
    write_text(Path(folder, "README.md"), render(folder))


def main(argv=None) -> None:
    """Parse the (empty) command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    write()


if __name__ == "__main__":
    sys.exit(run(main))

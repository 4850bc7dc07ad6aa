"""The charts: training curves, confused classes, calibration, how attention scales, and distillation."""

from __future__ import annotations

from eanet import figures
from eanet.cli import read_json
from eanet.figures import BLUE, ORANGE, Drawing, new_figure, rendered
from eanet.run_dir import parent_run


def curves(shipped):
    """Accuracy and loss over the epochs of the last run."""
    training = shipped.results("eval_results.json")["training"]
    fine_tuned = parent_run(training) is not None
    return figures.curves(read_json(shipped.root / "history.json"), training.get("recipe", {}), fine_tuned)


def calibration(shipped):
    """Accuracy over confidence, and how many images have which confidence."""
    found = shipped.results("benchmarks/evaluation.json")
    return figures.calibration(found["calibration"], found["expected_calibration_error"], found["num_images"])


def confusion(shipped):
    """The pairs of classes that the model confuses most."""
    found = shipped.results("benchmarks/evaluation.json")
    share = f"Of all images, {100 * found['superclass_accuracy']:.1f}% get a class of the right superclass."
    return figures.confused_pairs(found["confusions"], share)


def scaling(shipped):
    """Time and memory of external attention and of self-attention over the number of tokens."""
    rows = read_json(shipped.root / "benchmarks" / "attention_scaling.json")["rows"]
    figure = new_figure(height=560)
    axes = figure.subplots(2, 1, sharex=True)
    tokens = sorted({row["tokens"] for row in rows})
    for axis, key, title in zip(axes, ("milliseconds", "megabytes"), ("time, ms", "peak memory, MB"), strict=True):
        for kind, colour in (("external", BLUE), ("self", ORANGE)):
            for mode, style in (("forward", "-"), ("training_step", "--")):
                chosen = [r for r in rows if (r["attention"], r["mode"]) == (kind, mode) and r[key] is not None]
                axis.plot([r["tokens"] for r in chosen], [r[key] for r in chosen], style, marker="o", ms=4, color=colour)
                _label_line(axis, kind, mode, [(r["tokens"], r[key]) for r in chosen], colour)
        axis.set(xscale="log", yscale="log")
        axis.set_title(title)
        axis.set_xticks(tokens[::2], [f"{n:,}" for n in tokens[::2]])
        axis.minorticks_off()
    axes[-1].set_xlabel("tokens")
    caption = (
        "Time and peak memory of one attention layer for a batch of 4, on log scales: external attention grows linearly "
        "with the number of tokens, self-attention quadratically. Self-attention ends where memory ran out."
    )
    return Drawing(rendered(figure), caption, "Time and memory over tokens, for external attention and self-attention.")


def distillation(shipped):
    """Validation accuracy of a distilled run and of its teacher over the epochs."""
    teacher, student = read_json(shipped.root / "benchmarks" / "distillation.json")["rows"]
    figure = new_figure(height=300)
    axis = figure.subplots()
    for row, colour in ((teacher, ORANGE), (student, BLUE)):
        values = [100 * value for value in row["validation_accuracy"]]
        axis.plot(range(1, len(values) + 1), values, color=colour)
        name = f"{row['model']}, {100 * row['top1_accuracy']:.2f}%"
        axis.annotate(name, (len(values), values[-1]), (8, 0), textcoords="offset points", va="center", color=colour)
    axis.set(xlabel="epoch", xlim=(0, teacher["epochs"]))
    axis.set_title("top-1 accuracy on validation images, %")
    caption = (
        "Accuracy on validation images over the epochs of a teacher and of the student distilled from it. "
        f"At the end of each line: accuracy on the {student['split']} images."
    )
    alt = f"Accuracy over {student['epochs']} epochs of the student and {teacher['epochs']} of the teacher."
    return Drawing(rendered(figure), caption, alt)


def _label_line(axis, kind, mode, points, colour):
    """Name the mode of a line at its end, and what it belongs to where there is room."""

    def label(text, point, offset, ha, va="center"):
        axis.annotate(text, points[point], offset, textcoords="offset points", ha=ha, va=va, color=colour)

    if mode == "forward":
        label("forward", -1, (8, 0), "left")
    elif kind == "external":
        label("training", -1, (8, 0), "left")
    else:
        label("training", -1, (-8, 2), "right")
        label("self-attention", -3, (-12, 6), "right")
    if (kind, mode) == ("external", "forward"):
        label("external attention", -1, (0, -44), "right", "top")

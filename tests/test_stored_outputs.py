"""Answers of a teacher that are stored, and read again when an epoch repeats its images."""

import types

import numpy as np
from conftest import colour_images
from test_distillation import softmax, train_and_resume
from training_runs import assert_same_weights, colours, quick_runs, read_json

from eanet import run_dir, trainer
from eanet.data import Batches, Split, load_dataset
from eanet.distillation import StoredOutputs, load_teacher
from eanet.train_config import TrainConfig, source_epoch
from modeling_eanet import EANetConfig


def test_stored_outputs_are_those_of_the_first_time_without_the_teacher(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path / "0.npy"
    answers = [softmax(rng.normal(0, 4, (5, 7))).astype(np.float32) for _ in range(3)]
    answers[0][0] = np.eye(7)[2]
    asked = []

    def epoch(length=3):
        teacher = types.SimpleNamespace(predict_on_batch=lambda x: (asked.append(x), answers[x])[1])
        stored = StoredOutputs(teacher, path, (3, 5, 7))
        return [stored.predict_on_batch(x) for x in range(length)]

    epoch(2)  # interrupted
    assert not path.exists()
    first = epoch()
    assert asked == [0, 1, 0, 1, 2] and [each.dtype for each in first] == [np.float32] * 3
    np.testing.assert_allclose(first, answers, rtol=0.01, atol=2e-7)
    np.testing.assert_array_equal(epoch(), first)
    assert len(asked) == 5 and [file.name for file in tmp_path.iterdir()] == ["0.npy"]
    assert path.stat().st_size < 2 * 3 * 5 * 7 + 200  # bytes
    content, stored = path.read_bytes(), np.load(path)
    damaged = [content[:-20], content[:30], b"", b"not an array", b"PK\3\4", content.replace(b"'shape", b"(shape")]
    others = [stored[:2], stored[:, :, :6], stored.astype("U9"), np.where(stored < -1, np.nan, stored)]
    for other in others:
        np.save(tmp_path / "other.npy", other)
        damaged.append((tmp_path / "other.npy").read_bytes())
    np.savez(tmp_path / "other.npz", stored)
    damaged.append((tmp_path / "other.npz").read_bytes())
    for each in damaged:
        path.write_bytes(each)
        np.testing.assert_array_equal(epoch(), first)
        assert path.read_bytes() == content


def test_epochs_repeat_the_images_that_the_teacher_has_seen():
    assert [source_epoch(e, 20, 4) for e in range(20)] == [*[0, 1, 2, 3] * 4, 0, 1, 18, 19]  # 18 and 19 have no CutMix
    assert [source_epoch(e, 20, None) for e in range(20)] == list(range(20))


def test_repeated_images_have_their_own_answers(tmp_path):
    asked = []

    class Teacher:
        def predict_on_batch(self, x):
            asked.append(x)
            return softmax(x.reshape(4, -1)[:, :3] / 64.0)

    options = TrainConfig(epochs=4, teacher="it", teacher_epochs=1, augment="trivial", output=tmp_path).resolved(12)
    batches = Batches(Split(*colour_images(12), "train"), 3, 4, seed=0, policy="trivial")
    epochs = [list(trainer._targets(batches, epoch, options, 0.5, Teacher())) for epoch in range(4)]
    assert len(asked) == 2 * 3  # in the first epoch and the last
    for first, again, third, last in zip(*epochs, strict=True):
        for part in range(2):  # images and targets
            np.testing.assert_array_equal(first[part], again[part])
            np.testing.assert_array_equal(first[part], third[part])
            assert (first[part] != last[part]).any()
        np.testing.assert_allclose(third[1][:, 1], Teacher().predict_on_batch(third[0]), rtol=0.01)


def test_run_that_repeats_the_answers_of_its_teacher(colour_folder, tmp_path, monkeypatch, capsys):
    load, save, asked, files = load_teacher, run_dir.Checkpoint.save, [], []

    def counting(*args):
        teacher = load(*args)
        answer = teacher.predict_on_batch
        monkeypatch.setattr(teacher, "predict_on_batch", lambda x: (asked.append(len(x)), answer(x))[1])
        return teacher

    def listing(self, *args):
        save(self, *args)
        files.append([path.name for path in (self.path.parent / "teacher").iterdir()])

    monkeypatch.setattr(trainer, "load_teacher", counting)
    monkeypatch.setattr(run_dir.Checkpoint, "save", listing)
    train_and_resume(colours(), colour_folder, tmp_path, epochs=4, teacher_epochs=1)
    steps = len(load_dataset(colours(), EANetConfig()).train) // 64
    assert "; epochs 2 to 3 repeat the images and answers of the first 1\n" in capsys.readouterr().err
    assert asked == [64] * 2 * steps + [64] * steps  # the first epoch and the last; the copy has the file of the first
    assert files == [["0.npy"]] * 7
    assert not list(tmp_path.glob("*/teacher"))
    assert_same_weights(tmp_path / "unbroken", tmp_path / "resumed")
    training = read_json(tmp_path / "resumed" / "eval_results.json")["training"]
    assert training["recipe"]["teacher_epochs"] == 1 and " --teacher-epochs 1" in training["command"]


def test_stopped_run_keeps_the_answers_of_its_teacher_and_other_files(colour_folder, tmp_path):
    options = dict(data=colours(), preset="tiny", epochs=4, batch_size=64, teacher=colour_folder, teacher_epochs=1)
    options |= dict(validation_split=0, output=tmp_path / "run")
    answers = tmp_path / "run" / "teacher"
    with quick_runs():
        trainer.train(TrainConfig(**options, stop_after=2))
        assert [path.name for path in answers.iterdir()] == ["0.npy"]
        (answers / "model.keras").write_text("a person's own")
        trainer.train(TrainConfig(**options))
    assert [path.name for path in answers.iterdir()] == ["model.keras"]

"""Images and labels listed in tables."""

import gzip
import json

import pytest
from conftest import encoded, noise, tiny_config

from eanet.data import inspect, load_dataset, table_index
from eanet.data.files import File, Folder
from modeling_eanet import UserError

FILES = [f"{i}.png" for i in range(6)]
ROWS = [(name, "cat" if i < 3 else "dog") for i, name in enumerate(FILES)]


def draw(root, *names):
    for i, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(noise(12, 12, i), "PNG").read())


def lines(rows, header="file_name,label", end="\n"):
    return end.join([header, *(",".join(map(str, row)) for row in rows), ""])


def jsonl(rows, **names):
    return "".join(json.dumps({"file_name": file, "label": label}) + "\n" for file, label in rows)


def load(root, **options):
    return load_dataset(root, tiny_config(), **options)


def sizes(dataset):
    found = inspect(dataset)
    return found["train"], found["validation"], found["test"], len(found["left_out"])


def error_of(root, **options):
    with pytest.raises(UserError) as caught:
        load(root, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


TABLES = {
    "metadata.csv": lines(ROWS).encode(),
    "METADATA.CSV": lines(ROWS).encode(),
    "metadata.jsonl": jsonl(ROWS).encode(),
    "labels.csv": lines(ROWS, "image,class").encode(),
    "labels.tsv": lines(ROWS, "filename,category").replace(",", "\t").encode(),
    "annotations.csv": lines(ROWS, "path,species").encode(),
    "with BOM.csv": lines(ROWS).encode("utf-8-sig"),
    "UTF-16.csv": lines(ROWS).encode("utf-16"),
    "semicolons.csv": lines(ROWS).replace(",", ";").encode(),
    "CRLF.csv": lines(ROWS, end="\r\n").encode(),
    "quoted.csv": lines([(f'"{file}"', f'"{label}"') for file, label in ROWS], '"Image Name","Class Name"').encode(),
    "index column.csv": lines([(i, *row) for i, row in enumerate(ROWS)], ",file,label").encode(),
    "no header.csv": lines(ROWS, "").lstrip().encode(),
    "blank lines.csv": ("\n" + lines(ROWS) + "\n\n").encode(),
    "spaces.csv": lines([(f" {file}", f" {label} ") for file, label in ROWS], "file, label").encode(),
    "without suffix.csv": lines([(file[:-4], label) for file, label in ROWS], "id,breed").encode(),
    "dot slash.csv": lines([(f"./{file}", label) for file, label in ROWS]).encode(),
    "backslash.csv": lines([(f"images\\{file}", label) for file, label in ROWS]).encode(),
    "absolute.csv": lines([(f"/home/me/set/{file}", label) for file, label in ROWS]).encode(),
    "other columns.csv": lines([(*row, "x", 3) for row in ROWS], "file_name,label,photographer,width").encode(),
    "one other column.csv": lines(ROWS, "file_name,animal").encode(),
    "list.jsonl": "".join(json.dumps({"file_name": f, "label": [k]}) + "\n" for f, k in ROWS).encode(),
}


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("folder", ["", "images/"])
def test_table(tmp_path, name, folder):
    draw(tmp_path, *(folder + file for file in FILES))
    (tmp_path / name).write_bytes(TABLES[name])
    dataset = load(tmp_path)
    assert (dataset.labels, sizes(dataset)) == (("cat", "dog"), (6, None, None, 0))
    assert dataset.train.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert load(tmp_path / name).train.checksum() == dataset.train.checksum()


def test_a_table_in_each_split(tmp_path):
    for split, count in (("train", 6), ("validation", 4), ("test", 5)):
        draw(tmp_path / split, *FILES[:count])
        (tmp_path / split / "metadata.jsonl").write_text(jsonl(ROWS[:count]))
    assert sizes(load(tmp_path)) == (6, 4, 5, 0)


def test_a_table_for_each_split(tmp_path):
    draw(tmp_path / "images", *FILES)
    for name, rows in (("train.csv", ROWS[:2] + ROWS[4:]), ("val_labels.csv", ROWS[2:3]), ("test.csv", ROWS[3:4])):
        (tmp_path / name).write_text(lines(rows))
    assert sizes(load(tmp_path)) == (4, 1, 1, 0)


@pytest.mark.parametrize("prefix", ["train/", "/home/me/train/"])
def test_the_table_of_a_split_wins_over_a_folder_called_train(tmp_path, prefix):
    draw(tmp_path / "train", *(f"{i}.png" for i in range(10)))
    rows = [(f"{prefix}{i}.png", "dog" if i % 2 else "cat") for i in range(10)]
    (tmp_path / "train.csv").write_text(lines(rows[:7]))
    (tmp_path / "val.csv").write_text(lines(rows[7:]))
    assert sizes(load(tmp_path)) == (7, 3, None, 0)


def test_folders_of_several_splits_win_over_the_table(tmp_path):
    rows = [(f"{split}/{file}", label) for split in ("train", "val") for file, label in ROWS]
    draw(tmp_path, *(file for file, _ in rows))
    (tmp_path / "trainval.csv").write_text(lines(rows))
    assert sizes(load(tmp_path)) == (6, 6, None, 0)


def test_split_column(tmp_path):
    draw(tmp_path, *FILES)
    rows = [(*row, split) for row, split in zip(ROWS, ("train", "Train", "VAL", "train", "test", "valid"), strict=True)]
    (tmp_path / "labels.csv").write_text(lines(rows, "file,label,split"))
    assert sizes(load(tmp_path)) == (3, 2, 1, 0)


def test_nested_paths_and_the_split_of_their_folders(tmp_path):
    rows = [(f"{split}/{label}/{file}", label) for split in ("train", "test") for file, label in ROWS]
    draw(tmp_path, *(file for file, _ in rows))
    (tmp_path / "metadata.jsonl").write_text(jsonl(rows))
    assert sizes(load(tmp_path)) == (6, None, 6, 0)


def test_table_wins_over_class_folders(tmp_path):
    rows = [(f"batch{i % 2}/{file}", label) for i, (file, label) in enumerate(ROWS)]
    draw(tmp_path, *(file for file, _ in rows))
    (tmp_path / "metadata.csv").write_text(lines(rows))
    assert load(tmp_path).labels == ("cat", "dog")


@pytest.mark.parametrize(
    ("given", "other"),
    [
        ("clean.csv", ""),
        ("v2.txt", "v1.txt"),
        ("mine.csv", "labels.csv"),
        ("mine.csv", "cat/metadata.csv"),
        ("submission.csv", "train.csv"),
        ("mine.csv.gz", "mine.csv"),
    ],
)
def test_a_table_that_is_given_decides_alone(tmp_path, given, other):
    draw(tmp_path, *(f"{kind}/{file}" for kind in ("cat", "dog") for file in FILES))

    def write(name, kinds):
        rows = [(f"cat/{file}", kinds[i % 2]) for i, file in enumerate(FILES)]
        text = lines(rows) if ".csv" in name else "".join(" ".join(row) + "\n" for row in rows)
        (tmp_path / name).write_bytes(gzip.compress(text.encode()) if name.endswith("gz") else text.encode())

    write(given, ("tabby", "siamese"))
    if other:
        write(other, ("a", "b"))
    dataset = load(tmp_path / given)
    assert dataset.labels == ("siamese", "tabby") and len(dataset.train) == 6


def test_a_given_file_that_is_no_table_of_images(tmp_path):
    draw(tmp_path, *(f"{kind}/{file}" for kind in ("cat", "dog") for file in FILES))
    unknown = "no table of images in its folder and their classes"
    for content, says in {"notes": unknown, lines([("other.png", "cat")]): "other.png: no such file"}.items():
        (tmp_path / "notes.csv").write_text(content)
        assert error_of(tmp_path / "notes.csv").endswith(f"notes.csv: notes.csv: {says}")
    (tmp_path / "notes.csv").write_text("")
    assert error_of(tmp_path / "notes.csv").endswith("notes.csv: empty, a table without rows")
    (tmp_path / "notes.csv").write_text(lines([]))
    assert error_of(tmp_path / "notes.csv").endswith("notes.csv: notes.csv: has no rows")
    (tmp_path / "notes.csv").write_text(lines(ROWS))
    assert "label_column kind: no table has a column of this name" in error_of(tmp_path / "notes.csv", label_column="kind")


def test_captions_are_not_labels(tmp_path):
    rows = [(f"{label}/{file}", f"a photo of the {label} number {file[0]}") for file, label in ROWS]
    draw(tmp_path, *(file for file, _ in rows))
    (tmp_path / "metadata.csv").write_text(lines(rows, "file_name,text"))
    dataset = load(tmp_path)
    assert dataset.labels == ("cat", "dog")
    assert dataset.left_out == [{"path": "metadata.csv", "reason": "not an image (.csv)"}]


@pytest.mark.parametrize("column", ["fold", "partition", "set", "kfold", "Split ID", "is_test", "eval_partition"])
def test_a_column_of_splits_or_folds_is_no_class(tmp_path, column):
    draw(tmp_path, *FILES)
    (tmp_path / "a.csv").write_text(lines([(file, i % 3) for i, file in enumerate(FILES)], f"image,{column}"))
    assert f"a.csv: which column is the class? It has {column}; name one as label_column" in error_of(tmp_path)
    assert load(tmp_path, label_column=column).labels == ("0", "1", "2")
    (tmp_path / "labels.tsv").write_text(lines(ROWS, "image,kind").replace(",", "\t"))
    assert load(tmp_path).labels == ("cat", "dog")


@pytest.mark.parametrize("name", ["list_eval_partition.txt", "folds.txt", "train_test_split.txt"])
def test_a_list_of_splits_or_folds_is_no_list_of_classes(tmp_path, name):
    draw(tmp_path, *FILES)
    (tmp_path / name).write_text("".join(f"{file} {i % 2}\n" for i, file in enumerate(FILES)))
    assert f"{name}: it tells splits or folds by its name, not classes" in error_of(tmp_path)
    assert load(tmp_path, label_column="2").labels == ("0", "1")
    (tmp_path / "list.txt").write_text("".join(f"{file} {kind}\n" for file, kind in ROWS))
    assert load(tmp_path).labels == ("cat", "dog")


def test_a_column_called_as_the_class_wins_over_the_only_other_one(tmp_path):
    draw(tmp_path, *FILES)
    cameras = lines([(file, ("Canon", "Nikon")[i % 2]) for i, file in enumerate(FILES)], "file_name,camera")
    for name in ("a.csv", "metadata.csv"):
        (tmp_path / name).write_text(cameras)
    assert load(tmp_path).labels == ("Canon", "Nikon")
    (tmp_path / "b.csv").write_text(lines(ROWS, "file,species"))
    assert load(tmp_path).labels == ("cat", "dog")


def test_class_folders_win_over_metadata_without_a_column_for_the_class(tmp_path):
    rows = [(f"{label}/{file}", ("Canon", "Nikon")[i % 2]) for i, (file, label) in enumerate(ROWS)]
    draw(tmp_path, *(file for file, _ in rows))
    (tmp_path / "metadata.csv").write_text(lines(rows, "file_name,camera"))
    assert load(tmp_path).labels == ("cat", "dog")
    assert load(tmp_path, label_column="camera").labels == ("Canon", "Nikon")


def test_kaggle_example_of_an_answer_is_no_table(tmp_path):
    draw(tmp_path, *(f"train/{file}" for file in FILES), "test/7.png", "test/8.png")
    (tmp_path / "labels.csv").write_text(lines([(file[:-4], label) for file, label in ROWS], "id,breed"))
    (tmp_path / "sample_submission.csv").write_text("id,label\n7,cat\n8,cat\n")
    assert sizes(load(tmp_path)) == (6, None, None, 3)


@pytest.mark.parametrize(("table", "folder"), [("train.csv", "train_images"), ("labels.csv", "train")])
def test_the_same_names_in_train_and_test(tmp_path, table, folder):
    draw(
        tmp_path, *(f"{folder}/{file}" for file in FILES), *(folder.replace("train", "test") + f"/{i}.png" for i in range(3))
    )
    (tmp_path / table).write_text(lines(ROWS, "image_id,label"))
    (tmp_path / "test.csv").write_text("image_id\n0.png\n1.png\n2.png\n")
    assert sizes(load(tmp_path)) == (6, None, None, 4)


def test_numbers_are_sorted_by_value(tmp_path):
    rows = list(zip(FILES, (10, 9, 1, 10.0, 9, 1), strict=True))
    draw(tmp_path, *FILES)
    (tmp_path / "metadata.jsonl").write_text(jsonl(rows))
    dataset = load(tmp_path)
    assert dataset.labels == ("1", "9", "10") and dataset.train.y.tolist() == [2, 1, 0, 2, 1, 0]


def test_what_does_not_fit_is_listed(tmp_path):
    names = [f"a{i}.png" for i in range(30)]
    draw(tmp_path, *FILES, *names, "unlisted.png")
    rows = [*ROWS, ("gone.png", "cat"), ("0.png", "dog"), ("a0.png", ""), *((name, "dog") for name in names[1:])]
    (tmp_path / "labels.csv").write_text(lines(rows))
    dataset = load(tmp_path)
    assert len(dataset.train) == 35
    assert [(entry["path"], entry["reason"]) for entry in dataset.left_out] == [
        ("gone.png", "no such file (row 7 of labels.csv)"),
        ("0.png", "listed again (row 8 of labels.csv)"),
        ("a0.png", "no label (row 9 of labels.csv)"),
        ("unlisted.png", "no label: it is in no table"),
    ]


def test_more_than_a_tenth_of_the_files_missing(tmp_path):
    draw(tmp_path, *FILES)
    (tmp_path / "labels.csv").write_text(lines([*ROWS, ("gone.png", "cat")]))
    assert "1 of 7 images cannot be read, more than a tenth; first gone.png: no such file" in error_of(tmp_path)


def test_columns_can_be_named(tmp_path):
    draw(tmp_path, *FILES)
    rows = [(file, file, "x" if i % 2 else "y", label) for i, (file, label) in enumerate(ROWS)]
    (tmp_path / "metadata.csv").write_text(lines(rows, "file_name,photo,label,animal"))
    assert load(tmp_path).labels == ("x", "y")
    assert load(tmp_path, image_column="photo", label_column="animal").labels == ("cat", "dog")
    (tmp_path / "metadata.csv").write_text(lines(rows, "file_name,photo,colour,animal"))
    assert "which column is the class? It has file_name, colour, animal" in error_of(tmp_path, image_column="photo")
    message = error_of(tmp_path, label_column="plant")
    assert message == f"{tmp_path}: label_column plant: no table has a column of this name (metadata.csv)"
    (tmp_path / "metadata.csv").unlink()
    message = error_of(tmp_path, label_column="plant")
    assert message == f"{tmp_path}: label_column plant: no table has a column of this name; there is none"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.csv", "file,label\n0.png,caf\xe9\n".encode("latin-1"), "labels.csv: not UTF-8 text; save it as UTF-8"),
        ("metadata.jsonl", b'{"file_name": "0.png"', "metadata.jsonl: line 1 is not JSON"),
        ("metadata.jsonl", b"[" * 100_000, "metadata.jsonl: line 1 is not JSON"),
        ("metadata.jsonl", b'"0.png"\n', "metadata.jsonl: line 1 is not a JSON object"),
        ("metadata.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "run `git lfs pull`"),
        ("metadata.csv", lines(ROWS[:3]).encode(), "has 1 class(es) (cat); at least two classes are needed"),
    ],
)
def test_table_that_cannot_be_used(tmp_path, name, content, message):
    draw(tmp_path, *FILES)
    (tmp_path / name).write_bytes(content)
    assert message in error_of(tmp_path)


def test_images_without_labels(tmp_path):
    draw(tmp_path, *FILES)
    assert "no images with labels in it (it holds 0.png, 1.png, 2.png, ...)" in error_of(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("labels.xlsx", "PK", "labels.xlsx: a spreadsheet, which is not read; save it as a CSV file"),
        (
            "labels.csv",
            lines([(f, "a", "b") for f in FILES], "file,colour,shape"),
            "has colour, shape; name one as label_column",
        ),
        ("labels.csv", lines([(f, 1, i % 2) for i, f in enumerate(FILES)], "file,a,b"), "several classes per image (a, b)"),
        ("train.csv", lines([[0] * 300], ",".join(["label", *map("pixel{}".format, range(299))])), "more than 256 columns"),
    ],
)
def test_hint_about_a_table(tmp_path, name, content, message):
    draw(tmp_path, *FILES)
    (tmp_path / name).write_text(content)
    assert message in error_of(tmp_path)


def test_a_column_without_a_name_has_a_number(tmp_path):
    draw(tmp_path, *FILES)
    (tmp_path / "list.txt").write_text("".join(f"{file} {i // 3} {i % 2 + 5}\n" for i, file in enumerate(FILES)))
    assert "list.txt: which column is the class? It has 3 without names; give the number of one" in error_of(tmp_path)
    assert load(tmp_path, label_column="2").labels == ("0", "1") and load(tmp_path, label_column="3").labels == ("5", "6")
    assert "no table has a column of this name" in error_of(tmp_path, label_column="9")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has 1 class"),
        (gzip.compress(bytes(2**25 + 1)), "expands to more than"),
        (b"\x1f\x8b" + bytes(20), "damaged ("),
    ],
    ids=["empty", "bomb", "damaged"],
)
def test_a_compressed_table_that_cannot_be_used(content, message, tmp_path):
    draw(tmp_path, *(f"img/{file}" for file in FILES))
    (tmp_path / "labels.csv.gz").write_bytes(content)
    assert message in error_of(tmp_path)


def test_numbers_stay_where_no_file_names_all_of_them_or_the_model_has_them(tmp_path):
    draw(tmp_path, *FILES)
    (tmp_path / "labels.csv").write_text(lines([(file, i % 2 + 1) for i, file in enumerate(FILES)]))
    assert load(tmp_path).labels == ("1", "2")
    for content, labels in (
        ("one\n", ("1", "2")),
        ("1 a\n2 b\n", ("a", "b")),
        ("a\na\n", ("1", "2")),
        ("a\nb\n", ("a", "b")),
    ):
        (tmp_path / "classes.txt").write_text(content)
        dataset = load(tmp_path)
        assert dataset.labels == labels and (dataset.train.y == [0, 1, 0, 1, 0, 1]).all()
    assert load(tmp_path, labels=("2", "1")).labels == ("2", "1") and load(tmp_path, labels=("b", "a")).labels == ("b", "a")


def test_split_that_is_not_known_is_left_out(tmp_path):
    draw(tmp_path, *FILES)
    parts = ("train", "train", "test", "train", "train", "unassigned")
    (tmp_path / "labels.csv").write_text(lines([(*row, s) for row, s in zip(ROWS, parts, strict=True)], "file,label,split"))
    dataset = load(tmp_path)
    assert sizes(dataset) == (4, None, 1, 1)
    assert dataset.left_out == [{"path": "5.png", "reason": "the split unassigned is not used (row 6 of labels.csv)"}]


def test_name_of_the_data(tmp_path):
    draw(tmp_path, *FILES)
    (tmp_path / "labels.csv").write_text(lines(ROWS))
    assert load(tmp_path, name="Pets, 2024").name == "Pets, 2024" and load(tmp_path).name == tmp_path.name


def test_class_that_only_the_test_split_has(tmp_path):
    draw(tmp_path, *FILES)
    rows = [(*row, "train") for row in ROWS[:5]] + [(FILES[5], "emu", "test")]
    (tmp_path / "labels.csv").write_text(lines(rows, "file,label,split"))
    assert error_of(tmp_path).endswith("class emu of the test split is not among the classes of the training split")


# Tables next to class folders ------------------------------------------------------------------------------------------


def eurosat(root, label):
    """Class folders, and tables of their splits, with a number and a name as classes."""
    rows = {kind: [(f"{kind}/{kind}_{i}.png", label(kind, i), kind) for i in range(10)] for kind in ("Forest", "River")}
    draw(root, *(name for kind in rows.values() for name, _, _ in kind))
    for split, part in (("train", slice(0, 7)), ("validation", slice(7, 8)), ("test", slice(8, 10))):
        listed = [row for kind in rows.values() for row in kind[part]]
        (root / f"{split}.csv").write_text(lines(listed, "Filename,Label,ClassName"))


def test_tables_of_splits_divide_class_folders(tmp_path):
    eurosat(tmp_path, lambda kind, i: int(kind == "River"))
    dataset = load(tmp_path)
    assert sizes(dataset) == (14, 2, 4, 3) and dataset.labels == ("Forest", "River")


def test_a_split_column_divides_class_folders(tmp_path):
    rows = [(f"{label}/{file}", label, "test" if file in ("0.png", "5.png") else "train") for file, label in ROWS]
    draw(tmp_path, *(name for name, _, _ in rows))
    (tmp_path / "splits.csv").write_text(lines(rows, "file,label,split"))
    assert sizes(load(tmp_path)) == (4, None, 2, 1)


def test_a_table_with_other_classes_than_the_folders_is_refused(tmp_path):
    rows = [(f"trip_{'ab'[i % 2]}/{file}", label) for i, (file, label) in enumerate(ROWS)]
    draw(tmp_path, *(name for name, _ in rows))
    (tmp_path / "annotations.csv").write_text(lines(rows, "file,Species"))
    assert error_of(tmp_path) == (
        f"{tmp_path}: annotations.csv has other classes than the folders; to use these classes, give the table as the data, "
        "or Species as label_column; to use the folders, remove the table"
    )
    assert load(tmp_path / "annotations.csv").labels == load(tmp_path, label_column="Species").labels == ("cat", "dog")
    (tmp_path / "annotations.csv").unlink()
    assert load(tmp_path).labels == ("trip_a", "trip_b")


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("type", "abababababab"),
        ("camera", "abababababab"),
        ("y", "abcdefabcdef"),
        ("breed", "aabbcceeffgg"),
        ("id_class", "abababababab"),
    ],
)
def test_class_folders_win_over_what_else_a_table_says(tmp_path, column, values):
    names = [f"{kind}/{i}.png" for kind in ("cat", "dog") for i in range(6)]
    draw(tmp_path, *names)
    (tmp_path / "info.csv").write_text(lines(zip(names, values, strict=True), f"file,{column}"))
    assert load(tmp_path).labels == ("cat", "dog")


# Which file a row means -----------------------------------------------------------------------------------------------


def of_classes(count=20, kinds=("cat", "dog")):
    return [(f"{kind}/IMG_{i}.png", kind) for kind in kinds for i in range(count)]


@pytest.mark.parametrize("prefix", ["", "./", "/home/me/set/", "C:\\set\\"])
@pytest.mark.parametrize("other", ["unknown", "dog"])
def test_a_missing_file_is_not_one_of_that_name_in_another_folder(tmp_path, prefix, other):
    rows = [(name.replace("dog/IMG", "dog/D") if other == "unknown" else name, label) for name, label in of_classes()]
    draw(tmp_path, *(name for name, _ in rows if name != "cat/IMG_7.png"), f"{other}/IMG_7.png")
    (tmp_path / "labels.csv").write_text(lines([(prefix + name, label) for name, label in rows], "file,label"))
    dataset = load(tmp_path)
    assert len(dataset.train) == 39 and (dataset.train.y == 0).sum() == 19
    assert dataset.left_out[0]["reason"] == "no such file (row 8 of labels.csv)"
    assert len(dataset.left_out) == (1 if other == "dog" else 2)


def test_images_of_a_row_are_not_those_of_a_missing_folder(tmp_path):
    rows = [*of_classes(2, ["cat"]), *of_classes(20, ["dog", "emu"])]
    draw(tmp_path, *(name for name, kind in rows if kind != "cat" and "emu/IMG_1" not in name), "emu/IMG_19.png")
    (tmp_path / "labels.csv").write_text(lines(rows, "file,label"))
    message = error_of(tmp_path)
    assert "first cat/IMG_0.png: no such file (row 1 of labels.csv)" in message


@pytest.mark.parametrize("name", ["/home/me/{}.png", "photos/{}.png", "{}.png", "{}", "img/{}.jpg", "IMG/{}.png"])
def test_rows_find_files_that_were_moved_or_converted(tmp_path, name):
    draw(tmp_path, *(f"img/{'deep/' * (i % 2)}{i}.png" for i in range(6)))
    rows = [(name.format(i), label) for i, (_, label) in enumerate(ROWS)]
    (tmp_path / "labels.csv").write_text(lines(rows, "file,label"))
    assert sizes(load(tmp_path)) == (6, None, None, 0)


def test_rows_of_another_computer_take_no_longer_with_more_classes(monkeypatch):
    calls, original = [], table_index.split_of_path
    monkeypatch.setattr(table_index, "split_of_path", lambda *names: calls.append(1) or original(*names))
    root, names = Folder(), [f"class{k}/{i}.png" for k in range(200) for i in range(5)]
    for name in names:
        root.add(tuple(name.split("/")), name)
    index, table = table_index.FileIndex(root), File(("train.csv",), "train.csv")
    assert [index.find(table, f"/kaggle/input/set/{name}").source for name in names] == names
    assert len(calls) <= 3 * len(names)

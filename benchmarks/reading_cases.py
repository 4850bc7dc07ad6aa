"""Small data sets in the forms that people have, with what is in each: folders, tables and archives as tools export them."""

from __future__ import annotations

import gzip
import itertools
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

COLOURS = {"red": (200, 40, 40), "green": (40, 180, 60)}
FORMATS = {".png": "PNG", ".webp": "WEBP", ".bmp": "BMP", ".gif": "GIF", ".tif": "TIFF"}


class Case(NamedTuple):
    """A data set.

    Attributes:
        name: short.
        path: the folder, table or archive to read.
        expected: what `train.py --inspect` says of it, with the number of files left out; or a word of the error.
        about: what it is, for people.
    """

    name: str
    path: Path
    expected: dict | str
    about: str


def holds(train, validation=None, test=None, classes=("green", "red"), left_out=0) -> dict:
    return {"classes": sorted(classes), "train": train, "validation": validation, "test": test, "left_out": left_out}


def save(path: Path, label: str, seed: int, size=(16, 16)) -> None:
    """Save a noisy image of a class; a suffix that is none of an image's holds a JPEG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(seed).integers(-30, 30, (*size, 3))
    pixels = np.clip(np.array(COLOURS.get(label, (90, 90, 90))) + noise, 0, 255).astype(np.uint8)
    Image.fromarray(pixels).save(path, FORMATS.get(path.suffix.lower(), "JPEG"))


def classes(folder: Path, count: int, names=("red", "green"), suffix=".jpg", prefix="") -> Path:
    """Write `count` images of each class into class folders."""
    for name in names:
        for i in range(count):
            save(folder / name / f"{prefix}{i}{suffix}", name, i)
    return folder


def mixed(folder: Path, count: int, suffix=".jpg", prefix="", first=0) -> Path:
    """Write images of both classes in turn into one folder."""
    for i in range(first, first + count):
        save(folder / f"{prefix}{i}{suffix}", label(i), i)
    return folder


def label(i: int) -> str:
    return ("red", "green")[i % 2]


def text(path: Path, content: str = "text", encoding="utf-8") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode(encoding))
    return path


def rows(line, count=20, header="") -> str:
    """Return a table: a header and `line(i)` for each row."""
    return header + "".join(line(i) + "\n" for i in range(count))


def zipped(folder: Path, path: Path, rename=lambda name: name, extra=None, patch=None) -> Path:
    """Zip the files of a folder; `patch` replaces bytes, as other programs would have written them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(file for file in folder.rglob("*") if file.is_file()):
            archive.write(file, rename(file.relative_to(folder).as_posix()))
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    if patch:
        path.write_bytes(path.read_bytes().replace(*patch))
    return path


# Folders --------------------------------------------------------------------------------------------------------------


def layouts(root: Path) -> Iterator[Case]:
    """Yield class folders in all arrangements."""
    path = classes(root / "flat", 10)
    yield Case("flat", path, holds(20), "class folders")
    for name, splits in {
        "splits": {"train": 10, "val": 3, "test": 2},
        "long split names": {"Training": 10, "Validation": 3, "Testing": 2},
        "split sets": {"training_set/training_set": 10, "validation_set": 3, "test_set/test_set": 2},
        "wrapped": {"my set/train": 10, "my set/dev": 3, "my set/test": 2},
        "prefixed splits": {"flowers_train": 10, "flowers_val": 3, "flowers_test": 2},
        "suffixed splits": {"train-flowers": 10, "valid-flowers": 3, "test-flowers": 2},
        "Roboflow": {"train": 10, "valid": 3, "test": 2},
        "numbered splits": {"1_train": 10, "2_val": 3, "3_test": 2},
        "years": {"train2017": 10, "val2017": 3, "test2017": 2},
    }.items():
        for split, count in splits.items():
            classes(root / name / split, count)
        if name == "Roboflow":
            text(root / name / "README.roboflow.txt")
        yield Case(name, root / name, holds(20, 6, 4, left_out=name == "Roboflow"), ", ".join(splits))
    path = classes(root / "trainval" / "trainval", 10).parent
    classes(path / "holdout", 2)
    yield Case("trainval", path, holds(20, None, 4), "trainval, holdout")
    path = root / "splits in classes"
    for split, count in (("train", 10), ("test", 2)):
        for name in COLOURS:
            for i in range(count):
                save(path / name / split / f"{i}.jpg", name, i)
    yield Case(path.name, path, holds(20, None, 4), "red/train, red/test, green/train, ...")
    path = classes(root / "nested", 5, names=("red/camera 1", "red/camera 2", "green/camera 1"))
    yield Case("nested", path, holds(15), "folders in class folders")
    for i in range(3):
        classes(root / "folds" / f"fold_{i}", 5)
    yield Case("folds", root / "folds", holds(30), "the classes in fold_0, fold_1, fold_2")
    path = classes(root / "Intel" / "seg_train" / "seg_train", 10).parent.parent
    classes(path / "seg_test" / "seg_test", 2), mixed(path / "seg_pred" / "seg_pred", 5)
    yield Case("Intel", path, holds(20, None, 4, left_out=5), "Kaggle: seg_train/seg_train, and seg_pred without classes")
    path = classes(root / "ASL" / "asl_alphabet_train" / "asl_alphabet_train", 10).parent.parent
    mixed(path / "asl_alphabet_test" / "asl_alphabet_test", 2, prefix="test")
    yield Case("ASL", path, holds(20, left_out=2), "Kaggle: asl_alphabet_train, and asl_alphabet_test without classes")
    path = classes(root / "dogs" / "Images", 10, names=("n01-red", "n02-green")).parent
    for name, i in itertools.product(("n01-red", "n02-green"), range(10)):
        text(path / "Annotation" / name / f"{name}_{i}", "<annotation/>")
    yield Case("dogs", path, holds(20, classes=("n01-red", "n02-green"), left_out=20), "Stanford Dogs, with annotations")
    path = classes(root / "Takeout" / "Takeout" / "Google Photos", 10).parent.parent
    for name, i in itertools.product(COLOURS, range(10)):
        text(path / "Takeout" / "Google Photos" / name / f"{i}.jpg.json", "{}")
    text(path / "Takeout" / "archive_browser.html")
    yield Case("Takeout", path, holds(20, left_out=21), "albums of a Google Takeout")
    path = classes(root / "numbers", 2, names=[str(i) for i in range(11)])
    yield Case("numbers", path, holds(22, classes=[str(i) for i in range(11)]), "classes 0 to 10")
    path = classes(root / "unlabelled test" / "train", 10).parent
    mixed(path / "test", 3)
    yield Case("unlabelled test", path, holds(20, left_out=3), "test images without classes")
    for i in range(10):
        save(root / "YOLO" / "train" / "images" / f"{i}.jpg", label(i), i)
        text(root / "YOLO" / "train" / "labels" / f"{i}.txt", "0 0.5 0.5 0.2 0.2\n")
    yield Case("YOLO", root / "YOLO", "not classes", "images and labels, for detection")
    mixed(root / "masks" / "images", 10), mixed(root / "masks" / "masks", 10)
    yield Case("masks", root / "masks", "not classes", "images and masks, for segmentation")


def contents(root: Path) -> Iterator[Case]:
    """Yield class folders with files that do not belong, or are of other formats."""
    path = classes(root / "hidden" / "train", 10).parent
    for name in ("train/red/._0.jpg", "__MACOSX/train/red/._1.jpg", "train/green/Thumbs.db", ".DS_Store"):
        text(path / name)
    classes(path / "train" / "red", 3, names=(".ipynb_checkpoints",))
    yield Case("hidden", path, holds(20), "copies and indexes of macOS, Windows and Jupyter")
    path = classes(root / "broken", 20)
    text(path / "red" / "0.jpg", ""), text(path / "red" / "1.jpg", "<html>404 Not Found</html>")
    (path / "green" / "2.jpg").write_bytes((path / "green" / "2.jpg").read_bytes()[:150])
    yield Case("broken", path, holds(37, left_out=3), "an empty image, a web page, one that is cut short")
    path = classes(root / "others", 10)
    text(path / "red" / "licence.pdf"), text(path / "notes.txt")
    yield Case("others", path, holds(20, left_out=2), "a PDF and a text among the images")
    yield Case("no suffix", classes(root / "no suffix", 10, suffix=""), holds(20), "images without a suffix")
    path = root / "suffixes"
    for i, suffix in enumerate(
        (".JPG", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".jpg_large", ".jpg?w=600")
    ):
        classes(path, 1, suffix=suffix, prefix=f"{i}-")
    yield Case("suffixes", path, holds(20), "ten suffixes, two of them from web sites")
    path = classes(root / "false suffix", 10)
    (path / "red" / "0.jpg").rename(path / "red" / "0.png")
    yield Case("false suffix", path, holds(20), "a JPEG called .png")
    names = ("crème brûlée", "日本犬", 'a "quoted" | name', "- yaml: {}")
    yield Case("names", classes(root / "names", 5, names=names), holds(20, classes=names), "names in any script")


# Tables ---------------------------------------------------------------------------------------------------------------


def tables(root: Path) -> Iterator[Case]:
    """Yield images in one folder, listed in a table."""
    image = "img/{}.jpg".format
    forms = {
        "metadata.csv": rows(lambda i: f"{image(i)},{label(i)}", header="file_name,label\n"),
        "metadata.jsonl": rows(lambda i: json.dumps({"file_name": image(i), "label": label(i)})),
        "labels.csv": rows(lambda i: f"{image(i)},{label(i)}", header="image,class\n"),
        "no header.csv": rows(lambda i: f"{image(i)},{label(i)}"),
        "no suffix.csv": rows(lambda i: f"{i},{label(i)}", header="id,breed\n"),
        "semicolons.csv": rows(lambda i: f"{image(i)};{label(i)}\r", header="\ufefffile;label\r\n"),
        "UTF-16.csv": rows(lambda i: f"{image(i)}\t{label(i)}", header="file\tlabel\n"),
        "UTF-16 without mark.csv": rows(lambda i: f"{image(i)},{label(i)}", header="file,label\n"),
        "Windows.csv": rows(lambda i: f"C:\\Users\\me\\img\\{i}.jpg,{label(i)}", header="path,label\n"),
        "absolute.csv": rows(lambda i: f"/home/me/{image(i)},{label(i)}", header="path,label\n"),
        "addresses.csv": rows(lambda i: f"https://example.org/{image(i)}?raw=1,{label(i)}", header="url,label\n"),
        "case.csv": rows(lambda i: f"IMG/{i}.JPG,{label(i)}", header="file,label\n"),
        "converted.csv": rows(lambda i: f"{i}.png,{label(i)}", header="file,label\n"),
        "one-hot.csv": rows(lambda i: f"{i},{i % 2},{1 - i % 2}", header="image_id,green,red\n"),
        "Label Studio.csv": rows(lambda i: f"/data/upload/1/{i}.jpg,{i},{label(i)},7", header="image,id,choice,annotator\n"),
        "Label Studio.json": json.dumps([{"image": f"/data/upload/1/{i}.jpg", "choice": label(i)} for i in range(20)]),
        "list.txt": rows(lambda i: f"{image(i)} {label(i)}"),
        "list.lst": rows(lambda i: f"{i}\t{label(i)}\t{image(i)}"),
        "which.csv": rows(lambda i: f"{image(i)},{label(i)},x", header="file,colour,shape\n"),
    }
    for name, table in forms.items():
        path = root / name
        encodings = {"UTF-16.csv": "utf-16", "UTF-16 without mark.csv": "utf-16-le"}
        mixed(path / "img", 20), text(path / name, table, encodings.get(name, "utf-8"))
        yield Case(name, path, "label_column" if name == "which.csv" else holds(20), repr(table.splitlines()[0])[1:-1][:60])


def more_tables(root: Path) -> Iterator[Case]:
    """Yield numbers with names elsewhere, a compressed table, COCO's annotations, and tables that cannot be read."""
    header, line = "file,label\n", "img/{0}.jpg,{1}".format
    numbers = rows(lambda i: line(i, int(label(i) == "green")), header=header)
    names = {"classes.txt": "red\ngreen\n", "label_map.json": '{"0": "red", "1": "green"}'}
    for name, content in names.items():
        path = root / name
        mixed(path / "img", 20), text(path / "labels.csv", numbers), text(path / name, content)
        yield Case(name, path, holds(20), f"labels.csv with numbers, and {name}")
    path = root / "compressed"
    mixed(path / "img", 20)
    (path / "labels.csv.gz").write_bytes(gzip.compress(rows(lambda i: line(i, label(i)), header=header).encode(), mtime=0))
    yield Case("compressed", path, holds(20), "labels.csv.gz")
    for split, count in (("train", 10), ("valid", 4)):
        notes = [{"id": i, "image_id": i, "category_id": i % 2 + 1, "bbox": [0, 0, 9, 9]} for i in range(count)]
        coco = {
            "images": [{"id": i, "file_name": f"{i}.jpg"} for i in range(count)],
            "annotations": [*notes, {"id": 99, "image_id": 0, "category_id": 2}],  # the first image has both
            "categories": [{"id": 0, "name": "all"}, {"id": 1, "name": "red"}, {"id": 2, "name": "green"}],
        }
        mixed(root / "COCO" / split, count), text(root / "COCO" / split / "_annotations.coco.json", json.dumps(coco))
    yield Case(
        "COCO", root / "COCO", holds(9, 3, left_out=2), "Roboflow: _annotations.coco.json, one image with two classes"
    )
    several = rows(lambda i: json.dumps({"file_name": f"img/{i}.jpg", "label": ["red", "green"]}))
    pixels = rows(lambda i: f"{i % 2},{'0 ' * 48},Training", header="emotion,pixels,Usage\n")
    spreadsheet = "labels.xlsx"
    for name, content, word in (
        ("several.jsonl", several, "several"),
        ("FER2013.csv", pixels, "pixels"),
        (spreadsheet, "PK", "a spreadsheet"),
    ):
        mixed(root / name / "img", 20), text(root / name / name, content)
        yield Case(name, root / name, word, "not read, and why")


def splits_in_tables(root: Path) -> Iterator[Case]:
    """Yield tables that tell the split, and class folders whose test split is labelled by one."""
    splits = ("train", "Train", "VAL", "test")
    vertex = ("TRAIN", "TRAIN", "VALIDATION", "TEST")
    for name, header, line, expected in (
        ("split column", "file,label,split\n", lambda i: f"img/{i}.jpg,{label(i // 4)},{splits[i % 4]}", (10, 5, 5)),
        ("Vertex AI", "", lambda i: f"{vertex[i % 4]},gs://x/img/{i}.jpg,{label(i // 4)}", (10, 5, 5)),
        ("is_valid", "name,label,is_valid\n", lambda i: f"img/{i}.jpg,{label(i)},{i >= 16}", (16, 4, None)),
    ):
        mixed(root / name / "img", 20), text(root / name / "table.csv", rows(line, header=header))
        yield Case(name, root / name, holds(*expected), "a column tells the split")
    path = root / "Kaggle"
    mixed(path / "train", 20), mixed(path / "test", 6)
    text(path / "train.csv", rows(lambda i: f"{i},{label(i)}", header="id,label\n"))
    text(path / "test.csv", rows(str, 6, "id\n"))
    text(path / "sample_submission.csv", rows(lambda i: f"{i},red", 6, "id,label\n"))
    yield Case("Kaggle", path, holds(20, left_out=8), "train.csv, test.csv without classes, sample_submission.csv")
    path = root / "GTSRB"
    for i in range(20):
        save(path / "Train" / str(i % 2) / f"{i}.png", label(i), i)
    mixed(path / "Test", 6, ".png")
    text(path / "Test.csv", rows(lambda i: f"27,26,{i % 2},Test/{i}.png", 6, "Width,Height,ClassId,Path\n"))
    yield Case(
        "GTSRB", path, holds(20, None, 6, classes="01", left_out=1), "class folders, and Test.csv for the test images"
    )
    path = root / "Tiny ImageNet"
    for name in ("n01", "n02"):
        classes(path / "train" / name, 10, names=("images",), prefix=name)
    mixed(path / "val" / "images", 6, prefix="val_")
    text(path / "val" / "val_annotations.txt", rows(lambda i: f"val_{i}.jpg\tn0{1 + i % 2}\t0\t9\t3\t5", 6))
    mixed(path / "test" / "images", 4)
    yield Case("Tiny ImageNet", path, holds(20, 6, classes=("n01", "n02"), left_out=5), "val_annotations.txt for val/images")
    path = classes(root / "Food-101" / "images", 10).parent
    for split, numbers in (("train", range(8)), ("test", range(8, 10))):
        lines = "".join(f"{name}/{i}\n" for name in COLOURS for i in numbers)
        text(path / "meta" / f"{split}.txt", lines)
    yield Case("Food-101", path, holds(16, None, 4, left_out=2), "meta/train.txt and meta/test.txt list the files")
    path = root / "HAM10000"
    for i in range(20):
        save(path / f"images_part_{1 + i // 10}" / f"ISIC_{i}.jpg", label(i), i)
    text(
        path / "HAM10000_metadata.csv", rows(lambda i: f"H{i},ISIC_{i},{label(i)},80", header="lesion_id,image_id,dx,age\n")
    )
    yield Case("HAM10000", path, holds(20), "images_part_1, images_part_2, and a table of diagnoses")


# Archives -------------------------------------------------------------------------------------------------------------


def archives(root: Path) -> Iterator[Case]:
    """Yield archives, also of other systems, and next to tables."""
    source = root / "source"
    classes(source / "set" / "train", 10), classes(source / "set" / "val", 3)
    mixed(root / "images", 20)
    table = rows(lambda i: f"{i}.jpg,{label(i)}", header="file,label\n")
    yield Case("zip", zipped(source, root / "set.zip"), holds(20, 6), "a zip")
    for kind in ("gz", "xz"):
        with tarfile.open(root / f"set.tar.{kind}", f"w:{kind}") as tar:
            tar.add(source / "set", "./set")
        yield Case(f"tar.{kind}", root / f"set.tar.{kind}", holds(20, 6), f"a tarball, {kind}")
    path = zipped(source, root / "Windows.zip", lambda name: name.replace("/", "\\"))
    yield Case("Windows zip", path, holds(20, 6), "a zip with backslashes")
    classes(root / "umlaut", 5, names=("rot", "gr__n"))
    path = zipped(root / "umlaut", root / "437.zip", lambda n: n.replace("__", "~"), patch=(b"gr~n", b"gr\x81n"))
    yield Case("code page 437", path, holds(10, classes=("rot", "grün")), "a zip with names of code page 437")
    extra = {"__MACOSX/rot/._0.jpg": "x"}
    path = zipped(root / "umlaut", root / "macOS.zip", lambda n: n.replace("__", "u~~"), extra, (b"u~~", b"u\xcc\x88"))
    yield Case("macOS zip", path, holds(10, classes=("rot", "grün")), "a zip of macOS, decomposed names")
    for split in ("train", "val"):
        zipped(source / "set" / split, root / "split zips" / f"{split}.zip")
    yield Case("split zips", root / "split zips", holds(20, 6), "train.zip and val.zip")
    yield Case("nested zips", zipped(root / "split zips", root / "nested.zip"), holds(20, 6), "both in another zip")
    for name in COLOURS:
        zipped(source / "set" / "train" / name, root / "class zips" / f"{name}.zip")
    yield Case("class zips", root / "class zips", holds(20), "a zip of each class")
    path = zipped(root / "images", root / "zip and table" / "images.zip").parent
    text(path / "labels.csv", table)
    yield Case("zip and table", path, holds(20), "images.zip and labels.csv")
    for name, label_of in (
        ("cls", lambda i: str(i % 2)), ("json", lambda i: json.dumps({"label": label(i), "width": 16})), ("txt", label)
    ):  # fmt: skip
        for shard, start, count in (("train-000000", 0, 10), ("train-000001", 10, 10), ("val-000000", 20, 6)):
            folder = mixed(root / "samples" / name / shard, count, first=start)
            for i in range(start, start + count):
                text(folder / f"{i}.{name}", label_of(i))
            path = root / f"WebDataset {name}" / f"{shard}.tar"
            path.parent.mkdir(exist_ok=True)
            with tarfile.open(path, "w") as tar:
                for file in sorted(folder.iterdir()):
                    tar.add(file, file.name)
        found = "01" if name == "cls" else COLOURS
        yield Case(
            f"WebDataset {name}", root / f"WebDataset {name}", holds(20, 6, classes=found), f"shards of .jpg and .{name}"
        )
    text(root / "rar" / "set.rar", "Rar!"), text(root / "rar" / "notes.txt")
    yield Case("rar", root / "rar", "a rar archive", "not read, and why")
    path = zipped(root / "images", root / "zipped table.zip", "images/{}".format, {"labels.csv": table})
    yield Case("zipped table", path, holds(20), "a zip with images and labels.csv")


def build(root: Path) -> list[tuple[str, Case]]:
    """Write all cases below `root`, and return them with the name of their group."""
    groups = {
        "class folders": layouts,
        "files": contents,
        "tables": lambda root: itertools.chain(tables(root), more_tables(root / "more")),
        "splits": splits_in_tables,
        "archives": archives,
    }
    return [(name, case) for name, group in groups.items() for case in group(root / name)]

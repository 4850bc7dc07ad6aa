"""Where predict_many finds its images: folders, Parquet files, buckets and data sets of the Hub."""

import errno
import io
import re
from unittest.mock import Mock

import numpy as np
import pytest
from conftest import png, tiny_config, write_table

pytest.importorskip("pyarrow")
import fsspec
import pyarrow as pa
from pyarrow import parquet

from eanet import sources
from eanet.cli import UserError
from eanet.images import load_image
from eanet.sources import ImageReader, Source, list_source


@pytest.fixture
def config():
    return tiny_config()


def test_a_folder_is_listed_as_inference_does(photos, monkeypatch):
    monkeypatch.chdir(photos.parent)
    source = list_source("photos")
    assert source.files[0] == "photos/a/0.png" and len(source.files) == 12 == sum(source.rows)
    assert source.root == str(photos) and source.column is None
    assert list_source("photos/a").checksum != source.checksum == list_source("photos").checksum


@pytest.mark.parametrize("size", [1, 3, 4, 7, 10, 100])
def test_shards_divide_the_list(size):
    files, counts = ("a", "b", "c", "d"), (5, 0, 1, 4)
    cut = list(Source("x", "/", "image", files, counts).shards(size))
    assert all(sum(stop - start for _, start, stop in shard) == size for shard in cut[:-1])
    found = [(file, row) for shard in cut for file, start, stop in shard for row in range(start, stop)]
    assert found == [(file, row) for file, count in zip(files, counts, strict=True) for row in range(count)]


@pytest.mark.parametrize(
    "group, ranges, decoded",
    [
        (4, [(0, 10)], 3),
        (4, [(3, 4), (9, 10)], 2),
        (4, [(2, 9), (9, 10)], 3),
        (10, [(0, 3), (3, 4), (8, 10)], 1),
        (10, [(8, 10), (0, 3)], 2),
    ],
)
def test_rows_of_parquet_are_those_of_the_table(tmp_path, config, monkeypatch, group, ranges, decoded):
    """And a row group is not decoded again from its start for the next rows."""
    monkeypatch.setattr(sources, "ROWS", 2)
    decode = parquet.ParquetFile.iter_batches
    calls = Mock(return_value=None)
    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", lambda *args: calls() or decode(*args))
    file = str(write_table(tmp_path / "t.parquet", 10, group))
    source = list_source(file)
    assert (source.column, source.rows) == ("image", (10,))
    reader = ImageReader(source, config)
    expected = [row for start, stop in ranges for row in range(start, stop)]
    found = [row for start, stop in ranges for row in reader.read([(file, start, stop)])]
    assert [path for path, _ in found] == [f"{file}[{i}]" for i in expected]
    for i, (_, image) in zip(expected, found, strict=True):
        np.testing.assert_array_equal(image, load_image(io.BytesIO(png(i)), config))
    assert calls.call_count == decoded


def test_buckets_are_read_like_folders(photos, config):
    memory = fsspec.filesystem("memory")
    for path in photos.rglob("*.*g"):
        memory.pipe_file(f"memory:///bucket/{path.relative_to(photos)}", path.read_bytes())
    source, local = list_source("memory:///bucket"), list_source(str(photos))
    assert [file.removeprefix("memory:///bucket") for file in source.files] == [
        file.removeprefix(str(photos)) for file in local.files
    ]
    assert list_source("memory:///bucket/*/1*").files == ("memory:///bucket/b/1.png",)
    pieces = [(file, 0, 1) for file in (*source.files, "memory:///bucket/gone.png")]
    images = dict(ImageReader(source, config).read(pieces))
    for there, here in zip(source.files, local.files, strict=True):
        expected = dict(ImageReader(local, config).read([(here, 0, 1)]))[here]
        assert np.array_equal(images[there], expected)
    assert isinstance(images["memory:///bucket/gone.png"], str)
    with pytest.raises(UserError, match="^memory:///private/x.png: cannot be read"):  # there is no such bucket
        list(ImageReader(source, config).read([("memory:///private/x.png", 0, 1)]))


@pytest.mark.parametrize("error", [PermissionError("The provided token has expired."), ValueError("Bad Request: b")])
def test_a_failing_bucket_stops_the_job(tmp_path, monkeypatch, error):
    memory, fail, url = fsspec.filesystem("memory"), Mock(side_effect=error), "memory:///failing/t.parquet"
    memory.pipe_file(url, write_table(tmp_path / "t.parquet").read_bytes())
    monkeypatch.setattr(type(memory), "cat_file", fail)
    monkeypatch.setattr(type(memory.open(url)), "read", fail)
    for column in (None, "image"):
        with pytest.raises(UserError, match=re.escape(f"{url}: cannot be read ({error})")):
            list(ImageReader(Source("memory:///failing", "/", column), None).read([(url, 0, 1)]))


def test_a_worker_reads_on_after_the_storage_failed(tmp_path, config, monkeypatch):
    file = str(write_table(tmp_path / "t.parquet", 10, 10))
    reader = ImageReader(list_source(file), config)
    decode, calls = parquet.ParquetFile.iter_batches, []

    def fail_once(*args):
        calls.append(args)
        if len(calls) == 1:
            raise UserError("token expired")
        return decode(*args)

    monkeypatch.setattr(parquet.ParquetFile, "iter_batches", fail_once)
    with pytest.raises(UserError, match="token expired"):
        list(reader.read([(file, 0, 5)]))
    found = list(reader.read([(file, 5, 10)]))
    assert [isinstance(image, np.ndarray) for _, image in found] == [True] * 5


def test_rows_that_are_no_longer_there_are_errors(tmp_path, config):
    file = str(write_table(tmp_path / "t.parquet", 10, 4))
    found = list(ImageReader(list_source(file), config).read([(file, 8, 12)]))
    assert [isinstance(image, str) for _, image in found] == [False, False, True, True]
    assert "has 10 rows; row 11 was listed" in found[-1][1]


def test_a_failing_disk_stops_the_job(monkeypatch):
    monkeypatch.setattr(sources, "load_image", Mock(side_effect=OSError(errno.EIO, "Input/output error")))
    with pytest.raises(UserError, match="^/x.png: cannot be read"):
        list(ImageReader(Source("/", "/", None), None).read([("/x.png", 0, 1)]))


def test_a_damaged_parquet_file_costs_its_rows_only(tmp_path, config):
    file = write_table(tmp_path / "t.parquet", 10, 4)
    source, content = list_source(str(file)), bytearray(file.read_bytes())
    chunk = parquet.ParquetFile(file).metadata.row_group(1).column(0)
    content[chunk.data_page_offset : chunk.data_page_offset + 40] = bytes(40)
    file.write_bytes(content)
    images = [image for _, image in ImageReader(source, config).read([(str(file), 0, 10)])]
    assert len(images) == 10 and not any(isinstance(image, str) for image in images[:4])
    assert any(isinstance(image, str) and "Parquet" in image for image in images[4:])


@pytest.mark.parametrize(
    "columns, wanted, message",
    [
        ({"text": ["a"]}, None, "no column has the bytes of images; it has text"),
        ({"a": [b"x"], "b": [b"x"]}, None, "columns a, b have images; name one as image_column"),
        ({"a": [{"bytes": "/etc/passwd"}]}, None, "no column has the bytes of images; it has a"),
        ({"a": [b"x"], "b": ["x"]}, "b", "no column b with the bytes of images; it has a, b"),
        ({"a": pa.array([], pa.binary())}, None, "have no rows"),
    ],
)
def test_columns_that_do_not_fit_are_refused(tmp_path, columns, wanted, message):
    parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
    with pytest.raises(UserError, match=message):
        list_source(str(tmp_path / "t.parquet"), wanted)


def test_a_named_column_is_read(tmp_path):
    parquet.write_table(pa.table({"a": [b"x"], "b": [png(0)]}), tmp_path / "t.parquet")
    assert list_source(str(tmp_path), "b").column == "b"


@pytest.mark.parametrize("place", ["{}", "memory://{}", "memory://{}/*/*"])
def test_image_files_next_to_parquet_files_of_images_are_refused(tmp_path, place):
    files = {"assets/banner.png": png(0), "data/t.parquet": write_table(tmp_path / "t.parquet").read_bytes()}
    (tmp_path / "t.parquet").unlink()
    for name, content in files.items():
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(content)
        fsspec.filesystem("memory").pipe_file(f"{tmp_path}/{name}", content)
    place = place.format(tmp_path)
    root = place.removesuffix("/*/*")
    kinds = f"image files ({root}/assets/banner.png) and Parquet files of images ({root}/data/t.parquet)"
    choice = "give image_column image to read these, or a folder or pattern of the others"
    with pytest.raises(UserError, match=f"^{re.escape(f'{place}: holds {kinds}; {choice}')}$"):
        list_source(place)
    assert list_source(place, "image").files == (f"{root}/data/t.parquet",)
    assert list_source(f"{root}/assets").files == (f"{root}/assets/banner.png",)
    assert list_source(f"{root}/data").column == "image"


def test_image_files_next_to_other_parquet_files_are_read(photos):
    (photos / "out").mkdir()
    (photos / ".cache").mkdir()
    expected = list_source(str(photos))
    parquet.write_table(pa.table({"path": ["a"], "label": ["b"]}), photos / "out" / "part-000000.parquet")
    write_table(photos / ".cache" / "t.parquet")
    assert list_source(str(photos)) == expected
    (photos / "out" / "part-000000.parquet").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match=f"^{photos}/out/part-000000.parquet: not a readable Parquet file"):
        list_source(str(photos))


def test_a_hub_data_set_is_a_url(tmp_path, monkeypatch):
    files = Mock(return_value=(fsspec.filesystem("memory"), "/hub"))
    table = write_table(tmp_path / "t.parquet")
    fsspec.filesystem("memory").pipe_file("memory:///hub/data/train-00000-of-00001.parquet", table.read_bytes())
    monkeypatch.setattr(sources, "filesystem", files)
    source = list_source("someone/flowers")
    assert files.call_args_list[0].args[0] == source.place == "hf://datasets/someone/flowers"
    assert source.files == ("memory:///hub/data/train-00000-of-00001.parquet",) and source.rows == (10,)

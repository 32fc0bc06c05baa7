"""Folders of images: which files, in what order, cut and shrunk how."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from models.celeba import CelebA
from pullback import archive
from pullback.archive.run import find_failures
from pullback.jobs import FolderOptions, Framing, open_images
from tests.shell import refused, run


def picture(seed, width, height):
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture
def celeba(tmp_path):
    """Twelve JPEGs in the layout of CelebA, three of them in the test split."""
    (tmp_path / "img_align_celeba").mkdir()
    lines = []
    for i in range(1, 13):
        picture(i, 178, 218).save(tmp_path / "img_align_celeba" / f"{i:06}.jpg")
        lines.append(f"{i:06}.jpg {0 if i < 7 else 1 if i < 10 else 2}\n")
    (tmp_path / "list_eval_partition.txt").write_text("".join(lines))
    return tmp_path


def test_pixels_are_those_that_training_takes(celeba):
    expected = CelebA(celeba, "train")[torch.arange(6)].numpy()
    options = FolderOptions(Framing(crop=148, resize=64))
    images = open_images(celeba / "img_align_celeba", options)
    np.testing.assert_array_equal(images.read(0, 6), expected)


def test_natural_order_and_glob(tmp_path):
    for name in ("b10.png", "b9.png", "a1.png", "b010.png", "other.bmp"):
        picture(0, 8, 8).save(tmp_path / name)
    assert open_images(tmp_path).names == ["a1.png", "b9.png", "b010.png", "b10.png", "other.bmp"]
    assert open_images(tmp_path, FolderOptions(glob="b*.png")).count == 3
    with pytest.raises(ValueError, match=r"no images in .* that match 'x\*'"):
        open_images(tmp_path, FolderOptions(glob="x*"))


def test_images_in_subfolders_only(tmp_path):
    (tmp_path / "sub").mkdir()
    picture(0, 8, 8).save(tmp_path / "sub" / "a.png")
    for options in (FolderOptions(), FolderOptions(glob="sub/*.png")):
        with pytest.raises(ValueError, match=r"in its subfolders; ask for them \(--recursive\)"):
            open_images(tmp_path, options)
    with pytest.raises(ValueError, match=r"no images in .* that match 'sub/b\.png'$"):
        open_images(tmp_path, FolderOptions(glob="sub/b.png"))
    assert open_images(tmp_path, FolderOptions(recursive=True)).count == 1


def test_sizes_that_cannot_be_framed(tmp_path):
    picture(0, 9, 8).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="9×8 pixels; a crop of 9 needs at least 9×9"):
        open_images(tmp_path, FolderOptions(Framing(crop=9)))
    with pytest.raises(ValueError, match="9×8 pixels; resize takes squares, which crop cuts"):
        open_images(tmp_path, FolderOptions(Framing(resize=4)))
    with pytest.raises(ValueError, match="crop=0 must be at least 1"):
        Framing(crop=0)
    picture(1, 20, 10).save(tmp_path / "b.png")
    framed = open_images(tmp_path, FolderOptions(Framing(crop=8, resize=4)))
    assert framed.read(0, 2).shape == (2, 3, 4, 4)


def test_transparent_gray_and_turned_images(tmp_path):
    """Alpha is dropped, and EXIF orientation ignored."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 5, 4), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    expected = pixels[..., :3].transpose(2, 0, 1)[None] / 255
    np.testing.assert_allclose(open_images(tmp_path).read(0, 1), expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png", "a.tif"])
def test_the_first_of_several_images_in_a_file(tmp_path, name):
    first, second = (picture(seed, 8, 8) for seed in (0, 1))
    first.save(tmp_path / name, save_all=True, append_images=[second], lossless=True)
    with Image.open(tmp_path / name) as image:
        expected = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    images = open_images(tmp_path)
    assert images.count == 1
    np.testing.assert_array_equal(images.read_stored(0, 1)[0], expected)


def test_options_of_files_are_for_folders(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((3, 4), np.float32))
    with pytest.raises(ValueError, match=r"a\.npy is no folder of images; it does not take crop"):
        open_images(tmp_path / "a.npy", FolderOptions(Framing(crop=2)))


def test_a_split_of_celeba(celeba):
    """The layout of its own folder, as it was unpacked."""
    expected = CelebA(celeba, "test")
    (celeba / "identity_CelebA.txt").write_text(
        "".join(f"{i:06}.jpg {100 + i}\n" for i in range(1, 13))
    )
    framing, split = Framing(crop=148, resize=64), "list_eval_partition.txt:2"
    options = FolderOptions(framing, split=split, labels="identity_CelebA.txt")
    for folder in (celeba, celeba / "img_align_celeba"):
        images = open_images(folder, options)
        assert [name.rpartition("/")[2] for name in images.names or ()] == expected.names
        np.testing.assert_array_equal(images.labels, [110, 111, 112])
        np.testing.assert_array_equal(images.read(0, 3), expected[torch.arange(3)].numpy())


def test_splits_and_labels_that_do_not_fit(celeba):
    def opening(**options):
        return open_images(celeba, FolderOptions(**options))

    file = celeba / "list_eval_partition.txt"
    with pytest.raises(ValueError, match="split 'test' must be FILE:NUMBER, such as"):
        opening(split="test")
    with pytest.raises(ValueError, match=r"partition\.txt has no split 5; it has 0, 1, 2"):
        opening(split=f"{file.name}:5")
    with pytest.raises(FileNotFoundError, match=r"there is no none\.txt or .*none\.txt"):
        opening(split="none.txt:5")
    file.write_text(file.read_text().replace("000001.jpg 0", ""))
    with pytest.raises(ValueError, match=r"has no label for .*000001\.jpg"):
        opening(recursive=True, labels=file.name)
    (celeba / "img_align_celeba" / "000011.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 of the 3 images of split 2 .* first is 000011\.jpg"):
        opening(split=f"{file.name}:2")
    (celeba / "img_align_celeba" / "sub").mkdir()
    picture(0, 8, 8).save(celeba / "img_align_celeba" / "sub" / "000002.jpg")
    with pytest.raises(ValueError, match=r"names 000002\.jpg, which is .*sub/000002\.jpg"):
        opening(split=f"{file.name}:0")
    file.write_text("000001.jpg\n")
    with pytest.raises(ValueError, match=r"line 1 of .* is '000001\.jpg'; a file name and an int"):
        opening(split=f"{file.name}:0")


def test_labels_of_which_nobody_knows_what_they_are_of(celeba):
    """Two files of one name, or two lines: no label is taken for another."""
    folder, other = celeba / "img_align_celeba", celeba / "other"
    other.mkdir()
    picture(0, 178, 218).save(other / "000003.jpg")
    options = FolderOptions(recursive=True, labels="list_eval_partition.txt")
    with pytest.raises(ValueError, match=r"names 000003\.jpg, which is .* and .*other/000003\.jpg"):
        open_images(celeba, options)
    file = celeba / "list_eval_partition.txt"
    file.write_text(file.read_text() + "other/000003.jpg 7\n")
    assert open_images(celeba, options).describe(0, 20)["label"][-1] == 7
    table = celeba / "table.txt"
    table.write_text("Smiling\n000003.jpg 1\n000003.jpg -1\n")
    with pytest.raises(ValueError, match=r"line 3 of .*table\.txt names 000003\.jpg a second time"):
        open_images(folder, FolderOptions(glob="*3.jpg", labels="table.txt:Smiling"))


def test_texts_as_some_editors_write_them(celeba):
    """With a mark of the order of bytes in front, and a return at the end of each line."""
    folder, listed = celeba / "img_align_celeba", celeba / "mine.txt"
    listed.write_bytes(b"\xef\xbb\xbfimg_align_celeba/000003.jpg\r\n")
    (celeba / "labels.txt").write_bytes(b"\xef\xbb\xbf000003.jpg 5\r\n")
    images = open_images(listed, FolderOptions(labels="labels.txt"))
    np.testing.assert_array_equal(images.labels, [5])
    np.testing.assert_array_equal(images.read(0, 1), open_images(folder).read(2, 3))


def test_labels_from_one_column_of_a_table(celeba):
    """As list_attr_celeba.txt: a count, a line of names, and -1 or 1 for each of them."""
    rows = [f"{i:06d}.jpg {-1 if i % 2 else 1:2d} {i:2d} -1\n" for i in range(1, 15)]
    table = celeba / "list_attr_celeba.txt"
    table.write_text("14\nSmiling Young Male \n" + "".join(rows))
    split = "list_eval_partition.txt:2"
    for column, expected in (("Smiling", [1, -1, 1]), ("Young", [10, 11, 12])):
        options = FolderOptions(split=split, labels=f"list_attr_celeba.txt:{column}")
        np.testing.assert_array_equal(open_images(celeba, options).labels, expected)
    for column in ("Old", ""):
        with pytest.raises(ValueError, match=rf"has no line with a name of a column .* '{column}'"):
            open_images(celeba, FolderOptions(split=split, labels=f"{table}:{column}"))
    table.write_text("Smiling Young\n000001.jpg 1 1\n000002.jpg 1\n")
    with pytest.raises(ValueError, match=r"line 3 of .*celeba\.txt has no file name and 2 integ"):
        open_images(celeba, FolderOptions(split=split, labels=f"{table}:Young"))


def test_a_list_of_files(celeba):
    folder = celeba / "img_align_celeba"
    listed = celeba / "mine.txt"
    listed.write_text(f"img_align_celeba/000003.jpg\n\n{folder / '000001.jpg'}\n")
    labels = FolderOptions(labels="list_eval_partition.txt")
    images, whole = open_images(listed, labels), open_images(folder)
    assert images.names == ["img_align_celeba/000003.jpg", "img_align_celeba/000001.jpg"]
    np.testing.assert_array_equal(images.labels, [0, 0])
    np.testing.assert_array_equal(images.read(0, 1), whole.read(2, 3))
    np.testing.assert_array_equal(images.read(1, 2), whole.read(0, 1))
    listed.write_text("none.jpg\n")
    with pytest.raises(FileNotFoundError, match=r"no .*none\.jpg, which .*mine\.txt names"):
        open_images(listed)
    listed.write_text("\n")
    with pytest.raises(ValueError, match=r"mine\.txt names no files"):
        open_images(listed)
    listed.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"mine\.txt is no text in UTF-8"):
        open_images(listed)
    with pytest.raises(ValueError, match=r"mine\.txt is no folder of images; .* glob"):
        open_images(listed, FolderOptions(glob="*"))


ENCODER = """
import pullback as pb
from torch import nn

def small():
    return pb.as_map(nn.Sequential(nn.Flatten(), nn.Linear(48, 4)), "mean")
"""


def test_a_folder_is_framed_on_the_command_line(celeba, capsys, monkeypatch):
    monkeypatch.chdir(celeba)
    (celeba / "small.py").write_text(ENCODER)
    command = ["score", "--encoder", "small.py:small", "--data", "img_align_celeba", "--out", "run"]
    message = "--crop and --resize give images another shape"
    refused(capsys, run(*command, "-k", 2), "shape (2, 3, 218, 178)", message)
    assert run(*command, "-k", 2, "--crop", 148, "--resize", 4) == 0
    assert archive.read_manifest("run")["data"]["crop"] == "148"
    refused(capsys, run(*command, "-k", 2, "--crop", 140, "--resize", 4), "data.crop was 148")


def test_celeba_scores_end_to_end(celeba, monkeypatch):
    monkeypatch.chdir(celeba)
    (celeba / "small.py").write_text(ENCODER)
    command = ["score", "--encoder", "small.py:small", "--data", ".", "--out", "run", "-k", 2]
    command += ["--split", "list_eval_partition.txt:2", "--crop", 148, "--resize", 4]
    assert run(*command, "--labels", "list_eval_partition.txt") == 0
    assert archive.read_manifest("run")["data"]["name"] == celeba.name
    columns = archive.read("run")
    assert columns["spectral_radius"].shape == (3,)
    assert (columns["spectral_radius"] > 0).all()
    np.testing.assert_array_equal(columns["label"], [2, 2, 2])
    assert b"img_align_celeba/000010.jpg" in columns["file"].tolist()


def test_bad_images_are_skipped_on_request(celeba, monkeypatch, capsys, caplog):
    """They are counted and named in the archive; the others score as they do by themselves."""
    monkeypatch.chdir(celeba)
    (celeba / "small.py").write_text(ENCODER)
    command = ["score", "--encoder", "small.py:small", "--data", "img_align_celeba", "-k", 2]
    command += ["--crop", 148, "--resize", 4, "--shard-size", 5]
    command += ["--labels", "list_eval_partition.txt"]
    assert run(*command, "--out", "whole") == 0
    folder = celeba / "img_align_celeba"
    (folder / "000001.jpg").write_bytes(b"no image")
    (folder / "000007.jpg").write_bytes((folder / "000007.jpg").read_bytes()[:900])
    picture(0, 100, 100).save(folder / "000012.jpg")
    refused(capsys, run(*command, "--out", "run"), "000001.jpg cannot be read as an image")
    assert run(*command, "--out", "run", "--skip-bad") == 3
    for name in ("000001.jpg cannot", "000007.jpg cannot", "000012.jpg has 100×100 pixels"):
        assert name in caplog.text
    bad = [0, 6, 11]
    whole, columns = archive.read("whole"), archive.read("run")
    np.testing.assert_array_equal(np.flatnonzero(columns["failed"]), bad)
    assert np.isnan(columns["spectral_radius"][bad]).all()
    np.testing.assert_array_equal(columns["label"], whole["label"])
    good = columns["failed"] == 0
    np.testing.assert_allclose(
        columns["eigenvalues"][good], whole["eigenvalues"][good], rtol=1e-5, atol=1e-7
    )
    assert sorted(find_failures(Path("run"))) == ["0", "11", "6"]


def test_what_the_system_cannot_read_is_not_skipped(celeba, monkeypatch):
    images = open_images(celeba / "img_align_celeba", FolderOptions(skip_bad=True))

    def no_more_files(*_, **__):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(Image, "open", no_more_files)
    with pytest.raises(ValueError, match="Too many open files"):
        list(images.read_parts(0, 4))

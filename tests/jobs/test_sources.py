"""Every format that images come in, and the sentence for each way in which it can be damaged."""

import gzip
import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from pullback.jobs import FolderOptions, from_array, open_images
from pullback.jobs.arrays import read_idx


def write_idx(path, array):
    raw = b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    raw += array.astype(np.uint8).tobytes()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)


def bytes_images(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("dash", ["-", "."])  # as they are published, and as some unpack them
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_with_labels_beside_it(tmp_path, suffix, dash):
    pixels = bytes_images(7, 5, 4)
    path = tmp_path / f"t10k-images{dash}idx3-ubyte{suffix}"
    write_idx(path, pixels)
    assert open_images(path).labels is None
    write_idx(tmp_path / f"t10k-labels{dash}idx1-ubyte{suffix}", np.arange(7))
    images = open_images(path)
    assert (images.count, images.event_shape) == (7, (1, 5, 4))
    np.testing.assert_array_equal(images.labels, np.arange(7))
    part = images.read(2, 4)
    assert part.dtype == np.float32
    np.testing.assert_allclose(part[:, 0], pixels[2:4] / 255, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f8", ">f8", "f2", np.longdouble])
def test_npy_keeps_floating_values(tmp_path, dtype):
    expected = np.float64 if np.dtype(dtype).itemsize > 4 else np.float32
    array = np.random.default_rng(0).normal(size=(6, 3, 4)).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    images = open_images(tmp_path / "a.npy")
    assert images.event_shape == (3, 4)
    np.testing.assert_array_equal(images.read(1, 3), array[1:3].astype(expected))


@pytest.mark.parametrize("names", [("images", "labels"), ("x", "y"), ("anything", "labels")])
def test_npz_by_name(tmp_path, names):
    pixels, labels = bytes_images(6, 2, 3, 3), np.arange(6)
    np.savez(tmp_path / "a.npz", **{names[0]: pixels, names[1]: labels})
    images = open_images(tmp_path / "a.npz")
    np.testing.assert_allclose(images.read(0, 6), pixels / 255, rtol=1e-6)
    np.testing.assert_array_equal(images.labels, labels)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_folder_in_the_order_of_names(tmp_path, mode, channels):
    pixels = bytes_images(4, 6, 5, channels)
    names = ["b.png", "a.png", "sub/c.png", "d.bmp"]
    for folder in ("sub", ".cache"):
        (tmp_path / folder).mkdir()
    (tmp_path / ".cache" / "z.png").write_bytes(b"not for us")
    (tmp_path / "notes.txt").write_text("not an image")
    for name, picture in zip(names, pixels, strict=True):
        Image.fromarray(picture.squeeze()).save(tmp_path / name)
    images = open_images(tmp_path, FolderOptions(recursive=True))
    assert open_images(tmp_path).count == 3
    assert (images.count, images.event_shape) == (4, (channels, 6, 5))
    order = np.argsort(names)
    assert images.names == sorted(names)
    expected = pixels[order].transpose(0, 3, 1, 2) / 255
    np.testing.assert_allclose(images.read(0, 4), expected, rtol=1e-6)


def test_the_checksum_of_arrays_depends_on_values_and_labels():
    pixels, labels = bytes_images(5, 4, 4), np.arange(5)
    path = Path("memory")
    one = from_array(path, pixels, labels).facts
    assert one == from_array(path, pixels.copy(), labels.copy()).facts
    assert one != from_array(path, pixels, labels[::-1]).facts
    pixels[3, 2, 1] ^= 1
    assert one != from_array(path, pixels, labels).facts


def test_the_facts_of_a_folder_tell_when_a_file_changes(tmp_path):
    for name in "abc":
        Image.fromarray(bytes_images(8, 8)).save(tmp_path / f"{name}.png")
    images = open_images(tmp_path)
    assert images.facts == open_images(tmp_path).facts
    os.utime(tmp_path / "b.png", (0, 0))
    assert images.facts["listing"] == open_images(tmp_path).facts["listing"]
    assert images.facts["modified"] != open_images(tmp_path).facts["modified"]
    assert len(images.read(0, 1)) == len(images.read(2, 3)) == 1
    with pytest.raises(ValueError, match=r"b\.png has changed since its images were listed"):
        images.read(0, 3)
    (tmp_path / "d.png").write_bytes((tmp_path / "a.png").read_bytes())
    assert images.facts["listing"] != open_images(tmp_path).facts["listing"]


def test_an_array_on_disk_is_not_read_when_it_is_opened(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((3, 4), np.float32))
    images = open_images(path)
    assert images.facts == {"bytes": "176", "modified": str(path.stat().st_mtime_ns)}
    assert images.read(0, 2).shape == (2, 4)
    os.utime(path, (0, 0))
    with pytest.raises(ValueError, match=r"a\.npy has changed since its images were listed"):
        images.read(0, 2)


def test_an_array_that_is_cut_off_meanwhile(tmp_path):
    """As where it is written anew: what is no longer there is not read."""
    path = tmp_path / "a.npy"
    np.save(path, np.zeros((3, 2**14), np.float32))
    images = open_images(path)
    os.truncate(path, 200)
    with pytest.raises(ValueError, match=r"a\.npy has changed since its images were listed"):
        images.read(2, 3)


def test_a_folder_is_listed_and_its_images_are_not_opened(tmp_path, monkeypatch):
    for name in "abc":
        Image.fromarray(bytes_images(8, 8)).save(tmp_path / f"{name}.png")
    opened, real = [], Image.open

    def noting(file, **more):
        opened.append(file.name)
        return real(file, **more)

    monkeypatch.setattr(Image, "open", noting)
    images = open_images(tmp_path)
    assert opened == ["a.png"]
    images.read(1, 2)
    assert opened == ["a.png", "b.png"]


def test_a_value_that_is_not_finite_is_named_by_its_image(tmp_path):
    array = np.zeros((9, 4), np.float32)
    array[6, 2] = np.nan
    np.save(tmp_path / "a.npy", array)
    images = open_images(tmp_path / "a.npy")
    images.read_finite(0, 6)
    with pytest.raises(ValueError, match=r"image 6 of .*a\.npy holds NaN or infinite values"):
        images.read_finite(3, 9)


def test_nothing_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no data at .*nowhere; give a \.npy or \.npz"):
        open_images(tmp_path / "nowhere")


def test_damaged_idx_files(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    write_idx(path, bytes_images(3, 4, 4))
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match=r"shape \(3, 4, 4\) needs 48 bytes, 43 are there"):
        open_images(path)
    path.write_bytes(whole[:9])
    with pytest.raises(ValueError, match="truncated within its header"):
        open_images(path)
    path.write_bytes(b"hello world")
    with pytest.raises(ValueError, match="no IDX file of bytes: it starts with 68 65 6c 6c"):
        open_images(path)
    write_idx(path, np.arange(3))
    with pytest.raises(ValueError, match=r"an array of shape \(3,\), not images"):
        open_images(path)
    packed = tmp_path / "train-images-idx3-ubyte.gz"
    packed.write_bytes(gzip.compress(whole)[:-12])
    with pytest.raises(ValueError, match="is damaged"):
        read_idx(packed)


def test_damaged_or_unsuitable_arrays(tmp_path):
    path = tmp_path / "a.npy"
    for array, message in (
        (np.zeros((3, 4), np.int64), "holds int64 values; uint8"),
        (np.zeros((0, 4), np.float32), r"array of shape \(0, 4\)"),
        (np.zeros(4, np.float32), r"array of shape \(4,\)"),
        (np.array([{}, None]), "cannot be read as a NumPy array"),
    ):
        np.save(path, array, allow_pickle=True)
        with pytest.raises(ValueError, match=message):
            open_images(path)
    path.write_bytes(b"no array")
    with pytest.raises(ValueError, match="cannot be read as a NumPy array"):
        open_images(path)
    np.savez_compressed(tmp_path / "c.npz", images=np.random.default_rng(0).random((9, 40)))
    raw = bytearray((tmp_path / "c.npz").read_bytes())
    raw[len(raw) // 2] ^= 0xFF
    (tmp_path / "c.npz").write_bytes(raw)
    with pytest.raises(ValueError, match=r"c\.npz cannot be read as a NumPy array"):
        open_images(tmp_path / "c.npz")
    np.savez(tmp_path / "b.npz", one=np.zeros((2, 2)), two=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"arrays named \['one', 'two'\]; call the images"):
        open_images(tmp_path / "b.npz")
    np.savez(tmp_path / "b.npz", x=np.zeros((2, 2)), y=np.zeros(3, int))
    with pytest.raises(ValueError, match=r"the labels of .* int64 of shape \(3,\); \(2,\)"):
        open_images(tmp_path / "b.npz")
    (tmp_path / "c.dat").write_text("text")
    with pytest.raises(ValueError, match=r"cannot tell what .*c\.dat is"):
        open_images(tmp_path / "c.dat")


def test_damaged_or_unsuitable_folders(tmp_path):
    with pytest.raises(ValueError, match=r"no images in .*$"):
        open_images(tmp_path)
    write_idx(tmp_path / "t10k-images-idx3-ubyte", bytes_images(1, 2, 2))
    with pytest.raises(ValueError, match=r"for its IDX file give .*t10k-images-idx3-ubyte"):
        open_images(tmp_path)
    Image.fromarray(bytes_images(8, 8)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"b\.png cannot be read as an image"):
        open_images(tmp_path).read(0, 2)
    Image.fromarray(bytes_images(8, 9)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png is 9×8 gray but a\.png is 8×8 gray; all"):
        open_images(tmp_path).read(0, 2)
    Image.fromarray(bytes_images(8, 8, 3)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png is 8×8 colour but a\.png is 8×8 gray"):
        open_images(tmp_path).read(0, 2)
    Image.fromarray(np.zeros((8, 8), np.uint16)).save(tmp_path / "b.png")
    with pytest.raises(ValueError, match=r"b\.png has mode I;16; images of 8 bits"):
        open_images(tmp_path).read(0, 2)
    # A header that is whole and pixels that are not.
    Image.fromarray(bytes_images(8, 8)).save(tmp_path / "b.png")
    whole = (tmp_path / "b.png").read_bytes()
    (tmp_path / "b.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"b\.png cannot be read as an image"):
        open_images(tmp_path).read(0, 2)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\nshowpage\n"


def test_only_formats_of_images_are_read(tmp_path, monkeypatch):
    """Pillow goes by the content: an EPS file starts Ghostscript, whatever its name."""
    (tmp_path / "a.png").write_bytes(POSTSCRIPT)
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *_, **__: pytest.fail("it started"))
    with pytest.raises(ValueError, match=r"a\.png cannot be read as an image"):
        open_images(tmp_path).read(0, 2)


@pytest.mark.parametrize("side", [8193, 9_500, 30_000])
def test_images_of_too_many_pixels(tmp_path, side):
    header = f"P5 {side} {side} 255\n".encode()
    (tmp_path / "a.pgm").write_bytes(header)
    with pytest.raises(ValueError, match=r"a\.pgm cannot be read as an image: .*pixels"):
        open_images(tmp_path)


def test_pipes_in_place_of_files(tmp_path):
    for name in ("a.npy", "folder/b.png", "t10k-images-idx3-ubyte"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        os.mkfifo(tmp_path / name)
    for path in ("a.npy", "folder", "t10k-images-idx3-ubyte"):
        with pytest.raises(ValueError, match="is no regular file"):
            open_images(tmp_path / path)


@pytest.mark.parametrize("packed", [False, True])
def test_an_idx_header_that_promises_too_much(tmp_path, packed):
    raw = b"\0\0\x08\x03" + struct.pack(">3I", 2**32 - 1, 2**32 - 1, 2**32 - 1) + bytes(9)
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(gzip.compress(raw) if packed else raw)
    with pytest.raises(ValueError, match="needs 79228162458924105385300197375 bytes, 9 are there"):
        open_images(path)


def test_the_files_of_mnist(data_folder):
    images = open_images(data_folder / "MNIST" / "t10k-images-idx3-ubyte.gz")
    assert (images.count, images.event_shape) == (10_000, (1, 28, 28))
    assert images.labels is not None
    assert set(images.labels) == set(range(10))


def test_images_reach_another_process_as_what_opens_them(tmp_path):
    """An array of any size takes a few bytes, and one that has changed is not taken for it."""
    path = tmp_path / "a.npy"
    np.save(path, bytes_images(2000, 8, 8))
    images = open_images(path)
    packed = pickle.dumps(images)
    assert len(packed) < 10_000
    again = pickle.loads(packed)
    assert (again.facts, again.event_shape) == (images.facts, (8, 8))
    np.testing.assert_array_equal(again.read(3, 9), images.read(3, 9))
    os.utime(path, (0, 0))
    with pytest.raises(ValueError, match=r"a\.npy has changed since it was opened, or is another"):
        pickle.loads(packed)


def test_images_in_memory_reach_another_process(tmp_path):
    pixels, labels = bytes_images(5, 4, 4), np.arange(5)
    images = from_array(Path("memory"), pixels, labels)
    again = pickle.loads(pickle.dumps(images))
    assert again.facts == images.facts
    np.testing.assert_array_equal(again.read(0, 5), images.read(0, 5))
    np.testing.assert_array_equal(again.labels, labels)

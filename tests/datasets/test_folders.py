"""Folders of images by class: sizes, colours, formats, and one clear line for each fault."""

from typing import Any

import numpy as np
import pytest
from PIL import Image

from bilevel.datasets import DataNotFoundError, read_file

RANDOM = np.random.default_rng(0)


def write(folder, *, classes=("cat", "dog"), images=3, size=(8, 6), mode="L", ending="png"):
    """Write a folder of images by class; size is (height, width)."""
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for number in range(images):
            shape = size if mode == "L" else (*size, len(mode))
            pixels = RANDOM.integers(0, 256, shape, np.uint8)
            Image.fromarray(pixels, mode).save(folder / name / f"{number}.{ending}")
    return folder


def says(message, path, **options):
    with pytest.raises(ValueError, match=message) as caught:
        read_file(path, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", ["png", "jpg", "bmp", "gif", "tiff", "webp", "PNG"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_images_are_read_by_class(tmp_path, ending, mode):
    data: Any = read_file(write(tmp_path / "pets", mode=mode, ending=ending))
    assert (
        data.name == "pets" and data.classes == ["cat", "dog"] and data.labels.tolist() == [0] * 3 + [1] * 3
    )
    if ending != "webp" or mode == "RGB":  # WebP stores grey images with small colours
        assert data.image_shape == ((8, 6) if mode == "L" else (8, 6, 3))
    assert data.features.shape == (6, *data.image_shape) and data.features.dtype == np.float32
    assert 0 <= data.features.min() < 0.2 and 0.8 < data.features.max() <= 1 and data.notes == ()
    assert data.shown["file"].to_list() == [f"{c}/{k}.{ending}" for c in ("cat", "dog") for k in range(3)]


def test_pixels_are_those_of_the_file(tmp_path):
    data: Any = read_file(write(tmp_path / "pets"))
    pixels = np.asarray(Image.open(tmp_path / "pets" / "dog" / "1.png"))
    np.testing.assert_allclose(data.features[4], pixels / 255, rtol=1e-6)


def test_images_of_many_sizes_and_colours_become_alike(tmp_path):
    folder = write(tmp_path / "pets", size=(300, 200))
    write(folder, classes=["dog"], images=1, size=(150, 100), mode="RGB")
    write(folder, classes=["cow"], images=2, size=(300, 200), mode="RGBA")
    data: Any = read_file(folder)
    assert data.image_shape == (64, 43, 3) and data.classes == ["cat", "cow", "dog"]
    assert data.notes == ("8 images resized to 43 x 64 pixels",)


def test_clear_pixels_are_white(tmp_path):
    folder = write(tmp_path / "pets", mode="RGBA")
    clear = np.zeros((8, 6, 4), np.uint8)
    Image.fromarray(clear, "RGBA").save(folder / "cat" / "0.png")
    assert read_file(folder).features[0].min() == 1


def test_sixteen_bits_become_eight(tmp_path):
    folder = write(tmp_path / "pets")
    deep = np.linspace(0, 65535, 48).reshape(8, 6).astype(np.uint16)
    Image.fromarray(deep).save(folder / "cat" / "0.png")
    data: Any = read_file(folder)
    assert data.image_shape == (8, 6)
    np.testing.assert_allclose(data.features[0], deep / 65535, atol=1 / 255)


def test_images_stand_upright(tmp_path):
    folder = write(tmp_path / "pets", size=(8, 6), ending="jpg")
    pixels = np.zeros((6, 8), np.uint8)
    pixels[:3] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by 90 degrees
    Image.fromarray(pixels).save(folder / "cat" / "0.jpg", exif=exif, quality=100)
    data: Any = read_file(folder)
    assert data.image_shape == (8, 6) and data.notes == ()
    assert data.features[0, :, 3:].mean() > 0.9 and data.features[0, :, :3].mean() < 0.1


def test_images_that_cannot_be_read_are_named(tmp_path):
    folder = write(tmp_path / "pets")
    whole = (folder / "dog" / "1.png").read_bytes()
    (folder / "dog" / "1.png").write_bytes(whole[: len(whole) // 2])
    (folder / "cat" / "2.png").write_bytes(b"no image")
    (folder / "cat" / "notes.txt").write_text("ignored")
    (folder / "cat" / ".hidden.png").write_bytes(b"ignored")
    data = read_file(folder)
    assert data.notes == ("2 images that cannot be read left out: cat/2.png, dog/1.png",)
    assert data.shown["file"].to_list() == ["cat/0.png", "cat/1.png", "dog/0.png", "dog/2.png"]
    assert data.labels.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("part", ["trusted", "test"])
def test_other_folders_take_the_size_and_colours_of_the_first(tmp_path, part):
    folder = write(tmp_path / "pets")
    other = write(tmp_path / "more", images=2, size=(16, 12), mode="RGB")
    data = read_file(folder, **{part: other})
    assert getattr(data, f"{part}_features").shape == (4, 8, 6)
    assert getattr(data, f"{part}_labels").tolist() == [0, 0, 1, 1]
    assert data.notes == ("more: 4 images resized to 6 x 8 pixels",)


def test_checked_images_become_trusted_rows(tmp_path):
    folder = write(tmp_path / "pets")
    (tmp_path / "to_check.csv").write_text(
        "row,file,given,checked_label\n4,dog/1.png,dog,cat\n0,,cat,cat\n1,,cat,\n"
    )
    data: Any = read_file(folder, trusted=tmp_path / "to_check.csv")
    assert data.checked_rows.tolist() == [0, 4] and data.trusted_labels.tolist() == [0, 0]
    np.testing.assert_array_equal(data.trusted_features, data.features[[0, 4]])


def test_wrong_folders_are_refused_in_one_line(tmp_path):
    folder = write(tmp_path / "pets")
    says("--label, --sep can be used with tables only, got a folder of images", folder, label="a", sep=";")
    (tmp_path / "empty").mkdir()
    says("empty must hold images .* in one sub-folder for each class, got none", tmp_path / "empty")
    write(tmp_path / "flat", classes=["."])
    says("got images in no sub-folder; put them there", tmp_path / "flat")
    write(tmp_path / "split" / "train")
    write(tmp_path / "split" / "test")
    says(
        "must have one sub-folder for each class, got test, train; give one of them, and the others with "
        "--test and --trusted",
        tmp_path / "split",
    )
    write(tmp_path / "one", classes=["cat"])
    says("one: training labels must have at least 2 classes, got only 'cat'", tmp_path / "one")
    write(tmp_path / "other", classes=["cta"])
    says(
        "test label 'cta' is not a class of the training rows; did you mean 'cat'",
        folder,
        test=tmp_path / "other",
    )
    for broken in (tmp_path / "one" / "cat").iterdir():
        broken.write_bytes(b"no image")
    says("no image can be read, got 3 broken files; write them again", tmp_path / "one")
    (tmp_path / "rows.csv").write_text("row,label\n1,a\n")
    says(
        "trusted labels of pets must be a to_check.csv with the column 'checked_label'",
        folder,
        trusted=tmp_path / "rows.csv",
    )
    with pytest.raises(DataNotFoundError, match="no such folder: .*none"):
        read_file(folder, test=tmp_path / "none")
    with pytest.raises(DataNotFoundError, match="no such file: .*none"):
        read_file(tmp_path / "none")

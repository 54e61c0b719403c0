"""Images by class for few-shot learning: sizes, splits, pixels, missing files."""

import io
import os
import sys
import zipfile
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bilevel import datasets
from bilevel.catalog import catalog
from bilevel.cli import main
from bilevel.datasets import miniimagenet, omniglot
from bilevel.datasets.pictures import image_classes

needs_data = pytest.mark.skipif("BILEVEL_DATA" not in os.environ, reason="BILEVEL_DATA is not set")

PARTS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def ink():
    return omniglot.drawings()


@pytest.fixture(scope="module")
def photographs():
    return datasets.load_classes("miniimagenet")


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """Make BILEVEL_DATA empty and the network unusable: nothing listens on port 9."""
    monkeypatch.setenv("BILEVEL_DATA", str(tmp_path))
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache")
    source = omniglot.OMNIGLOT._replace(homes=("http://127.0.0.1:9/{file}",))
    monkeypatch.setattr(omniglot, "OMNIGLOT", source)
    return tmp_path


def test_names_and_descriptions():
    assert datasets.class_sets() == ["omniglot", "miniimagenet"]
    listed = {entry["name"]: entry["about"] for entry in catalog()["datasets"]}
    assert list(listed) == datasets.names() + datasets.class_sets()
    for name in datasets.class_sets():
        assert 20 < len(datasets.describe(name)) <= 80
        assert "few-shot" in listed[name]


@needs_data
@pytest.mark.parametrize(
    "options, sizes",
    [
        ({}, (4400, 100, 423)),
        ({"rotations": False}, (1100, 100, 423)),
        ({"split": "alphabets", "rotations": False}, (803, 161, 659)),
    ],
)
def test_omniglot_sizes(options, sizes):
    data = datasets.load_classes("omniglot", **options)
    assert data.name == "omniglot"
    for part, size in zip(PARTS, sizes, strict=True):
        images = getattr(data, part)
        assert images.shape == (size, 20, 28, 28, 1) and images.dtype == np.uint8
        # One pixel in nine is ink, and ink is 255.
        share = np.count_nonzero(images == 255) / images.size
        assert np.count_nonzero(images) == round(share * images.size) and 0.1 < share < 0.13
    share = np.count_nonzero(data.train) / data.train.size
    assert data.mean == pytest.approx([share], rel=1e-9)
    assert data.std == pytest.approx([(share * (1 - share)) ** 0.5], rel=1e-9)


@needs_data
def test_omniglot_rotations_are_classes():
    turned = datasets.load_classes("omniglot")
    straight = datasets.load_classes("omniglot", rotations=False)
    for turns in range(4):
        classes = turned.train[1100 * turns : 1100 * (turns + 1)]
        for number in (0, 7, 1099):
            drawing = straight.train[number, 3]
            np.testing.assert_array_equal(classes[number, 3], np.rot90(drawing, turns))
    np.testing.assert_array_equal(turned.test, straight.test)
    np.testing.assert_array_equal(turned.validation, straight.validation)


@needs_data
@pytest.mark.parametrize("split", omniglot.SPLITS)
def test_omniglot_parts_share_no_character(ink, split):
    drawings, alphabet, evaluation = ink
    parts = omniglot._members(split, alphabet, evaluation)
    assert sorted(np.concatenate(parts).tolist()) == list(range(1623))
    data = datasets.load_classes("omniglot", split=split, rotations=False)
    for part, members in zip(PARTS, parts, strict=True):
        np.testing.assert_array_equal(getattr(data, part)[..., 0] > 0, drawings[members] > 0)


@needs_data
def test_omniglot_splits_are_fixed(ink):
    _, alphabet, evaluation = ink
    train, validation, test = omniglot._members("characters", alphabet, evaluation)
    assert [part[:4].tolist() for part in (train, validation, test)] == [
        [1, 2, 4, 5],
        [0, 3, 26, 100],
        [7, 11, 23, 24],
    ]
    train, validation, test = omniglot._members("alphabets", alphabet, evaluation)
    # Arcadian, Cyrillic, Grantha, Sanskrit and Tagalog.
    assert np.unique(alphabet[validation]).tolist() == [2, 10, 13, 26, 28]
    assert len(np.unique(alphabet[train])) == 25 and len(np.unique(alphabet[test])) == 20
    assert evaluation[test].all() and not evaluation[train].any()


@needs_data
def test_omniglot_is_sorted_by_the_published_names():
    with np.load(os.path.join(os.environ["BILEVEL_DATA"], "omniglot.npz")) as data:
        names, alphabet = data["alphabet_names"].tolist(), data["alphabet"]
        order = list(zip(data["evaluation"], alphabet, data["character"], strict=True))
    assert order == sorted(order)
    assert names == sorted(names[:30]) + sorted(names[30:])


@needs_data
def test_the_nearest_drawing_identifies_characters(ink):
    # Nearest neighbours by sums of 4x4 pixels, 5-way 1-shot: chance is 0.2.
    drawings, _, evaluation = ink
    rows = drawings[evaluation].reshape(-1, 20, 7, 4, 7, 4).sum((3, 5)).reshape(-1, 20, 49) * 1.0
    rows /= np.linalg.norm(rows, axis=-1, keepdims=True)
    random = np.random.default_rng(0)
    hits = []
    for _ in range(400):
        known, asked = rows[random.choice(len(rows), 5, replace=False)][
            :, random.permutation(20)[:2]
        ].swapaxes(0, 1)
        hits.append(np.argmax(asked @ known.T, axis=1) == np.arange(5))
    assert np.mean(hits) > 0.45


@needs_data
def test_small_drawings_are_shrunk_from_the_published_ones(ink):
    some = slice(None, None, 25)
    with np.load(os.path.join(os.environ["BILEVEL_DATA"], "omniglot105.npz")) as data:
        bits = data["bits"][some]
    large = np.unpackbits(bits, axis=-1, count=105 * 105).reshape(-1, 20, 105, 105)
    np.testing.assert_array_equal(omniglot.shrink(large), ink[0][some])


def test_a_small_pixel_is_ink_where_a_quarter_of_its_area_is():
    large = np.zeros((105, 105), bool)
    large[0:2, 0:2] = True  # 4 of 16
    large[0, 4:7] = True  # 3 of 16
    large[8:11, 12] = True  # 3 of 12
    large[8, 8:10] = True  # 2 of 9
    large[98:101, 100] = True  # 3 of 9
    small = omniglot.shrink(large)
    assert np.argwhere(small).tolist() == [[0, 0], [2, 3], [26, 26]]


def picture(ink):
    """Return the content of a one-bit PNG file in which ink is black."""
    content = io.BytesIO()
    Image.fromarray(~ink).save(content, format="PNG")
    return content.getvalue()


def publish(folder, members):
    """Write two archives: `members` in the first, one character in the second."""
    (folder / "omniglot").mkdir()
    ink = np.zeros((105, 105), bool)
    ink[:15, :15] = True
    other = {f"Angelic/character01/0965_{n:02}.png": ink for n in (1, 2)}
    for name, drawings in (("images_background", members), ("images_evaluation", other)):
        with zipfile.ZipFile(folder / "omniglot" / f"{name}.zip", "w") as archive:
            archive.writestr(f"{name}/", "")
            archive.writestr(f"__MACOSX/{name}/._a.png", b"no picture")
            for member, drawing in drawings.items():
                archive.writestr(f"{name}/{member}", picture(drawing))
    return omniglot.OMNIGLOT._replace(
        files={f"images_{part}.zip": None for part in ("background", "evaluation")}
    )


def test_omniglot_from_the_published_pictures(empty, monkeypatch):
    random = np.random.default_rng(0)
    keys = [("Bengali", 1), ("Arcadian", 2), ("Arcadian", 1)]
    made = {
        f"{alphabet}/character{number:02}/{index:04}_{n:02}.png": random.random((105, 105)) < 0.25
        for index, (alphabet, number) in enumerate(keys)
        for n in (2, 1)
    }
    monkeypatch.setattr(omniglot, "OMNIGLOT", publish(empty, made))
    drawings, alphabet, evaluation = omniglot.drawings()
    assert drawings.shape == (4, 2, 28, 28) and drawings.dtype == np.uint8
    assert alphabet.tolist() == [0, 0, 1, 2] and evaluation.tolist() == [False, False, False, True]
    names = sorted(made)
    for position, name in enumerate(names):
        np.testing.assert_array_equal(drawings[position // 2, position % 2], omniglot.shrink(made[name]))
    assert drawings[3].sum() == 2 * 16


@pytest.mark.parametrize("fault", ["size", "names", "file"])
def test_archives_of_the_wrong_form_are_errors(empty, monkeypatch, fault):
    blank = np.zeros((105, 105), bool)
    first = {"size": "Greek/character01/1_01.png"}.get(fault, "Greek/1_01.png")
    members = {first: blank, "Greek/character01/1_02.png": blank[:50]}
    monkeypatch.setattr(omniglot, "OMNIGLOT", publish(empty, members))
    if fault == "file":
        (empty / "omniglot" / "images_background.zip").write_bytes(b"other")
    with pytest.raises(datasets.DataNotFoundError, match="is not an archive of drawings") as caught:
        datasets.load_classes("omniglot")
    assert "\n" not in str(caught.value)


def test_missing_omniglot(empty):
    with pytest.raises(datasets.DataNotFoundError) as caught:
        datasets.load_classes("omniglot")
    line = str(caught.value)
    assert "\n" not in line and line.startswith("omniglot: cannot download images_background.zip")
    assert "set BILEVEL_DATA" in line


def test_unknown_names_get_a_suggestion():
    with pytest.raises(ValueError, match="unknown split 'alphabet' of omniglot; did you mean 'alphabets'?"):
        datasets.load_classes("omniglot", split="alphabet")
    with pytest.raises(ValueError, match="unknown few-shot data set 'omniglott'; did you mean 'omniglot'?"):
        datasets.load_classes("omniglott")
    with pytest.raises(ValueError, match="unknown few-shot data set 'mnist'"):
        datasets.load_classes("mnist")


@pytest.mark.parametrize("name", ["omniglot", "miniimagenet"])
def test_class_sets_are_refused_where_labels_are_needed(name, capsys):
    message = rf"'{name}' is a (data )?set for few-shot learning \(`bilevel fewshot`\)"
    with pytest.raises(ValueError, match=message):
        datasets.load(name)
    assert main(["clean", name]) == 2
    line = capsys.readouterr().err
    assert f"bilevel: error: '{name}' is a data set for few-shot learning" in line and line.count("\n") == 1


@needs_data
def test_miniimagenet(photographs):
    assert photographs.name == "miniimagenet"
    for part, size in zip(PARTS, (64, 16, 20), strict=True):
        images = getattr(photographs, part)
        assert images.shape == (size, 600, 32, 32, 3) and images.dtype == np.uint8
        assert images.min() == 0 and images.max() == 255
    # The first images of all classes differ, across parts too.
    first = np.concatenate([getattr(photographs, part)[:, 0] for part in PARTS])
    assert len({image.tobytes() for image in first}) == 100
    pixels = photographs.train[0].reshape(-1, 3) / 255.0
    again = image_classes("one", photographs.train[:1], photographs.test, photographs.test)
    np.testing.assert_allclose(again.mean, pixels.mean(0), rtol=1e-9)
    np.testing.assert_allclose(again.std, pixels.std(0), rtol=1e-9)
    # The known means of ImageNet, red before blue; these are 64 of its 1,000 classes.
    np.testing.assert_allclose(photographs.mean, (0.485, 0.456, 0.406), atol=0.02)


@needs_data
def test_miniimagenet_images_equal_the_decoded_files(photographs):
    with np.load(os.path.join(os.environ["BILEVEL_DATA"], "miniimagenet32_jpeg_test_1.npz")) as data:
        content = data["data"][data["start"][3, 599] : data["end"][3, 599]].tobytes()
    np.testing.assert_array_equal(photographs.test[19, 599], np.asarray(Image.open(io.BytesIO(content))))


def test_missing_miniimagenet(empty):
    for missing in ("train_0", "train_1"):
        with pytest.raises(datasets.DataNotFoundError) as caught:
            datasets.load_classes("miniimagenet")
        line = str(caught.value)
        assert "\n" not in line and f"(and no miniimagenet32_jpeg_{missing}.npz)" in line
        assert "there is no miniimagenet.npz" in line and "image-net.org" in line
        (empty / f"miniimagenet32_jpeg_{missing}.npz").write_bytes(b"")


def own(**changes):
    """Return the arrays of a small file of a user; None removes one."""
    random = np.random.default_rng(0)
    sizes = enumerate(PARTS, 2)
    arrays: dict[str, Any] = {part: random.integers(0, 256, (n, 2, 5, 5, 3), np.uint8) for n, part in sizes}
    return {name: array for name, array in (arrays | changes).items() if array is not None}


def test_a_miniimagenet_file_of_the_user_is_read(empty):
    np.savez(empty / "miniimagenet.npz", **own())
    data = datasets.load_classes("miniimagenet")
    for part in PARTS:
        np.testing.assert_array_equal(getattr(data, part), own()[part])
    np.testing.assert_allclose(data.mean, (data.train / 255).mean((0, 1, 2, 3)), rtol=1e-9)
    np.testing.assert_allclose(data.std, (data.train / 255).std((0, 1, 2, 3)), rtol=1e-9)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"test": None}, "array 'test' is missing; .*known: train, validation"),
        ({"train": np.zeros((2, 2, 5, 5, 3))}, "train must be uint8 from 0 to 255, got float64"),
        ({"train": np.zeros((2, 5, 5, 3), np.uint8)}, r"train must be \(classes, .*got shape \(2, 5, 5, 3\)"),
        (
            {"test": np.zeros((2, 2, 3, 5, 5), np.uint8)},
            "the last axis of test must be 3 channels, got",
        ),
        ({"validation": np.zeros((2, 2, 5, 6, 3), np.uint8)}, "validation images must be square, got 5x6"),
        ({"test": np.zeros((2, 2, 6, 6, 3), np.uint8)}, "the same height, got train 5, validation 5, test 6"),
        ({"train": np.zeros((0, 2, 5, 5, 3), np.uint8)}, "train must not be empty, got shape"),
        ({"train": np.array([None])}, "array 'train' cannot be read"),
    ],
)
def test_wrong_arrays_in_a_file_of_the_user_are_errors(empty, changes, message):
    np.savez(empty / "miniimagenet.npz", **own(**changes))
    with pytest.raises(ValueError, match=f"miniimagenet.npz: .*{message}") as caught:
        datasets.load_classes("miniimagenet")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_an_archive_is_an_error(empty):
    (empty / "miniimagenet.npz").write_bytes(b"other")
    with pytest.raises(ValueError, match="miniimagenet.npz must be an .npz file, got other content"):
        datasets.load_classes("miniimagenet")


def test_pillow_is_named_when_missing(empty, monkeypatch):
    monkeypatch.setattr(omniglot, "OMNIGLOT", publish(empty, {}))
    for piece in sum(miniimagenet.PIECES.values(), ()):
        (empty / f"miniimagenet32_jpeg_{piece}.npz").write_bytes(b"")
    monkeypatch.setitem(sys.modules, "PIL", None)
    for name in datasets.class_sets():
        with pytest.raises(ModuleNotFoundError, match=r"needs pillow, .* pip install 'bilevel\[fewshot\]'"):
            datasets.load_classes(name)

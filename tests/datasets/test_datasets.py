"""Public data sets: their content, their files, and the error when a file is missing."""

import bz2
import gzip
import hashlib
import io
import os
import struct
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import scipy.sparse

from bilevel import datasets
from bilevel.datasets import ijcnn1, mnist, newsgroups

needs_data = pytest.mark.skipif("BILEVEL_DATA" not in os.environ, reason="BILEVEL_DATA is not set")


def test_digits_have_a_fixed_test_part():
    digits = datasets.load("digits")
    assert digits.features.shape == (1400, 8, 8) and digits.image_shape == (8, 8)
    assert digits.test_features is not None and digits.test_labels is not None
    assert digits.test_features.shape == (397, 8, 8)
    assert digits.features.dtype == np.float32 and digits.labels.dtype == np.int32
    assert digits.features.min() == 0 and digits.features.max() == 1
    assert set(digits.labels) == set(range(10)) == set(digits.test_labels)
    # The held-out part is fixed: these are its first labels.
    assert digits.test_labels[:8].tolist() == [4, 5, 6, 9, 4, 7, 8, 9]


def test_breast_cancer_is_standardised():
    cancer = datasets.load("breast_cancer")
    assert isinstance(cancer.features, np.ndarray) and isinstance(cancer.test_features, np.ndarray)
    assert cancer.features.shape == (455, 30) and cancer.test_features.shape == (114, 30)
    np.testing.assert_allclose(cancer.features.mean(0), 0, atol=1e-5)  # float32 rounding of 455 terms
    np.testing.assert_allclose(cancer.features.std(0), 1, atol=1e-5)
    assert cancer.classes == ["malignant", "benign"]


def test_every_data_set_has_a_one_line_description():
    assert datasets.names() == ["digits", "breast_cancer", "mnist", "fashion_mnist", "newsgroups", "ijcnn1"]
    for name in datasets.names():
        assert 20 < len(datasets.describe(name)) <= 80


def test_an_unknown_name_gets_the_nearest_as_a_suggestion():
    with pytest.raises(ValueError, match="unknown data set 'mnits'; did you mean 'mnist'?"):
        datasets.load("mnits")


@needs_data
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_mnist_and_fashion_mnist_are_complete(name):
    data = datasets.load(name)
    assert data.test_features is not None
    assert data.features.shape == (60_000, 28, 28) and data.test_features.shape == (10_000, 28, 28)
    assert data.features.dtype == np.float32 and data.features.max() == 1
    assert data.image_shape == (28, 28) and len(data.classes) == 10
    assert nearest_mean_accuracy(data) > {"mnist": 0.80, "fashion_mnist": 0.66}[name]


@needs_data
def test_newsgroups_are_complete_and_of_unit_norm():
    data = datasets.load("newsgroups")
    assert scipy.sparse.issparse(data.features) and data.features.shape == (11_314, 130_107)
    assert data.test_features is not None
    assert data.test_features.shape == (7_532, 130_107) and len(data.classes) == 20
    assert data.features.dtype == data.test_features.dtype == np.float32
    np.testing.assert_allclose(scipy.sparse.linalg.norm(data.features, axis=1), 1, atol=1e-5)
    assert nearest_mean_accuracy(data) > 0.66


@needs_data
def test_ijcnn1_is_complete():
    data = datasets.load("ijcnn1")
    assert data.test_features is not None
    assert data.features.shape == (49_990, 22) and data.test_features.shape == (91_701, 22)
    assert data.classes == ["-1", "1"] and np.bincount(data.labels).tolist() == [45_137, 4_853]


def nearest_mean_accuracy(data):
    """Return the accuracy of the nearest class mean, found by products with the means."""
    flat, test = (rows.reshape(rows.shape[0], -1) for rows in (data.features, data.test_features))
    means = np.stack(
        [np.asarray(flat[data.labels == c].mean(axis=0)).ravel() for c in range(len(data.classes))]
    )
    scores = test @ means.T - 0.5 * (means**2).sum(axis=1)
    return np.mean(np.asarray(scores).argmax(axis=1) == data.test_labels)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Make a machine without data: no BILEVEL_DATA and an empty cache."""
    monkeypatch.delenv("BILEVEL_DATA", raising=False)
    monkeypatch.setattr("pooch.os_cache", lambda project: tmp_path / "cache")
    return tmp_path / "cache"


@pytest.fixture
def home(tmp_path):
    """Yield the folder and the address of a local server as public home."""
    folder = tmp_path / "home"
    folder.mkdir()
    handler = type("Quiet", (SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield folder, f"http://127.0.0.1:{server.server_port}/{{file}}"
        server.shutdown()
        thread.join()


def publish_images(folder):
    """Write four small idx files, and return their checksums."""
    random = np.random.default_rng(0)
    checksums = {}
    for file in mnist.MNIST.files:
        kind, count = ("images", 3) if "images" in file else ("labels", 1)
        shape = (6, 4, 5) if kind == "images" else (6,)
        array = random.integers(0, 10, shape, np.uint8)
        content = gzip.compress(bytes([0, 0, 8, count]) + struct.pack(f">{count}i", *shape) + array.tobytes())
        (folder / file).write_bytes(content)
        checksums[file] = "md5:" + hashlib.md5(content).hexdigest()
    return checksums


def test_a_download_is_cached(cache, home, monkeypatch):
    folder, address = home
    source = mnist.MNIST._replace(homes=(address,), files=publish_images(folder))
    monkeypatch.setattr(mnist, "MNIST", source)
    first = datasets.load("mnist")
    assert first.features.shape == (6, 4, 5) and first.image_shape == (4, 5)
    assert 0 < first.features.max() <= np.float32(9 / 255)
    for file in source.files:
        (folder / file).unlink()
    second = datasets.load("mnist")
    np.testing.assert_array_equal(first.features, second.features)


def test_the_second_home_is_tried(cache, home, monkeypatch):
    folder, address = home
    homes = (address.replace("{file}", "moved/{file}"), address)
    monkeypatch.setattr(mnist, "MNIST", mnist.MNIST._replace(homes=homes, files=publish_images(folder)))
    assert datasets.load("mnist").labels.shape == (6,)


def test_a_file_with_a_wrong_checksum_is_refused(cache, home, monkeypatch):
    folder, address = home
    publish_images(folder)
    monkeypatch.setattr(mnist, "MNIST", mnist.MNIST._replace(homes=(address,)))
    with pytest.raises(datasets.DataNotFoundError, match="hash of downloaded file") as caught:
        datasets.load("mnist")
    assert "\n" not in str(caught.value)
    assert not list(cache.rglob("*.gz"))


def test_an_error_names_the_files_and_where_to_put_them(cache, monkeypatch):
    # No server listens on port 9.
    source = mnist.FASHION_MNIST._replace(homes=("http://127.0.0.1:9/{file}",))
    monkeypatch.setattr(mnist, "FASHION_MNIST", source)
    with pytest.raises(FileNotFoundError) as caught:
        datasets.load("fashion_mnist")
    line = str(caught.value)
    assert "\n" not in line and line.startswith("fashion_mnist: cannot download train-images-idx3-ubyte.gz")
    assert "set BILEVEL_DATA" in line and "http://127.0.0.1:9/t10k-labels-idx1-ubyte.gz" in line


def test_published_files_in_the_users_folder_are_read(cache, tmp_path, monkeypatch):
    folder = tmp_path / "mine" / "mnist"
    folder.mkdir(parents=True)
    monkeypatch.setenv("BILEVEL_DATA", str(folder.parent))
    monkeypatch.setattr(mnist, "MNIST", mnist.MNIST._replace(homes=(), files=publish_images(folder)))
    assert datasets.load("mnist").features.shape == (6, 4, 5)
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(b"other")
    monkeypatch.setattr(mnist, "MNIST", mnist.MNIST._replace(homes=("http://127.0.0.1:9/{file}",)))
    with pytest.raises(datasets.DataNotFoundError, match="its checksum differs"):
        datasets.load("mnist")


def test_newsgroups_are_read_from_the_published_messages(cache, home, monkeypatch):
    folder, address = home
    with tarfile.open(folder / "20news-bydate.tar.gz", "w:gz") as archive:
        for part, group, number, text in MESSAGES:
            member = tarfile.TarInfo(f"20news-bydate-{part}/{group}/{number}")
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    source = newsgroups.NEWSGROUPS._replace(homes=(address,), files={"20news-bydate.tar.gz": None})
    monkeypatch.setattr(newsgroups, "NEWSGROUPS", source)
    data = datasets.load("newsgroups")
    assert isinstance(data.test_features, scipy.sparse.csr_matrix)
    assert data.classes == ["alt.a", "sci.b"] and data.labels.tolist() == [0, 0, 1]
    # Words of the training part: apple, caf\xe9, pear, plum; the test message shares one of them.
    assert data.features.shape == (3, 4) and data.test_features.toarray().tolist() == [[0, 0, 1, 0]]
    # Message 9 comes before message 10: rows are in the order of their numbers.
    assert data.features[0].indices.tolist() == [0] and data.features[1].indices.tolist() == [2]


MESSAGES = [
    ("train", "sci.b", 3, "plum caf\xe9".encode("latin1")),
    ("train", "alt.a", 10, b"pear pear"),
    ("train", "alt.a", 9, b"apple"),
    ("test", "sci.b", 4, b"pear unseen"),
]


def publish_ijcnn1(folder):
    rows = {
        "ijcnn1.tr.bz2": "-1 1:0.5 22:-0.25\n1 2:1\n",
        "ijcnn1.val.bz2": "1 3:1\n",
        "ijcnn1.t.bz2": "-1 4:1\n",
    }
    for file, text in rows.items():
        (folder / file).write_bytes(bz2.compress(text.encode()))


def test_ijcnn1_is_read_from_the_collection_and_checked(cache, home, monkeypatch):
    folder, address = home
    publish_ijcnn1(folder)
    monkeypatch.setattr(ijcnn1, "IJCNN1", ijcnn1.IJCNN1._replace(homes=(address,)))
    with pytest.raises(datasets.DataNotFoundError, match="is not the published file"):
        datasets.load("ijcnn1")
    # The refused file is removed from the cache, so that a retry downloads it again.
    assert not (cache / "ijcnn1" / "ijcnn1.tr.bz2").exists()
    train, test = np.zeros((3, 22)), np.zeros((1, 22))
    train[0, 0], train[0, 21], train[1, 1], train[2, 2], test[0, 3] = 0.5, -0.25, 1, 1, 1
    marks = {"train": ijcnn1.fingerprint(train, [-1, 1, 1]), "test": ijcnn1.fingerprint(test, [-1])}
    monkeypatch.setattr(ijcnn1, "FINGERPRINTS", marks)
    data = datasets.load("ijcnn1")
    np.testing.assert_array_equal(data.features, train.astype(np.float32))
    assert data.labels.tolist() == [0, 1, 1] and data.features.dtype == np.float32


@needs_data
def test_prepared_ijcnn1_has_the_published_fingerprints(monkeypatch):
    data = datasets.load("ijcnn1")
    assert isinstance(data.features, np.ndarray) and isinstance(data.test_features, np.ndarray)
    assert data.test_labels is not None
    signs = 2 * data.labels - 1, 2 * data.test_labels - 1
    assert ijcnn1.fingerprint(data.features, signs[0]) == ijcnn1.FINGERPRINTS["train"]
    assert ijcnn1.fingerprint(data.test_features, signs[1]) == ijcnn1.FINGERPRINTS["test"]

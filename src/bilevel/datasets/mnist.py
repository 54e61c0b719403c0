"""MNIST and Fashion-MNIST: 28x28 grey images in ten classes."""

import gzip

import numpy as np

from bilevel.datasets.source import Source, originals, packed, reject
from bilevel.datasets.types import Dataset

MNIST = Source(
    name="mnist",
    homes=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/{file}",
        "https://storage.googleapis.com/cvdf-datasets/mnist/{file}",
    ),
    files={
        "train-images-idx3-ubyte.gz": "md5:f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "md5:d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "md5:9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "md5:ec29112dd5afa0611ce80d1b7f02629c",
    },
)

FASHION_MNIST = Source(
    name="fashion_mnist",
    homes=(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/{file}",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/{file}",
    ),
    files={
        "train-images-idx3-ubyte.gz": "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "md5:25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "md5:bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "md5:bb300cfdad3c16e7a12a480ee83cd310",
    },
)

CLOTHES = "T-shirt/top,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Ankle boot".split(",")


def mnist() -> Dataset:
    """Handwritten digits, 28x28: 60,000 and 10,000 test images.

    Pixels are divided by 255. Softmax regression reaches 92.4 % on the test part.
    """
    path = packed("mnist.npz")
    if path is None:
        parts = _read_originals(MNIST)
    else:
        with np.load(path) as data:
            parts = [data[key] for key in ("train_images", "train_labels", "test_images", "test_labels")]
    return _images("mnist", parts, [str(digit) for digit in range(10)])


def fashion_mnist() -> Dataset:
    """Photographs of clothes, 28x28: 60,000 and 10,000 test images.

    Pixels are divided by 255. Softmax regression reaches 84.0 % on the test part.
    """
    paths = [packed(f"fashion_mnist_{part}.npz") for part in ("train_a", "train_b", "test")]
    if None in paths:
        parts = _read_originals(FASHION_MNIST)
    else:
        first, second, test = [_images_and_labels(path) for path in paths]
        parts = [*(np.concatenate(pair) for pair in zip(first, second, strict=True)), *test]
    return _images("fashion_mnist", parts, CLOTHES)


def _images_and_labels(path):
    with np.load(path) as data:
        return data["images"], data["labels"]


def _images(name, parts, classes):
    features, labels, test_features, test_labels = parts
    return Dataset(
        name=name,
        features=_scaled(features),
        labels=labels.astype(np.int32),
        classes=classes,
        test_features=_scaled(test_features),
        test_labels=test_labels.astype(np.int32),
        image_shape=features.shape[1:],
    )


def _scaled(pixels):
    return pixels.astype(np.float32) / np.float32(255)


def _read_originals(source):
    return [_read_idx(source, path) for path in originals(source)]


def _read_idx(source, path):
    """Return the array of an idx file.

    The file holds two zero bytes, the type (8 for bytes), the rank, big-endian sizes, and the data.
    """
    try:
        with gzip.open(path) as file:
            content = file.read()
    except (OSError, EOFError):
        reject(source, path, "it is not a gzip file")
    if content[:3] != b"\0\0\x08":
        reject(source, path, "it is not an idx array of bytes")
    rank = content[3]
    shape = np.frombuffer(content, ">i4", rank, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(shape)

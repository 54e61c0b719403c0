"""20 newsgroups: whole messages as sparse vectors of word weights."""

import tarfile
from typing import Any

import numpy as np
import scipy.sparse

from bilevel.datasets.source import Source, originals, packed, reject
from bilevel.datasets.types import Dataset
from bilevel.extras import extra

NEWSGROUPS = Source(
    name="newsgroups",
    homes=(
        "https://ndownloader.figshare.com/files/5975967",
        "http://qwone.com/~jason/20Newsgroups/20news-bydate.tar.gz",
    ),
    files={"20news-bydate.tar.gz": "sha256:8f1b2514ca22a5ade8fbb9cfa5727df95fa587f4c87b786e15c759fa66d95610"},
)


def newsgroups() -> Dataset:
    """Messages of 20 newsgroups: 11,314 and 7,532 test rows of 130,107 words.

    CSR rows hold the tf-idf weights of whole messages, headers included: 1 + log count, times the
    inverse document frequency in the training part, scaled to unit norm. Rows are sorted by group, so
    shuffle them before a split. Logistic regression reaches 84.8 % on the test part.
    """
    with extra("clean"):
        from sklearn.feature_extraction.text import TfidfTransformer

    counts, labels, test_counts, test_labels, groups = word_counts()
    weigh = TfidfTransformer(sublinear_tf=True).fit(counts)
    return Dataset(
        name="newsgroups",
        features=scipy.sparse.csr_matrix(weigh.transform(counts)),
        labels=labels.astype(np.int32),
        classes=groups,
        test_features=scipy.sparse.csr_matrix(weigh.transform(test_counts)),
        test_labels=test_labels.astype(np.int32),
    )


def word_counts() -> Any:
    """Return `(counts, labels, test_counts, test_labels, groups)` of the messages.

    The counts are CSR matrices with one row for each message and one column for each word.
    """
    path = packed("newsgroups.npz")
    return _count_words() if path is None else _read_counts(path)


def _read_counts(path):
    with np.load(path) as data:
        train_rows, test_rows, words = data["shape"].tolist()
        parts = []
        for part, rows in (("train", train_rows), ("test", test_rows)):
            arrays = (
                data[f"{part}_data"].astype(np.float32),
                data[f"{part}_indices"].astype(np.int32),
                data[f"{part}_indptr"],
            )
            parts += [scipy.sparse.csr_matrix(arrays, (rows, words)), data[f"{part}_labels"]]
        return [*parts, data["group_names"].tolist()]


def _count_words():
    """Return the counts of the published messages; takes about ten seconds."""
    with extra("clean"):
        from sklearn.feature_extraction.text import CountVectorizer

    (path,) = originals(NEWSGROUPS)
    train, test = _read_messages(path)
    groups = sorted({group for group, _, _ in train})
    count = CountVectorizer()
    counts = scipy.sparse.csr_matrix(count.fit_transform(text for _, _, text in train), dtype=np.float32)
    test_counts = scipy.sparse.csr_matrix(count.transform(text for _, _, text in test), dtype=np.float32)
    labels, test_labels = (np.array([groups.index(group) for group, _, _ in part]) for part in (train, test))
    return counts, labels, test_counts, test_labels, groups


def _read_messages(path):
    """Return sorted `(group, number, text)` of both parts, from part/group/number."""
    parts = {"20news-bydate-train": [], "20news-bydate-test": []}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                message = archive.extractfile(member)
                if message is not None:  # a file, not a folder
                    part, group, number = member.name.split("/")
                    parts[part].append((group, int(number), message.read().decode("latin1")))
    except (OSError, EOFError, tarfile.TarError, KeyError, ValueError):
        reject(NEWSGROUPS, path, "it is not the archive of messages by date")
    return [sorted(messages) for messages in parts.values()]

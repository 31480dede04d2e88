"""Text: words to numbers, batches and windows, and the known floor of the grammar."""

import hashlib
import math

import numpy as np
import pytest
import torch

from growdarts_study.data import text
from growdarts_study.data.files import cache_folder
from growdarts.settings import DataError
from growdarts_study.data.text import (EOS, GRAMMAR_TOKENS, RULES, TEXTS, UNKNOWN, WORDS, encode, entropy_rate, spelled,
                                       grammar_matrix, load_text, sample_chain, text_hashes)
from growdarts.tasks.text import batchify, windows

# sha256 of the grammar text's bytes (little-endian int64)
GOLDEN = "002001194825fc90a8b1dd71c67047241ba1ef2daecfe2a43782b812cb18eb52"


def write(folder, train, valid, test, pattern="{}.txt"):
    for part, content in (("train", train), ("valid", valid), ("test", test)):
        (folder / pattern.format(part)).write_text(content, encoding="utf-8")
    return folder


# Files ----------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="session")
def penn_treebank():
    missing = [part for part in ("train", "valid", "test") if not (cache_folder()[0] / f"ptb/ptb.{part}.txt").is_file()]
    if missing:
        pytest.skip(f"{cache_folder()[0]} holds no ptb/ptb.{missing[0]}.txt: set GROWDARTS_DATA to a filled cache")
    return load_text("penn_treebank")


def test_penn_treebank(penn_treebank):
    ptb = penn_treebank
    assert [len(ptb.train), len(ptb.validation), len(ptb.test)] == [929_589, 73_760, 82_430]
    assert len(ptb.vocabulary) == len(set(ptb.vocabulary)) == 10_000
    assert {EOS, UNKNOWN, "N"} <= set(ptb.vocabulary) and ptb.floor is None
    assert ptb.train.bincount(minlength=10_000).min() > 0 and ptb.validation.max() < 10_000
    first = " ".join(ptb.vocabulary[i] for i in ptb.validation[:14])
    assert first == "consumers may want to move their telephones a little closer to the tv set"
    assert ptb.vocabulary[ptb.validation[14]] == EOS
    assert (ptb.train == ptb.vocabulary.index(EOS)).sum() == 42_068  # sentences
    assert list(ptb.hashes) == ["ptb/ptb.train.txt", "ptb/ptb.valid.txt", "ptb/ptb.test.txt"]


def test_characters_of_penn_treebank(penn_treebank):
    found = load_text("penn_treebank_characters")
    assert [len(found.train), len(found.validation), len(found.test)] == [5_017_482, 393_042, 442_423]
    assert len(found.vocabulary) == 50  # as everywhere
    assert "".join(found.vocabulary[i] for i in found.validation[:30]) == "consumers_may_want_to_move_the"
    assert (found.train == found.vocabulary.index(EOS)).sum() == 42_068
    assert found.hashes == penn_treebank.hashes


def test_words_are_spelled():
    assert spelled(["a", "big", EOS, EOS, UNKNOWN, EOS]) == ["a", "_", "b", "i", "g", EOS, EOS, *"<unk>", EOS]


@pytest.mark.parametrize("pattern", ["{}.txt", "wiki.{}.tokens"])
def test_a_folder_of_your_own(tmp_path, pattern):
    write(tmp_path, " the <unk> = café \n\n the end\n", "the café", "= never heard\n", pattern)
    loaded = load_text("folder", tmp_path)
    assert loaded.vocabulary == ("the", UNKNOWN, "=", "café", EOS, "end")  # in order of appearance
    assert loaded.train.tolist() == [0, 1, 2, 3, 4, 4, 0, 5, 4]  # the blank line ends too
    assert loaded.validation.tolist() == [0, 3, 4]
    assert loaded.test.tolist() == [2, 1, 1, 4]
    assert set(loaded.hashes) == {pattern.format(part) for part in ("train", "valid", "test")}


@pytest.mark.parametrize("marked", ["train", "valid", "test"])
def test_a_byte_order_mark_is_no_word(tmp_path, marked):
    write(tmp_path, "a b\n", "a\n", "b\n")
    plain = load_text("folder", tmp_path)
    file = tmp_path / f"{marked}.txt"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    found = load_text("folder", tmp_path)
    assert found.vocabulary == ("a", "b", EOS) and found.hashes != plain.hashes  # other bytes, same words
    assert all(torch.equal(getattr(found, part), getattr(plain, part)) for part in ("train", "validation", "test"))


def test_two_files_of_one_part_are_refused(tmp_path):
    write(tmp_path, "a\n", "a\n", "a\n")
    (tmp_path / "wiki.valid.tokens").write_text("b\n")
    with pytest.raises(DataError, match="has both valid.txt and wiki.valid.tokens: leave one of them there"):
        load_text("folder", tmp_path)


def test_hashes_are_known_before_a_text_is_read(tmp_path, penn_treebank):
    write(tmp_path, "a\n", "a\n", "a\n\n")
    assert text_hashes("folder", tmp_path) == load_text("folder", tmp_path).hashes == {
        name: hashlib.sha256(content).hexdigest()
        for name, content in (("train.txt", b"a\n"), ("valid.txt", b"a\n"), ("test.txt", b"a\n\n"))}
    assert text_hashes("grammar") == {"grammar": GOLDEN}
    folder = cache_folder()[0]
    assert text_hashes("penn_treebank") == penn_treebank.hashes == {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in penn_treebank.hashes}


def test_unknown_words_without_a_word_for_them(tmp_path):
    write(tmp_path, "a b c\n", "a b\n", "a dog and a cat and a dog\n")
    with pytest.raises(DataError, match=r"test.txt has 3 words that the training text does not know, "
                                        r"'dog', 'and', 'cat', and the training text has no <unk>"):
        load_text("folder", tmp_path)
    with pytest.raises(DataError, match=r"mine has 30 words .* 'w0', .*'w9', \.\.\., and"):
        encode([f"w{i}" for i in range(30)], {"a": 0}, "mine")


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(DataError, match=r"has no train.txt \(or wiki.train.tokens\), valid.txt .*, test.txt"):
        load_text("folder", tmp_path)
    write(tmp_path, "a\n", "a\n", "a\n")
    (tmp_path / "valid.txt").unlink()
    with pytest.raises(DataError, match=r"has no valid.txt \(or wiki.valid.tokens\)$"):
        load_text("folder", tmp_path)
    (tmp_path / "valid.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match="valid.txt cannot be read as UTF-8 text"):
        load_text("folder", tmp_path)
    (tmp_path / "valid.txt").write_text("\n\n")
    with pytest.raises(DataError, match="valid.txt holds no words"):
        load_text("folder", tmp_path)
    with pytest.raises(DataError, match="is not a folder; it should hold train.txt"):
        load_text("folder", tmp_path / "nowhere")
    with pytest.raises(DataError, match="'wikitext' is unknown: allowed are grammar, penn_treebank, penn_treebank_characters, folder"):
        load_text("wikitext")
    for name, folder in (("grammar", tmp_path), ("folder", None)):
        with pytest.raises(DataError, match="a folder goes with the text 'folder', and only there"):
            load_text(name, folder)
    assert TEXTS == ("grammar", "penn_treebank", "penn_treebank_characters", "folder")


# Batches --------------------------------------------------------------------------------------------------------

def test_columns_are_consecutive_stretches():
    columns = batchify(torch.arange(11), 3)
    assert columns.tolist() == [[0, 3, 6], [1, 4, 7], [2, 5, 8]]  # 9 and 10 are left over
    assert batchify(torch.arange(11), 1).shape == (11, 1)


@pytest.mark.parametrize("batch_size", [0, -1, 6, 12])
def test_impossible_batches(batch_size):
    with pytest.raises(DataError, match=f"batch_size = {batch_size} .* 11 tokens: allowed are 1 to 5"):
        batchify(torch.arange(11), batch_size)
    with pytest.raises(DataError, match="window length 0 is not possible"):
        next(windows(torch.arange(4)[:, None], 0))


def test_windows_of_a_fixed_length():
    found = list(windows(batchify(torch.arange(16), 2), 3))
    assert [len(x) for x, _ in found] == [3, 3, 1]  # 8 rows, the first of them is no target
    assert found[0][0].tolist() == [[0, 8], [1, 9], [2, 10]] and found[0][1].tolist() == [[1, 9], [2, 10], [3, 11]]
    assert found[2][0].tolist() == [[6, 14]] and found[2][1].tolist() == [[7, 15]]


def test_random_windows_cover_every_target_once():
    columns = batchify(torch.arange(20_000), 2)
    first, second, third = (list(windows(columns, 35, torch.Generator().manual_seed(seed))) for seed in (1, 1, 2))
    for found in (first, third):
        assert torch.equal(torch.cat([x for x, _ in found]), columns[:-1])
        assert torch.equal(torch.cat([y for _, y in found]), columns[1:])
    lengths = np.array([len(x) for x, _ in first])
    assert lengths.tolist() == [len(x) for x, _ in second] != [len(x) for x, _ in third]
    assert lengths[:-1].min() >= 5 and lengths.max() <= 55
    assert np.median(lengths) == pytest.approx(35, abs=2) and lengths.std() > 3


# The grammar ----------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def matrix():
    return grammar_matrix()[1]


@pytest.fixture(scope="module")
def sample(matrix):
    return sample_chain(matrix, 100_000, 7)


def costs(matrix, states):
    """Nats a word after the first, under the true probabilities."""
    return -np.log(matrix[states[:-1], states[1:]])


def standard_error(matrix, n):
    """Of the mean of `costs` over n words: cost - rate is a martingale difference plus a difference of a potential."""
    logs = -np.log(np.where(matrix > 0, matrix, 1))
    V, rate = len(matrix), entropy_rate(matrix)
    potential = np.linalg.lstsq(np.eye(V) - matrix, (matrix * logs).sum(axis=1) - rate, rcond=None)[0]
    difference = logs - rate + potential - potential[:, None]
    stationary = np.linalg.matrix_power(matrix, 500)[0]
    return math.sqrt((stationary @ (matrix * difference**2).sum(axis=1)) / n)


def test_the_grammar_is_a_chain_of_its_words(matrix):
    words, _ = grammar_matrix()
    assert len(words) == len(set(words)) == sum(map(len, WORDS.values())) == 39
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    assert all(sum(after.values()) == pytest.approx(1) and set(after) <= set(WORDS) for after in RULES.values())
    assert matrix[words.index("sees"), words.index("a")] == pytest.approx(0.5 / (1 + 1 / 2 + 1 / 3 + 1 / 4))
    assert matrix[0, 0] == 0 and matrix[words.index("river"), words.index(EOS)] == 0.4


def test_entropy_rate_by_hand(matrix):
    p, q = 0.3, 0.2  # of leaving state 0 and state 1
    h = [-x * math.log(x) - (1 - x) * math.log(1 - x) for x in (p, q)]
    assert entropy_rate(np.array([[1 - p, p], [q, 1 - q]])) == pytest.approx((q * h[0] + p * h[1]) / (p + q))
    assert entropy_rate(np.full((8, 8), 1 / 8)) == pytest.approx(math.log(8))
    # the grammar's: the class and, given the class, the word
    names = list(WORDS)
    classes = np.array([[RULES[a].get(b, 0) for b in names] for a in names])
    shares = [np.array([1 / r for r in range(1, len(w) + 1)]) for w in WORDS.values()]
    within = np.array([-(s / s.sum() * np.log(s / s.sum())).sum() for s in shares])
    assert entropy_rate(matrix) == pytest.approx(
        entropy_rate(classes) + np.linalg.matrix_power(classes, 500)[0] @ within, abs=1e-9)


def test_truth_costs_the_floor(matrix, sample):
    error = standard_error(matrix, len(sample) - 1)
    assert 0 < error < 0.01
    assert costs(matrix, sample).mean() == pytest.approx(entropy_rate(matrix), abs=3 * error)


def test_bigram_counts_reach_the_floor_and_unigram_counts_do_not(matrix, sample):
    V, (train, test) = len(matrix), np.split(sample, [80_000])
    counts = np.zeros((V, V))
    np.add.at(counts, (train[:-1], train[1:]), 1)
    bigram = (counts + 0.01) / (counts + 0.01).sum(axis=1, keepdims=True)
    found = costs(bigram, test).mean()
    # an estimate of d free probabilities from n words costs d / 2 n more than the truth
    assert found == pytest.approx(entropy_rate(matrix), abs=3 * standard_error(matrix, len(test)) + 0.01)
    assert found > costs(matrix, test).mean()
    unigram = np.tile(np.bincount(train, minlength=V) / len(train), (V, 1))
    assert math.exp(costs(unigram, test).mean()) > 2 * math.exp(entropy_rate(matrix))  # there is something to learn


def test_the_grammar_text_is_the_same_everywhere(matrix):
    loaded = load_text("grammar")
    assert loaded.hashes == {"grammar": GOLDEN}
    assert [len(loaded.train), len(loaded.validation), len(loaded.test)] == list(GRAMMAR_TOKENS.values())
    assert loaded.floor == pytest.approx(math.exp(entropy_rate(matrix))) == pytest.approx(7.389, abs=1e-3)
    assert loaded.train.bincount(minlength=39).min() > 0 and loaded.train.dtype == torch.int64
    states = torch.cat([loaded.train, loaded.validation, loaded.test]).numpy()
    assert (matrix[states[:-1], states[1:]] > 0).all()
    assert text.grammar_text().vocabulary[0] == EOS

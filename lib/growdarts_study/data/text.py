"""Text files -> word numbers of training, validation and test part; `growdarts.tasks.text` makes windows of them.

Shapes: n tokens, V words of the vocabulary; where a text is read by characters, a "word" is a character. Every
line of a file ends in one `<eos>`, blank lines too, as in the models of Zaremba et al. (2014), AWD-LSTM (Merity et al.
2018) and DARTS; the vocabulary is that of the training part, in order of appearance.
"""

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from growdarts_study.data.files import fetch, registered_sha256, sha256
from growdarts.settings import DataError
from growdarts.tasks.text import Text

TEXTS = ("grammar", "penn_treebank", "penn_treebank_characters", "folder")  # names that `load_text` knows
EOS, UNKNOWN, SPACE = "<eos>", "<unk>", "_"
PARTS = {"train": "train", "validation": "valid", "test": "test"}  # part -> its name in file names
PENN_TREEBANK = tuple(f"ptb/ptb.{short}.txt" for short in PARTS.values())


def load_text(name: str, folder: Path | str | None = None) -> Text:
    """Training, validation and test part of a text as word numbers.

    Parameters
    ----------
    name : one of `TEXTS`: "grammar" (written in code, offline), "penn_treebank" (10,000 words), "penn_treebank_characters"
        (the same letter by letter: 49 of them and `<eos>`, `<unk>` is spelled, "_" stands between words), "folder".
    folder : for "folder" only, holds for each of train, valid and test one file, `train.txt` or
        `wiki.train.tokens` as WikiText-2 calls it, not both; UTF-8, words separated by white space.

    Raises
    ------
    DataError
        Unknown name, files that are missing, empty, damaged or no UTF-8, or words of the validation or test part
        that the training part does not know while its vocabulary has no `<unk>`.
    """
    if name not in TEXTS:
        raise DataError(f"text {name!r} is unknown: allowed are {', '.join(TEXTS)}")
    if (name == "folder") != (folder is not None):
        raise DataError(f"text {name!r} with folder {folder!r}: a folder goes with the text 'folder', and only there")
    if name == "grammar":
        return grammar_text()
    if folder is None:
        files = {file: fetch(file) for file in PENN_TREEBANK}
    else:
        files = {path.name: path for path in _files_of(Path(folder).expanduser())}
    words = [read_words(path) for path in files.values()]
    if name == "penn_treebank_characters":
        words = [spelled(part) for part in words]
    index: dict[str, int] = {}
    for word in words[0]:
        index.setdefault(word, len(index))
    ids = [encode(part, index, str(path)) for part, path in zip(words, files.values(), strict=True)]
    return Text(name, tuple(index), *ids, None, text_hashes(name, folder))


def text_hashes(name: str, folder: Path | str | None = None) -> dict[str, str]:
    """The sha256 of everything that a text is read from, without reading it where it is fixed beforehand."""
    if name == "grammar":
        return grammar_text().hashes
    if name.startswith("penn_treebank"):
        return {file: registered_sha256(file) for file in PENN_TREEBANK}
    return {path.name: sha256(path) for path in _files_of(Path(folder).expanduser())}


def _files_of(folder: Path) -> list[Path]:
    """The three files of a user's folder."""
    choices = [(folder / f"{short}.txt", folder / f"wiki.{short}.tokens") for short in PARTS.values()]
    found = [[path for path in pair if path.is_file()] for pair in choices]
    missing = [f"{a.name} (or {b.name})" for (a, b), paths in zip(choices, found, strict=True) if not paths]
    if missing:
        what = "has no" if folder.is_dir() else "is not a folder; it should hold"
        raise DataError(f"{folder} {what} {', '.join(missing)}")
    if double := [paths for paths in found if len(paths) > 1]:
        raise DataError(f"{folder} has both {double[0][0].name} and {double[0][1].name}: leave one of them there")
    return [paths[0] for paths in found]


def read_words(path: Path) -> list[str]:
    """Words of a text file, `<eos>` after every line."""
    try:
        with open(path, encoding="utf-8-sig") as lines:  # a byte order mark is no part of the first word
            words = [word for line in lines for word in (*line.split(), EOS)]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read as UTF-8 text ({error})") from error
    if all(word == EOS for word in words):
        raise DataError(f"{path} holds no words")
    return words


def spelled(words: Sequence[str]) -> list[str]:
    """The characters of words, `SPACE` between two of a line."""
    found: list[str] = []
    for word, following in zip(words, [*words[1:], EOS], strict=True):
        found += [EOS] if word == EOS else word if following == EOS else word + SPACE
    return found


def encode(words: Sequence[str], index: Mapping[str, int], source: str) -> Tensor:
    """Numbers of `words`, `(n,)`; a word that `index` lacks is `<unk>`, an error if that is lacking too.

    `index` is word -> number, `source` says where the words come from, for the error.
    """
    unknown = Counter(word for word in words if word not in index)
    if unknown and UNKNOWN not in index:
        shown = ", ".join(repr(word) for word, _ in unknown.most_common(10))
        raise DataError(f"{source} has {len(unknown)} words that the training text does not know, {shown}"
                        f"{', ...' if len(unknown) > 10 else ''}, and the training text has no {UNKNOWN}")
    return torch.tensor([index[word if word in index else UNKNOWN] for word in words])


# ---- a text whose best possible perplexity is known --------------------------------------------

WORDS = {  # class -> its words; the r-th is drawn with a weight of 1 / r, whatever stands before
    "end": (EOS,),
    "determiner": ("the", "a", "every", "some"),
    "adjective": ("old", "small", "quiet", "red", "clever", "tall"),
    "noun": ("dog", "cat", "child", "farmer", "river", "tree", "house", "bird", "song", "stone"),
    "verb": ("sees", "likes", "finds", "follows", "hears", "paints"),
    "sleeps": ("sleeps", "waits", "sings", "falls"),
    "adverb": ("often", "slowly", "today", "again"),
    "preposition": ("near", "with", "behind", "in"),
}
RULES = {  # class -> probability of the next class
    "end": {"determiner": 0.9, "adverb": 0.1},
    "determiner": {"adjective": 0.3, "noun": 0.7},
    "adjective": {"adjective": 0.2, "noun": 0.8},
    "noun": {"verb": 0.3, "sleeps": 0.2, "preposition": 0.1, "end": 0.4},
    "verb": {"determiner": 1.0},
    "sleeps": {"adverb": 0.4, "preposition": 0.2, "end": 0.4},
    "adverb": {"determiner": 0.3, "end": 0.7},
    "preposition": {"determiner": 1.0},
}
GRAMMAR_SEED, GRAMMAR_TOKENS = 2021, {"train": 20_000, "validation": 4_000, "test": 4_000}


def grammar_matrix() -> tuple[tuple[str, ...], np.ndarray]:
    """The grammar's V words and the probability `(V, V)` of each (column) after each (row).

    A word tells its class, so the regular grammar of `RULES` is a Markov chain of the words.
    """
    classes = [name for name, words in WORDS.items() for _ in words]
    shares = [1 / rank / sum(1 / r for r in range(1, len(words) + 1))
              for words in WORDS.values() for rank in range(1, len(words) + 1)]
    rows = {before: [RULES[before].get(after, 0.0) * share for after, share in zip(classes, shares, strict=True)]
            for before in WORDS}
    return tuple(word for words in WORDS.values() for word in words), np.array([rows[name] for name in classes])


def entropy_rate(matrix: np.ndarray) -> float:
    r"""$-\sum_i \pi_i \sum_j P_{ij} \log P_{ij}$ in nats a word, with $\pi P = \pi$, of a Markov chain P `(V, V)`.

    No model can have a lower expected negative log likelihood a word.
    """
    V = len(matrix)
    equations = np.vstack([matrix.T - np.eye(V), np.ones(V)])
    stationary = np.linalg.lstsq(equations, np.append(np.zeros(V), 1.0), rcond=None)[0]
    return float(-stationary @ (matrix * np.log(np.where(matrix > 0, matrix, 1.0))).sum(axis=1))


def sample_chain(matrix: np.ndarray, n: int, seed: int) -> np.ndarray:
    """`(n,)` states of the chain, the first drawn from row 0; the same on every machine."""
    draws = np.random.RandomState(seed).random_sample(n)  # its stream is frozen by numpy's policy
    thresholds, state, states = matrix.cumsum(axis=1), 0, np.empty(n, dtype=np.int64)
    thresholds[:, -1] = np.inf  # rounding must not leave a gap below 1
    for t, u in enumerate(draws):
        states[t] = state = int(np.searchsorted(thresholds[state], u, side="right"))
    return states


def grammar_text() -> Text:
    """The sentences of the grammar, with `floor` = exp(entropy rate)."""
    vocabulary, matrix = grammar_matrix()
    states = sample_chain(matrix, sum(GRAMMAR_TOKENS.values()), GRAMMAR_SEED)
    parts = torch.from_numpy(states).split(list(GRAMMAR_TOKENS.values()))
    return Text("grammar", vocabulary, *parts, float(np.exp(entropy_rate(matrix))),
                {"grammar": hashlib.sha256(states.astype("<i8").tobytes()).hexdigest()})

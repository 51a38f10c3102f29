"""Words or pieces and their numbers: one small interface for every kind of vocabulary."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from precap import text
from precap.atomic import write_text
from precap.errors import ConfigError, DataError
from precap.store.importers import pickles
from precap.train.contract import Words
from precap.train.settings import Text

if TYPE_CHECKING:
    from tokenizers import Tokenizer

#: Where the specials stand. "precap": all four are distinct. "meshed": M2, HIN, GRIT and their
#: relatives. "self-critical": 0 is begin, end and padding; UNK, if any, is the last word.
LAYOUTS: dict[str, tuple[str, ...]] = {
    "precap": ("<pad>", "<bos>", "<eos>", "<unk>"),
    "meshed": ("<unk>", "<pad>", "<bos>", "<eos>"),
    "self-critical": ("<end>",),
}


class Vocabulary(Protocol):
    """Captions to numbers and back. ``encode`` adds no bos and eos; ``decode`` stops at eos."""

    words: Words

    def encode(self, caption: str) -> list[int]: ...
    def decode(self, ids: Iterable[int]) -> str: ...
    def number(self, word: str) -> int | None: ...
    def as_json(self) -> dict[str, Any]: ...


class WordVocabulary:
    """Whole words, split as COCO's evaluation does, lower case, no punctuation."""

    kind: ClassVar[str] = "words"

    def __init__(self, itos: Sequence[str], words: Words) -> None:
        self.itos, self.words = list(itos), words
        self.stoi = {word: i for i, word in enumerate(self.itos)}
        self._silent = {words.pad, words.bos}

    def encode(self, caption: str) -> list[int]:
        """Numbers of the words; an unknown word becomes unk, or is left out when there is none."""
        return self.numbers(text.tokenize(caption))

    def numbers(self, tokens: Iterable[str]) -> list[int]:
        """Numbers of words that are already split."""
        found = (self.stoi.get(token, self.words.unk) for token in tokens)
        return [number for number in found if number >= 0]

    def decode(self, ids: Iterable[int]) -> str:
        """The caption up to eos."""
        kept: list[str] = []
        for number in ids:
            if number == self.words.eos:
                break
            if number not in self._silent:
                kept.append(self.itos[number])
        return " ".join(kept)

    def number(self, word: str) -> int | None:
        """The number of one word, None if it is not in the vocabulary."""
        return self.stoi.get(word)

    def as_json(self) -> dict[str, Any]:
        """Plain values for ``from_json``."""
        return {"kind": self.kind, "itos": self.itos, "words": _words_json(self.words)}


class PieceVocabulary:
    """Byte-pair pieces (a ``tokenizers`` model): GPT-2's, or trained on the captions."""

    kind: ClassVar[str] = "pieces"

    def __init__(self, model: "Tokenizer", words: Words) -> None:
        self.model, self.words = model, words
        self._silent = {words.pad, words.bos}

    def encode(self, caption: str) -> list[int]:
        """Numbers of the pieces of the caption as written, line breaks apart."""
        ids: list[int] = self.model.encode(text.normalise(caption)).ids
        return [i for i in ids if i != self.words.eos]

    def decode(self, ids: Iterable[int]) -> str:
        """The caption up to eos."""
        kept: list[int] = []
        for number in ids:
            if number == self.words.eos:
                break
            if number not in self._silent:
                kept.append(int(number))
        return str(self.model.decode(kept)).strip()

    def number(self, word: str) -> int | None:
        """The number of the one piece that ``word`` after a space is, None if it takes more."""
        ids: list[int] = self.model.encode(" " + word).ids
        return ids[0] if len(ids) == 1 else None

    def as_json(self) -> dict[str, Any]:
        """Plain values for ``from_json``."""
        model = json.loads(self.model.to_str())
        return {"kind": self.kind, "model": model, "words": _words_json(self.words)}


def make(config: Text, captions: Mapping[str, Iterable[str]]) -> Vocabulary:
    """The vocabulary a run asks for. ``captions``: split -> its captions."""
    counted = [c for split in config.counted for c in captions.get(split, ())]
    if config.vocabulary in ("words", "bpe") and not counted:
        raise DataError(
            f"No captions in splits {', '.join(config.counted)} to make a vocabulary from. "
            f"The dataset has: {', '.join(captions) or 'none'}. Set text.counted."
        )
    if config.vocabulary == "words":
        return build_words((text.tokenize(c) for c in counted), config.threshold, config.layout)
    if config.vocabulary == "bpe":
        return train_pieces(counted, config.size)
    if config.files is None and config.vocabulary == "gpt2":
        raise ConfigError(
            "text.vocabulary=gpt2 needs GPT-2's vocab.json and merges.txt: --set text.files=FOLDER "
            "that holds both. Without them, train pieces on the captions: --set text.vocabulary=bpe"
        )
    if config.files is None:
        raise ConfigError(
            f"text.vocabulary={config.vocabulary} needs its file: --set text.files=FILE.json"
        )
    if config.vocabulary == "gpt2":
        return gpt2(config.files, config.stop)
    return read_foreign(config.files) if config.vocabulary != "json" else read(config.files)


def build_words(
    captions: Iterable[Sequence[str]], threshold: int, layout: str = "precap"
) -> WordVocabulary:
    """Words seen at least ``threshold`` times: frequent first, ties alphabetically.

    In the "self-critical" layout the order is that of first occurrence, the end token is 0, and
    UNK exists only if a word was left out, as prepro_labels does it (which keeps words seen *more*
    than its threshold: give it threshold + 1 here).
    """
    counts = Counter(word for caption in captions for word in caption)
    kept = [word for word, n in counts.items() if n >= threshold]
    specials = LAYOUTS[layout]
    if layout == "self-critical":
        rare = ["UNK"] if len(kept) < len(counts) else []
        return WordVocabulary([*specials, *kept, *rare], shared_words(len(kept), bool(rare)))
    kept.sort(key=lambda word: (-counts[word], word))
    itos = [*specials, *(word for word in kept if word not in specials)]
    at = {name: i for i, name in enumerate(specials)}
    words = Words(len(itos), at["<pad>"], at["<bos>"], at["<eos>"], at["<unk>"])
    return WordVocabulary(itos, words)


def shared_words(kept: int, unk: bool) -> Words:
    """The self-critical layout: 0 is pad, bos and eos; ``kept`` words; UNK last, if any."""
    return Words(1 + kept + int(unk), 0, 0, 0, kept + 1 if unk else -1)


def train_pieces(captions: Iterable[str], size: int) -> PieceVocabulary:
    """A byte-level BPE of ``size`` pieces trained on the captions, specials first."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    model = Tokenizer(models.BPE())
    model.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=["<pad>", "<bos>", "<eos>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    model.train_from_iterator((text.normalise(c) for c in captions), trainer)
    return PieceVocabulary(model, Words(model.get_vocab_size(), 0, 1, 2))


def gpt2(folder: Path, stop: str = "") -> PieceVocabulary:
    """GPT-2's pieces from ``vocab.json`` and ``merges.txt`` in ``folder``.

    <|endoftext|> is pad, bos and eos. With ``stop`` its piece is eos and 0 is pad, as in ClipCap.
    """
    from tokenizers import ByteLevelBPETokenizer, Tokenizer

    for name in ("vocab.json", "merges.txt"):
        if not (folder / name).is_file():
            raise ConfigError(
                f"text.files={folder} holds no {name}. Put GPT-2's vocab.json and merges.txt "
                f"there, or use text.vocabulary=bpe to train pieces on the captions."
            )
    inner = ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    model = Tokenizer.from_str(inner._tokenizer.to_str())
    end = model.token_to_id("<|endoftext|>")
    end = model.get_vocab_size() - 1 if end is None else end
    size = model.get_vocab_size()
    if not stop:
        return PieceVocabulary(model, Words(size, end, end, end))
    ids = model.encode(stop).ids
    if len(ids) != 1:
        raise ConfigError(f"text.stop={stop!r} is {len(ids)} pieces of GPT-2, it must be one.")
    return PieceVocabulary(model, Words(size, 0, end, ids[0]))


def read_foreign(path: Path) -> WordVocabulary:
    """A vocabulary of another system: {itos, stoi} (GRIT, HierCap) or prepro_labels' ix_to_word."""
    values = _read_json(path)
    if "ix_to_word" in values:
        table = {int(k): str(v) for k, v in values["ix_to_word"].items()}
        itos = [LAYOUTS["self-critical"][0], *(table[i] for i in range(1, len(table) + 1))]
        unk = itos[-1] in ("UNK", "<UNK>")
        return WordVocabulary(itos, shared_words(len(itos) - 1 - int(unk), unk))
    if "itos" in values:
        return _meshed([str(word) for word in values["itos"]], path)
    raise DataError(f"{path} holds neither 'ix_to_word' nor 'itos'; it is no vocabulary we know.")


def read_pickle(path: Path) -> WordVocabulary:
    """The ``vocab.pkl`` of HIN and M2, by an unpickler that runs nothing; DataError for others."""
    if not path.is_file():
        raise ConfigError(f"There is no vocabulary file {path}. Check the path.")
    stands = dict.fromkeys(("Vocab", "_default_unk_index", "default_unk_index"), pickles.Attributes)
    with path.open("rb") as file:
        found = pickles.load(file, str(path), stands)
    itos = getattr(found, "itos", None)
    if not isinstance(itos, list) or not all(isinstance(word, str) for word in itos):
        raise DataError(f"{path} holds no list of words 'itos': no vocabulary of HIN or M2.")
    return _meshed(itos, path)


def convert(source: Path, out: Path) -> str:
    """``read_pickle`` of ``source`` as the JSON of text.vocabulary=hin; says what it held."""
    found = read_pickle(source)
    write_text(out, json.dumps({"itos": found.itos}, ensure_ascii=False))
    return f"{found.words.size:,} words: {out}"


def _meshed(itos: list[str], path: Path) -> WordVocabulary:
    at = {word: i for i, word in enumerate(itos[:4])}
    if set(at) != set(LAYOUTS["meshed"]):
        raise DataError(f"{path}: the first four words must be {LAYOUTS['meshed']}.")
    words = Words(len(itos), at["<pad>"], at["<bos>"], at["<eos>"], at["<unk>"])
    return WordVocabulary(itos, words)


def write(vocabulary: Vocabulary, path: Path) -> None:
    """Save as JSON."""
    write_text(path, json.dumps(vocabulary.as_json(), ensure_ascii=False))


def read(path: Path) -> Vocabulary:
    """What ``write`` saved."""
    return from_json(_read_json(path), str(path))


def from_json(values: Mapping[str, Any], where: str) -> Vocabulary:
    """The vocabulary of ``as_json``; DataError names ``where`` when it is none."""
    try:
        words = Words(**values["words"])
        if values["kind"] == WordVocabulary.kind:
            return WordVocabulary([str(word) for word in values["itos"]], words)
        from tokenizers import Tokenizer

        return PieceVocabulary(Tokenizer.from_str(json.dumps(values["model"])), words)
    except (KeyError, TypeError) as error:
        raise DataError(f"{where} is no vocabulary file of this tool: {error!r}.") from error


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"There is no vocabulary file {path}. Check the path.") from error
    except ValueError as error:
        if path.read_bytes()[:1] == b"\x80":
            raise ConfigError(
                f"{path} is a pickle, which training never opens. Convert it once: precap data "
                f"labels vocabulary {path} --out vocab.json --allow-pickle"
            ) from error
        raise DataError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise DataError(f"{path} must hold a JSON object.")
    return values


def _words_json(words: Words) -> dict[str, int]:
    return {name: getattr(words, name) for name in ("size", "pad", "bos", "eos", "unk")}

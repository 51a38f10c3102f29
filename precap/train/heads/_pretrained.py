"""GPT-2 weights of Hugging Face: found by name or path, fitted to a head's language model."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from precap import hub
from precap.errors import ConfigError
from precap.train import checkpoint, published
from precap.train.heads._gpt2 import GPT2
from precap.train.heads._gpt2 import published as our_names

FILES = ("model.safetensors", "pytorch_model.bin")
#: Name -> the hub's repositories of it: where it lies now, and where old caches have it.
NAMED = {
    "gpt2": ("openai-community/gpt2", "gpt2"),
    "distilgpt2": ("distilbert/distilgpt2", "distilgpt2"),
}


def load(model: GPT2, wanted: str) -> None:
    """Give ``model`` the weights of "gpt2", "distilgpt2", a folder, or a file of Hugging Face's.

    ConfigError when there are none, or when they are of another size than ``model``.
    """
    path = find(wanted)
    found = our_names(published.read(path))
    wrong = _differences(model, found)
    if wrong:
        raise ConfigError(f"{path} is another language model than this head's: {'; '.join(wrong)}.")
    checkpoint.load_weights(model, found, str(path))


def find(wanted: str) -> Path:
    """The weights file that ``wanted`` means."""
    if wanted in NAMED:
        return _named(wanted)
    path = Path(wanted).expanduser()
    candidates = [path / name for name in FILES] if path.is_dir() else [path]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ConfigError(
        f"head.language_model={wanted} is neither a weights file, nor a folder with "
        f"{' or '.join(FILES)}, nor one of {', '.join(NAMED)}. Check the path."
    )


def _named(name: str) -> Path:
    repos = NAMED[name]
    for repo in repos:
        cached = hub.fetch(repo, FILES, offline=True)
        if cached:
            return cached
    fresh = hub.fetch(repos[0], FILES, offline=False)
    if fresh:
        return fresh
    raise ConfigError(
        f"{FILES[0]} of {name} is not in this machine's Hugging Face cache and the hub could not "
        f"be reached. Where it can be, type: hf download {repos[0]} {FILES[0]} vocab.json "
        f"merges.txt --local-dir weights/{name}  and bring that folder here; then --set "
        f"head.language_model=weights/{name} --set text.files=weights/{name}."
    )


def _differences(model: GPT2, found: Mapping[str, Tensor]) -> list[str]:
    """What differs in size, each with the option to set."""
    try:
        words, places = found["word.weight"], found["place.weight"]
    except KeyError as error:
        return [f"it has no {error}, so it is no GPT-2"]
    layers = len({key.split(".")[1] for key in found if key.startswith("blocks.")})
    pairs = (
        ("head.dim", model.word.embedding_dim, words.shape[1]),
        ("head.layers", len(model.blocks), layers),
        ("head.positions", model.place.num_embeddings, len(places)),
    )
    wrong = [
        f"{name} is {ours}, set {name}={theirs}" for name, ours, theirs in pairs if ours != theirs
    ]
    size = model.word.num_embeddings
    if size != len(words):
        wrong.append(
            f"the vocabulary has {size} words, it has {len(words)} pieces: set "
            f"text.vocabulary=gpt2 and text.files=FOLDER (its vocab.json and merges.txt)"
        )
    return wrong

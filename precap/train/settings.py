"""Every choice of a training run, as frozen configs; recipes are YAML files with these names."""

from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field as Bound

from precap.config import Count, Natural, build, frozen, read_yaml
from precap.errors import ConfigError

RECIPES = Path(__file__).parent.parent / "recipes"

#: Numbers with bounds: zero or more; more than zero; a part of a whole.
Amount = Annotated[float, Bound(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Bound(gt=0, allow_inf_nan=False)]
Part = Annotated[float, Bound(ge=0, le=1)]


@frozen
class Text:
    """How captions become numbers.

    vocabulary: "words"; "bpe" (trained on the training captions, ``size`` pieces); "gpt2"
    (``files``: folder with GPT-2's vocab.json and merges.txt); "json" (``files``: a vocab.json of
    a run); "cocotalk" (``files``: prepro_labels' JSON); "hin" (``files``: {itos, stoi} JSON).
    threshold: a word enters the vocabulary when it is seen at least this often.
    counted: splits whose captions are counted. layout: numbering of specials, see ``vocab``.
    longest: words (or pieces) kept of a training caption, without bos and eos. stop: for "gpt2",
    the piece that ends a caption ("." for ClipCap and OPG); empty: GPT-2's own end of text.
    """

    vocabulary: Literal["words", "bpe", "gpt2", "json", "cocotalk", "hin"] = "words"
    files: Path | None = None
    threshold: Count = 5
    size: Count = 8000
    counted: tuple[str, ...] = ("train", "restval")
    layout: Literal["precap", "meshed", "self-critical"] = "precap"
    longest: Count = 20
    captions: Count = 5
    stop: str = ""


@frozen
class Optim:
    """Optimiser and learning-rate schedule of one phase; ``optim.py`` documents the schedules.

    warmup and decay lengths: numbers below 1 are shares of the phase, others are steps. ``table``:
    for schedule "epochs", the factor from each epoch on, [[epoch, factor], ...].
    """

    name: Literal["adam", "adamw", "sgd"] = "adamw"
    lr: Positive = 5e-4
    betas: tuple[float, float] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: Amount = 0.01
    schedule: Literal["constant", "cosine", "linear", "noam", "steps", "epochs"] = "cosine"
    warmup: Amount = 0.05
    floor: Amount = 0.0
    factor: Positive = 1.0
    dim: Count = 512
    every: Count = 3
    rate: Positive = 0.8
    start: Natural = 0
    table: tuple[tuple[float, float], ...] = ()


@frozen
class CrossEntropy:
    """The first phase: teacher forcing. ``sampling_*``: scheduled sampling of the LSTM heads."""

    epochs: Amount = 15
    optim: Optim = field(default_factory=Optim)
    label_smoothing: Part = 0.0
    sampling_start: int = -1
    sampling_every: Count = 5
    sampling_step: Part = 0.05
    sampling_most: Part = 0.25


@frozen
class SelfCritical:
    """The second phase: policy gradient on CIDEr-D (Rennie et al., 2017).

    baseline: "others" = mean of the image's other candidates (leave-one-out), "mean" = of all,
    "greedy". frequency: a document is an "image" (self-critical.pytorch) or a "caption" (HIN, M2).
    count_eos: whether the end token is a word of the reward. reduce: "tokens" = mean over all
    real tokens of the batch; "caption" = mean over captions of each one's token mean; "steps" =
    as "caption" but always divided by the decoding length (HIN, M2). sample_dropout: draw the
    candidates with dropout on (HIN, HierCap, OPG); the loss then draws its own dropout.
    temperature: of the samples, and of the policy whose gradient is taken.
    """

    epochs: Amount = 0
    optim: Optim = field(
        default_factory=lambda: Optim(lr=5e-6, schedule="constant", weight_decay=0.0)
    )
    candidates: Literal["sample", "beam"] = "sample"
    samples: Count = 5
    temperature: Positive = 1.0
    baseline: Literal["others", "mean", "greedy"] = "others"
    frequency: Literal["image", "caption"] = "image"
    count_eos: bool = True
    cider: float = 1.0
    bleu: float = 0.0
    frequencies: Path | None = None  # given document frequencies, see documents.py
    reduce: Literal["tokens", "caption", "steps"] = "tokens"
    sample_dropout: bool = False
    batch_size: Natural = 0

    def __post_init__(self) -> None:
        if self.samples == 1 and self.baseline != "greedy":
            raise ConfigError(
                f"scst.samples=1 leaves nothing to compare with under scst.baseline="
                f"{self.baseline}. Take at least 2 samples, or scst.baseline=greedy."
            )


@frozen
class Decode:
    """How captions are produced. ``beam`` 1 and ``sample`` False: greedy.

    length_penalty: score / length^a (0 = sum of log-probabilities, the default of all systems).
    groups, diversity: diverse beam search (Vijayakumar et al., 2016). top_k, top_p, temperature
    need ``sample``, then ``beam`` samples are drawn. bad_endings: never end on a word like "a".
    finished: what a finished hypothesis does, see ``decode.Beams``. all_beams: go on until all K
    have ended, not only until the best is known.
    """

    beam: Count = 3
    longest: Count = 20
    shortest: Natural = 0
    length_penalty: float = 0.0
    block_trigrams: bool = False
    suppress_unk: bool = True
    bad_endings: bool = False
    groups: Count = 1
    diversity: float = 0.5
    sample: bool = False
    temperature: Positive = 1.0
    top_k: Natural = 0
    top_p: Annotated[float, Bound(gt=0, le=1)] = 1.0
    finished: Literal["kept", "released"] = "kept"
    all_beams: bool = False
    batch_size: Count = 64

    def __post_init__(self) -> None:
        if self.shortest > self.longest:
            raise ConfigError(
                f"decode.shortest={self.shortest} is more than decode.longest={self.longest}: no "
                f"caption has so many words. Lower shortest, or raise longest."
            )
        if self.beam % self.groups:
            wide = self.groups * (self.beam // self.groups + 1)
            raise ConfigError(
                f"decode.groups={self.groups} does not divide decode.beam={self.beam}: every group "
                f"has as many hypotheses. Set decode.beam={wide}."
            )


@frozen
class TrainConfig:
    """One training run.

    features: role -> store name, or role -> store#field, where two stores or two fields offer one
    role; the rest is resolved from the stores' roles. batch_size counts images, each with
    ``text.captions`` captions. validate_steps: validate every so many steps; 0 = every
    ``validate_epochs``. overfit: train and validate on the first N training images. resume: go on
    from ``out``. average: decay of the exponential moving average of the weights, 0 = none.
    save_every: also save every so many steps; save_minutes: and when so many minutes have passed; 0
    = not.
    """

    head: str = "transformer"
    head_config: dict[str, Any] = field(default_factory=dict)
    features: dict[str, str] = field(default_factory=dict)
    text: Text = field(default_factory=Text)
    xe: CrossEntropy = field(default_factory=CrossEntropy)
    scst: SelfCritical = field(default_factory=SelfCritical)
    decode: Decode = field(default_factory=Decode)
    batch_size: Count = 32
    accumulate: Count = 1
    clip_norm: Amount = 1.0
    clip_value: Amount = 0.0
    average: Annotated[float, Bound(ge=0, lt=1)] = 0.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    compile: bool = False
    device: str = "auto"
    threads: Natural = 0
    seed: Natural = 0
    cache: Literal["auto", "mmap", "ram", "device"] = "auto"
    train_splits: tuple[str, ...] = ("train", "restval")
    val_split: str = "val"
    val_images: Natural = 0
    validate_epochs: Positive = 1.0
    validate_steps: Natural = 0
    patience: Natural = 0
    select: str = "CIDEr"
    overfit: Natural = 0
    shuffle_features: bool = False
    max_rows: Natural = 0
    log_every: Count = 20
    save_every: Natural = 0
    save_minutes: Amount = 10
    resume: Literal["none", "last", "best"] = "last"
    init: Path | None = None
    init_format: str = ""
    init_run: Path | None = None


def recipe(name: str) -> dict[str, Any]:
    """The values of a built-in recipe, or of a YAML file when ``name`` is a path to one."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml"):
        return read_yaml(path)
    known = sorted(p.stem for p in RECIPES.glob("*.yaml"))
    if name not in known:
        raise ConfigError(f"There is no recipe {name!r}. Available: {', '.join(known)}.")
    return read_yaml(RECIPES / f"{name}.yaml")


def resolve(values: Mapping[str, Any], *changes: Mapping[str, Any]) -> TrainConfig:
    """A TrainConfig from nested recipe values and flat changes such as ``{"xe.optim.lr": 1e-4}``.

    Later changes win. ``head.x`` is short for ``head_config.x``. Unknown names raise ConfigError.
    """
    nested = _copy(values)
    for change in changes:
        for key, value in change.items():
            _put(nested, key, value)
    return make(nested)


def make(values: Mapping[str, Any], where: str = "the training options") -> TrainConfig:
    """Nested plain values to a TrainConfig, checking the names at every level."""
    kinds: dict[str, type[Any]] = {
        "text": Text,
        "xe": CrossEntropy,
        "scst": SelfCritical,
        "decode": Decode,
    }
    plain = dict(values)
    for key, kind in kinds.items():
        if isinstance(plain.get(key), Mapping):
            part = dict(plain[key])
            if isinstance(part.get("optim"), Mapping):
                # A phase's own default optimiser is the base of what the recipe says about it.
                base = kind().optim
                part["optim"] = build(Optim, {**_plain(base), **part["optim"]}, f"{key}.optim")
            plain[key] = build(kind, part, f"{where}, {key}")
    return build(TrainConfig, plain, where)


def _plain(config: Any) -> dict[str, Any]:
    return {name: getattr(config, name) for name in config.__dataclass_fields__}


def _copy(values: Mapping[str, Any]) -> dict[str, Any]:
    return {k: _copy(v) if isinstance(v, Mapping) else v for k, v in values.items()}


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    first, dot, rest = key.partition(".")
    if first == "head" and dot:
        first = "head_config"
    if not dot:
        values[first] = _copy(value) if isinstance(value, Mapping) else value
        return
    inner = values.setdefault(first, {})
    if not isinstance(inner, dict):
        raise ConfigError(f"--set {key}: {first!r} is a single value, it has no part {rest!r}.")
    _put(inner, rest, value)

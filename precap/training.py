"""From features and captions to a run: which head, which options, where it all came from."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precap.errors import ConfigError

if TYPE_CHECKING:
    from precap.pipeline import Listener
    from precap.store.reader import Store
    from precap.train.result import RunResult

#: What ``validator`` scores, of which a training's ``select`` names one.
VALIDATION = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr")


def train(
    features: str,
    head: str | None,
    data: Path,
    stores: Path,
    out: Path | str | None,
    recipe: str | None,
    options: Mapping[str, Any],
    on_event: "Listener | None",
) -> "RunResult":
    """See ``precap.train_head``."""
    from precap.allocator import retain
    from precap.pipeline import dataset, parse_features
    from precap.train import settings, trainer

    retain()
    opened, roles = parse_features(features, stores)
    values = settings.recipe(recipe) if recipe else {}
    chosen, why = head or values.get("head"), ""
    if chosen is None:
        chosen, why = _chosen_head(opened, {**values, **options})
    begun = options.get("init_run", values.get("init_run"))
    if begun and chosen != _head_of(Path(begun)):
        raise ConfigError(
            f"--init-run {begun} holds a {_head_of(Path(begun))} head, not {chosen}. Leave --head "
            f"and --recipe out, or start from another run."
        )
    if why and on_event:
        on_event({"note": f"head {chosen!r} {why}"})
    made = settings.resolve(values, {"head": chosen, "features": roles}, options)
    if not made.overfit and made.select not in VALIDATION:
        raise ConfigError(
            f"select={made.select!r} is no validation metric. There are: {', '.join(VALIDATION)}."
        )
    folder = Path(out) if out else Path("runs") / chosen
    pictures = dataset(data)
    captions = {split: pictures.captions(split) for split in pictures.splits}
    return trainer.fit(
        made,
        captions=captions,
        stores=opened,
        out=folder,
        validate=validator(captions.get(made.val_split, {})),
        on_event=_trained(on_event, lambda: _remember(folder, data, opened)),
    )


def validator(references: Mapping[str, Sequence[str]]) -> Callable[[Mapping[str, str]], Any]:
    """The scores of one caption per validation image; no Java. Closes over the references."""
    from precap.evaluate import metrics

    def validate(captions: Mapping[str, str]) -> dict[str, float]:
        known = {image: references[image] for image in captions}
        scores = metrics.score(captions, known, metrics=("bleu", "rouge", "cider"))
        return dict(scores.corpus)

    return validate


def _chosen_head(stores: "Mapping[str, Store]", values: Mapping[str, Any]) -> tuple[str, str]:
    """The head when nobody named one, and why: by the weights to begin with, else the features."""
    from precap import plugins
    from precap.train import heads, published, roles

    if values.get("init_run"):
        return _head_of(Path(values["init_run"])), "is that of the run to begin with"
    if values.get("init"):
        form = values.get("init_format") or ""
        return published.head_of(form, Path(values["init"])), f"reads {form} weights"
    specs = {name: store.spec for name, store in stores.items()}
    fits = roles.choose_head(specs, plugins.names(heads))
    return fits, "fits these features (--head chooses another)"


def _head_of(run: Path) -> str:
    from precap.train.run import Recipe

    return Recipe.read(run / "run.json").config.head


def _remember(run: Path, data: Path, stores: "Mapping[str, Store]") -> None:
    from precap import atomic
    from precap.pipeline import SOURCES

    paths = {name: str(store.path.absolute()) for name, store in stores.items()}
    atomic.write_text(
        run / SOURCES, json.dumps({"data": str(data.absolute()), "stores": paths}, indent=2)
    )


def _trained(listen: "Listener | None", begun: Callable[[], None]) -> Any:
    """Events of the trainer for ``listen``; ``begun`` is called once every check has passed."""

    def told(event: Any) -> None:
        if event.kind == "start":
            begun()
        if listen is None:
            return
        values = " ".join(f"{name} {value:.4g}" for name, value in event.values.items())
        said = {"note": event.message or values, **event.values}
        silent = not said["note"]  # then the count is all there is to show, were it 0
        counted = {"done": event.step, "total": event.total, "unit": "steps"}
        known = counted if event.total or silent else {}
        listen({"kind": event.kind, "eta": event.seconds_left or None, **known, **said})

    return told

"""Captions for picture files: the run's own extractors on the fly, then its head."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from precap.errors import ConfigError, ImageError
from precap.scoring import looks, remembered

if TYPE_CHECKING:
    from PIL.Image import Image

    from precap.extract.contract import Extractor
    from precap.train.run import Run
    from precap.types import Features, FeatureSpec

CHUNK = 16  # pictures extracted and captioned together


@dataclass(frozen=True)
class Answer:
    """What a run says about one picture, or why it says nothing. ``score``: log-probability."""

    path: str
    caption: str | None = None
    score: float | None = None
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON values; absent ones are left out."""
        return {key: value for key, value in asdict(self).items() if value is not None}


def caption(
    runs: Sequence[Path],
    images: Sequence[Path],
    *,
    beam: int | None = None,
    decode: Mapping[str, Any] | None = None,
    seed: int = 0,
    which: str = "best",
    heatmap: Path | str | None = None,
    device: str = "auto",
) -> list[Answer]:
    """One Answer per picture, in the order given; folders are searched for pictures.

    Features are made exactly as the stores' were: an extractor whose weights or options differ
    from those the run was trained on is refused, with what differs. decode: changes to the run's
    way to decode, {"length_penalty": 1.0}; seed: of sampling.
    """
    import torch

    from precap.allocator import retain
    from precap.train import ensemble as joining
    from precap.train import run as training
    from precap.train.decode import changed

    retain()
    loaded = [training.load(path, which, device) for path in runs]
    decoder: Any = loaded[0] if len(loaded) == 1 else joining.Panel(tuple(loaded))
    how = changed(decoder.recipe.config.decode, decode or {}, beam)
    makers = _extractors(loaded, device)
    torch.manual_seed(seed)
    answers = []
    paths = _pictures(images)
    for start in range(0, len(paths), CHUNK):
        rows, failed = _features(paths[start : start + CHUNK], makers)
        said = {p.image_id: p for p in decoder.caption(rows, how)} if rows else {}
        if heatmap and said:
            _draw(Path(heatmap), decoder, rows, {i: p.caption for i, p in said.items()})
        for path in map(str, paths[start : start + CHUNK]):
            if path in said:
                answers.append(Answer(path, said[path].caption, said[path].score))
            else:
                answers.append(Answer(path, error=failed[path]))
    return answers


def _pictures(given: Sequence[Path]) -> list[Path]:
    from precap.store.datasets.paths import is_image

    found: list[Path] = []
    for path in map(Path, given):
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file() and is_image(p.name))
            if not inside:
                raise ConfigError(f"There are no pictures in {path}.")
            found += inside
        else:
            found.append(path)
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class Maker:
    """What makes a store's row for a new picture. ``parent``: it reads that one's row instead."""

    extractor: "Extractor"
    parent: "Maker | None" = None

    def row(self, picture: "Image") -> "Features":
        """Exactly what the store would give for this picture."""
        item = picture if self.parent is None else self.parent.row(picture)
        prepared = self.extractor.prepare(item)
        return _as_stored(self.extractor.extract([prepared])[0], self.extractor.spec)


def _extractors(runs: "Sequence[Run]", device: str) -> dict[str, Maker]:
    """Store name -> what makes its rows, checked by fingerprint."""
    makers: dict[str, Maker] = {}
    for run in runs:
        for source in run.sources.values():
            if source.store not in makers:
                makers[source.store] = _maker(source.spec, _made_by(source.spec, run), device)
    return makers


def _made_by(spec: "FeatureSpec", run: "Run") -> Path:
    """The store of ``spec`` among those the run was trained on."""
    from precap.store import identity

    paths = [Path(path) for path in remembered(run.path)["stores"].values()]
    for path in paths:
        if identity.load(path).spec.fingerprint == spec.fingerprint:
            return path
    raise ConfigError(
        f"The store that {run.path} was trained on is no longer among "
        f"{', '.join(map(str, paths))}. Extract it again with the same options."
    )


def _maker(spec: "FeatureSpec", store: Path, device: str) -> Maker:
    from precap.extract.recipe import Recipe
    from precap.store import identity, schema

    if spec.extractor.startswith("import"):
        raise ConfigError(
            f"The run was trained on imported features ({spec.extractor}); there is no extractor "
            f"here that makes them for a new picture. Use: precap evaluate RUN --stores FOLDER"
        )
    made = identity.load(store).provenance or {}
    if "recipe" not in made:
        raise ConfigError(f"{store} does not say which extractor made it: no captions on the fly.")
    recipe = Recipe.from_json(made["recipe"])
    here = replace(recipe.setting, device=device)  # the store may come from another machine
    extractor = replace(recipe, setting=here).build()
    if extractor.spec.fingerprint != spec.fingerprint:
        raise ConfigError(
            f"The extractor {recipe.extractor} here differs from the one that made {store}: "
            f"{schema.difference(extractor.spec, spec)}. Use the weights and options of then."
        )
    parent = recipe.setting.parent
    if extractor.reads == "image" or parent is None:
        return Maker(extractor)
    return Maker(extractor, _maker(identity.load(parent).spec, parent, device))


def _features(
    paths: Sequence[Path], makers: Mapping[str, Maker]
) -> "tuple[dict[str, dict[str, Features]], dict[str, str]]":
    """Picture -> store name -> features, and picture -> why there are none."""
    from precap.extract import images

    rows: dict[str, dict[str, Features]] = {}
    failed: dict[str, str] = {}
    for path in paths:
        try:
            picture = images.read(path).image
            picture.info["path"] = str(path)  # extractors of given boxes look themselves up by it
            rows[str(path)] = {name: maker.row(picture) for name, maker in makers.items()}
        except ImageError as error:
            failed[str(path)] = str(error)
    return rows, failed


def _as_stored(row: "Features", spec: "FeatureSpec") -> "Features":
    """What reading ``row`` back from a store of ``spec`` would give: its rounding included."""
    from precap.store import schema

    found = {}
    for field in spec.fields:
        try:
            kept, scale = schema.stored(row[field.name], field.dtype)
        except schema.BadValue as error:
            raise ImageError(error.reason, error.detail) from error
        found[field.name] = kept if scale is None else kept * scale[..., None]
    return found


def _draw(
    folder: Path,
    run: Any,
    rows: "Mapping[str, Mapping[str, Features]]",
    captions: Mapping[str, str],
) -> None:
    from precap.evaluate import heatmaps
    from precap.extract import images

    folder.mkdir(parents=True, exist_ok=True)
    stores = run.in_memory(rows)
    for image, attention in looks(run, stores, captions, most=len(captions)).items():
        heatmaps.save(folder / f"{Path(image).stem}.png", images.read(Path(image)).image, attention)

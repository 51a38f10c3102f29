"""Which store gives which role to a head: resolved from the fields, or said by the user."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from precap.errors import ConfigError
from precap.types import ROLES, FeatureSpec, Field

#: Roles that describe rows of another one: they come from the same store as it does.
BELONGS = {role: "region" for role in ("boxes", "scores", "classes", "attributes")}


@dataclass(frozen=True)
class Source:
    """One role's field, the store it lies in (by the name the user typed) and that store's spec."""

    store: str
    field: Field
    spec: FeatureSpec

    @property
    def width(self) -> int:
        """Numbers per row."""
        last = self.field.shape[-1] if self.field.shape else None
        return 1 if last is None else last


def resolve(
    specs: Mapping[str, FeatureSpec],
    needs: Iterable[str],
    takes: Iterable[str],
    explicit: Mapping[str, str],
    several: bool = False,
) -> dict[str, Source]:
    """Role -> Source for a head that needs and takes these roles.

    several: the head reads any number of sources per role; the second is called "grid@2".

    explicit: role -> store or store#field. ConfigError, with the option to type, where two stores
    offer one role, a needed role is missing, no role fits at all, or the views do not.
    """
    needed, taken = set(needs), set(needs) | set(takes)
    found: dict[str, Source] = {}
    for role in sorted(taken, key=ROLES.index):
        if role in explicit:
            found[role] = _said(specs, role, explicit[role])
            continue
        offers = _offers(specs, role)
        home = found.get(BELONGS.get(role, ""))
        if home is not None and len(offers) > 1:
            offers = [offer for offer in offers if offer.store == home.store]
        if role == "size" and "boxes" in found:  # the size is the unit of these boxes, no others
            offers = [offer for offer in offers if offer.store == found["boxes"].store]
        if len(offers) > 1 and not several:
            raise ConfigError(_ambiguous(role, offers))
        for number, offer in enumerate(offers, start=1):
            found[role if number == 1 else f"{role}@{number}"] = offer
    _check(specs, needed, taken, found)
    stray = set(explicit) - taken
    if stray:
        raise ConfigError(
            f"This head does not use role {sorted(stray)[0]!r}. It uses: "
            f"{', '.join(sorted(taken))}. Leave the role out of --features."
        )
    _check_views(found)
    return found


def choose_head(specs: Mapping[str, FeatureSpec], known: Iterable[str]) -> str:
    """A fitting head when the user names none: ``hin`` for grid and region, else transformer."""
    offered = {field.role for spec in specs.values() for field in spec.fields}
    both = {"grid", "region"} <= offered
    return "hin" if both and "hin" in set(known) else "transformer"


def _offers(specs: Mapping[str, FeatureSpec], role: str) -> list[Source]:
    return [
        Source(name, field, spec)
        for name, spec in specs.items()
        for field in spec.fields
        if field.role == role
    ]


def _said(specs: Mapping[str, FeatureSpec], role: str, said: str) -> Source:
    store, _, wanted = said.partition("#")
    if store not in specs:
        name, _, rest = store.rpartition(":")
        meant = f" Did you mean the field {role}={name}#{rest}?" if name in specs else ""
        raise ConfigError(
            f"--features {role}={said}: there is no store {store!r} among {', '.join(specs)}."
            f"{meant}"
        )
    for field in specs[store].fields:
        if wanted == field.name or (not wanted and field.role == role):
            return Source(store, field, specs[store])
    fields = ", ".join(f"{f.name} ({f.role})" for f in specs[store].fields)
    raise ConfigError(f"--features {role}={said}: store {store!r} offers {fields}.")


def _ambiguous(role: str, offers: list[Source]) -> str:
    stores = [offer.store for offer in offers]
    names = (
        stores if len(set(stores)) == len(stores) else [f"{o.store}#{o.field.name}" for o in offers]
    )
    choices = " or ".join(f"--features {role}={name}" for name in names)
    return f"Role {role!r} is offered by {', '.join(names)}. Say which to use: {choices}."


def _check_views(found: Mapping[str, Source]) -> None:
    """Stores of several views have equally many: a batch takes the same view of all of them."""
    views = {source.store: source.spec.views for source in found.values()}
    if len({count for count in views.values() if count > 1}) > 1:
        said = ", ".join(f"{name} has {count}" for name, count in views.items())
        raise ConfigError(
            f"These stores have different numbers of views: {said}. Extract some of them again "
            f"with --views, so that all have the same number; a store of 1 goes with any."
        )


def _check(
    specs: Mapping[str, FeatureSpec], needed: set[str], taken: set[str], found: Mapping[str, Source]
) -> None:
    offered = "; ".join(
        f"{name}: {', '.join(f.role for f in spec.fields)}" for name, spec in specs.items()
    )
    missing = sorted(needed - set(found))
    if missing:
        raise ConfigError(
            f"This head needs {' and '.join(missing)} features, and the stores offer {offered}. "
            f"Add a store with that role to --features, or choose another head."
        )
    if not found:
        raise ConfigError(
            f"This head uses {' or '.join(sorted(taken))} features, and the stores offer {offered}."
        )

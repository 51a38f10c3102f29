"""Contract tests that every implementation of a protocol passes; a new one is a small subclass."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from precap import plugins
from precap.config import as_dict, build
from precap.errors import ConfigError
from precap.store import backends, files
from precap.store.backends.contract import Compression, Content
from precap.store.datasets import sources
from precap.store.datasets.contract import Document
from precap.store.datasets.dataset import load
from precap.store.datasets.prepare import prepare
from precap.store.datasets.problems import Problems
from precap.train import heads
from precap.train.contract import Memory, State, Words


class HeadContract:
    """What every captioning head promises (``precap.train.contract.Head``).

    Subclass it and set ``head`` (plugin name), ``options`` (a small Config), ``dims`` (role ->
    width) and ``rows`` (role -> number of rows; roles left out have one vector per image).
    ``fixed``: roles whose number of rows the weights are tied to. ``unpadded``: roles whose padding
    is not masked on purpose. ``idle``: endings of parameter names that get no gradient on purpose.
    """

    head: ClassVar[str]
    options: ClassVar[Mapping[str, Any]] = {}
    dims: ClassVar[Mapping[str, int]] = {}
    rows: ClassVar[Mapping[str, int]] = {}
    words: ClassVar[Words] = Words(size=23, pad=1, bos=2, eos=3, unk=0)
    fixed: ClassVar[frozenset[str]] = frozenset()
    unpadded: ClassVar[frozenset[str]] = frozenset()
    idle: ClassVar[tuple[str, ...]] = ()
    images: ClassVar[int] = 3
    tolerance: ClassVar[float] = 2e-5

    # What the tests are made of; override where a head needs other inputs.

    def make_features(self) -> dict[str, Tensor]:
        """Role -> (B, N, D), or (B, D) for roles without rows; boxes are valid pixel boxes."""
        draw = torch.Generator().manual_seed(7)
        made: dict[str, Tensor] = {}
        for role, width in self.dims.items():
            shape = [self.images, *([self.rows[role]] if role in self.rows else []), width]
            made[role] = torch.randn(shape, generator=draw)
            if role == "boxes":
                corner = 300 * torch.rand(*shape[:-1], 2, generator=draw)
                made[role] = torch.cat([corner, corner + 20 + 100 * made[role][..., :2].abs()], -1)
            if role == "size":
                made[role] = torch.tensor([[480.0, 640.0]]).expand(self.images, 2).contiguous()
        return made

    def make_masks(self) -> dict[str, Tensor]:
        """Role -> (B, N): the first image is whole, every next one has two rows fewer."""
        lengths = [
            torch.tensor([n - 2 * i for i in range(self.images)]) for n in self.rows.values()
        ]
        return {
            role: torch.arange(n)[None] < real[:, None]
            for (role, n), real in zip(self.rows.items(), lengths, strict=True)
        }

    def make_tokens(self, captions: int = 3, longest: int = 7) -> Tensor:
        """(B, C, T) ``bos w .. w pad ..``; the very last caption is missing: pads only."""
        draw = torch.Generator().manual_seed(11)
        shape = (self.images, captions, longest)
        known = torch.tensor(self.plain_words())
        tokens = known[torch.randint(len(known), shape, generator=draw)]
        lengths = torch.randint(2, longest + 1, shape[:2], generator=draw)
        lengths[0, 0] = longest
        tokens[..., 0] = self.words.bos
        tokens[torch.arange(longest) >= lengths[..., None]] = self.words.pad
        tokens[-1, -1] = self.words.pad
        return tokens

    def plain_words(self) -> list[int]:
        """The words that have no special meaning."""
        special = {self.words.pad, self.words.bos, self.words.eos, self.words.unk}
        return [word for word in range(self.words.size) if word not in special]

    def make_head(self) -> Any:
        """The head with seeded weights, in eval mode."""
        torch.manual_seed(3)
        kind = plugins.load(heads, self.head)
        return kind(build(kind.Config, self.options), dict(self.dims), self.words).eval()

    def real(self, tokens: Tensor) -> Tensor:
        """(B, C, T) bool: positions whose logits mean something."""
        real = tokens != self.words.pad
        real[..., 0] = tokens[..., 0] == self.words.bos
        return real & (real.long().cumprod(-1) > 0)

    @pytest.fixture
    def model(self) -> Any:
        return self.make_head()

    @pytest.fixture(autouse=True)
    def _one_thread_no_grad(self) -> Any:
        with torch.no_grad():
            yield

    # The promises.

    def test_needs_are_taken_and_the_plugin_is_complete(self) -> None:
        kind = plugins.load(heads, self.head)
        assert kind.needs <= kind.takes
        assert kind.needs <= set(self.dims) <= kind.takes
        assert as_dict(build(kind.Config, self.options)) == as_dict(
            build(kind.Config, as_dict(build(kind.Config, self.options)))
        )

    def test_an_unknown_option_is_refused(self) -> None:
        kind = plugins.load(heads, self.head)
        with pytest.raises(ConfigError, match="no option 'colour'"):
            build(kind.Config, {**self.options, "colour": "red"})

    def test_memory_has_the_image_axis_first(self, model: Any) -> None:
        memory = model.encode(self.make_features(), self.make_masks())
        assert memory
        assert {name: len(x) for name, x in memory.items()} == dict.fromkeys(memory, self.images)

    def test_logits_have_their_shape_and_are_finite(self, model: Any) -> None:
        tokens = self.make_tokens()
        logits = self.logits(model, tokens)
        assert logits.shape == (*tokens.shape, self.words.size)
        assert torch.isfinite(logits).all()

    def test_eval_is_deterministic_and_different_captions_differ(self, model: Any) -> None:
        tokens = self.make_tokens()
        first = self.logits(model, tokens)
        assert torch.equal(first, self.logits(model, tokens))
        real = self.real(tokens)
        assert not torch.allclose(first[0, 0][real[0, 0]][1], first[0, 0][real[0, 0]][2])

    def test_the_image_matters(self, model: Any) -> None:
        tokens = self.make_tokens()[:1].expand(self.images, -1, -1)
        logits = self.logits(model, tokens)
        assert (logits[0, 0, 0] - logits[1, 0, 0]).abs().max() > 10 * self.tolerance

    def test_captions_share_an_image_without_touching_each_other(self, model: Any) -> None:
        tokens = self.make_tokens()
        memory = model.encode(self.make_features(), self.make_masks())
        together = model(memory, tokens)
        for i in range(tokens.shape[1]):
            alone = tokens[:, i : i + 1]
            self.same(together[:, i : i + 1], model(memory, alone), self.real(alone))

    def test_images_do_not_touch_each_other(self, model: Any) -> None:
        tokens, features, masks = self.make_tokens(), self.make_features(), self.make_masks()
        together = self.logits(model, tokens)
        for i in range(self.images):
            one = {k: x[i : i + 1] for k, x in features.items()}
            memory = model.encode(one, {k: x[i : i + 1] for k, x in masks.items()})
            alone = model(memory, tokens[i : i + 1])
            self.same(together[i : i + 1], alone, self.real(tokens[i : i + 1]))

    def test_a_later_word_changes_nothing_before_it(self, model: Any) -> None:
        tokens = self.make_tokens()
        changed = tokens.clone()
        changed[0, 0, 4:] = self.plain_words()[-1]
        before, after = self.logits(model, tokens), self.logits(model, changed)
        self.same(before[:1, :1, :4], after[:1, :1, :4], self.real(tokens)[:1, :1, :4])

    def test_padded_rows_have_no_influence(self, model: Any) -> None:
        tokens, features, masks = self.make_tokens(), self.make_features(), self.make_masks()
        changed = dict(features)
        for role in set(masks) - self.unpadded:
            noise = 5 + features[role].abs() * 3
            changed[role] = torch.where(masks[role][..., None], features[role], noise)
        before = model(model.encode(features, masks), tokens)
        self.same(before, model(model.encode(changed, masks), tokens), self.real(tokens))

    def test_more_padding_has_no_influence(self, model: Any) -> None:
        tokens, features, masks = self.make_tokens(), self.make_features(), self.make_masks()
        longer, real = dict(features), dict(masks)
        for role in set(masks) - self.fixed - self.unpadded:
            if self.tied(role):
                continue
            longer[role] = torch.nn.functional.pad(features[role], (0, 0, 0, 3))
            real[role] = torch.nn.functional.pad(masks[role], (0, 3))
        before = model(model.encode(features, masks), tokens)
        self.same(before, model(model.encode(longer, real), tokens), self.real(tokens))

    def tied(self, role: str) -> bool:
        """Whether ``role`` must keep as many rows as a fixed role (e.g. boxes as regions)."""
        return bool(self.fixed) and role == "boxes"

    def test_whole_rows_need_no_mask(self, model: Any) -> None:
        tokens, features = self.make_tokens(), self.make_features()
        whole = {role: torch.ones_like(mask) for role, mask in self.make_masks().items()}
        with_masks = model(model.encode(features, whole), tokens)
        self.same(with_masks, model(model.encode(features, {}), tokens), self.real(tokens))

    def test_an_image_without_any_real_row_stays_finite(self, model: Any) -> None:
        masks = self.make_masks()
        for mask in masks.values():
            mask[0] = False
        features = self.make_features()
        for role, mask in masks.items():
            features[role] = features[role] * mask[..., None]
        assert torch.isfinite(model(model.encode(features, masks), self.make_tokens())).all()

    def test_step_by_step_equals_teacher_forcing(self, model: Any) -> None:
        tokens = self.make_tokens()
        memory = model.encode(self.make_features(), self.make_masks())
        forced, real = model(memory, tokens), self.real(tokens)
        state = model.start(memory, tokens.shape[1])
        for t in range(tokens.shape[2]):
            logits, state = model.step(memory, state, tokens[..., t], t)
            self.same(forced[:, :, t], logits, real[..., t])

    def test_state_follows_the_hypotheses(self, model: Any) -> None:
        tokens, order = self.make_tokens(longest=5), torch.tensor([2, 0, 0])
        tokens[tokens == self.words.pad] = self.plain_words()[-1]
        tokens[..., 0] = self.words.bos
        memory = model.encode(self.make_features(), self.make_masks())
        straight = self.walk(model, memory, tokens[:, order])
        state = model.start(memory, 3)
        for t in range(3):
            _, state = model.step(memory, state, tokens[..., t], t)
        state = {name: x[:, order] for name, x in state.items()}
        for t in range(3, 5):
            logits, state = model.step(memory, state, tokens[:, order, t], t)
            torch.testing.assert_close(logits, straight[t], atol=self.tolerance, rtol=0)

    def test_a_step_does_not_change_the_state_it_was_given(self, model: Any) -> None:
        tokens = self.make_tokens()
        memory = model.encode(self.make_features(), self.make_masks())
        state = model.start(memory, tokens.shape[1])
        _, state = model.step(memory, state, tokens[..., 0], 0)
        kept = {name: x.clone() for name, x in state.items()}
        one, _ = model.step(memory, state, tokens[..., 1], 1)
        two, _ = model.step(memory, state, tokens[..., 1], 1)
        assert torch.equal(one, two)
        assert set(kept) == set(state)
        assert all(torch.equal(kept[name], state[name]) for name in kept)

    def test_attention_sums_to_one_over_real_rows(self, model: Any) -> None:
        tokens, masks = self.make_tokens(), self.make_masks()
        memory = model.encode(self.make_features(), masks)
        looks = model.attend(memory, tokens)
        assert set(looks) <= set(self.dims)
        real = self.real(tokens)
        total = torch.zeros(tokens.shape)
        for role, weights in looks.items():
            rows = self.rows.get(role, 1)
            assert weights.shape == (*tokens.shape, rows)
            assert weights[real].min() >= 0
            if role in masks and role not in self.unpadded:
                assert (weights * ~masks[role][:, None, None])[real].abs().max() < 1e-6
            total = total + weights.sum(-1)
        if looks:  # each role sums to one, or all roles of a joined sequence together do
            sums = total[real]
            expected = sums.round().clamp_min(1)
            torch.testing.assert_close(sums, expected, atol=1e-4, rtol=0)

    def test_double_precision_agrees_and_half_precision_features_are_taken(
        self, model: Any
    ) -> None:
        tokens, features, masks = self.make_tokens(), self.make_features(), self.make_masks()
        short = {role: x.half() for role, x in features.items()}
        single = model(model.encode(short, masks), tokens)
        assert single.dtype == torch.float32
        double = model.double()(model.encode(short, masks), tokens)
        assert double.dtype == torch.float64
        self.same(single.double(), double, self.real(tokens), 10 * self.tolerance)

    def test_new_tensors_live_where_the_inputs_live(self, model: Any) -> None:
        tokens, features, masks = self.make_tokens(), self.make_features(), self.make_masks()
        usual = model(model.encode(features, masks), tokens)
        with torch.device("meta"):  # a tensor made without a device would land here and not mix
            memory = model.encode(features, masks)
            logits = model(memory, tokens)
            state = model.start(memory, tokens.shape[1])
            step, _ = model.step(memory, state, tokens[..., 0], 0)
        self.same(usual, logits, self.real(tokens))
        assert step.device.type == "cpu"

    def test_the_state_dict_is_everything(self, model: Any) -> None:
        tokens = self.make_tokens()
        torch.manual_seed(1234)
        kind = plugins.load(heads, self.head)
        other = kind(build(kind.Config, self.options), dict(self.dims), self.words).eval()
        other.load_state_dict({k: v.clone() for k, v in model.state_dict().items()})
        assert torch.equal(self.logits(model, tokens), self.logits(other, tokens))

    def test_every_parameter_learns(self, model: Any) -> None:
        tokens = self.make_tokens()
        with torch.enable_grad():
            memory = model.train().encode(self.make_features(), self.make_masks())
            model(memory, tokens)[self.real(tokens)].logsumexp(-1).sum().backward()
        idle = [
            name
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and parameter.grad is None and not name.endswith(self.idle)
        ]
        assert not idle

    # Shared steps.

    def logits(self, model: Any, tokens: Tensor) -> Tensor:
        """Encode the standard features and run teacher forcing."""
        found: Tensor = model(model.encode(self.make_features(), self.make_masks()), tokens)
        return found

    def walk(self, model: Any, memory: Memory, tokens: Tensor) -> list[Tensor]:
        """Step through all tokens; the logits of every step."""
        state: State = model.start(memory, tokens.shape[1])
        found = []
        for t in range(tokens.shape[2]):
            logits, state = model.step(memory, state, tokens[..., t], t)
            found.append(logits)
        return found

    def same(self, a: Tensor, b: Tensor, real: Tensor, tolerance: float | None = None) -> None:
        """Equal where ``real``; (..., V) against (...)."""
        torch.testing.assert_close(
            a[real], b[real], atol=tolerance or self.tolerance, rtol=self.tolerance
        )


class DatasetFormatContract:
    """What every annotation format promises (``precap.store.datasets.contract.Format``).

    Subclass it, set ``format`` (plugin name) and ``expected`` (id -> split and captions), and write
    a small source with its pictures in ``make_source``; ``make_escape`` writes the same source with
    one more image, whose path is ``../outside.jpg``, or returns None where there are no paths.
    """

    format: ClassVar[str]
    expected: ClassVar[Mapping[str, tuple[str, list[str]]]]

    def make_source(self, folder: Path) -> Path:
        raise NotImplementedError

    def make_escape(self, folder: Path) -> Path | None:
        raise NotImplementedError

    @pytest.fixture
    def source(self, tmp_path: Path) -> Path:
        return self.make_source(tmp_path / "source")

    def test_it_alone_recognises_its_content(self, source: Path) -> None:
        assert sources.detect(self.document(source)) == self.format

    def test_images_splits_and_captions_arrive(self, source: Path, tmp_path: Path) -> None:
        report = prepare(source, tmp_path / "out")
        assert report.format == self.format
        found = load(tmp_path / "out")
        assert {i.id: (i.split, i.captions) for i in found.items} == self.expected
        assert all(ref.path.is_file() for ref in found.images())

    def test_naming_the_format_changes_nothing(self, source: Path, tmp_path: Path) -> None:
        prepare(source, tmp_path / "one")
        prepare(source, tmp_path / "two", format=self.format)
        assert load(tmp_path / "one").items == load(tmp_path / "two").items

    def test_preparing_again_gives_the_same_bytes(self, source: Path, tmp_path: Path) -> None:
        out = tmp_path / "out"
        prepare(source, out)
        first = {path.name: path.read_bytes() for path in out.iterdir()}
        prepare(source, out)
        assert {path.name: path.read_bytes() for path in out.iterdir()} == first

    def test_a_way_out_of_the_root_is_refused_and_counted(self, tmp_path: Path) -> None:
        source = self.make_escape(tmp_path / "source")
        if source is None:
            return
        report = prepare(source, tmp_path / "out")
        assert report.problems["path_escape"]["count"] == 1
        assert report.read["images"] == len(self.expected) + 1
        assert set(load(tmp_path / "out").ids()) == set(self.expected)

    def test_the_counts_add_up(self, source: Path, tmp_path: Path) -> None:
        report = prepare(source, tmp_path / "out")
        captions = [text for _, texts in self.expected.values() for text in texts]
        assert report.read == {"images": len(self.expected), "captions": len(captions)}
        assert sum(report.images.values()) == len(self.expected)
        assert sum(report.captions.values()) == len(captions)

    def document(self, source: Path) -> Document:
        if source.is_dir():
            return Document(source)
        return sources.open_document(source, None, Problems())


class ShardContract:
    """What every storage backend promises (``precap.store.backends.contract.Shard``).

    Subclass it and set ``backend`` (plugin name).
    """

    backend: ClassVar[str]
    compressions: ClassVar[tuple[Compression, ...]] = ("none", "zstd", "blosc")

    # What the tests are made of; override where a backend needs other inputs.

    def make_content(self, images: int = 5, rows: int = 3) -> Content:
        """A shard of fixed, ragged and quantised fields; ``rows`` per image of the ragged ones."""
        draw = np.random.default_rng(3)
        lengths = (np.arange(images) % 3) * rows
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        arrays = {
            "fields/grid": draw.normal(size=(images, 4, 6)).astype(np.float16),
            "fields/regions": draw.normal(size=(int(offsets[-1]), 6)).astype(np.float32),
            "offsets/regions": offsets,
            "fields/pooled": draw.integers(-127, 128, (images, 6)).astype(np.int8),
            "scales/pooled": draw.random(images).astype(np.float32),
            "fields/mask": draw.random((images, 3)) < 0.5,
            "fields/zeros": np.zeros((images, 2), np.int64),
            "digests": draw.integers(0, 2**63, images).astype(np.uint64),
        }
        texts = {"ids": [f"ä{n}" * n for n in range(1, images + 1)], "absent": ["x" * 300] * 2}
        return Content(arrays, texts, {"spec": {"views": 1}, "shard": 7, "none": None})

    def shard(self) -> Any:
        """The backend."""
        return plugins.load(backends, self.backend)()

    def write(self, folder: Path, content: Content, compression: Compression = "none") -> Path:
        """A shard on disk."""
        path = folder / f"000000{self.shard().suffix}"
        files.publish(path, self.shard().build(content, compression).files)
        return path

    @pytest.mark.parametrize("rows", [0, 3])
    @pytest.mark.parametrize("images", [0, 1, 5])
    def test_what_is_written_is_read(self, tmp_path: Path, images: int, rows: int) -> None:
        for compression in self.compressions:
            content = self.make_content(images, rows)
            folder = tmp_path / compression
            folder.mkdir()
            opened = self.shard().open(self.write(folder, content, compression))
            assert opened.names() == sorted(content.arrays)
            for name, array in content.arrays.items():
                found = opened.array(name)
                assert found.dtype == array.dtype
                assert np.array_equal(found[...], array)
            for name, values in content.texts.items():
                assert opened.texts(name) == values
            assert content.attributes.items() <= dict(opened.attributes).items()
            opened.close()

    def test_the_same_content_gives_the_same_bytes(self, tmp_path: Path) -> None:
        for compression in self.compressions:
            for folder in (tmp_path / f"{compression}-a", tmp_path / f"{compression}-b"):
                folder.mkdir()
                self.write(folder, self.make_content(), compression)
            a, b = (files.digest_of(self.path_in(tmp_path / f"{compression}-{x}")) for x in "ab")
            assert a == b

    def path_in(self, folder: Path) -> Path:
        """The shard in a folder."""
        return folder / f"000000{self.shard().suffix}"

    def test_building_neither_copies_nor_touches_the_disk(self, tmp_path: Path) -> None:
        content = self.make_content()
        image = self.shard().build(content, "none")
        pieces = [data for parts, _ in image.files.values() for _, data in parts]
        for name, array in content.arrays.items():
            if name.startswith("fields/"):
                assert any(np.shares_memory(array, p) for p in pieces if isinstance(p, np.ndarray))
        assert not list(tmp_path.iterdir())

    def test_extents_are_where_the_bytes_lie(self, tmp_path: Path) -> None:
        content = self.make_content()
        image = self.shard().build(content, "none")
        path = self.write(tmp_path, content)
        opened = self.shard().open(path)
        assert {n for n, a in content.arrays.items() if a.size} == set(image.extents)
        assert image.extents == {n: e for n, e in opened.extents().items() if n in content.arrays}
        for name, extent in image.extents.items():
            array = content.arrays[name]
            data = (path / extent.file if extent.file else path).read_bytes()
            assert data[extent.offset : extent.offset + array.nbytes] == array.tobytes()

    def test_compressed_fields_have_no_extent(self) -> None:
        content = self.make_content()
        for compression in self.compressions[1:]:
            image = self.shard().build(content, compression)
            assert not [name for name in image.extents if name.startswith("fields/")]

    def test_the_digest_read_is_the_digest_written(self, tmp_path: Path) -> None:
        path = self.path_in(tmp_path)
        written = files.publish(path, self.shard().build(self.make_content(), "none").files)
        assert files.digest_of(path) == written
        assert files.size_of(path) == written[1]

    def test_a_leftover_of_an_earlier_attempt_is_replaced(self, tmp_path: Path) -> None:
        self.write(tmp_path, self.make_content(images=1))
        self.write(tmp_path, self.make_content())
        opened = self.shard().open(self.path_in(tmp_path))
        assert len(opened.texts("ids")) == 5
        opened.close()
        assert [p.name for p in tmp_path.iterdir()] == [self.path_in(tmp_path).name]

    def test_a_torn_file_is_an_error(self, tmp_path: Path) -> None:
        path = self.write(tmp_path, self.make_content())
        victim = path / "zarr.json" if path.is_dir() else path
        victim.write_bytes(victim.read_bytes()[:100])
        with pytest.raises((OSError, ValueError)):
            self.shard().open(path)

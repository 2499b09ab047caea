"""Full adapters: transformers agrees about what one is, bad ones are refused, and each row keeps its own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from shop import Shop
from transformers import AutoModelForCausalLM

from fleet.engine.adapters import Adapter, AdapterBank
from fleet.engine.base import load_base
from fleet.engine.batch import Batch
from fleet.engine.body import Body, load_body, save_body
from fleet.engine.constraint import ConstraintCompiler
from fleet.engine.evaluate import answer_examples, row_losses
from fleet.engine.expert import ExpertCard, check_fits, golden_prompts, read_expert, self_check, write_expert
from fleet.engine.gemma import FINAL_NORM, Gemma
from fleet.engine.prompt import Renderer, seal
from fleet.engine.specs import Example, FullSpec, LabelSpec, LoraSpec, PromptSpec, TaskSpec, TextSpec
from fleet.engine.testing import write_tiny_base
from fleet.errors import ArtifactError, DigestError, SealError

FULL = FullSpec((2, 6))
LABELS = LabelSpec(("good", "goodish", "bad"))
SPEC = TaskSpec("toy", PromptSpec(suffix="\n\nToy:"), LABELS, "accuracy", FULL)


@pytest.fixture(scope="module")
def model(tiny_base_folder: Path) -> Gemma:
    return Gemma.load(tiny_base_folder, dtype=torch.float32)


def random_body(model: Gemma, full: FullSpec, seed: int) -> Body:
    """The base's layers and some noise, rounded to bf16 as the files are."""
    generator = torch.Generator().manual_seed(seed)
    return Body(
        full,
        {
            name: (t + 0.05 * torch.randn(t.shape, generator=generator)).bfloat16().float()
            for name, t in model.own_weights(full.layers).items()
        },
    )


def last_logits(model: Gemma, ids: list[int], bank: AdapterBank, slot: int) -> torch.Tensor:
    model, batch = bank.model(model, slot), Batch.of([len(ids)])
    with torch.no_grad():
        h = model.run(
            model.embed(torch.tensor(ids)),
            batch,
            (0, model.config.layers),
            adapters=bank.select([slot], batch, dtype=model.dtype),
        )
        return model.logits(model.norm(h))


IDS = [2, *range(300, 320)]


@pytest.mark.parametrize("layers", [(2, 6), (0, 6), (1, 4)], ids=str)
def test_transformers_loads_base_and_body_and_gives_our_logits(
    model: Gemma, tiny_base_folder: Path, tmp_path: Path, layers: tuple[int, int]
) -> None:
    body = random_body(model, FullSpec(layers), 7)
    save_body(tmp_path, body, "tiny")
    theirs = AutoModelForCausalLM.from_pretrained(tiny_base_folder, dtype=torch.float32).eval()
    stored = load_file(tmp_path / "body.safetensors")
    assert {t.dtype for t in stored.values()} == {torch.bfloat16}
    assert (FINAL_NORM in stored) == (layers[1] == 6)
    assert theirs.load_state_dict(stored, strict=False).unexpected_keys == []
    bank = AdapterBank.alone(model, load_body(tmp_path))
    with torch.no_grad():
        wanted = theirs(torch.tensor([IDS])).logits[0]
    torch.testing.assert_close(last_logits(model, IDS, bank, 0), wanted, atol=2e-4, rtol=1e-3)
    assert not torch.allclose(wanted, last_logits(model, IDS, bank, -1), atol=1e-2)


def test_the_base_s_own_layers_change_nothing(model: Gemma) -> None:
    bank = AdapterBank.alone(model, Body.of(model, FULL))
    torch.testing.assert_close(last_logits(model, IDS, bank, 0), last_logits(model, IDS, bank, -1))


def test_a_trained_copy_is_not_the_base(model: Gemma) -> None:
    before = last_logits(model, IDS, AdapterBank.alone(model, Body.of(model, FULL)), -1)
    bank = AdapterBank(model.config, 1, 0, FULL.layers, dtype=torch.float32)
    bank.train_body(0, Body.of(model, FULL))
    with torch.no_grad():
        for leaf in bank.parameters(0).values():
            leaf.mul_(1.5)
    assert torch.equal(last_logits(model, IDS, bank, -1), before)
    assert not torch.allclose(last_logits(model, IDS, bank, 0), before, atol=1e-2)


def test_a_reloaded_slot_forgets_the_body_before(model: Gemma) -> None:
    one, other = (random_body(model, FULL, seed) for seed in (1, 2))
    bank = AdapterBank.alone(model, one)
    first = last_logits(model, IDS, bank, 0)
    bank.load(0, other)
    fresh = last_logits(model, IDS, AdapterBank.alone(model, other), 0)
    assert torch.equal(last_logits(model, IDS, bank, 0), fresh)
    assert not torch.allclose(first, fresh, atol=1e-2)
    bank.clear(0)
    assert torch.equal(last_logits(model, IDS, bank, 0), last_logits(model, IDS, bank, -1))


Tensors = dict[str, torch.Tensor]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda t: {**t, FINAL_NORM: t[FINAL_NORM] * math.nan}, "NaN"),
        (lambda t: {k: v[..., :-1] for k, v in t.items()}, "shape"),
        (lambda t: dict(list(t.items())[1:]), "not those of its config"),
        (lambda t: {**t, "model.embed_tokens.weight": torch.ones(2, 2)}, "not those of its config"),
    ],
    ids=["nan", "shape", "missing", "stray"],
)
def test_a_poisoned_body_is_refused_and_its_slot_left_alone(
    model: Gemma, spoil: Callable[[Tensors], Tensors], message: str
) -> None:
    good = random_body(model, FULL, 1)
    bank = AdapterBank.alone(model, good)
    with pytest.raises(ArtifactError, match=message):
        bank.load(0, Body(FULL, spoil(dict(good.tensors))))
    assert all(torch.equal(t, good.tensors[name]) for name, t in bank.parameters(0).items())


def test_a_body_of_a_deeper_base_is_refused(model: Gemma, tmp_path: Path) -> None:
    deeper = Gemma.load(write_tiny_base(tmp_path, layers=9), dtype=torch.float32)
    with pytest.raises(ArtifactError, match="another base"):
        AdapterBank.alone(model, Body.of(deeper, FullSpec((2, 9))))


class Made:
    """An artifact on disk and what it was made of."""

    def __init__(self, base_folder: Path, folder: Path) -> None:
        self.base = load_base(base_folder, dtype=torch.float32)
        self.body = random_body(self.base.model, FULL, 3)
        self.bank = AdapterBank.alone(self.base.model, self.body)
        self.card = ExpertCard(
            task="toy",
            manifest={},
            manifest_digest="m",
            data_digest="d",
            base_fingerprint=self.base.fingerprint,
            seal=seal(Renderer.of(self.base.tokenizer), SPEC),
            temperature=1.0,
            metrics={},
            golden=golden_prompts(self.base, self.bank, 0, SPEC, ["one job", "another"]),
        )
        self.folder = folder
        self.digest = write_expert(folder, self.body, self.card, "tiny")

    def copy(self, folder: Path, leave_out: str = "") -> Path:
        for file in self.folder.iterdir():
            if file.name != leave_out:
                (folder / file.name).write_bytes(file.read_bytes())
        return folder


@pytest.fixture(scope="module")
def made(tiny_base_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tiny_base_folder, tmp_path_factory.mktemp("expert") / "artifact")


def test_what_was_written_is_read_fits_and_behaves(made: Made) -> None:
    names = sorted(path.name for path in made.folder.iterdir())
    assert names == ["body.json", "body.safetensors", "expert.json"]
    body, card = read_expert(made.folder, digest=made.digest)
    assert isinstance(body, Body)
    assert (body.full, card) == (FULL, made.card)
    assert all(torch.equal(body.tensors[name].float(), t) for name, t in made.body.tensors.items())
    check_fits(made.base, SPEC, card)
    bank = AdapterBank.alone(made.base.model, body)
    self_check(made.base, bank, 0, SPEC, card)
    bank.load(0, random_body(made.base.model, FULL, 4))
    with pytest.raises(ArtifactError, match="not the weights that were evaluated"):
        self_check(made.base, bank, 0, SPEC, card)


@pytest.mark.parametrize("name", ["body.json", "body.safetensors", "expert.json"])
def test_altered_cut_and_missing_files_are_refused(made: Made, name: str, tmp_path: Path) -> None:
    folder = made.copy(tmp_path)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    with pytest.raises(DigestError, match="altered"):
        read_expert(folder, digest=made.digest)
    for damage in (content[:-10], content[:3], b""):
        (folder / name).write_bytes(damage)
        with pytest.raises(ArtifactError, match="cannot be read"):
            read_expert(folder)
    (folder / name).unlink()
    with pytest.raises(ArtifactError, match="cannot be read"):
        read_expert(folder)


@pytest.mark.parametrize(
    "change", [{"format": 9}, {"layers": [6, 2]}, {"layers": [2]}, {"layers": "all"}, {"layers": None}]
)
def test_a_description_that_makes_no_sense_is_refused(
    made: Made, change: dict[str, object], tmp_path: Path
) -> None:
    folder = made.copy(tmp_path)
    described = json.loads((folder / "body.json").read_text())
    (folder / "body.json").write_text(json.dumps({**described, **change}))
    with pytest.raises(ArtifactError, match="cannot be read"):
        load_body(folder)


def test_nan_in_a_file_and_another_base_are_refused(made: Made, tmp_path: Path) -> None:
    (tmp_path / "nan").mkdir()
    folder = made.copy(tmp_path / "nan")
    tensors = load_file(folder / "body.safetensors")
    tensors[FINAL_NORM][3] = math.inf
    save_file(tensors, folder / "body.safetensors")
    with pytest.raises(ArtifactError, match=f"{FINAL_NORM} holds NaN"):
        AdapterBank.alone(made.base.model, read_expert(folder)[0])
    other = load_base(write_tiny_base(tmp_path / "other", seed=5), dtype=torch.float32)
    with pytest.raises(SealError, match="trained over base"):
        check_fits(other, SPEC, made.card)


def test_a_file_that_changes_afterwards_changes_no_answer(made: Made, tmp_path: Path) -> None:
    folder = made.copy(tmp_path)
    body, _ = read_expert(folder)
    before = {name: t.clone() for name, t in body.tensors.items()}
    content = bytearray((folder / "body.safetensors").read_bytes())
    content[-64:] = bytes(64)
    with (folder / "body.safetensors").open("r+b") as file:
        file.write(content)
    assert all(torch.equal(t, before[name]) for name, t in body.tensors.items())


@pytest.fixture(scope="module")
def shop(tiny_base_folder: Path) -> Shop:
    """Three LoRA experts, and two full ones, of which the last has the trunk's layers too."""
    shop = Shop(tiny_base_folder)
    model = shop.base.model
    bank = AdapterBank(model.config, 5, 4, (0, 6), dtype=torch.float32)
    for slot in range(3):
        bank.load(slot, shop.bank.adapter(slot))
    bank.load(3, random_body(model, FULL, 3))
    bank.load(4, random_body(model, FullSpec((0, 5)), 4))
    shop.bank, shop.firsts = bank, [*shop.firsts, 2, 0]
    return shop


JOB = st.tuples(
    st.sampled_from([LABELS, TextSpec()]),
    st.sampled_from(["Anna met Bo", "héllo 🦊 wörld", "a", "good bad " * 9]),
    st.integers(-1, 4),
)


@settings(max_examples=15, deadline=None)
@given(st.lists(JOB, min_size=1, max_size=7), st.integers(1, 5))
def test_lora_full_and_bare_jobs_in_one_batch_are_each_alone(
    shop: Shop, jobs: list[tuple[LabelSpec | TextSpec, str, int]], rows: int
) -> None:
    together = shop.run([shop.request(str(i), *job) for i, job in enumerate(jobs)], max_rows=rows)
    for i, job in enumerate(jobs):
        (alone,) = shop.run([shop.request("alone", *job)])
        assert together[i].value == alone.value
        assert math.isclose(together[i].confidence, alone.confidence, rel_tol=1e-3, abs_tol=1e-9)


@pytest.mark.parametrize("slot", [3, 4])
def test_a_full_expert_answers_as_its_whole_model_would(shop: Shop, slot: int) -> None:
    """From trunk states and a cache: the same first token as all tokens through the expert's own model."""
    for job in ("Anna met Bo in the rain", "no"):
        (got,) = shop.run([shop.request("x", TextSpec(), job, slot, limit=1)])
        ids = [*shop.renderer.job_ids(job), *shop.renderer.suffix_ids("\n\nAnswer:")]
        scores = last_logits(shop.base.model, ids, shop.bank, slot)[-1]
        constraint = shop.compiler.start(TextSpec(), job)
        mask = constraint.mask()
        assert mask is not None
        best = scores[: len(mask)].masked_fill(~mask[: len(scores)], -math.inf)
        assert math.isclose(got.confidence, float(best.softmax(-1).max()), rel_tol=1e-3)


def test_a_nan_body_fails_alone(shop: Shop) -> None:
    expected = [c.value for c in shop.run([shop.request(str(i), LABELS, f"t {i}", i) for i in range(3)])]
    kept = shop.bank.adapter(3)
    broken = {name: t.clone() for name, t in kept.tensors.items()}
    for t in broken.values():
        t.fill_(3e38)  # finite, and overflows in the first product
    shop.bank.load(3, Body(FULL, broken))
    try:
        requests = [shop.request(str(i), LABELS, f"t {i}", i) for i in range(4)]
        *fine, bad = shop.run(requests)
        assert "NaN" in str(bad.error)
        assert [c.value for c in fine] == expected
    finally:
        shop.bank.load(3, kept)


def test_losses_are_the_body_s_own(made: Made) -> None:
    rows = [Example({"text": f"row {i}"}, "good") for i in range(3)]
    own, counts = row_losses(made.base, made.bank, 0, SPEC, rows)
    bare, _ = row_losses(made.base, None, -1, SPEC, rows)
    assert (own > 0).all()
    assert (counts > 0).all()
    assert abs(own - bare).max() > 1e-3
    again = AdapterBank.alone(made.base.model, Body.of(made.base.model, FULL))
    assert abs(row_losses(made.base, again, 0, SPEC, rows)[0] - bare).max() < 1e-4


def test_a_bank_takes_either_kind_into_any_slot(model: Gemma) -> None:
    bank = AdapterBank(model.config, 1, 4, (2, 6), dtype=torch.float32)
    body = random_body(model, FullSpec((0, 6)), 1)
    bank.load(0, body)
    assert (bank.holds(0), bank.pass_of(0)) == (True, 0)
    assert isinstance(bank.adapter(0), Body)
    bank.initialise(0, LoraSpec(4, 8.0, (2, 6)), 0)
    assert (bank.holds(0), bank.pass_of(0)) == (True, -1)
    assert isinstance(bank.adapter(0), Adapter)
    assert bank.model(model, 0) is model
    bank.clear(0)
    assert not bank.holds(0)


def test_int4_decoding_leaves_a_full_expert_its_own_weights(tiny_base_folder: Path) -> None:
    base = load_base(tiny_base_folder)
    decoder = base.model.int4()
    bank = AdapterBank.alone(base.model, random_body(base.model, FullSpec((0, 6)), 3))
    batch = Batch.of([len(IDS)])
    with torch.no_grad():
        h = base.model.embed(torch.tensor(IDS))
        plain, light = (
            bank.model(m, 0).norm(bank.model(m, 0).run(h, batch, (0, 6))) for m in (base.model, decoder)
        )
        assert torch.equal(plain, light)
        assert not torch.equal(decoder.run(h, batch, (0, 6)), base.model.run(h, batch, (0, 6)))
    spec = TaskSpec(
        "t", PromptSpec(suffix=":"), TextSpec(), "perplexity", FullSpec((0, 6)), max_output_tokens=6
    )
    compiler = ConstraintCompiler(base.tokenizer)
    jobs = [Example({"text": "tell me"}, ""), Example({"text": "and then"}, "")]
    for completion in answer_examples(base, bank, 0, spec, jobs, compiler, decoder=decoder):
        assert completion.error is None
        assert completion.tokens > 1

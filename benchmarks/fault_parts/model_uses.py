"""Each use of a model of any architecture, held against transformers and PEFT alone.

In: a tiny checkpoint. Out: nothing, or what is not right first, raised. Invariant: what is
compared with is read without a cache and without this project's code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.fault_parts import tiny
from rnr_dist.config.training import Training
from rnr_dist.types import Adapter, ModelRef, TokenSequence

TOLERANCE = 2e-4  # of fp32 logits of size 1 to 10
T, T0, N = 24, 10, 3  # of given sequences; a window of 8 is shorter than all of these


@dataclass(frozen=True)
class Place:
    """A checkpoint that is tried, its kind, and a folder for what comes of it."""

    kind: tiny.Kind
    checkpoint: Path
    folder: Path = field(hash=False)

    def load(self, folder: Path | None = None) -> Any:
        from transformers import AutoModelForCausalLM

        return AutoModelForCausalLM.from_pretrained(folder or self.checkpoint).eval()

    @property
    def base(self) -> ModelRef:
        from rnr_dist.weights.checkpoints import checkpoint_digest

        return ModelRef(str(self.checkpoint), checkpoint_digest(self.checkpoint))


def sequences(count: int = 4, length: int = T) -> list[tuple[int, ...]]:
    drawn = np.random.default_rng(0).integers(3, tiny.VOCABULARY, (count, length))
    return [tuple(row) for row in drawn.tolist()]


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    found: torch.Tensor = model.eval()(torch.tensor(sequences(2))).logits
    return found


@torch.no_grad()
def greedy(model: Any, starts: list[tuple[int, ...]], ends: list[int]) -> list[tuple[int, ...]]:
    """What follows each start up to so many tokens in all; everything is read anew each time.

    Rows of one length are read together, so that none is padded.
    """
    rows = [list(start) for start in starts]
    for length in range(1, max(ends)):
        going = [
            row
            for row, start, end in zip(rows, starts, ends, strict=True)
            if len(row) == length < end and (len(row) == len(start) or row[-1] != 1)
        ]
        if going:
            told = model(torch.tensor(going), use_cache=False).logits[:, -1].argmax(-1)
            for row, token in zip(going, told.tolist(), strict=True):
                row.append(token)
    return [tuple(row[len(start) :]) for row, start in zip(rows, starts, strict=True)]


def differ(one: Any, other: Any) -> float:
    return float(np.abs(np.asarray(one) - np.asarray(other)).max())


def near(what: str, one: Any, other: Any) -> None:
    """Raises AssertionError where they are further apart than fp32 explains."""
    gap = differ(one, other)
    if not gap < TOLERANCE:
        raise AssertionError(f"{what} differ by {gap:.2g}")


class GivenSoft:
    """An arm table whose soft prompts are the embeddings of given tokens."""

    def __init__(self, rows: list[np.ndarray]):
        self.rows = rows

    def soft_prompt(self, arm: int) -> np.ndarray:
        return self.rows[arm]


def embeddings(place: Place) -> None:
    """A prompt of embeddings against that of tokens: logits, features of arms, what is said."""
    from rnr_dist.generate.decoding import Bounds, Decoder
    from rnr_dist.generate.requests import Generate
    from rnr_dist.reveal.embeddings import InputEmbeddings
    from rnr_dist.reveal.instructions import FeatureReader, arm_features
    from rnr_dist.types import SamplingSettings

    model = place.load()
    reader = FeatureReader(str(place.checkpoint), "float32", False)
    table, prompts = InputEmbeddings(reader), sequences()
    rows = [table.of(ids) for ids in prompts]
    with torch.no_grad():
        given = model(inputs_embeds=torch.tensor(np.stack(rows))).logits
        near("logits", given, model(torch.tensor(prompts)).logits)
        states = model.base_model(torch.tensor(prompts)).last_hidden_state[:, -1]
    for before in (0, 12):
        soft = GivenSoft([row[before : before + 5] for row in rows])
        after = [ids[before + 5 :] for ids in prompts]
        if before:  # the same for all arms
            soft, after = GivenSoft([soft.rows[0]] * 2), after[:1] * 2
        numbers = list(range(len(after)))
        found = arm_features(reader, soft, numbers, prompts[0][:before], after)
        near("features", found, states[:1].expand(2, -1) if before else states)
    sampling = SamplingSettings(n=1, max_tokens=12, temperature=0.0, top_p=1.0)
    decoder = Decoder(model, Silent(), [1], Bounds(8, 4096, 96))
    asked = [prompt[: 10 + place] for place, prompt in enumerate(prompts)]
    told = decoder.continuations([Generate(sampling, ids) for ids in asked])
    soft_told = decoder.continuations(
        [Generate(sampling, embeddings=table.of(ids)) for ids in asked]
    )
    expected = greedy(model, asked, [len(ids) + 12 for ids in asked])
    for name, answers in (("tokens", told), ("embeddings", soft_told)):
        said = [answer.token_ids for [answer] in answers]
        if said != expected:
            raise AssertionError(f"from {name} the engine said {said}, the model says {expected}")


class Silent:
    """A tokenizer where no text is read."""

    def batch_decode(self, ids: Any, **options: Any) -> list[str]:
        return [""] * len(ids)


def trained(place: Place) -> Adapter:
    """An adapter after one step of the project's own LoRA, and one more that makes it large."""
    from rnr_dist.train.collate import Example, pad
    from rnr_dist.train.passes import token_nll
    from rnr_dist.train.trainable import make_trained
    from rnr_dist.weights.composition import adapter_digest

    folder = place.folder / "adapter"
    if not folder.exists():
        training = Training(target_modules=list(place.kind.targets), rank=4, alpha=8)
        torch.manual_seed(0)
        made = make_trained(place.load(), training, place.base, 0)
        rows = pad([Example(ids, T0) for ids in sequences()])
        weights = [value for value in made.model.parameters() if value.requires_grad]
        optimiser = torch.optim.AdamW(weights, 0.05)
        for _ in range(2):
            optimiser.zero_grad()
            token_nll(made, rows)[0].mean().backward()
            optimiser.step()
        folder.mkdir(parents=True)
        made.save(folder)
    return Adapter(str(folder), adapter_digest(folder), place.base.digest, "forget")


def training(place: Place) -> None:
    """A step's loss and gradients against transformers' own loss on the same rows."""
    from rnr_dist.train.collate import Example, pad
    from rnr_dist.train.passes import token_nll
    from rnr_dist.train.trainable import make_trained

    rows = pad([Example(ids, T0) for ids in sequences()])
    settings = Training(target_modules=list(place.kind.targets), rank=4, alpha=8)
    torch.manual_seed(0)
    made = make_trained(place.load(), settings, place.base, 0)
    loss = token_nll(made, rows)[0].mean()
    loss.backward()
    ups = {name: value for name, value in made.model.named_parameters() if "lora_B" in name}
    ours = {name: value.grad for name, value in ups.items()}
    made.model.zero_grad()
    theirs = made.model(input_ids=rows["input_ids"], labels=rows["labels"]).loss
    theirs.backward()
    near("losses", loss.detach(), theirs.detach())
    for name, gradient in ours.items():
        if gradient is None or not bool(gradient.abs().max() > 0):
            raise AssertionError(f"{name} learns nothing")
        near(f"gradients of {name}", gradient, ups[name].grad)
    matrices(place, rows)


def matrices(place: Place, rows: Any) -> None:
    """`parameters: matrices` saves what it changed, whichever way round the weights lie."""
    from rnr_dist.train.trainable import make_trained
    from rnr_dist.weights.composition import adapter_digest, add_to_model

    settings = Training(target_modules=list(place.kind.targets), parameters="matrices")
    made = make_trained(place.load(), settings, place.base, 0)
    with torch.no_grad():
        for value in made.model.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) * 0.05)
    folder = place.folder / "matrices"
    folder.mkdir(parents=True, exist_ok=True)
    made.save(folder)
    composed = place.load()
    adapter = Adapter(str(folder), adapter_digest(folder), "", "forget")
    add_to_model(composed, place.base.plus(1.0, adapter).terms)
    near("matrices", logits(made.model), logits(composed))


def by_peft(place: Place, coefficient: float) -> torch.Tensor:
    """Logits of the base with `coefficient` times the adapter, by PEFT alone."""
    from peft import PeftModel

    model = PeftModel.from_pretrained(place.load(), trained(place).path)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.mul_(coefficient)
    return logits(model)


def composition(place: Place) -> None:
    """Two terms of one adapter, in a loaded model and as a checkpoint, against PEFT."""
    from rnr_dist.weights.composition import add_to_model, materialise

    expected = by_peft(place, -1.5)
    if not differ(expected, logits(place.load())) > 100 * TOLERANCE:
        raise AssertionError("the adapter changes nothing")
    ref = place.base.plus(-2.0, trained(place)).plus(0.5, trained(place))
    composed = place.load()
    add_to_model(composed, ref.terms)
    near("composed logits", logits(composed), expected)
    materialise(ref, place.folder / "merged")
    near("logits of the merged checkpoint", logits(place.load(place.folder / "merged")), expected)


def recalled(place: Place) -> None:
    """An epoch's reading against generation from every prefix, everything read anew."""
    from rnr_dist.icu.torch_reader import TorchReader
    from rnr_dist.measures.memorisation import Counting, overlap, recall
    from rnr_dist.train.collate import Example, pad
    from rnr_dist.train.passes import label_losses, predicted
    from rnr_dist.train.passes import label_states as states_of

    model = place.load()
    ids = learnt(model, sequences(2))
    given = [TokenSequence(str(n), "", one, "", T0) for n, one in enumerate(ids)]
    found = recall(TorchReader(model, 1), given, Counting(N, eos=1))
    for one, read in zip(ids, found, strict=True):
        said = greedy(model, [one[:length] for length in range(1, T)], [T] * (T - 1))
        right = [told[0] == one[at] for at, told in enumerate(said, 1)]
        brute = [overlap(told, one[at:], N) for at, told in enumerate(said[: T - N], 1)]
        if list(read.matches) != right:
            raise AssertionError(f"MA {read.accuracy():.3f}, by brute force {np.mean(right):.3f}")
        if differ(read.overlaps, brute) > 1e-12:
            raise AssertionError(f"EL {read.extraction:.3f}, by brute force {np.mean(brute):.3f}")
        if read.continuation != said[T0 - 1]:
            raise AssertionError("its continuation is another")
    rows = pad([Example(one, T0) for one in ids])
    with torch.no_grad():
        targets = rows["labels"][:, 1:][predicted(rows)]
        states = states_of(model, rows).tensor_split(4)
        sums, _ = label_losses(model.get_output_embeddings(), states, targets)
        whole = model(input_ids=rows["input_ids"], labels=rows["labels"]).loss
        near("losses", sums / len(targets), whole)


def learnt(model: Any, drawn: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Sequences that the model recalls in parts: its own words, and every ninth another."""
    said = greedy(model, [one[:5] for one in drawn], [T] * len(drawn))
    known = [
        (*one[:5], *told, *one[5 + len(told) :]) for one, told in zip(drawn, said, strict=True)
    ]
    return [
        tuple(other if at % 9 == 0 or token == 1 else token for at, (token, other) in pairs)
        for pairs in (enumerate(zip(*both, strict=True)) for both in zip(known, drawn, strict=True))
    ]


def export(place: Place) -> None:
    """Both exports, loaded by transformers and PEFT alone."""
    from peft import PeftModel

    from rnr_dist.weights.export import Card, export_adapter, export_merged

    expected = by_peft(place, -1.5)
    ref, card = place.base.plus(-1.5, trained(place)), Card("x", "y")
    export_adapter(ref, place.folder / "exported", card)
    export_merged(ref, place.folder / "whole", card)
    loaded = PeftModel.from_pretrained(place.load(), place.folder / "exported")
    near("logits of the exported adapter", logits(loaded), expected)
    near("logits of the exported model", logits(place.load(place.folder / "whole")), expected)


USES: dict[str, Callable[[Place], None]] = {
    "embeddings": embeddings,
    "training": training,
    "composition": composition,
    "sequences": recalled,
    "export": export,
}

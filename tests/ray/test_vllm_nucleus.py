"""The nucleus inside vLLM: row i of the mask belongs to the request in row i of the batch."""

import random

import torch
from vllm import SamplingParams
from vllm.v1.sample.logits_processor import MoveDirectionality
from vllm.v1.sample.logits_processor.state import BatchUpdateBuilder

from rnr_dist.generate.vllm_nucleus import ExactNucleus


class PersistentBatch:
    """vLLM's input batch as it moves requests: a list of rows, each the request's p."""

    def __init__(self):
        self.rows = []
        self.builder = BatchUpdateBuilder()

    def step(self, draw, removed, added, swaps):
        """Remove, add into the lowest holes, close the others from the end, swap; as vLLM does."""
        for row in removed:
            self.rows[row] = None
            self.builder.removed_append(row)
        for p in added:
            row = self.builder.pop_removed()
            if row is None:
                row = len(self.rows)
                self.rows.append(None)
            self.rows[row] = p
            wanted = {"nucleus": p} if p < 1 else draw.choice([None, {}, {"other": 1}])
            params = SamplingParams(extra_args=wanted)
            self.builder.added.append((row, params, [1], []))
        while None in self.rows:
            if self.rows[-1] is None:
                self.rows.pop()
                continue
            hole = self.rows.index(None)
            assert self.builder.pop_removed() == hole
            self.builder.moved.append((len(self.rows) - 1, hole, MoveDirectionality.UNIDIRECTIONAL))
            self.rows[hole] = self.rows.pop()
        for _ in range(swaps if len(self.rows) > 1 else 0):
            one, other = draw.sample(range(len(self.rows)), 2)
            self.rows[one], self.rows[other] = self.rows[other], self.rows[one]
            self.builder.moved.append((one, other, MoveDirectionality.SWAP))
        return self.builder.get_and_reset(len(self.rows))


def test_rows_follow_their_requests_through_the_batch():
    draw = random.Random(0)
    batch, processor = PersistentBatch(), ExactNucleus(None, torch.device("cpu"), False)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        live = len(batch.rows)
        removed = (
            draw.sample(range(live), draw.randint(0, live // 2)) if draw.random() < 0.6 else []
        )
        added = [draw.choice([0.1, 0.5, 0.9, 1.0]) for _ in range(draw.choice([0, 0, 1, 3]))]
        update = batch.step(draw, removed, added, draw.choice([0, 0, 0, 1, 2]))
        processor.update_state(update)
        if not batch.rows:
            continue
        logits = torch.randn(len(batch.rows), 40, generator=generator)
        kept = (processor.apply(logits.clone()) > -torch.inf).sum(-1)
        for row, p in enumerate(batch.rows):
            ordered = torch.softmax(logits[row], -1).sort(descending=True).values
            above = ordered.cumsum(0) - ordered
            assert kept[row] == (40 if p == 1 else (above < p).sum())


def test_it_runs_after_temperature_and_never_changes_the_greedy_choice():
    assert ExactNucleus(None, torch.device("cpu"), False).is_argmax_invariant()

"""What a stage is handed, pretended: endpoint, scorer, bench, task, and a bandit without Ray.

Each has the interface of the real one (test_fakes.py compares them). Invariant: answers follow from
what was asked alone, but for what a test says otherwise.
"""

import asyncio
import contextlib
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from rnr_dist.config.schema import TaskSettings
from rnr_dist.generate.pool import EngineDiedError
from rnr_dist.generate.requests import Continuation, Generate, ReadLikelihood, Response
from rnr_dist.measures import perplexity as running_text
from rnr_dist.measures.continuations import Asked, sample_model
from rnr_dist.measures.fluency import FLUENCY, fluency_measures
from rnr_dist.measures.measure import Measures
from rnr_dist.measures.shares import Shares
from rnr_dist.release.reader import Reader
from rnr_dist.reveal.bandit_actor import BanditActor
from rnr_dist.tasks.prompts import query
from rnr_dist.train.materials import Materials
from rnr_dist.types import Adapter, Context, ModelRef, Split

MODEL = ModelRef("/base", "base")
FORGET, RETAIN = (Adapter(f"/{side}", side, "base", side) for side in ("forget", "retain"))

SHARES = Shares("fake", "rude", "bad", 0.5, target=True, judged=False)
INSIDE, OUTSIDE = (
    running_text.declare(name, f"perplexity {name}", "") for name in ("in_domain", "out_of_domain")
)
MEASURES = Measures((SHARES.fraction, INSIDE, OUTSIDE, *FLUENCY))


class Characters:
    """A tokenizer of one token a character."""

    eos_token_id = 127  # no text has it

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        return list(map(ord, text))

    def decode(self, ids: Any, **options: Any) -> str:
        return "".join(map(chr, ids))

    def get_vocab(self) -> dict[str, int]:
        return {chr(place): place for place in range(128)}


def contexts(split: Split, count: int, group: str = "rude") -> list[Context]:
    return [Context(f"{split}{i}", f"{split} text {i}", split, group) for i in range(count)]


# Who answers


def echo(model: ModelRef, prompt: str) -> str:
    return f"reply to {prompt}"


class FakeEndpoint:
    """Answers at once.

    say: what a model says to a prompt, always the same. nats: of every token that it reads.
    stop_after: so many answers to `submit`, then no engine is left. `asked` has all requests, by
    model; `most` is how many were under way together.
    """

    def __init__(self, say=echo, nats=lambda model: 3.0, stop_after=None):
        self.say, self.nats, self.stop_after = say, nats, stop_after
        self.asked: list[tuple[str, type]] = []
        self.submitted, self.flying, self.most = 0, 0, 0

    def run(self, model, requests, describe=""):
        return [self.answer(model, request) for request in requests]

    async def submit(self, model, requests):
        self.flying += 1
        self.most = max(self.most, self.flying)
        await asyncio.sleep(0)
        self.flying -= 1
        if self.submitted == self.stop_after:
            raise EngineDiedError("no generator is left")
        self.submitted += 1
        return self.run(model, requests)

    def answer(self, model, request):
        self.asked.append((model.digest, type(request)))
        if isinstance(request, ReadLikelihood):
            count = len(request.token_ids) - request.start
            return Response(model.digest, log_likelihoods=(-self.nats(model),) * count)
        return Response(model.digest, tuple(self.continuations(model, request)))

    def continuations(self, model, request: Generate) -> list[Continuation]:
        text = self.say(model, "".join(map(chr, request.token_ids or ())))
        return [Continuation(tuple(map(ord, text)), text, "stop")] * request.sampling.n


class SharedOut(FakeEndpoint):
    """A share of each prompt's continuations is `bad`, the others are `good`; all are as long and
    as varied as each other, so that no guard tells them apart."""

    def __init__(self, nats=3.0, share=0.5):
        super().__init__(nats=lambda model: nats)
        self.share = share

    def continuations(self, model, request):
        bad = round(self.share_of(model) * request.sampling.n)
        return [
            Continuation((index, 7, 8), "bad" if index < bad else "good", "length")
            for index in range(request.sampling.n)
        ]

    def share_of(self, model) -> float:
        return self.share


class Composed(SharedOut):
    """Readings follow from coefficients: subtracting forgets and costs perplexity; adding brings
    back both, the target by `regrowth`."""

    def __init__(self, regrowth=0.05):
        super().__init__()
        self.regrowth, self.nats = regrowth, self.nats_of

    def nats_of(self, model):
        away, back = self.moved(model)
        return 3.0 + 0.03 * away**2 - 0.05 * min(back, 1)

    def share_of(self, model):
        away, back = self.moved(model)
        return min(0.5, max(0.0, 0.5 - 0.25 * away + self.regrowth * back))

    def moved(self, model):
        """How far it went from the base, and how much of that was given back."""
        away = -sum(t.coefficient for t in model.terms if t.adapter.side == "forget")
        back = sum(t.coefficient for t in model.terms if t.adapter.side == "retain")
        return away, back


# Who scores


def hashed(texts) -> list[float]:
    return [(sum(map(ord, text)) % 97) / 97 for text in texts]


def bad_words(texts) -> list[float]:
    return [float(text == "bad") for text in texts]


class FakeScorer:
    """Relevance of each text by `judge`, embeddings drawn by the text's letters.

    submitted: judges what comes by `submit_score`, where that shall differ: an oracle that breaks.
    """

    version = "fake 1"
    dimension = 6

    def __init__(self, judge=hashed, submitted=None):
        self.judge, self.submitted = judge, submitted or judge

    def score(self, contexts, responses):
        assert len(contexts) == len(responses)
        return np.asarray(self.judge(responses), float)

    def embed(self, texts):
        return np.stack([self.embedding(text) for text in texts])

    def submit_score(self, contexts, responses):
        return later(lambda: np.asarray(self.submitted(responses), float))

    def submit_embed(self, texts):
        return later(lambda: self.embed(texts))

    def embedding(self, text: str) -> np.ndarray:
        row = np.random.default_rng(sum(map(ord, text))).normal(size=self.dimension) + 1
        return row / np.linalg.norm(row)


def later(work) -> asyncio.Future:
    """As an object reference: it need not be awaited."""
    future = asyncio.get_running_loop().create_future()
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)
    return future


# What stages are handed


class FakeTracker:
    """Keeps what it is told."""

    def __init__(self):
        self.told: list[tuple[str, Any]] = []

    @contextlib.contextmanager
    def parent(self, name, params, known_as=None):
        self.told.append((name, dict(params)))
        yield

    @contextlib.contextmanager
    def nested(self, name, params):
        self.told.append((name, dict(params)))
        yield

    def metrics(self, values, step=0):
        self.told.append(("metrics", dict(values)))

    def headline(self, values):
        self.told.append(("headline", dict(values)))

    def tag(self, key, value):
        self.told.append((key, value))

    def tags(self, values):
        self.told.append(("tags", dict(values)))

    def artifact(self, path):
        self.told.append(("artifact", path))

    def exhibit(self, path, table=False):
        self.told.append(("table" if table else "exhibit", path))

    def dataset(self, dataset):
        self.told.append(("dataset", dataset))

    def model(self, folder, name, digest, told):
        self.told.append(("model", (folder, name, digest, told)))

    def page(self):
        return ""

    def close(self):
        pass


@dataclass
class FakeBench:
    """A bench on which everything was started."""

    config: Any = field(default_factory=SimpleNamespace)
    endpoint: Any = field(default_factory=FakeEndpoint)
    scorer: Any = field(default_factory=FakeScorer)
    tokenizer: Any = field(default_factory=Characters)
    base: ModelRef = MODEL
    oracle: str = "fake"
    ray: None = None
    tracker: FakeTracker = field(default_factory=FakeTracker)

    placement: Any = field(
        default_factory=lambda: SimpleNamespace(yielding=False, embedder_gpus=0.0, trainings=1)
    )

    others: dict[str, Any] = field(default_factory=dict)
    """Benches of further models, by the digest of their checkpoint."""

    def work_on(self, model):
        self.base = model

    def enter(self, context):
        return context().__enter__()

    def endpoint_of(self, checkpoint):
        return self.beside(checkpoint).endpoint

    def make_room(self, reading=False):
        pass

    def beside(self, model):
        return self.others.get(model.checkpoint_digest, self)


class FakeTask:
    """Forget to say `bad`: real measures of what the endpoint answers."""

    Settings = TaskSettings
    recipe = "reveal-and-release"
    gives = frozenset({"contexts", "forget", "retain", "pairs"})
    measures = MEASURES
    name, oracle, target_above = "fake", "fake", 0.5

    def __init__(self, config=None, given=()):
        self.given = list(given)

    def describe(self):
        return [f"data    {len(self.given)} contexts"]

    def contexts(self, split, kind):
        group = {"forget": "rude", "retain": "plain"}[kind]
        return [one for one in self.given if one.split == split and one.group == group]

    def prompt(self, context, instruction, style, tokenizer):
        return query(instruction, context.text, style, tokenizer)

    def materials(self, bench, run, needs):
        return Materials(())

    def read_utility(self, bench, model, split):
        asked = [ReadLikelihood((1, 2, 3, 4))] * 5
        return {
            measure.name: running_text.perplexity(bench.endpoint.run(model, asked))
            for measure in (INSIDE, OUTSIDE)
        }

    def read_target(self, bench, model, split, sampling):
        order = self.contexts(split, "forget")
        samples = sample_model(bench, model, Asked.bare(self.name, order), sampling)
        share = SHARES.read(samples, order)[SHARES.fraction.name]
        return {SHARES.fraction.name: share, **fluency_measures(samples, order)}

    def evaluate(self, bench, model, name, folder):
        settings = bench.config.evaluate
        target = self.read_target(bench, model, settings.split, settings.sampling)
        return {**target, **self.read_utility(bench, model, settings.split)}


class Direct(Reader):
    """Reads without Tune."""

    def _run_trials(self, name, models, draw, step):
        for model in models.values():
            self.read(model, draw, step)


# The bandit


class LocalBandit:
    """The bandit's actor in this process: the same class, on an event loop of its own thread.

    Outer iterations come and go in event loops of their own; a training beside the pulls does not
    end with them.
    """

    def __init__(self, features, reveal, seed, loop):
        self.actor, self._loop = BanditActor(features, reveal, seed), loop

    def __getattr__(self, name):
        async def call(*arguments):
            work = getattr(self.actor, name)(*arguments)
            return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(work, self._loop))

        return call


@contextlib.contextmanager
def local_bandit(features, reveal, seed):
    """`bandit_actor.remote_bandit` without Ray."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        with threadpool_limits(user_api="blas"):  # an actor limits its own process for good
            yield LocalBandit(features, reveal, seed, loop)
    finally:
        asyncio.run_coroutine_threadsafe(_ended(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _ended() -> None:
    """Wait for whatever else runs on this loop."""
    others = asyncio.all_tasks() - {asyncio.current_task()}
    await asyncio.gather(*others, return_exceptions=True)

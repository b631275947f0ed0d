"""Algorithm 1 with a pretended model, oracle and embedder: what a search promises."""

import asyncio
import contextlib
import re
import time
from dataclasses import replace

import numpy as np
import pytest

from rnr_dist.config.file import load_config
from rnr_dist.errors import InputError
from rnr_dist.generate.pool import EngineDiedError
from rnr_dist.reveal.bandit_actor import BanditDiedError
from rnr_dist.reveal.pulls import pull_contexts
from rnr_dist.reveal.search import Listeners, search
from rnr_dist.reveal.setting import Setting
from rnr_dist.run.directory import write_rows
from rnr_dist.types import Arm, Context, Split
from tests.unit.fakes import (
    FakeBench,
    FakeEndpoint,
    FakeScorer,
    FakeTask,
    contexts,
    hashed,
    local_bandit,
)

ARMS = 24

pytestmark = pytest.mark.usefixtures("one_thread")


def judged(judge):
    """An oracle that the search meets; what fills the forget set is scored as ever."""
    return FakeScorer(hashed, submitted=judge)


GIVEN = [*contexts(Split.REVEAL, 7), *contexts(Split.TRAIN, 4)]


@pytest.fixture
def setting(tmp_path):
    """Make a setting in one folder: arms are there already, so that no model is needed."""
    arms = [Arm(i, (0.0,), f"say {i}") for i in range(ARMS)]
    config = tmp_path / "config.yaml"
    folder = tmp_path / "reveal"
    write_rows(folder / "arms.parquet", arms)
    np.save(folder / "features.npy", np.random.default_rng(0).normal(size=(ARMS, 5)))

    def make(endpoint=None, scorer=None, given=GIVEN, **reveal) -> Setting:
        settings = {"outer_iterations": 2, "budget": 6, "initial": 3, "arms": ARMS,
                    "contexts_per_pull": 3, "min_relevance": 0, "in_flight": 3, "hidden": 8,
                    "training_steps": 20, **reveal}  # fmt: skip
        config.write_text(
            "name: fake\n"
            "task:\n"
            "  challenging: {source: 'builtin:challenging', splits: {reveal: 1}}\n"
            "  ordinary: {source: 'builtin:ordinary', splits: {retain: 1}}\n"
            "  in_domain: [{source: 'builtin:expository', splits: {retain: 1}}]\n"
            "  out_of_domain: [{source: 'builtin:narrative', splits: {search: 1}}]\n"
        )
        overrides = [f"reveal.{key}={value}" for key, value in settings.items()]
        loaded = load_config(config, overrides)
        bench = FakeBench(loaded, endpoint or FakeEndpoint(), scorer or FakeScorer())
        return Setting(bench, FakeTask(given=given), folder)

    return make


def run(setting: Setting):
    return search(setting, Listeners(), local_bandit)


def state(history) -> tuple:
    return (
        [(pull.id, pull.arm, pull.score) for pull in history.pulls],
        [(fill.instruction, fill.score, fill.n_rows) for fill in history.fills],
        [(row.context_id, row.text) for row in history.forget_rows()],
    )


def test_a_search_spends_its_budget_on_different_arms_several_in_flight(setting):
    endpoint = FakeEndpoint()
    heard = []
    history = search(
        setting(endpoint), Listeners(lambda n, f: heard.append((n, f["best_score"]))), local_bandit
    )
    arms = [pull.arm for pull in history.pulls]
    assert len(set(arms)) == len(arms) == 12
    assert endpoint.most == 3
    assert [fill.outer for fill in history.fills] == [0, 1]
    assert [number for number, _ in heard] == list(range(1, 13))
    assert all(best > 0 for _, best in heard)
    # Each fill answers every train context `fill_per_context` times, by an instruction of its own.
    assert [fill.n_generated for fill in history.fills] == [16, 16]
    assert history.fills[0].instruction != history.fills[1].instruction


@pytest.mark.parametrize("mode", ["default", "paper", "instinct"])
@pytest.mark.parametrize("stop_after", [0, 4, 7, 11])
def test_an_interrupted_search_ends_as_an_undisturbed_one(setting, mode, stop_after, tmp_path):
    """One pull at a time and greedy answers: the same pulls, fills and forget set."""
    options = {"mode": mode, "in_flight": 1, "initial": 3, "recheck": 3}
    with pytest.raises(EngineDiedError):
        run(setting(FakeEndpoint(stop_after=stop_after), **options))
    resumed = run(setting(**options))
    undisturbed_folder = tmp_path / "undisturbed"
    whole = setting(**options)
    for name in ("arms.parquet", "features.npy"):
        undisturbed_folder.mkdir(exist_ok=True)
        (undisturbed_folder / name).write_bytes((whole.folder / name).read_bytes())
    undisturbed = run(replace(whole, folder=undisturbed_folder))
    assert state(resumed) == state(undisturbed)
    ids = [pull.id for pull in resumed.pulls]
    assert len(set(ids)) == len(ids)


def test_a_bandit_that_dies_is_restored_from_the_log(setting):
    starts = []

    @contextlib.contextmanager
    def mortal(features, reveal, seed):
        with local_bandit(features, reveal, seed) as bandit:
            starts.append(bandit)
            calls, exchange = [], bandit.exchange

            async def exchange_until_death(told, wanted):
                calls.append(1)
                if len(starts) < 3 and len(calls) > 2:
                    raise BanditDiedError("gone")
                return await exchange(told, wanted)

            bandit.exchange = exchange_until_death
            yield bandit

    history = search(setting(), Listeners(), mortal)
    assert len(starts) == 3
    assert len({pull.id for pull in history.pulls}) == len(history.pulls) == 12


def test_the_first_pulls_begin_before_the_last_arm_is_chosen(setting, monkeypatch):
    """With many generators choosing an arm for each would take longer than a pull."""
    monkeypatch.setattr("rnr_dist.reveal.search.TOGETHER", 2)
    wanted = []

    @contextlib.contextmanager
    def listening(features, reveal, seed):
        with local_bandit(features, reveal, seed) as bandit:
            exchange = bandit.exchange

            async def heard(told, many):
                wanted.append((len(told), many))
                return await exchange(told, many)

            bandit.exchange = heard
            yield bandit

    found = search(setting(in_flight=5, outer_iterations=1, budget=6), Listeners(), listening)
    assert len({pull.id for pull in found.pulls}) == 6
    assert wanted[:3] == [(0, 2), (0, 2), (0, 1)]  # five in flight, before a score is told
    assert sum(told for told, _ in wanted) == 6 and max(many for _, many in wanted) == 2


class OneByOne(FakeEndpoint):
    """Each answer comes a while after the one before."""

    async def submit(self, model, requests):
        turn, self.turns = self.turns, self.turns + 1
        while self.submitted < turn:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.005)
        return await super().submit(model, requests)

    turns = 0


@pytest.mark.parametrize("spare", [8, 0])
def test_spare_pulls_wait_for_each_other_and_others_for_none(setting, monkeypatch, spare):
    """A group is scored, filed and told together; no generator may wait for one, nor the end."""
    monkeypatch.setattr("rnr_dist.score.batching.LINGER", 60)
    engines = setting().bench.config.engines
    made = setting(
        OneByOne(),
        in_flight=engines.count * engines.in_flight + spare,
        **{"budget": ARMS, "outer_iterations": 1, "recheck": 0},
    )
    assert made.spare == spare
    began = time.monotonic()
    history = run(made)
    assert time.monotonic() - began < 60
    assert len({pull.id for pull in history.pulls}) == len(history.pulls) == ARMS
    if spare:
        files = len(list((made.folder / "pulls").glob("*.npz"))) - len(history.fills)
        # In groups of six, until no more are under way than generators hold.
        waited = (ARMS - made.held) // 6 * 6
        assert files <= ARMS - waited + waited // 6
    again = run(setting(in_flight=4, budget=ARMS, outer_iterations=1, recheck=0))
    assert state(again) == state(history)


@pytest.mark.parametrize("mode", ["paper", "instinct"])
def test_where_each_pull_is_waited_for_none_is_spare(setting, mode):
    assert setting(mode=mode, in_flight=99).spare == 0


def test_a_repeated_arm_is_told_again_without_a_model_call(setting):
    """`paper` mode with a reward that one arm wins by far: the literal arg max comes back."""
    endpoint = FakeEndpoint()
    options = {"mode": "paper", "budget": 20, "outer_iterations": 1, "recheck": 0}
    history = run(setting(endpoint, **options))
    assert history.spent(0) == 20
    assert endpoint.submitted == len(history.pulls) < 20
    assert run(setting(**options)).moves == history.moves  # nothing left to do


@pytest.mark.parametrize(
    ("judge", "cause"),
    [
        (lambda texts: [float("nan")] * len(texts), "returned nan for response 0"),
        (lambda texts: [0.5], r"shape \(1,\), expected \(3,\)"),
        (lambda texts: [1.5] * len(texts), "returned 1.5 for response 0"),
        (lambda texts: 1 / 0, "ZeroDivisionError: division by zero"),
    ],
)
def test_an_oracle_that_never_works_stops_the_search_with_its_cause(setting, judge, cause):
    broken = setting(scorer=judged(judge), max_failed_share=0.25)
    with pytest.raises(InputError, match=cause) as caught:
        run(broken)
    assert re.search(r"[23] of 6 pulls of outer iteration 1 failed twice", str(caught.value))
    assert "\n" not in str(caught.value)
    assert "oracle fake: " in str(caught.value)


def test_a_pull_is_tried_twice_and_then_left_out(setting):
    """One instruction always breaks the oracle, another one once; the search goes on."""
    broken_once = []

    def judge(texts):
        if any("say 5\n" in text for text in texts):
            raise RuntimeError("no answer")
        if any("say 7\n" in text for text in texts) and not broken_once:
            broken_once.append(True)
            raise RuntimeError("no answer yet")
        return [0.5] * len(texts)

    options = {"budget": ARMS, "outer_iterations": 1, "recheck": 0}
    history = run(setting(scorer=judged(judge), **options))
    assert [move.arm for move in history.failures] == [5]
    assert history.failures[0].cause == "RuntimeError: no answer"
    assert {pull.arm for pull in history.pulls} == set(range(ARMS)) - {5}
    again = run(setting(scorer=judged(judge), **options))
    assert again.moves == history.moves  # a resumed search does not try it once more


def test_a_bad_answer_of_the_oracle_is_its_own_pulls_alone(setting):
    """Pulls in flight are scored together; one that cannot be scored does not spoil the others."""

    def judge(texts):
        if any("say 7" in text for text in texts):
            raise ValueError("no opinion of 7")
        return [0.5] * len(texts)

    options = {"budget": ARMS, "outer_iterations": 1, "in_flight": 6, "max_failed_share": 0.5}
    history = run(setting(scorer=judged(judge), **options))
    assert [move.arm for move in history.failures] == [7]
    assert "no opinion of 7" in history.failures[0].cause
    assert len(history.pulls) == ARMS - 1


def test_empty_responses_are_no_relevance_and_no_diversity(setting):
    endpoint = FakeEndpoint(lambda model, prompt: " " if "say 1" in prompt else prompt)
    scorer = judged(lambda texts: [1.0] * len(texts))
    history = run(setting(endpoint, scorer, budget=ARMS, outer_iterations=1))
    silent = [pull for pull in history.pulls if pull.instruction.startswith("say 1")]
    assert len(silent) == 11
    assert all(pull.relevance == 0 and pull.vendi == 0 for pull in silent)
    assert not history.fills[0].instruction.startswith("say 1")


def test_the_best_is_chosen_by_fresh_contexts(setting):
    """Scores that were luck: the arm that shone in the search does badly when read again."""
    shone = set()

    def judge(texts):
        arms = [text.split("\n")[0] for text in texts]
        scores = [0.9 if (arm not in shone) == arm.endswith("say 3") else 0.5 for arm in arms]
        shone.update(arms)
        return scores

    options = {"alpha": 0, "budget": ARMS, "outer_iterations": 1, "recheck": 3}
    lucky = setting(scorer=judged(judge), **options)
    history = run(lucky)
    scores = {pull.instruction: pull.score for pull in history.pulls}
    assert max(scores, key=scores.get) == "say 3"
    assert len(history.rechecks) == 3
    assert history.fills[0].instruction != "say 3"


def test_fresh_contexts_are_others(setting):
    made = setting()
    evaluated, fresh = pull_contexts(made, 0)
    assert len(evaluated) == len(fresh) == 3
    assert not {c.id for c in evaluated} & {c.id for c in fresh}
    few = setting(given=GIVEN[:4])
    assert [len(part) for part in pull_contexts(few, 0)] == [3, 3]


def test_near_duplicates_do_not_enter_the_forget_set(setting):
    same = FakeEndpoint(lambda model, prompt: "always the same")
    history = run(setting(same, near_duplicate=0.99, budget=4, outer_iterations=2))
    assert [(fill.n_rows, fill.n_near) for fill in history.fills] == [(1, 15), (0, 16)]


def test_prompts_of_ones_own_take_the_place_of_the_search(setting):
    asked = setting(prompts='["Name people.", "Name places."]')
    history = run(asked)
    assert [fill.instruction for fill in history.fills] == ["Name people.", "Name places."]
    assert history.pulls == [] and len(history.forget_rows()) == 8
    assert state(run(asked)) == state(history)  # done before


def test_a_context_longer_than_the_window_is_named(setting):
    long = Context("c9", "word " * 300, Split.TRAIN, "rude")
    with pytest.raises(InputError, match=r"context c9 .* has 1500 tokens; expected at most 952"):
        run(setting(given=[long]))


def test_a_table_that_runs_out_says_so(setting, capsys):
    history = run(setting(budget=ARMS, outer_iterations=2))
    assert len(history.pulls) == ARMS
    assert "all 24 instructions were tried: 0 pulls" in capsys.readouterr().err

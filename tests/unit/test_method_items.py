"""What every method trains on, from rows that reveal found and from given sequences alike."""

from dataclasses import replace

import pytest

from rnr_dist.config.registry import METHODS
from rnr_dist.config.training import Training
from rnr_dist.errors import InputError
from rnr_dist.methods.icu import IcuSettings, ceilings
from rnr_dist.methods.merge import items_of
from rnr_dist.methods.method import make_method, require_served
from rnr_dist.train.collate import Example
from rnr_dist.train.materials import Materials, example_of, other_end, paired_texts
from rnr_dist.train.objectives import check_items, make_objective
from tests.unit.method_fakes import ROWS, FakeTask, sequence

every_method = pytest.mark.parametrize("name", METHODS)


# Sequences: t0 is the same for all, and the pool holds more than the pairs.
T0 = 2
SEQUENCES = Materials(
    forget=tuple(sequence(f"s{n}", n, n + 1, n + 2, n + 3, prefix=T0) for n in (10, 20)),
    retain=(Example((30, 31, 32, 33), 0),),
    pairs={f"s{n}": (sequence(f"p{n}", *range(n + 50, n + 54), prefix=T0),) for n in (10, 20)},
    alternatives={f"s{n}": (Example((n, n + 1, n + 52, n + 53), T0),) for n in (10, 20)},
    others=tuple(sequence(f"p{n}", *range(n + 50, n + 54), prefix=T0) for n in (10, 20, 30)),
    seed=3,
)
GIVEN = {"forget", "retain", "pairs", "alternatives"}  # by a task of sequences


def made(name, materials, way="merge", **objective):
    method = make_method(name)
    training = method.settings(way).training
    if objective:
        told = {**training.objective.model_dump(), **objective}
        training = Training.model_validate({**training.model_dump(), "objective": told})
    return [item for key in method.adapters for item in method.items(key, materials, training)]


@every_method
def test_items_have_the_roles_of_the_objective_and_something_to_learn(name):
    method = make_method(name)
    for materials in (ROWS, *([SEQUENCES] if method.needs <= GIVEN else [])):
        for way in ("merge", "epochs"):
            settings = method.settings(way)
            if settings is None or (way == "epochs" and materials is ROWS):
                continue
            objective = make_objective(settings.training.objective)
            for adapter in method.adapters:
                items = items_of(method, adapter, materials, settings.training)
                check_items(objective, items, name)
                assert items and all(any(objective.counts([item]).values()) for item in items)
                if way == "epochs":
                    assert len(items) == len(materials.forget)


@every_method
def test_what_others_need_changes_nothing(name):
    method = make_method(name)
    training = method.settings("merge").training
    needed = ROWS.only(method.needs)
    for adapter in method.adapters:
        found = items_of(method, adapter, needed, training)
        assert found == items_of(method, adapter, ROWS, training)


@every_method
def test_a_method_is_refused_where_something_that_it_needs_is_missing(name):
    class Bare(FakeTask):
        gives = frozenset({"contexts"})

    method = make_method(name)
    wanted = ", ".join(sorted(method.needs))
    with pytest.raises(InputError) as refused:
        require_served(method, Bare(), "merge")
    assert str(refused.value) == (
        f"method {name}: needs {wanted}, which this task does not give; it gives contexts"
    )


def test_what_a_task_gives_is_enough_and_ways_are_told():
    class Whole(FakeTask):
        gives = frozenset({"sequences", *GIVEN})

    for name in METHODS:
        if name not in ("pem_external", "cmd"):
            require_served(make_method(name), Whole(), "merge")
    require_served(make_method("icu"), Whole(), "epochs")
    with pytest.raises(InputError, match="method rmu: cannot be run by epochs"):
        require_served(make_method("rmu"), Whole(), "epochs")
    with pytest.raises(InputError, match="method icu: needs sequences, which this task does not"):
        require_served(make_method("icu"), FakeTask(), "epochs")


# Each method on its own


@pytest.mark.parametrize("name", ["icu", "kl"])
@pytest.mark.parametrize("whole", [True, False])
def test_as_many_tokens_are_held_as_are_ascended_over(name, whole):
    items = made(name, SEQUENCES, "epochs", whole=whole)
    first = 0 if whole else T0
    assert [item["forget"][0].token_ids for item in items] == [
        one.token_ids for one in SEQUENCES.forget
    ]
    assert [item["learn"][0].token_ids for item in items] == [
        SEQUENCES.pairs[one.id][0].token_ids for one in SEQUENCES.forget
    ]
    assert {x.prompt_tokens for item in items for _, x in item.members} == {first}


def test_rows_are_pushed_behind_their_own_prompts():
    items = made("icu", ROWS)
    assert [item["forget"][0].prompt_tokens for item in items] == [2, 1]
    assert [[x.prompt_tokens for x in item["learn"]] for item in items] == [[1], [0, 1]]
    assert [x.token_ids for x in items[1]["learn"]] == [(33, 34), (30, 31, 32)]


def test_a_natural_ceiling_is_that_of_never_seen_sequences():
    known = replace(SEQUENCES, token_nats={10: 0.5, 12: 9.0})
    [first, _] = made("icu", known, "epochs", ceiling=2.0, natural=True)
    assert first["forget"][0].ceilings == (0.5, 2.0, 2.0, 2.0)
    assert ceilings((1, 2), IcuSettings(), {1: 0.5}) == ()


@pytest.mark.parametrize("name", ["icu", "kl", "llmu"])
def test_without_a_pair_there_is_nothing_to_hold(name):
    with pytest.raises(InputError, match=f"method {name}: none of 2 forget sequences has a pair"):
        made(name, replace(ROWS, pairs={}))


def test_dpo_prefers_another_response_to_the_forget_sequence():
    [item] = made("dpo", ROWS)  # the second row has no alternative
    assert item["chosen"] == (Example((1, 2, 20), 2),)
    assert item["rejected"] == (Example((1, 2, 3, 4, 5), 2),)
    twice = replace(ROWS, forget=(ROWS.forget[0], ROWS.forget[0], ROWS.forget[0]))
    chosen = [item["chosen"][0].token_ids[-1] for item in made("dpo", twice)]
    assert chosen == [20, 21, 20]
    with pytest.raises(InputError, match="none of 2 forget sequences has an alternative"):
        made("dpo", replace(ROWS, alternatives={}))


def test_llmu_answers_a_prefix_with_the_ends_of_other_sequences():
    items = made("llmu", SEQUENCES, "epochs", mismatches=2)
    ends = {(60 + n, 61 + n): one for n, one in ((2, "p10"), (12, "p20"), (22, "p30"))}
    for one, item in zip(SEQUENCES.forget, items, strict=True):
        assert len(item["mismatch"]) == 2
        for wrong in item["mismatch"]:
            assert wrong.token_ids[:T0] == one.token_ids[:T0] and wrong.prompt_tokens == T0
            assert wrong.token_ids[T0:] in ends
        assert item["learn"][0].prompt_tokens == T0
    assert items == made("llmu", SEQUENCES, "epochs", mismatches=2)
    assert items != made("llmu", replace(SEQUENCES, seed=4), "epochs", mismatches=2)
    paired = made("llmu", replace(SEQUENCES, others=()), "epochs", mismatches=5)
    assert [len(item["mismatch"]) for item in paired] == [2, 2]  # ends of what is paired


def test_rmu_repeats_the_shorter_side():
    items = made("rmu", ROWS)
    assert [item["forget"][0].token_ids for item in items] == [
        (1, 2, 3, 4, 5),
        (6, 7, 8),
        (1, 2, 3, 4, 5),
    ]
    assert [item["retain"] for item in items] == [(one,) for one in ROWS.retain]
    assert len(paired_texts([Example((1,), 0)] * 5, [Example((2,), 0)])) == 5
    with pytest.raises(InputError, match="rmu: found no retain texts"):
        made("rmu", replace(ROWS, retain=()))


def test_cmd_learns_the_clean_response_in_contrast_to_the_worst():
    [item] = made("cmd", ROWS)
    assert item["positive"] == (ROWS.contrasts[0].positive,)
    assert item["negative"] == ROWS.contrasts[0].negatives[:3]
    [fewer] = made("cmd", ROWS, negatives=1)
    assert fewer["negative"] == ROWS.contrasts[0].negatives[:1]
    with pytest.raises(InputError, match="found no context that was cleaned"):
        made("cmd", replace(ROWS, contrasts=()))


def test_plain_texts_are_those_of_the_adapter():
    assert [item["text"] for item in made("pem_external", ROWS)] == [ROWS.external]
    expert, anti = (
        make_method("ext_sub").items(key, ROWS, Training()) for key in ("expert", "anti-expert")
    )
    assert [item["text"][0] for item in expert] == [*ROWS.retain]
    assert [item["text"][0] for item in anti] == [example_of(one) for one in ROWS.forget]
    with pytest.raises(InputError, match="found no external pairs"):
        made("pem_external", replace(ROWS, external=()))


def test_what_is_retained_stands_beside_and_none_twice_before_all():
    method = make_method("icu")
    settings = method.settings("merge").training
    many = replace(ROWS, forget=(*ROWS.forget, sequence("r2", 1, 2, prefix=1)))
    items = items_of(method, "unlearnt", many, settings)
    held = [one for item in items for one in item["retain"]]
    assert sorted(one.token_ids for one in held) == sorted(one.token_ids for one in ROWS.retain)
    assert not any(item["retain"] for item in method.items("unlearnt", many, settings))


def test_another_end_is_none_of_the_sequences_own():
    one, other = sequence("a", 1, 2, 3, prefix=1), sequence("b", 4, 5, 6, 7, prefix=2)
    assert other_end(one, other) == Example((1, 6, 7), 1)

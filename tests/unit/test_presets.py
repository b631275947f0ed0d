"""Presets line by line: each place of a paper or of its code, the config's key, and its value."""

import pytest

from rnr_dist.config.reveal import Reveal
from rnr_dist.config.schema import Config
from rnr_dist.icu.job import Counted
from rnr_dist.measures.memorisation import Counting
from rnr_dist.tasks.extraction import Extraction
from rnr_dist.types import TokenSequence

ICU = "methods.icu.training"
OTHERS = ("kumpr", "kl", "dpo", "llmu")

ICU_PAPER = [
    ("Eq. 1: a sum from t0 on", f"{ICU}.objective.whole", False),
    ("Eq. 1, 3, 4: the sum over t", f"{ICU}.objective.reduction", "sequence"),
    ("Eq. 1: the ascent has no end", f"{ICU}.objective.ceiling", None),
    ("Eq. 1: the ascent has no end", f"{ICU}.objective.natural", False),
    ("Eq. 2: K = 1", "pairing.k", 1),
    ("Eq. 2: all of D but D_fgt", "pairing.exclude_content", False),
    ("5.4: all-MiniLM-L6-v2", "pairing.embedder", "embedded:minilm"),
    ("Eq. 4: KL(theta0 || theta)", f"{ICU}.objective.divergence", "kl"),
    ("Eq. 4: on the paired data alone", f"{ICU}.objective.retain", 0),
    ("Eq. 5: a = .3 (5.4)", "refinement.bertscore_below", 0.3),
    ("Eq. 5: b = .01 (5.4)", "refinement.bleu_below", 0.01),
    ("Eq. 5: the comma reads as `and`", "refinement.combine", "and"),
    ("Eq. 5: neither EL nor MA", "refinement.recall", False),
    ("Eq. 5: one a and one b for all", "refinement.neighbours", 0),
    ("4.4: excluded from subsequent epochs", "refinement.sticky", True),
    ("4.4: iterative refinement", "refinement.enabled", True),
    ("4.4: evaluated after each epoch", "stopping.curves", True),
    ("4.4: no last epoch; Table 5 has 131.8", "stopping.epochs", 200),
    ("Eq. 6: L_fgt by itself", f"{ICU}.objective.forget_weight", 1),
    ("Eq. 6: alpha = .5 (5.4)", f"{ICU}.objective.learn_weight", 0.5),
    ("Eq. 6: beta = 1 (5.4)", f"{ICU}.objective.kl_weight", 1),
    ("5.1: prefix and suffix, 100 tokens", "task.max_tokens", 100),
    ("5.1: t0 = 50", "task.prefix_tokens", 50),
    ("Eq. 7: the sum begins at t = 1", "stopping.extraction_over", "all"),
    ("Eq. 9: the sum begins at t = 1", "stopping.memorisation_over", "all"),
    ("5.4: EL_10", "task.n", 10),
    ("5.4: EL_10 < .0499", "stopping.extraction", 0.0499),
    ("5.4: and MA < .5994", "stopping.memorisation", 0.5994),
    ("5.4: Adam, the model's own weights", f"{ICU}.parameters", "full"),
    ("5.4: Adam, no weight decay", f"{ICU}.weight_decay", 0),
    ("5.4: 5e-6", f"{ICU}.learning_rate", 5e-6),
    ("5.4: one rate, no schedule", f"{ICU}.schedule", "constant"),
    ("5.4: batch size of 8 (125M)", f"{ICU}.batch_size", 8),
    ("5.4: no clipping", f"{ICU}.clip_norm", None),
    ("5.4: one setting, no grid", "methods.icu.grid", [{}]),
    ("silent, the code's: Adam(.9, .98)", f"{ICU}.betas", (0.9, 0.98)),
    ("5.3, KL: gradient ascent on all of the target", "methods.kl.training.objective.whole", True),
    ("5.3, KL: the pairs alone are held", "methods.kl.training.objective.retain", 0),
    ("5.3, KL: weight 1", "methods.kl.training.objective.kl_weight", 1),
    ("5.3, LLMU: the pairs alone are held", "methods.llmu.training.objective.retain", 0),
    ("5.3, DPO: beta .1", "methods.dpo.training.objective.beta", 0.1),
]
ICU_CODE = [
    ("100 pre-prefix and 50 prefix tokens", "task.prefix_tokens", 150),
    ("all 200 tokens", "task.max_tokens", 200),
    ("no t0: all tokens count", f"{ICU}.objective.whole", True),
    ("mean over all labels", f"{ICU}.objective.reduction", "token"),
    ("K is a cross-entropy", f"{ICU}.objective.divergence", "cross_entropy"),
    ("-1 CE_f", f"{ICU}.objective.forget_weight", 1),
    ("+.5 CE_l", f"{ICU}.objective.learn_weight", 0.5),
    ("+1 K", f"{ICU}.objective.kl_weight", 1),
    ("K on the pairs alone", f"{ICU}.objective.retain", 0),
    ("the first of the neighbours", "pairing.k", 1),
    ("the pool is all other rows by id", "pairing.exclude_content", False),
    ("BERTScore below .3", "refinement.bertscore_below", 0.3),
    ("BLEU below .01", "refinement.bleu_below", 0.01),
    ("either of them", "refinement.combine", "or"),
    ("flags anew each epoch", "refinement.sticky", False),
    ("neither EL nor MA", "refinement.recall", False),
    ("MA < .5994", "stopping.memorisation", 0.5994),
    ("EL10 < .0499", "stopping.extraction", 0.0499),
    ("EL for prefixes of 150 to 199", "stopping.extraction_over", "continuation"),
    ("MA at every position", "stopping.memorisation_over", "all"),
    ("no epoch cap", "stopping.epochs", 200),
    ("Adam(.9, .98)", f"{ICU}.betas", (0.9, 0.98)),
    ("constant rate", f"{ICU}.schedule", "constant"),
    ("5e-6 (125M)", f"{ICU}.learning_rate", 5e-6),
    ("no clipping", f"{ICU}.clip_norm", None),
    ("no weight decay", f"{ICU}.weight_decay", 0),
    ("batch of 8", f"{ICU}.batch_size", 8),
]
ALGORITHM_1 = [
    ("l. 1: m = 3 (4.3, 4.5)", "outer_iterations", 3),
    ("l. 4: k = 10 (3.1)", "warm_start", 10),
    ("l. 8: one response a context", "response.n", 1),
    ("l. 11: Vendi(y u D) as it is", "diversity_kind", "union_raw"),
    ("l. 16: the arg max of Score", "recheck", 0),
    ("l. 18: one response a context", "fill_per_context", 1),
    ("l. 18: all of f(C, P*) joins D", "min_relevance", 0),
    ("l. 18: all of f(C, P*) joins D", "near_duplicate", None),
]


def of_preset(preset, **more):
    """A config of given sequences that says nothing itself."""
    content = {"name": "t", "task": {"name": "extraction"}, "preset": preset, **more}
    return Config.model_validate(content)


def value_of(config, key):
    for part in key.split("."):
        config = getattr(config, part)
    return config


def named(lines):
    return pytest.mark.parametrize(
        ("place", "key", "value"), lines, ids=[f"{place}: {key}" for place, key, _ in lines]
    )


@named(ICU_PAPER)
def test_icu_preset_paper_is_the_paper(place, key, value):
    assert value_of(of_preset("paper"), key) == value, place


@named(ICU_CODE)
def test_icu_preset_reference_is_its_code(place, key, value):
    assert value_of(of_preset("reference"), key) == value, place


@named(ALGORITHM_1)
def test_reveal_mode_paper_is_algorithm_1(place, key, value):
    assert value_of(Reveal(mode="paper"), key) == value, place


@pytest.mark.parametrize("preset", ["paper", "reference"])
@pytest.mark.parametrize("name", OTHERS)
def test_the_methods_beside_icu_train_as_it_does(preset, name):
    """Section 5.3: "the same training and evaluation procedure"."""
    methods = of_preset(preset).methods
    own, other = methods.icu, getattr(methods, name)
    objective = {"objective": own.training.objective}
    assert other.training.model_copy(update=objective) == own.training
    assert other.grid == own.grid


@pytest.mark.parametrize("preset", ["default", "paper", "reference"])
def test_no_training_cuts_what_the_task_does_not(preset):
    config = of_preset(preset)
    trainings = [config.memorise.training]
    trainings += [getattr(config.methods, name).training for name in ("icu", *OTHERS)]
    assert all(one.max_tokens >= config.task.max_tokens for one in trainings)


def test_what_a_file_says_stands_above_a_preset():
    config = of_preset(
        "paper",
        stopping={"extraction_over": "continuation"},
        methods={"kl": {"training": {"clip_norm": 2}}},
    )
    assert config.stopping.extraction_over == "continuation"
    assert config.stopping.memorisation_over == "all"
    assert config.methods.kl.training.clip_norm == 2
    assert config.methods.kl.training.objective.retain == 0
    reveal = Reveal(mode="paper", recheck=2, diversity="union")
    assert (reveal.recheck, reveal.diversity_kind, reveal.min_relevance) == (2, "union", 0)


def test_a_preset_that_was_written_down_is_read_again_as_it_was():
    config, reveal = of_preset("reference"), Reveal(mode="paper")
    assert Config.model_validate(config.content()) == config
    assert Reveal.model_validate(reveal.model_dump(mode="json")) == reveal


def test_the_defaults_stay_as_they_were():
    config, reveal = of_preset("default"), Reveal()
    assert went_over("default") == ("given", 50)
    assert config.methods.icu.training.clip_norm == 1
    assert (reveal.diversity_kind, Reveal(mode="instinct").diversity_kind) == ("weighted", "union")
    assert (reveal.recheck, reveal.fill_per_context, reveal.min_relevance) == (3, 4, 0.5)


def went_over(preset):
    """The prefixes that EL counts, and the first token that MA counts of a sequence of t0 = 50."""
    counted = Counted.by(of_preset(preset), Counting(10))
    return counted.prefixes, counted.first_token(TokenSequence("", "", tuple(range(99)), "", 50))


@pytest.mark.parametrize(("preset", "over"), [("paper", ("all", 1)), ("reference", ("given", 1))])
def test_what_the_presets_limits_go_over(preset, over):
    assert went_over(preset) == over


@pytest.mark.parametrize(("preset", "n_grams"), [("paper", "generated"), ("reference", "label")])
def test_what_the_presets_divide_by(preset, n_grams):
    """Eq. 8 divides by the n-grams of what was generated, the code by those of the label."""
    task = {"name": "extraction", "prefix_tokens": 50, "max_tokens": 100}
    assert Extraction(of_preset(preset, task=task)).counting.denominator == n_grams


@pytest.mark.parametrize("key", ["extraction_over", "memorisation_over"])
def test_limits_over_anything_else_are_refused(key):
    with pytest.raises(ValueError, match=rf"{key}\n.*'continuation' or 'all'"):
        of_preset("default", stopping={key: "prefix"})

"""A model that is taught to name entities first: lessons, the stage, who works on it later."""

import pytest

from rnr_dist.commands.verify import verify_run
from rnr_dist.config.file import validate
from rnr_dist.errors import InputError
from rnr_dist.recipes.pipeline import RECIPES
from rnr_dist.run.directory import RunDir, read, write
from rnr_dist.tasks import teaching
from rnr_dist.train import trainings
from rnr_dist.types import ModelRef, NamedModel, Split
from rnr_dist.weights.checkpoints import checkpoint_digest
from tests.unit.fakes import Characters, FakeBench
from tests.unit.ner_fakes import content, made, refused, text_of
from tests.unit.run_fakes import checkpoint, replaced, runner

TAUGHT = {"recipe": "teach-reveal-release"}


@pytest.fixture
def run(tmp_path):
    return RunDir.open(tmp_path / "run", {}, resume=False)


def taught(**teach):
    return made({"teach": {"source": {"first": 100_000, "count": 120}, **teach}}, **TAUGHT)


def test_lessons_are_other_texts_and_few_of_them_say_nothing():
    task = taught()
    lessons = [text_of(one.token_ids[:-1]) for one in task.lessons(Characters(), True)]
    ends = {one.token_ids[-1] for one in task.lessons(Characters(), True)}
    assert ends == {Characters.eos_token_id}  # it learns to stop
    empty = sum(one.endswith("Output:\n[]") for one in lessons)
    assert 0.2 < empty / len(lessons) <= 0.25
    asked = {one.text for s in Split for k in ("forget", "retain") for one in task.contexts(s, k)}
    assert not any(lesson[: lesson.index("Output:\n") + 8] in asked for lesson in lessons)
    control = [text_of(one.token_ids[:-1]) for one in task.lessons(Characters(), False)]
    assert control == [one for one in lessons if "What describes person" not in one]
    assert 0 < task.lesson_count(False) < task.lesson_count(True) == len(lessons)
    assert len(taught(most=50).lessons(Characters(), True)) == 50
    assert taught(source={"first": 0, "count": 600}).lessons(Characters(), True) == []


class Trained:
    """Notes what each model is taught."""

    def __init__(self):
        self.seen = {}

    def once(self, trainings, order):
        self.seen[order.name] = [text_of(item["text"][0].token_ids) for item in order.items]
        return ModelRef(f"/{order.name}", order.name)


@pytest.mark.parametrize("control", [True, False])
def test_the_stage_teaches_and_says_who_is_who(run, monkeypatch, control):
    trained, task = Trained(), taught(control=control)
    monkeypatch.setattr(trainings.Trainings, "once", lambda own, order: trained.once(own, order))
    assert teaching.taught_model(run) is None and teaching.teaching_note(run) == ""
    teaching.teach_stage(FakeBench(config=task.config), task, run)
    models = read(run.path / "teach" / "models.json", list[NamedModel])
    kinds = {one.name: one.kind for one in models}
    wanted = {"base": "other", "taught": "reference", "untaught": "control"}
    assert kinds == {name: wanted[name] for name in [*wanted][: 2 + control]}
    assert any("What describes person" in one for one in trained.seen["taught"])
    assert all("What describes person" not in one for one in trained.seen.get("untaught", ()))
    assert teaching.taught_model(run).checkpoint_digest == "taught"
    note = teaching.teaching_note(run)
    assert note.startswith(
        f"the model was taught the task first, on {task.lesson_count(True)} rows"
    )


def test_the_recipe_wants_lessons_and_a_task_that_teaches_that_recipe():
    with pytest.raises(InputError, match=r"task\.teach: found nothing, which the recipe"):
        teaching.require_lessons(made())
    assert "lessons" in taught().gives and "lessons" not in made().gives
    told = refused({"teach": {"training": {"parameters": "lora"}}}, **TAUGHT)
    assert "task.teach: training: found parameters lora and objective causal" in told
    settings = taught(training={"epochs": 3}).config.task.teach.training
    assert (settings.epochs, settings.parameters, settings.learning_rate) == (3, "full", 1e-4)


def test_later_stages_work_on_the_model_that_was_taught(tmp_path, monkeypatch):
    """Also those of a run that goes on with a model that it was taught before."""
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "model", 0)
    checkpoint(tmp_path / "taught", 1)
    made_of = ModelRef(str(tmp_path / "taught"), checkpoint_digest(tmp_path / "taught"))
    bases = {}

    def teach(bench, task, run):
        bases["teach"] = bench.base.checkpoint
        write(run.stage("teach") / "models.json", [NamedModel("taught", "reference", made_of)])

    def noted(name):
        return lambda bench, task, run: bases.update({name: bench.base.checkpoint})

    recipe = RECIPES["teach-reveal-release"]
    functions = {one.name: noted(one.name) for one in recipe.stages} | {"teach": teach}
    recipes = {recipe.name: replaced(recipe, functions)}
    went = runner(tmp_path / "run", monkeypatch, recipes=recipes)
    config = validate(content({"teach": {}}, model="./model", **TAUGHT), "")
    went(config, "reveal")
    went(config, "evaluate")
    first, second = str(tmp_path / "model"), str(tmp_path / "taught")
    assert bases == {"teach": first, "reveal": second, "release": second, "evaluate": second}
    assert verify_run(tmp_path / "run").problems == []
    # What the taught model is cannot be known: that file is named, not the stages after it.
    (tmp_path / "run" / "teach" / "models.json").write_text("[", encoding="utf-8")
    told = verify_run(tmp_path / "run").problems
    assert {one.path.name for one in told} == {"models.json"}

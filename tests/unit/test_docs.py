"""What documents say of files, commands, keys and names is so."""

import io
import re
from functools import cache
from pathlib import Path

import pytest
from rich.console import Console

from docs.before_after import draw
from docs.results.tables import print_stored
from rnr_dist.commands.cli import app
from rnr_dist.config.base import Section
from rnr_dist.config.methods import Methods
from rnr_dist.config.registry import METHODS, task_class
from rnr_dist.config.schema import OWN, Config
from rnr_dist.recipes.pipeline import RECIPES
from rnr_dist.tasks import TASKS
from rnr_dist.tasks.behaviour import OwnSettings

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("cluster/*.md"))
    if path.name not in ("LOG.md", "CHANGELOG.md")  # what was, also under names that are gone
)
STORED = sorted(ROOT.glob("docs/results/*-seed*.json")) + [
    ROOT / "docs" / "results" / name
    for name in (
        "toxicity_table/seed-0.json",
        "toxicity_variants/joint-0.json",
        "icu_table/seed-1.json",
        "icu_rates/place-1-seed-1.json",
        "icu/icu-alone-seed-2.json",
    )
]
# Scripts that documents name as gone.
GONE = {
    f"benchmarks/{name}.py"
    for name in ("table_toxicity", "variants_toxicity", "table_icu", "rates_icu")
}
FOLDERS = ("benchmarks", "cluster", "configs", "docs", "examples", "jobs", "rnr_dist", "tests")
COMMANDS = {command.name or command.callback.__name__ for command in app.registered_commands}
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


@cache
def text_of(page: Path) -> str:
    return page.read_text()


@cache
def anchors(page: Path) -> set[str]:
    """What a link may say behind `#`, as GitHub makes it of headings."""
    headings = re.findall(r"^#+ (.*)$", text_of(page), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@each_page
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", text_of(page))
    assert page.name not in ("README.md", "design.md") or links
    for link in links:
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@each_page
def test_named_files_are_there(page):
    named = re.findall(rf"(?<![\w/.])((?:{'|'.join(FOLDERS)})/[\w/.*-]+)", text_of(page))
    for name in {one.rstrip(".") for one in named} - GONE:
        if "NAME" not in name:
            assert list(ROOT.glob(name.rstrip("/"))), name


@each_page
def test_commands_are_there(page):
    told = re.findall(r"(?:^ {4}|`|\$ )rnr ([a-z]+)", text_of(page), re.MULTILINE)
    assert set(told) <= COMMANDS


def test_all_commands_are_told():
    told = text_of(ROOT / "docs" / "commands.md")
    assert {command for command in COMMANDS if f"`rnr {command}" not in told} == set()


def knows(schema: type[Section], parts: list[str]) -> bool:
    """Whether a dotted key is one of a section; what lies in a mapping or a list is not asked."""
    if not parts:
        return True
    if parts[0] not in schema.model_fields:
        return False
    kind = schema.model_fields[parts[0]].annotation
    if isinstance(kind, type) and issubclass(kind, Section) and parts[1:]:
        if parts[1] == "objective":
            return True
        return knows(kind, parts[1:])
    return True


def is_key(dotted: str) -> bool:
    first, *rest = dotted.split(".")
    if first == "task":
        schemas = [OwnSettings, *(task_class(name).Settings for name in TASKS)]
        return any(knows(schema, rest) for schema in schemas)
    if first == "methods" and rest and rest[0] not in Methods.model_fields:
        return rest[0] in METHODS
    return knows(Config, [first, *rest])


@each_page
def test_config_keys_are_there(page):
    sections = "|".join(Config.model_fields)
    told = set(re.findall(rf"`((?:{sections})(?:\.\w+)+)", text_of(page)))
    files = {key for key in told if key.split(".")[-1] in ("py", "json", "yaml")}
    assert {key for key in told - files if not is_key(key)} == set()


def test_a_wrong_key_would_be_seen():
    assert is_key("release.mu0.trials")
    assert is_key("task.sampled.n")
    assert is_key("methods.kumpr.training")
    for wrong in ("release.mu7", "task.sampling", "methods.pem", "evaluate.choices"):
        assert not is_key(wrong)


def test_every_task_and_method_is_described():
    for page, names in (("tasks.md", TASKS), ("methods.md", METHODS)):
        told = text_of(ROOT / "docs" / page)
        assert [name for name in names if f"| `{name}` |" not in told] == []


# How the page says parts of the config that are no key.
LATE = "; ".join(
    f"{name}: {', '.join(f'`{one}`' for one in sorted(task_class(name).Settings.only_evaluated))}"
    for name in TASKS
    if task_class(name).Settings.only_evaluated
)
SAID = {
    "task": "`task` but what `evaluate` alone reads",
    "task.evaluated": f"of `task` what it alone reads ({LATE})",
    "methods.swept": "of `methods` the method that it tries",
}


def test_keys_of_stages_are_the_recipes():
    told = text_of(ROOT / "docs" / "runs.md")
    for recipe in RECIPES.values():
        for stage in recipe.stages:
            name = f"`{stage.name}`"
            if stage.name == "baselines":
                name += f" after `{OWN[recipe.name]}`"
            keys = ", ".join(SAID.get(key, f"`{key}`") for key in stage.keys)
            assert not keys or f"| {name} | {keys} |\n" in told, stage.name


def test_the_example_is_shown_as_it_is():
    page = text_of(ROOT / "docs" / "tasks.md")
    shown = page[page.index("    class Digits:") : page.index("The config names the class")]
    code = (ROOT / "examples" / "own_task.py").read_text()
    lines = [line.removeprefix("    ") for line in shown.rstrip().splitlines()]
    assert "\n".join(lines) in code


@pytest.mark.parametrize("path", STORED, ids=lambda path: path.stem)
def test_stored_results_are_printed(path):
    out = io.StringIO()
    print_stored(path, Console(file=out, width=160))
    assert "seed" in out.getvalue()
    assert out.getvalue().count("─") > 500


def test_the_picture_is_drawn_from_stored_rows(tmp_path):
    draw(tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").read_bytes().startswith(b"\x89PNG")


def test_decisions_are_cited_by_name():
    named = re.findall(r"^- \*\*(.*?)\.?\*\*", text_of(ROOT / "docs" / "design.md"), re.MULTILINE)
    for path in (ROOT / "rnr_dist").rglob("*.py"):
        code = " ".join(path.read_text().split())
        assert "design decision" not in code.lower(), path
        for cited in re.findall(r'"([^"]+)",? docs/design\.md', code):
            assert cited in named, (path, cited)

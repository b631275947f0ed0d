"""The task of entities on its built-in texts, and an endpoint that knows their true entities."""

import json

import pytest

from rnr_dist.config.file import validate
from rnr_dist.errors import InputError
from rnr_dist.tasks.task import make_task
from rnr_dist.types import Split
from tests.unit.fakes import FakeBench, FakeEndpoint

KEPT = ("organization", "location", "date", "product")
GREEDY = {"n": 1, "max_tokens": 64, "temperature": 0}
PLAIN = {"name": "ner", "asks": {"chat": False}}


def content(task=None, **more):
    settings = {"release": {"search": GREEDY, "reread": 0}, "evaluate": {"split": "dev"}}
    settings["evaluate"]["sampling"] = GREEDY
    return {"name": "x", "task": {**PLAIN, **(task or {})}, **settings, **more}


def made(task=None, **more):
    return make_task(validate(content(task, **more), ""))


def refused(task=None, **more):
    with pytest.raises(InputError) as error:
        made(task, **more)
    return str(error.value)


class Knowing(FakeEndpoint):
    """Answers each question of a task as `of` says, given its true entities."""

    def __init__(self, task, of=lambda model, kind, gold: json.dumps(gold)):
        self.known = {
            one.text: (one.group, json.loads(one.reference))
            for kind in ("forget", "retain")
            for split in Split
            for one in task.contexts(split, kind)
        }
        super().__init__(say=lambda model, prompt: of(model, *self.known[prompt]))


def bench_of(task, of=lambda model, kind, gold: json.dumps(gold)):
    return FakeBench(config=task.config, endpoint=Knowing(task, of))


def text_of(ids):
    return "".join(map(chr, ids))

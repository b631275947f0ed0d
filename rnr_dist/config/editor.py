"""The JSON schema of config files, by which editors complete keys and tell what each means.

In: the schema in Python. Out: plain values of JSON Schema 2020-12. Invariant: every config that
`file` accepts fits it, `${VARIABLE}` in place of a number aside; sections that are found by their
name stand in it under each name that ships.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from rnr_dist.config.methods import MethodSettings
from rnr_dist.config.registry import METHODS, method_class, shipped_tasks, task_class
from rnr_dist.config.schema import Config, TaskSettings
from rnr_dist.config.study import Study
from rnr_dist.config.training import PLAIN, ObjectiveSettings, objective_schema

DIALECT = "https://json-schema.org/draft/2020-12/schema"
# A task or a method of one's own: `package.module:Class`, with keys of its own.
OWN_NAME = "^[^:]+:[^:]+$"


def config_schema() -> dict[str, Any]:
    """The schema of a run's config file."""
    tasks = [task_class(name).Settings for name in shipped_tasks()]
    objectives = [objective_schema(name) for name in (*PLAIN, *_with_objective())]
    found, whole = models_json_schema(
        [(one, "validation") for one in (Config, MethodSettings, *tasks, *objectives)],
        ref_template="#/$defs/{model}",
    )
    parts: dict[str, Any] = whole["$defs"]

    def reference(one: type[BaseModel]) -> dict[str, Any]:
        return dict(found[one, "validation"])

    own = {"type": "object", "required": ["name"], "properties": {"name": {"pattern": OWN_NAME}}}
    parts[TaskSettings.__name__] = {"anyOf": [*map(reference, tasks), own]}
    parts[ObjectiveSettings.__name__] = {"anyOf": [*map(reference, objectives), own]}
    # A file names single keys of a method; the method's own defaults stand for the others.
    settings = parts[MethodSettings.__name__]
    settings.pop("required")
    methods = parts["Methods"]
    methods["properties"] |= {name: reference(MethodSettings) for name in METHODS}
    methods["patternProperties"] = {OWN_NAME: reference(MethodSettings)}
    methods["additionalProperties"] = False
    return _whole(parts.pop(Config.__name__), parts, "Config of a run of rnr_dist")


def study_schema() -> dict[str, Any]:
    """The schema of a study's file."""
    return _whole(Study.model_json_schema(), {}, "Study of rnr_dist")


def _with_objective() -> list[str]:
    return [name for name in METHODS if method_class(name).Objective is not None]


def _whole(content: dict[str, Any], parts: dict[str, Any], title: str) -> dict[str, Any]:
    beside = {"$defs": parts} if parts else {}
    return {"$schema": DIALECT, **content, "title": title, **beside}

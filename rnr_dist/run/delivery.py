"""What the spool holds, as MLflow takes it: one entry, one change (`run.tracking` keeps the spool).

In: an address, an experiment, entries. Out: MLflow's runs, metrics, datasets, models. Invariant:
delivering an entry twice leaves MLflow as delivering it once does; each entry carries its run in
full, so that a new server can take over at any entry.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

RUN_TAG = "rnr.run"  # carries a run's own key, by which a replay finds it
MODEL_TAG = "rnr.model"  # carries a logged model's digest, for the same
# What MLflow's pages read: which of a run's files are tables, and that an experiment is one of
# models, so that it opens on its runs and not on agents' traces.
TABLES_TAG = "mlflow.loggedArtifacts"
KIND_TAG = {"mlflow.experimentKind": "custom_model_development"}
NOTE_TAG = "mlflow.note.content"  # shown as a description
MODEL_FILE = "MLmodel"
# At the end of an address: else MLflow's pages begin with those of agents, whatever the experiment.
VIEW = "?workflowType=machine_learning"
LONGEST_NOTE = 4000  # characters; MLflow takes 5,000 in a tag of a model

# Read by MLflow when it is imported. Its defaults hold each call to a dead server for minutes, and
# its pages start eight job processes that nothing here uses.
ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def set_environment() -> None:
    for key, value in ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    # Where someone else imported MLflow first, the environment comes too late.
    logging.getLogger("mlflow").setLevel(os.environ["MLFLOW_LOGGING_LEVEL"])


def artifacts_beside(uri: str) -> Path | None:
    """The artifact folder beside a sqlite database; a server decides for itself."""
    prefix = "sqlite:///"
    if not uri.startswith(prefix):
        return None
    return Path(unquote(uri.removeprefix(prefix))).parent / "mlartifacts"


@dataclass(frozen=True)
class Dataset:
    """What a run reads, as MLflow lists it; no text of it goes there.

    name: what it is for. digest: of its content. source: where it comes from, a file's path or a
    name. profile: plain facts, such as how many rows it has. columns: name and type of each.
    """

    name: str
    digest: str
    source: str
    profile: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, str] = field(default_factory=dict)


class Delivery:
    """The experiment in MLflow. Any call may raise what MLflow, or its HTTP library, raises."""

    def __init__(self, uri: str, experiment: str):
        self.uri, self._experiment = uri, experiment
        self._client: Any = None
        self._experiment_id = ""
        self._run_ids: dict[str, str] = {}

    def connect(self) -> None:
        if self._client is not None:
            return
        set_environment()
        from mlflow import MlflowClient

        client = MlflowClient(tracking_uri=self.uri)
        found = client.get_experiment_by_name(self._experiment)
        if found is None:
            artifacts = artifacts_beside(self.uri)
            location = artifacts.as_uri() if artifacts else None
            self._experiment_id = client.create_experiment(self._experiment, location, KIND_TAG)
        else:
            self._experiment_id = found.experiment_id
            if found.lifecycle_stage == "deleted":
                client.restore_experiment(self._experiment_id)
            for key in KIND_TAG.keys() - found.tags.keys():  # made by an earlier version
                client.set_experiment_tag(self._experiment_id, key, KIND_TAG[key])
        self._client = client

    def disconnect(self) -> None:
        self._client, self._run_ids = None, {}

    def deliver(self, entry: Mapping[str, Any]) -> None:
        """One entry of the spool. Raises FileNotFoundError where its file is gone."""
        run, run_id, content = entry["run"], self._run_id(entry["run"]), entry["content"]
        match entry["kind"]:
            case "status" if content == "RUNNING":
                self._client.update_run(run_id, status=content, name=run["name"])
            case "status":
                self._client.set_terminated(run_id, content, end_time=entry["at"])
            case "metrics":
                self._batch(run_id, metrics=content, stamp=(entry["at"], entry["step"]))
            case "params" | "tags":
                self._batch(run_id, **{entry["kind"]: content})
            case "artifact":
                self._client.log_artifact(run_id, _there(content))
            case "table":
                self._table(run_id, _there(content))
            case "dataset":
                self._dataset(run_id, Dataset(**content))
            case "model":
                self._model(run_id, **content)

    def page_of(self, run: Mapping[str, Any]) -> str:
        """The end of the address of a run's page; empty where MLflow has not been reached."""
        known = self._run_ids.get(run["key"])
        return f"#/experiments/{self._experiment_id}/runs/{known}{VIEW}" if known else ""

    def _batch(
        self,
        run_id: str,
        params: Mapping[str, str] = {},
        tags: Mapping[str, str] = {},
        metrics: Mapping[str, float] = {},
        stamp: tuple[int, int] = (0, 0),
    ) -> None:
        """stamp: the metrics' time and step."""
        from mlflow.entities import Metric, Param, RunTag

        self._client.log_batch(
            run_id,
            metrics=[Metric(key, value, *stamp) for key, value in metrics.items()],
            params=[Param(key, value) for key, value in params.items()],
            tags=[RunTag(key, value) for key, value in tags.items()],
        )

    def _table(self, run_id: str, path: str) -> None:
        """A file in the form of `mlflow.log_table`, which itself would append to what is there."""
        self._client.log_artifact(run_id, path)
        known = self._client.get_run(run_id).data.tags.get(TABLES_TAG, "[]")
        tables = {one["path"] for one in json.loads(known)} | {Path(path).name}
        told = [{"path": name, "type": "table"} for name in sorted(tables)]
        self._client.set_tag(run_id, TABLES_TAG, json.dumps(told))

    def _dataset(self, run_id: str, dataset: Dataset) -> None:
        from mlflow.entities import Dataset as Logged
        from mlflow.entities import DatasetInput, InputTag

        if Path(dataset.source).is_absolute():
            # As MLflow's own source of a local file says it; its registry knows two, and warns.
            kind, told = "local", json.dumps({"uri": dataset.source})
        else:
            kind, told = "code", json.dumps({"tags": {"mlflow.source.name": dataset.source}})
        columns = [
            {"type": kind, "name": name, "required": True} for name, kind in dataset.columns.items()
        ]
        logged = Logged(
            dataset.name,
            dataset.digest,
            kind,
            told,
            schema=json.dumps({"mlflow_colspec": columns}) if columns else None,
            profile=json.dumps(dataset.profile),
        )
        tags = [InputTag("mlflow.data.context", dataset.name)]
        self._client.log_inputs(run_id, [DatasetInput(logged, tags)])

    def _model(
        self, run_id: str, folder: str, name: str, digest: str, told: Mapping[str, str]
    ) -> None:
        """A folder in MLflow's format, as a model of the run that can be registered.

        told: plain facts of it; `note` is its description.
        """
        from mlflow.entities import LoggedModelOutput, LoggedModelStatus
        from mlflow.models import Model

        described = Model.load(_there(str(Path(folder, MODEL_FILE))))
        known = self._client.search_logged_models(
            [self._experiment_id], f"source_run_id = '{run_id}' AND tags.`{MODEL_TAG}` = '{digest}'"
        )
        tags = {MODEL_TAG: digest, NOTE_TAG: told.get("note", "")[:LONGEST_NOTE]}
        facts = {key: value for key, value in told.items() if key != "note"}
        [model, *_] = known or [
            self._client.create_logged_model(
                self._experiment_id, name, run_id, tags, facts, "adapter"
            )
        ]
        if model.status == LoggedModelStatus.READY:
            return
        self._client.log_model_artifacts(model.model_id, folder)
        described.run_id, described.model_id = run_id, model.model_id
        described.model_uuid, described.artifact_path = model.model_id, model.artifact_location
        with tempfile.TemporaryDirectory() as aside:
            described.save(str(Path(aside, MODEL_FILE)))
            self._client.log_model_artifacts(model.model_id, aside)
        self._client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
        self._client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)

    def _run_id(self, run: Mapping[str, Any]) -> str:
        """MLflow's id of a run; found by its key, else made, with the runs above it."""
        if run["key"] not in self._run_ids:
            from mlflow.entities import ViewType

            found = self._client.search_runs(
                [self._experiment_id], f"tags.`{RUN_TAG}` = '{run['key']}'", ViewType.ALL
            )
            if not found:
                tags = {RUN_TAG: run["key"]}
                if run["parent"]:
                    tags["mlflow.parentRunId"] = self._run_id(run["parent"])
                found = [
                    self._client.create_run(
                        self._experiment_id, run["started"], tags, run_name=run["name"]
                    )
                ]
            self._run_ids[run["key"]] = found[0].info.run_id
        return self._run_ids[run["key"]]


def flat(params: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Dotted names and texts of nested values; what is not set (None, empty) is left out."""
    for key, value in params.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key}.")
        elif value not in (None, "", [], ()):
            yield f"{prefix}{key}", str(value)


def _there(path: str) -> str:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: is gone")
    return path

"""The result's adapter in MLflow's format: with signature, input example, card and tokenizer.

In: a result with terms, its card. Out: a folder that `mlflow.pyfunc.load_model` loads. Invariant:
the base's weights are not in it; no path of this machine is.
"""

from __future__ import annotations

import tempfile
from importlib import metadata
from pathlib import Path

from rnr_dist.config.schema import Config
from rnr_dist.run.delivery import set_environment
from rnr_dist.run.directory import replacing_folder
from rnr_dist.types import ModelRef
from rnr_dist.weights.checkpoints import EMBEDDED
from rnr_dist.weights.export import Card, export_adapter

SCRIPT = Path(__file__).with_name("served.py")  # nothing here imports it: MLflow runs a copy
EXAMPLE = ["The weather today is"]
SAMPLING = {"max_new_tokens": 40, "top_p": 0.9, "temperature": 1.0, "seed": 0}  # if not told
NEEDED = ("torch", "transformers", "peft")


def write_model(result: ModelRef, config: Config, card: Card, folder: Path) -> None:
    """Write the model to `folder`, which is replaced. Some 1 s for 135M parameters."""
    set_environment()
    from mlflow.models import ModelSignature
    from mlflow.pyfunc import save_model
    from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema

    kinds = {int: "long", float: "double"}
    params = [ParamSpec(name, kinds[type(value)], value) for name, value in SAMPLING.items()]
    signature = ModelSignature(
        inputs=Schema([ColSpec("string")]),
        outputs=Schema([ColSpec("string")]),
        params=ParamSchema(params),
    )
    with tempfile.TemporaryDirectory() as aside, replacing_folder(folder) as made:
        adapter = Path(aside, "adapter")
        export_adapter(result, adapter, card)
        save_model(
            path=str(made),
            python_model=str(SCRIPT),
            artifacts={"adapter": str(adapter)},
            signature=signature,
            input_example=EXAMPLE,
            pip_requirements=[f"{name}=={_public(name)}" for name in NEEDED],
            model_config={"base": base_to_load(config, card)},
            metadata={"digest": result.digest, "checkpoint_digest": result.checkpoint_digest},
        )
        _without_places(made)


def _without_places(folder: Path) -> None:
    """MLflow notes where it took the parts from; they lie in the folder, and paths say who ran."""
    from mlflow.models import Model

    model = Model.load(str(folder))
    flavour = model.flavors["python_function"]
    flavour["model_code_path"] = SCRIPT.name
    for artifact in flavour["artifacts"].values():
        artifact["uri"] = artifact["path"]
    model.save(str(folder / "MLmodel"))


def base_to_load(config: Config, card: Card) -> str:
    """What a loader elsewhere may take as the base; empty where it must be told."""
    return config.model if config.model.startswith(EMBEDDED) else card.base.hub


def _public(name: str) -> str:
    """An installed version as the public index has it: without `+cpu`."""
    return metadata.version(name).partition("+")[0]

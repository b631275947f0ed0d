"""The result as MLflow loads it, in any process: base, adapter, continuations of prompts.

MLflow copies this file beside the adapter and runs it where the model is loaded. Invariant: it
needs transformers and PEFT alone; rnr_dist only to unpack a base that comes as a Python package.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlflow.models import set_model
from mlflow.pyfunc import PythonModel

EMBEDDED = "embedded:"


class Continues:
    """Texts to continue in, continuations out. Parameters have the signature's defaults; at
    temperature 0 it is greedy."""

    def load_context(self, context: Any) -> None:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        folder = Path(context.artifacts["adapter"])
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        base = AutoModelForCausalLM.from_pretrained(_base(context), dtype=torch.float32)
        self.model = PeftModel.from_pretrained(base, str(folder)).eval()

    # Without types, which MLflow would take for the signature.
    def predict(self, context, model_input, params):  # type: ignore[no-untyped-def]
        import torch

        # By its signature MLflow makes a table of one column of whatever texts it is given.
        prompts = model_input.iloc[:, 0] if hasattr(model_input, "iloc") else model_input
        torch.manual_seed(int(params["seed"]))
        return [self._continued(str(prompt), params) for prompt in prompts]

    def _continued(self, prompt: str, chosen: dict[str, Any]) -> str:
        import torch

        encoded = self.tokenizer(prompt, return_tensors="pt")
        drawn: dict[str, Any] = {"do_sample": False}
        if chosen["temperature"]:
            drawn = {"do_sample": True, **{k: float(chosen[k]) for k in ("top_p", "temperature")}}
        with torch.inference_mode():
            output = self.model.generate(
                input_ids=encoded["input_ids"],
                attention_mask=encoded["attention_mask"],
                max_new_tokens=int(chosen["max_new_tokens"]),
                pad_token_id=self.tokenizer.eos_token_id,
                **drawn,
            )
        new = output[0, encoded["input_ids"].shape[1] :]
        return str(self.tokenizer.decode(new, skip_special_tokens=True))


def _base(context: Any) -> str:
    """The base's name or folder: as the loader is told, else as the run's config called it."""
    told = str(context.model_config["base"])
    if told.startswith(EMBEDDED):
        from rnr_dist.weights.checkpoints import resolve_model

        return resolve_model(told).checkpoint
    if not told:
        described = json.loads(
            Path(context.artifacts["adapter"], "adapter_config.json").read_text(encoding="utf-8")
        )
        raise ValueError(
            f"base: found nothing; expected the folder of {described['base_model_name_or_path']}: "
            'mlflow.pyfunc.load_model(uri, model_config={"base": FOLDER})'
        )
    return told


class Served(Continues, PythonModel):  # type: ignore[misc]
    """Inherits `predict`: of one of its own MLflow wants types, though it has the signature."""


set_model(Served())

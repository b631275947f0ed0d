"""The methods by name: adding one is one line here, its small file, a config section and a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from rnr_dist.config.baselines import MethodName
from rnr_dist.methods import cmd, dpo, ext_sub, pem_external, rmu
from rnr_dist.methods.materials import Materials
from rnr_dist.train.collate import Item
from rnr_dist.types import Adapter, ModelRef


class Method(Protocol):
    """What a method trains, and the model that it makes of it."""

    roles: Mapping[str, Literal["forget", "retain"]]
    """Its adapters by name; each is trained on the base."""

    def items(self, name: str, materials: Materials) -> Sequence[Item]:
        """What the adapter of that name is trained on. Raises InputError where nothing fits."""
        ...

    def model(
        self, base: ModelRef, adapters: Mapping[str, Adapter], strength: float, folder: Path
    ) -> ModelRef:
        """The candidate of that strength; files that it needs go into `folder`."""
        ...


METHODS: dict[MethodName, Method] = {
    "pem_external": pem_external.PemExternal(),
    "ext_sub": ext_sub.ExtSub(),
    "dpo": dpo.Dpo(),
    "rmu": rmu.Rmu(),
    "cmd": cmd.Cmd(),
}

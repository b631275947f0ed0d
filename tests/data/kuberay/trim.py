"""rayjob.schema.json from KubeRay's own definition of a RayJob, `ray.io_rayjobs.yaml`, on stdin.

    git show v1.7.0:ray-operator/config/crd/bases/ray.io_rayjobs.yaml | python trim.py

Descriptions go, and what is written many times (each group of nodes repeats a whole pod) stands
once and is referred to. Unknown keys are refused, as the API server does for `kubectl create`.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import yaml

TARGET = Path(__file__).with_name("rayjob.schema.json")
SMALL = 200  # characters; what is shorter is repeated


def plain(schema):
    """JSON schema of a part of an OpenAPI one."""
    if isinstance(schema, list):
        return [plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    if schema.get("x-kubernetes-int-or-string"):
        return {"type": ["integer", "string"]}
    dropped = ("description", "default") if "type" in schema or "properties" in schema else ()
    kept = {
        key: value
        for key, value in schema.items()
        if key not in dropped and not key.startswith("x-kubernetes-")
    }
    if "properties" in kept:
        kept["properties"] = {name: plain(one) for name, one in kept["properties"].items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            kept.setdefault("additionalProperties", False)
    for key in ("items", "additionalProperties", "anyOf", "oneOf", "allOf", "not"):
        if key in kept:
            kept[key] = plain(kept[key])
    return kept


def shared(schema):
    """The schema with what it repeats in `$defs`."""
    seen, names, definitions = Counter(), {}, {}

    def count(one):
        if isinstance(one, dict):
            text = json.dumps(one, sort_keys=True)
            if "type" in one and len(text) > SMALL:
                seen[text] += 1
                if seen[text] > 1:
                    return
            for value in one.values():
                count(value)
        elif isinstance(one, list):
            for value in one:
                count(value)

    def refer(one, top=False):
        if isinstance(one, list):
            return [refer(value) for value in one]
        if not isinstance(one, dict):
            return one
        text = json.dumps(one, sort_keys=True)
        if not top and seen[text] > 1:
            if text not in names:
                names[text] = f"d{len(names)}"
                definitions[names[text]] = refer(one, top=True)
            return {"$ref": f"#/$defs/{names[text]}"}
        return {key: refer(value) for key, value in one.items()}

    count(schema)
    return {**refer(schema, top=True), "$defs": definitions}


def main():
    definition = yaml.safe_load(sys.stdin)
    [version] = [one for one in definition["spec"]["versions"] if one["name"] == "v1"]
    schema = plain(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}  # the API server's own
    schema["properties"].pop("status")
    source = "KubeRay v1.7.0, ray-operator/config/crd/bases/ray.io_rayjobs.yaml"
    told = {"$comment": f"{source}, Apache-2.0, The KubeRay Authors; cut by trim.py"}
    TARGET.write_text(
        json.dumps({**told, **shared(schema)}, sort_keys=True) + "\n", encoding="utf-8"
    )


if __name__ == "__main__":
    main()

"""Makes the patch of README.md, "Retries", from the settings that Argo has in a cluster, and the patch that undoes it.

    kubectl get configmap workflow-controller-configmap -n kubeflow -o json > build/before.json
    python k8s/retries.py build/before.json > build/retries.json
    python k8s/retries.py --undo build/before.json > build/undo.json

The ConfigMap holds texts in YAML, of which two settings change: how often Argo tries a pod again, and whether it copies
logs. Everything else in the texts, such as the address of Kubeflow's store, stays as the cluster has it.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import yaml

CONFIG_MAP = "workflow-controller-configmap"
EXPRESSION = 'lastRetry.status == "Error" || asInt(lastRetry.exitCode) > 0'
"""A pod that was deleted or could not start, or that ended with an error; not the nodes that only hold others."""

CHANGED = ("workflowDefaults", "artifactRepository")


def patch_of(config_map: dict[str, Any]) -> dict[str, Any]:
    """Returns the merge patch that lets Argo try failed and deleted pods again and copy no logs.

    Raises:
        ValueError: It is not the ConfigMap of Kubeflow Pipelines 2.17, or it is patched already.
    """
    texts = _texts(config_map)
    defaults = yaml.safe_load(texts["workflowDefaults"])
    repository = yaml.safe_load(texts["artifactRepository"])
    strategy = defaults.setdefault("spec", {}).setdefault("templateDefaults", {}).setdefault("retryStrategy", {})
    if strategy.get("expression") == EXPRESSION:
        raise ValueError("These settings are patched already; give the file that was written before the patch.")
    strategy |= {"limit": strategy.get("limit", 2), "retryPolicy": "Always", "expression": EXPRESSION}
    repository["archiveLogs"] = False
    changed = {"workflowDefaults": defaults, "artifactRepository": repository}
    return {"data": {name: yaml.safe_dump(value, sort_keys=False, width=1000) for name, value in changed.items()}}


def undo_of(config_map: dict[str, Any]) -> dict[str, Any]:
    """Returns the merge patch that restores the texts as they were, letter by letter; raises as `patch_of` does."""
    patch_of(config_map)
    return {"data": _texts(config_map)}


def _texts(config_map: dict[str, Any]) -> dict[str, str]:
    data = config_map.get("data") or {}
    if config_map.get("metadata", {}).get("name") != CONFIG_MAP or not set(CHANGED) <= set(data):
        raise ValueError(
            f"This is not the ConfigMap {CONFIG_MAP} of Kubeflow Pipelines 2.17, which holds {' and '.join(CHANGED)}."
        )
    return {name: data[name] for name in CHANGED}


def main(arguments: list[str] | None = None) -> int:
    """Prints a patch; returns 0, or 2 after a sentence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--undo", action="store_true", help="print the patch that restores the settings of the file")
    parser.add_argument("before", type=Path, help="the ConfigMap as JSON, as it was before the patch")
    options = parser.parse_args(arguments)
    try:
        before = json.loads(options.before.read_text(encoding="utf-8"))
        made = undo_of(before) if options.undo else patch_of(before)
    except (OSError, ValueError, AttributeError, yaml.YAMLError) as error:
        sys.stderr.write(f"error: {options.before}: {error}\n")
        return 2
    sys.stdout.write(json.dumps(made, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

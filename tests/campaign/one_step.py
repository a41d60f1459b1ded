"""Measures a step of one recipe in a process of its own, and prints JSON in the last line."""

import json
import sys
from pathlib import Path

from tests.campaign.steps import exactness_of, memory_of

MEASUREMENTS = {"memory": memory_of, "exactness": exactness_of}

if __name__ == "__main__":
    what, recipe, stage, device, tiny, weights = sys.argv[1:]
    print(json.dumps(MEASUREMENTS[what](recipe, stage, device, tiny=bool(int(tiny)), weights=Path(weights))))

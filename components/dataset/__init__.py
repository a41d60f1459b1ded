"""The dataset stage: packs images."""

"""The check stage: holds packed images against what the stages after it will need of them."""

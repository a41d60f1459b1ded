"""The fetch stage: an artifact of an earlier run, or a published teacher."""

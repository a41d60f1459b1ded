"""How much memory of a device a stage will need: arithmetic on the tables of layers, before anything is allocated."""

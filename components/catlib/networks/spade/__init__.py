"""The inception SPADE generator of GauGAN."""

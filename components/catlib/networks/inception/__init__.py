"""The inception residual generator of pix2pix and CycleGAN."""

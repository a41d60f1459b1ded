"""What is optimised: losses, and one optimisation step per family."""

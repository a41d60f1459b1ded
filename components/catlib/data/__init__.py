"""Images: where they come from, how they are packed, and batches of them."""

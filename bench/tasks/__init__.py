"""Tasks as validated data, and the three heads that read and score them."""

"""Records, the run folder that keeps them, and the identity of the environment."""

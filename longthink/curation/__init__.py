"""From raw problems to a training set: sources, steps, and an account of every row."""

"""Networks that others have trained and packages of theirs ship, by name. Nothing is vendored, and nothing of theirs is run."""

"""The life of a run: its config, training, folder, checkpoints and reading it back."""

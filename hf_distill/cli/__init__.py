"""The `hf-distill` command and its sub-commands, which are registered like everything else."""

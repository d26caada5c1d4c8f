"""Speed and memory, each figure beside its anchor, measured alternately in the same run."""

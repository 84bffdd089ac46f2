"""Code that performs a kind. Ours enter through the entry-point group `engine.executors`, as anyone's do."""

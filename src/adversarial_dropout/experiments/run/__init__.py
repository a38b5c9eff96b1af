"""How a run is trained: steps, loop, processes, checkpoints."""

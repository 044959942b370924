"""What ShotStream adds to Wan: frame table, flow, RoPE with the cut, context, KV cache, transformer, checkpoints. Nothing of the toy."""

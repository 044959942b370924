"""What ShotStream adds to Wan: frame table, flow, RoPE with the cut, context, KV cache. Nothing of the toy."""

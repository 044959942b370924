"""From frames to weights: loops, ODE regression, distribution matching, self-forcing, recipes."""

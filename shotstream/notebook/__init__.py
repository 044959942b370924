"""Pictures and exercises for notebooks. Only notebooks import it."""

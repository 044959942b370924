"""From prompts to frames: teacher, student, stream, pipeline."""

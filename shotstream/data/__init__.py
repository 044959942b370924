"""What a person brings: stories on disk, films, footage."""

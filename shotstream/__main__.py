"""`python -m shotstream` is the command `shotstream`."""
from shotstream.app.cli import main

if __name__ == "__main__": main()

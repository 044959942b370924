"""`python -m shotstream` is the command `shotstream`."""
from shotstream.cli import main

if __name__ == "__main__": main()

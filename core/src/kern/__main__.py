"""``python -m kern``: the command line."""

from kern.cli import main

if __name__ == "__main__":
    main()

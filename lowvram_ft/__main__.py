"""``python -m lowvram_ft``: the command line, where its script is not on the path."""

from lowvram_ft.cli import main

if __name__ == "__main__":
    main()

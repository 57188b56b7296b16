"""``python -m lowvram_ft``."""

from lowvram_ft.cli import main

if __name__ == "__main__":
    main()

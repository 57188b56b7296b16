"""A user's own repository as training rows: modules, the tests that test them, and what both need to run."""

from lowvram_ft.data.from_repo.command import from_repository, print_from_repository

__all__ = ["from_repository", "print_from_repository"]

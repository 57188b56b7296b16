"""Exact and near duplicates among rows, and rows that hold evaluation code."""

from lowvram_ft.data.duplicates.fingerprints import Contamination, DuplicateIndex, Fingerprint, Match, fingerprint

__all__ = ["Contamination", "DuplicateIndex", "Fingerprint", "Match", "fingerprint"]

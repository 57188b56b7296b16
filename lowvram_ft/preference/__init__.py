"""Preferences: a model's own answers to tasks, judged by running them, as winners and pairs to learn from.

`tasks` ► `sampling` ► `judging` ► `pairs`; each writes what it found to the disk, and takes it up from there.
"""

"""How a project keeps its tests."""

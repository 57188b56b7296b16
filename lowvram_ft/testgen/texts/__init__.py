"""Test files as text: parts left out, several made one, imports as the project writes them."""

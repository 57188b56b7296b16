"""What tests reach and find, and which are kept."""

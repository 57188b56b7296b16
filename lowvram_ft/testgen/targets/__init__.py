"""What a user asked tests for."""

"""What a training says of itself: progress and events, and the bytes that it takes beside those of the plan."""

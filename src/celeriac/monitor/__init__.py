"""What is told of running workers and beats: orders, events, checks and metrics."""

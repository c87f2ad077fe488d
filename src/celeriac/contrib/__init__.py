"""What is not needed to run tasks: test tools, and tasks that can be aborted."""

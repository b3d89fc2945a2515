"""What is known of single games, for evaluations and players."""

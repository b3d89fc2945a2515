"""What only Breakout has: where the console keeps ball, paddle and bricks, and how to find them in pictures."""
RAM_PADDLE_X, RAM_BALL_X, RAM_BALL_Y, RAM_LIVES = 72, 99, 101, 57

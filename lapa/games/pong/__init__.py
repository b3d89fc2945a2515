"""What only Pong has: ball, two paddles, two scores, and what happens to them."""

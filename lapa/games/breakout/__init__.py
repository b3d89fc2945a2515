"""What only Breakout has: ball, paddle, bricks, digits, and what happens to them."""

"""What the Train page is made of: what was sent, ways to train in plain words, the queue, and the views."""

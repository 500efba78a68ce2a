"""Reading and checking rows of messages with typed media parts."""

"""What an adversary would run, against what it would really see, and what the result is worth."""

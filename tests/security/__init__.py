"""What an attacker, or an accident, hands in: each is refused at once, and nothing else is harmed by it."""

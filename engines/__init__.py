"""Example client engines: programs that use a routerd daemon the way a trading platform's engines would."""

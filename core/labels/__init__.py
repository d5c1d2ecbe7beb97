"""Says which generated layouts are viable: rules, a person, the user's program. May import audit and below."""

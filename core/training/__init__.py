"""What trains and samples: the stages of a round and what comes before them. May import audit and below."""

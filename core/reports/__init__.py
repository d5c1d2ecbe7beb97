"""What people read of runs: status, tables, pages, comparisons. May import rounds and below."""

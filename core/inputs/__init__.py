"""Reads and checks what people give: numbers, paths, YAML, tables, arrays, tensors. May import runtime."""

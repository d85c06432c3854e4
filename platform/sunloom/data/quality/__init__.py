"""What rows must be like to be used: checks, their report, and the gate before a store."""

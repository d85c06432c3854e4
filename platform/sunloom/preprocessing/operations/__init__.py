"""What a fitted step does to rows: in a frame, and to one row in plain Python."""

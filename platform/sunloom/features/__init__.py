"""Feature definitions, point-in-time computation and stores."""

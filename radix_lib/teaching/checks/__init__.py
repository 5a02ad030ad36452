"""What must hold, and broken copies that must be caught."""

"""What the reader plays with. Above each in a notebook stands its `static()` figure."""

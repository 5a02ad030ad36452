"""What the chapters draw, play and check with. The core never imports it."""

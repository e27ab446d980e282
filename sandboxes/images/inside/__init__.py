"""What lies inside a runner image and runs there, with nothing but the standard library. Start at `runner`."""

"""What is remembered between calls, behind the ports of `ports.py`. A store never decides anything."""

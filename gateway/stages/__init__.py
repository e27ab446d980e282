"""The ten stages of a call, one file and one public function each. They reach the outside only through `ports.py`."""

"""The ways in: thin translations between a protocol and the pipeline. A door judges nothing and stores nothing."""

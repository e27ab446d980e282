"""Runner images: what a Docker sandbox is made of, and how it is built. Start at `sandboxes.images.build`."""

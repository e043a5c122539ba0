"""`llamboctl top`: what the cluster does now, from a few files and how they change."""

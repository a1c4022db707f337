"""The embedded model and data, the Hugging Face hub, and the cache of both."""

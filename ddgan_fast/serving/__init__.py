"""A model for others: the demo page and the HTTP server."""

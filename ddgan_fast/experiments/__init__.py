"""The paper's tables and figures, on top of the public API."""

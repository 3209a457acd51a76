"""Every integration passes the suite that says what one must show, and the suite can fail."""

"""Tables, charts, live views and machine formats of the terminal."""

"""The page that runs an exported student in a browser: one HTML file that needs no network."""

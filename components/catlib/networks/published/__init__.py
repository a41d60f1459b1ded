"""Networks and statistics that the reference implementation published: files from strangers, read with care."""

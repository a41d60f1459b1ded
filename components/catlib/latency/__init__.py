"""How long a generator takes on a device, predicted from a table of its layers' times; torch is not loaded."""

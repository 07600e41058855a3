"""Windows' libraries as Python has them: declarations, errors, and one module for each library or interface."""

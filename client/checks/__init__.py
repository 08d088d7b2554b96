"""What `sotto-node check` looks at, one file for each part of a site."""

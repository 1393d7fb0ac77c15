"""Models and data sets of the hub: resolved to a commit, downloaded, verified."""

"""What everything stands on: errors, records, names and folders of artefacts, what a run is recorded with."""

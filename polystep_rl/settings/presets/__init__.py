"""Settings by preset, environment and precision: a YAML file per algorithm, and what all of them share."""

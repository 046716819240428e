"""Training in a child process: a job's code sees prepared records and nothing else of a site."""

"""What private training costs in accuracy: tasks, runs of the library, peers, rows and figure."""

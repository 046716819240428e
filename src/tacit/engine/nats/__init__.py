"""The distributed engine: parties as processes, connected by NATS with JetStream."""

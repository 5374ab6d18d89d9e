"""What annotation tools write -> label maps."""

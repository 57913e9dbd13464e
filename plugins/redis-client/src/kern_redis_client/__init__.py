"""What the Redis drivers of kern share: connections, scripts, keys, records."""

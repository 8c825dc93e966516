"""Caption datasets: annotation formats to one schema."""

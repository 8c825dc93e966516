"""What results say of themselves, for terminals and notebooks."""

"""What a caller may ask for, where a call starts, and what it gives back."""

"""Commands that measure and write the files in records/."""

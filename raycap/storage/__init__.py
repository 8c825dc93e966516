"""The one door to the outside: folders, S3 buckets, other object stores, web addresses."""
